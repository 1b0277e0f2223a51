"""What is to be audited: a DSN, or a router of a configuration file, without what runs the user's code."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pgroute.cli.check.judge import Finding, Result
from pgroute.cli.errors import CommandError
from pgroute.cli.parser import names
from pgroute.config_file.making import find_file
from pgroute.config_file.source import SUFFIXES
from pgroute.config_file.tables import Named, read_router
from pgroute.core.config.libpq import is_secret, parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# Functions of the user are for the kind of router that the file is for, and are not called here.
_FUNCTIONS = ("configure", "reset", "setup")
_LEFT_OUT = (*_FUNCTIONS, "connection_class", "acquire_timeout")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited.

    Attributes:
        name: the router's in the file, None for a DSN.
        arguments: those of a Router.
        findings: about the file.
    """

    name: str | None
    arguments: dict[str, Any] = field(repr=False)
    findings: list[Finding]


def find_subject(args: argparse.Namespace) -> Subject:
    """Return what the arguments of the command are about.

    Raises:
        CommandError: they do not go together.
        ConfigError: the file cannot be used.
    """
    if not is_file(args.dsn):
        if args.router is not None:
            raise CommandError("--router is for a configuration file (.toml, .yaml, .yml)")
        return Subject(None, {"dsn": args.dsn, **names(args)}, [])
    if names(args) != {"resolver": "system", "addresses": "one-host", "srv_domains": None}:
        raise CommandError("--resolver, --addresses and --srv-domain are for a DSN: a file has its own")
    named = read_router(find_file(args.dsn), args.router)
    arguments = {name: value for name, value in named.arguments.items() if name not in _LEFT_OUT}
    for role in ("writer", "reader"):
        if role in arguments:
            arguments[role] = replace(arguments[role], **dict.fromkeys(_FUNCTIONS))
    return Subject(named.name, {**arguments, "name": named.name}, list(_about_file(named)))


def is_file(text: str) -> bool:
    """Return whether an argument names a configuration file rather than being a DSN."""
    return text.lower().endswith(SUFFIXES) and "=" not in text and "://" not in text


def _about_file(named: Named) -> Iterator[Finding]:
    file, mode = named.place.file, named.place.file.stat().st_mode & 0o777
    if not _holds_secret(named):
        yield Finding("file", Result.OK, f"{file} holds no password")
    elif mode & 0o077:
        text = (
            f"{file} holds a password, and others may read it (mode {mode:o}): chmod 600, or {{from_file=}}"
        )
        yield Finding("file", Result.WARN, text)
    else:
        yield Finding("file", Result.OK, f"{file} holds a password, and only its owner may read it")


def _holds_secret(named: Named) -> bool:
    options = [named.arguments.get(role) for role in ("writer", "reader", "probe")]
    given = [named.arguments, *({"kwargs": each.kwargs} for each in options if each is not None)]
    found = [parse(named.arguments.get("dsn", "")), *(each.get("kwargs") or {} for each in given)]
    # What came from elsewhere is hidden in errors.
    return any(
        is_secret(name) and value and not any(value in text for text in named.place.hidden)
        for table in found
        for name, value in table.items()
    )
