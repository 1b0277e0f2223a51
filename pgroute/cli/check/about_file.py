"""Whether a configuration file holds a password, and who may read it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pgroute.cli.check.finding import Finding, Result
from pgroute.core.config.libpq import is_secret, parse
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pgroute.config_file.place import Place
    from pgroute.config_file.tables import Named

_STRUCTURE = " \t\n:@/?=&%'\"\\,[]#"
"""The characters by which a DSN is divided, and those that escape others."""


def about_file(named: Named) -> Finding:
    """Return what is to say about the file of a router."""
    file, told = named.place.file, named.place.file.stat()
    if not _holds_secret(named):
        return Finding("file", Result.OK, f"{file} holds no password")
    mode = stat.S_IMODE(told.st_mode)
    # The file of another user, or of root, may be made for an application that only its group lets read it.
    ours = told.st_uid == os.geteuid() != 0
    advice = f"{'chmod 600' if ours else 'chmod o-r'}, or {{from_file=}}"
    if mode & stat.S_IROTH:
        text = f"{file} holds a password, and others may read it (mode {mode:o}): {advice}"
        return Finding("file", Result.WARN, text)
    if mode & stat.S_IRGRP:
        text = f"{file} holds a password, and its group may read it (mode {mode:o})"
        return (
            Finding("file", Result.WARN, f"{text}: {advice}") if ours else Finding("file", Result.NOTE, text)
        )
    return Finding("file", Result.OK, f"{file} holds a password, and only its owner may read it")


def _holds_secret(named: Named) -> bool:
    place = named.place
    if _written_in_dsn(place.parts.get(place.below("dsn").key, [])):
        return True
    tables = [(place, named.arguments.get("kwargs"))]
    for role in ("writer", "reader", "probe"):
        options = named.arguments.get(role)
        tables.append((place.below(role), None if options is None else options.kwargs))
    return any(
        is_secret(name) and _written(table.below("kwargs").below(name))
        for table, kwargs in tables
        for name in kwargs or ()
    )


def _written(place: Place) -> bool:
    return any(part and own for part, own in place.parts.get(place.key, ()))


def _written_in_dsn(parts: list[tuple[str, bool]]) -> bool:
    """Return whether a password in a DSN depends on a character that is written in the file.

    A part of a DSN may be anything, so libpq reads it again with another character in each place.
    """
    dsn = "".join(part for part, _ in parts)
    password = _secrets(dsn)
    if not password:
        return False
    place = 0
    for part, own in parts:
        for character in part:
            if own and character not in _STRUCTURE:
                other = "x" if character != "x" else "y"
                changed = _secrets(f"{dsn[:place]}{other}{dsn[place + 1 :]}")
                if changed is not None and changed != password:
                    return True
            place += 1
    return False


def _secrets(dsn: str) -> dict[str, str] | None:
    """Return the secrets in a DSN; None: it is none."""
    try:
        return {name: value for name, value in parse(dsn).items() if is_secret(name) and value}
    except ConfigError:
        return None
