"""Reads an entry of DATABASES: the role of its sessions, and the router that they come from."""

from __future__ import annotations

import difflib
import inspect
import weakref
from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgroute._sync.router import Router
from pgroute.core.config.dsn import PSYCOPG_ARGUMENTS
from pgroute.core.config.libpq import is_secret, keywords
from pgroute.core.config.mistakes import refuse_unknown
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.parameter_text import parameter_text
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

_OF_DJANGO = ("assume_role", "isolation_level", "pool", "server_side_binding")
_NOT_HERE = ("dsn", "kwargs", "unknown")
ROUTER_OPTIONS = tuple(name for name in inspect.signature(Router).parameters if name not in _NOT_HERE)
_IN_DSN = ("host", "hostaddr", "port", "service", "load_balance_hosts")
_PER_SESSION = ("context", "cursor_factory", "prepare_threshold")
"""What an alias gives each of its sessions, so that it need not be alike in all aliases of a router."""

_ELSEWHERE = {
    "autocommit": "expected in AUTOCOMMIT",
    "context": "Django makes its own",
    "dbname": "expected in NAME",
    "dsn": "expected as HOST, PORT, NAME, USER and PASSWORD; HOST lists the hosts: 'db1,db2'",
    "host": "expected in HOST, a list: 'db1,db2'",
    "hosts": "expected in HOST, a list: 'db1,db2'",
    "kwargs": "expected as options of their own, beside this one",
    "password": "expected in PASSWORD",
    "port": "expected in PORT, a list if they differ: '5432,5433'",
    "target_session_attrs": "expected 'role': 'writer' or 'reader'; reader_attrs says which hosts readers take",
    "user": "expected in USER",
}
_OPTION_CLASSES: dict[str, type[PoolOptions | ProbeOptions]] = {
    "writer": PoolOptions,
    "reader": PoolOptions,
    "probe": ProbeOptions,
}


class Parameters(dict[str, Any]):
    """Connection parameters whose ``repr`` shows no value: pages of errors show the variables of each frame."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@dataclass(frozen=True, slots=True)
class AliasOptions:
    """The OPTIONS of an alias, by whom they are for.

    Attributes:
        role: of its sessions.
        router: arguments of the router.
        django: those that Django's own backend knows.
    """

    role: Role
    router: Mapping[str, Any] = field(repr=False)
    django: Mapping[str, Any] = field(repr=False)


def read_options(options: object) -> AliasOptions:
    """Sort the OPTIONS of an alias.

    Args:
        options: as in DATABASES.

    Raises:
        ConfigError: one is unknown, or belongs elsewhere.
    """
    if not isinstance(options, Mapping):
        raise ConfigError("OPTIONS", options, "expected a mapping")
    router: dict[str, Any] = {}
    django: dict[str, Any] = {}
    role = Role.WRITER
    for name, value in options.items():
        if not isinstance(name, str):
            raise ConfigError("OPTIONS", name, "expected the name of an option", secret=True)
        if name == "role":
            role = Role.parse(value)
        elif name == "pool":
            if value:
                accepted = (
                    "the router has pools: expected 'writer' and 'reader' with options such as max_size"
                )
                raise ConfigError(name, value, accepted, secret=True)
        elif name in _ELSEWHERE:
            raise ConfigError(
                name, value, _ELSEWHERE[name], secret=is_secret(name) or name in ("dsn", "kwargs")
            )
        elif name in ROUTER_OPTIONS:
            router[name] = _option(name, value)
        elif name in _OF_DJANGO or name in PSYCOPG_ARGUMENTS or name in keywords():
            if name == "assume_role" and not (value is None or isinstance(value, str)):
                raise ConfigError(name, value, "expected the name of a role, or None")
            django[name] = value
        else:
            known = (*ROUTER_OPTIONS, *_OF_DJANGO, *PSYCOPG_ARGUMENTS, *keywords(), "role")
            refuse_unknown({name: value}, known)
    return AliasOptions(role, router, django)


def _option(name: str, value: object) -> object:
    """Return the value of an argument of the router; options in a mapping become an object of their class."""
    if not isinstance(value, Mapping):
        return value
    if name in _OPTION_CLASSES:
        return _made(name, _OPTION_CLASSES[name], value)
    if name == "host_options":
        return {
            host: _made(f"host_options[{host!r}]", HostOptions, given)
            if isinstance(given, Mapping)
            else given
            for host, given in value.items()
        }
    return value


def _made(name: str, cls: type[Any], value: Mapping[Any, Any]) -> object:
    known = [each.name for each in fields(cls)]
    for key in value:
        if key not in known:
            raise ConfigError(f"{name}[{key!r}]", value[key], f"{_near(str(key), known)}", secret=True)
    return cls(**value)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return "there is no such option" + (f", did you mean {near[0]}?" if near else "")


@dataclass(frozen=True, slots=True, repr=False)
class RouterSpec:
    """Says which router an alias needs; aliases with equal ones share it.

    Attributes:
        parameters: of libpq.
        options: arguments of the router.
        assume_role: the role that each session assumes; None: the one that logs in.
        session: arguments of psycopg for the first alias that makes the router.
    """

    parameters: Parameters
    options: Mapping[str, Any]
    assume_role: str | None
    session: Mapping[str, Any] = field(compare=False)

    @property
    def database(self) -> tuple[str, ...]:
        """Which database of which servers it leads to."""
        return tuple(
            str(self.parameters.get(name, "")) for name in ("host", "hostaddr", "port", "service", "dbname")
        )

    def __hash__(self) -> int:
        return hash(self.database)

    def make(self) -> Router[Any]:
        """Return a new router, not open yet.

        Raises:
            ConfigError: an option is invalid.
        """
        hosts = {
            name: parameter_text(name, value)
            for name, value in self.parameters.items()
            if name in _IN_DSN and value is not None
        }
        rest = {name: value for name, value in self.parameters.items() if name not in _IN_DSN}
        options = dict(self.options)
        if self.assume_role:
            options.update(_assuming(self.assume_role, options))
        return Router(make_conninfo("", **hosts), kwargs=Parameters({**rest, **self.session}), **options)


def make_spec(parameters: Mapping[str, Any], options: AliasOptions) -> RouterSpec:
    """Return the router that an alias needs.

    Args:
        parameters: what Django's own backend would pass to psycopg.connect.
        options: of the alias.
    """
    return RouterSpec(
        Parameters({name: value for name, value in parameters.items() if name not in _PER_SESSION}),
        options.router,
        options.django.get("assume_role"),
        {name: parameters[name] for name in _PER_SESSION if name in parameters},
    )


def _assuming(role: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a router whose sessions find a role assumed.

    It is assumed once for each connection, without a round trip for each session. Where returned connections are reset,
    which may undo it, it is assumed in each session.
    """
    statement = sql.SQL("SET ROLE {}").format(sql.Identifier(role))
    found = {}
    for name in ("writer", "reader"):
        pool = options.get(name)
        if pool is None:
            pool = PoolOptions()
        if isinstance(pool, PoolOptions):  # the router refuses anything else
            once = pool.reset is None and options.get("reset") is None
            found[name] = replace(pool, setup=_setup(statement, pool.setup, once=once))
    return found


def _setup(
    statement: sql.Composed, then: Callable[[Any], Any] | None, *, once: bool
) -> Callable[[psycopg.Connection[Any]], object]:
    done: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()

    def setup(conn: psycopg.Connection[Any]) -> object:
        if conn not in done:
            autocommit = conn.autocommit
            conn.autocommit = True
            conn.execute(statement)
            conn.autocommit = autocommit
            if once:
                done.add(conn)
        return None if then is None else then(conn)

    return setup
