"""Which role a connection of an engine is for: what execution options and sessions say."""

from __future__ import annotations

import difflib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pgroute._async.causal import AsyncCausal
from pgroute._async.causal import reading_of as async_reading_of
from pgroute._sync.causal import Causal, reading_of
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.position import parse_position
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from pgroute.contrib.sqlalchemy.owner import Held
    from pgroute.core.model.position import Position
    from pgroute.runtime.causality import CausalReading

READ_ONLY = "postgresql_readonly"
ROLE = "pgroute_role"
CAUSAL = "pgroute_causal"
ATTEMPT = "pgroute_attempt"
_OPTIONS = (ROLE, CAUSAL, ATTEMPT)


class Told(Exception):
    """What the parameters of an engine's connections are.

    Attributes:
        params: the parameters.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.params = params


class OwnCausal:
    """The causal object of one ORM session, made at its first connection.

    Args:
        after: where to begin, a Position or its text; None: anywhere.
    """

    def __init__(self, after: Position | str | None) -> None:
        self._after = None if after is None else parse_position(after, "after")
        self._causal: Causal[Any] | AsyncCausal[Any] | None = None
        self._held: Held | None = None

    @property
    def position(self) -> Position | None:
        """Up to where the session has written and read."""
        return self._after if self._causal is None else self._causal.position

    def of(self, held: Held) -> Causal[Any] | AsyncCausal[Any]:
        """Return the causal object of the router; an engine that was disposed of has another one."""
        if self._causal is None or self._held is not held:
            self._causal, self._held = held.router.causal(self.position), held
        return self._causal


@dataclass(frozen=True, slots=True)
class Route:
    """What a connection is for.

    Attributes:
        role: of its session; None: the engine's.
        causal: orders its session behind others; None: nothing does.
        attempt: the attempt of `run_in_session` whose connection it is; None: it is none's.
        look: there is to be no connection: Told is raised instead.
    """

    role: Role | None = None
    causal: Causal[Any] | AsyncCausal[Any] | OwnCausal | None = None
    attempt: Any = None
    look: bool = False

    def reading(self, role: Role, held: Held) -> CausalReading | None:
        """Return how a session of the role is ordered behind others.

        Raises:
            ConfigError: the causal object is one of another router.
        """
        causal = self.causal
        if causal is None:
            return None
        if isinstance(causal, OwnCausal):
            causal = causal.of(held)
        of: Any = async_reading_of if isinstance(causal, AsyncCausal) else reading_of
        reading: CausalReading | None = of(causal, role, held.manager)
        if reading is None:
            accepted = "expected one of this engine's router: router_of(engine).causal()"
            raise ConfigError(CAUSAL, causal, accepted)
        return reading


_route: ContextVar[Route | None] = ContextVar("pgroute_route", default=None)

chosen: Callable[[], Route | None] = _route.get
"""Returns what the connection is for that is being made; None: what its engine is for."""


def _connect(engine: Engine, route: Route) -> PoolProxiedConnection:
    token = _route.set(route)
    try:
        return engine.pool.connect()
    finally:
        _route.reset(token)


def params_of(engine: Engine) -> Mapping[str, Any]:
    """Return the parameters of an engine's connections: SQLAlchemy tells them to who connects alone."""
    try:
        _connect(engine, Route(look=True))
    except Told as told:
        return told.params
    raise ConfigError("creator", None, "expected none: the router makes the connections of this engine")


def install(engine: Engine, opts: Mapping[str, Any]) -> None:
    """Have an engine connect as its execution options say.

    Args:
        engine: the engine.
        opts: the options that are new to it.

    Raises:
        ConfigError: an option is unknown or has an invalid value.
    """
    _given(opts)
    options = engine.get_execution_options()  # with those of the engine that this one is made from
    if READ_ONLY not in options and not _given(options):
        return
    route = Route(_role(options), _causal(options), options.get(ATTEMPT))
    engine.raw_connection = lambda: _connect(engine, route)  # type: ignore[method-assign]


def _given(opts: Mapping[str, Any]) -> bool:
    mine = [name for name in opts if name.startswith("pgroute_")]
    for name in mine:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, (ROLE, CAUSAL), n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(name, opts[name], f"there is no such execution option{guess}")
    return bool(mine)


def _role(options: Mapping[str, Any]) -> Role | None:
    if ROLE in options:
        return Role.parse(options[ROLE], ROLE)
    if READ_ONLY in options:
        return Role.READER if options[READ_ONLY] else Role.WRITER
    return None


def _causal(options: Mapping[str, Any]) -> Any:
    causal = options.get(CAUSAL)
    if not (causal is None or isinstance(causal, (Causal, AsyncCausal, OwnCausal))):
        raise ConfigError(CAUSAL, causal, "expected what router.causal() returns, or None")
    return causal


def connect_as(connection: Connection, opts: Mapping[str, Any]) -> bool:
    """Give a Connection one for another role, if its new execution options say so and it is in no transaction.

    Returns whether it has another one, on which what its options say of transactions is to be set again.

    Raises:
        ConfigError: an option is for engines only, unknown, or has an invalid value.
    """
    if _given(opts):
        name = next(name for name in opts if name in _OPTIONS)
        raise ConfigError(
            name, opts[name], "expected in execution_options of the engine, not of a connection"
        )
    if READ_ONLY not in opts or connection.in_transaction() or connection.invalidated:
        return False
    role = Role.READER if opts[READ_ONLY] else Role.WRITER
    before = connection._dbapi_connection  # noqa: SLF001  (no public name gives a Connection another one)
    options = connection.engine.get_execution_options()
    if before is None or of_connection(before).role is role or options.get(ATTEMPT) is not None:
        return False
    causal = _causal(options)
    connection._dbapi_connection = _connect(connection.engine, Route(role, causal))  # noqa: SLF001
    before.close()
    return True


def of_connection(dbapi_connection: Any) -> Any:
    """Return what the router has lent by a DBAPI connection, or by what the pool has made of it.

    Raises:
        ConfigError: the connection is not the router's.
    """
    # The pool's proxy is asked for what it has: its __getattr__ costs a call.
    lent = getattr(getattr(dbapi_connection, "dbapi_connection", dbapi_connection), "pgroute_lent", None)
    if lent is None:
        raise ConfigError("creator", None, "expected none: the router makes the connections of this engine")
    return lent
