"""Whether a configuration file holds a password, and who may read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.cli.check.judge import Finding, Result
from pgroute.core.config.libpq import is_secret, parse

if TYPE_CHECKING:
    from pgroute.config_file.tables import Named


def about_file(named: Named) -> Finding:
    """Return what is to say about the file of a router."""
    file, mode = named.place.file, named.place.file.stat().st_mode & 0o777
    if not _holds_secret(named):
        return Finding("file", Result.OK, f"{file} holds no password")
    if mode & 0o077:
        text = (
            f"{file} holds a password, and others may read it (mode {mode:o}): chmod 600, or {{from_file=}}"
        )
        return Finding("file", Result.WARN, text)
    return Finding("file", Result.OK, f"{file} holds a password, and only its owner may read it")


def _holds_secret(named: Named) -> bool:
    options = [named.arguments.get(role) for role in ("writer", "reader", "probe")]
    given = [named.arguments, *({"kwargs": each.kwargs} for each in options if each is not None)]
    found = [parse(named.arguments.get("dsn", "")), *(each.get("kwargs") or {} for each in given)]
    # What came from elsewhere is hidden in errors.
    return any(
        is_secret(name) and value and not any(str(value) in text for text in named.place.hidden)
        for table in found
        for name, value in table.items()
    )
