"""What a command is about: a DSN, or a router of a configuration file, without what is the user's code."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from pgroute import PoolOptions, ProbeOptions, Router
from pgroute.cli.errors import CommandError
from pgroute.config_file.making import find_file, pools_of
from pgroute.config_file.source import SUFFIXES
from pgroute.config_file.tables import Named, read_router
from pgroute.core.config.dsn import PSYCOPG_ARGUMENTS
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

# These are for the application's sessions, and for the kind of router that the file is for. What is left decides which
# hosts there are, who logs in, and where sessions go.
_LEFT_OUT = ("configure", "reset", "connection_class", "row_factory", "acquire_timeout")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a command is about.

    Attributes:
        arguments: those of a Router.
        named: the router in the file; None for a DSN.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    named: Named | None = None

    def router(self, **more: Any) -> Router:
        """Return a router, not open.

        Args:
            **more: arguments of the command; None leaves what the file says.
        """
        return Router(
            **{**self.arguments, **{name: value for name, value in more.items() if value is not None}}
        )

    @property
    def probe(self) -> ProbeOptions:
        """The options of its probes."""
        given: ProbeOptions = self.arguments.get("probe") or ProbeOptions()
        return given


def find_subject(args: argparse.Namespace) -> Subject:
    """Return what the arguments of a command are about.

    Raises:
        CommandError: they do not go together.
        ConfigError: the file cannot be used.
    """
    names = {name: getattr(args, name) for name in ("resolver", "addresses", "srv_domains", "discovery")}
    given = {name: value for name, value in names.items() if value is not None}
    if not is_file(args.dsn):
        if args.router is not None:
            raise CommandError("--router is for a configuration file (.toml, .yaml, .yml)")
        return Subject({"dsn": args.dsn, **given})
    if given:
        raise CommandError(
            "--resolver, --addresses, --srv-domain and --discovery are for a DSN: a file has its own"
        )
    named = read_router(find_file(args.dsn), args.router)
    arguments = {name: value for name, value in named.arguments.items() if name not in _LEFT_OUT}
    if "kwargs" in arguments:
        arguments["kwargs"] = _parameters(arguments["kwargs"])
    for role, options in pools_of(named, named.kind).items():
        arguments[role] = _options(options)
    return Subject({**arguments, "name": named.name}, named)


def is_file(text: str) -> bool:
    """Return whether an argument names a configuration file rather than being a DSN."""
    return text.lower().endswith(SUFFIXES) and "=" not in text and "://" not in text


def _options(options: PoolOptions) -> PoolOptions:
    kwargs = None if options.kwargs is None else _parameters(options.kwargs)
    return replace(options, min_size=0, kwargs=kwargs, configure=None, reset=None, setup=None)


def _parameters(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in PSYCOPG_ARGUMENTS}
