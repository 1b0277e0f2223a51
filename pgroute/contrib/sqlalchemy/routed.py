"""What makes SQLAlchemy's psycopg dialects take their connections from a router."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from pgroute.contrib.sqlalchemy.explain import explain
from pgroute.contrib.sqlalchemy.lent import Lent
from pgroute.contrib.sqlalchemy.options import EngineOptions, read_options
from pgroute.contrib.sqlalchemy.owner import Held, RouterOwner
from pgroute.contrib.sqlalchemy.pool import RouterPool, check_pool
from pgroute.contrib.sqlalchemy.routes import Told, chosen, connect_as, install, of_connection, params_of
from pgroute.contrib.sqlalchemy.statements import begins
from pgroute.errors import ConfigError, PositionLost, RouterClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.pool import Pool

    from pgroute._async.router import AsyncRouter
    from pgroute._sync.router import Router

_PSYCOPG_ONLY = ("context",)


class RoutedDialect:
    """What the sync and the async dialect share.

    Attributes:
        driver: "psycopg", by which types and extensions know what the connections are.
        router_class: of its engines.
        ending: the module that ends transactions of that router.
        begin_and_execute: begins a transaction and executes its first statement.
    """

    driver = "psycopg"
    supports_statement_cache = True
    poolclass = RouterPool
    router_class: type[Router[Any] | AsyncRouter[Any]]
    ending: Any
    begin_and_execute: Callable[[Any, Any, str, Any], None]
    is_async = False
    _has_events: bool

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.owner: RouterOwner = RouterOwner(self.router_class, self.wait)
        self._read: tuple[Mapping[str, Any], EngineOptions] | None = None
        weakref.finalize(self, self.owner.abandon).atexit = False

    @staticmethod
    def wait(result: Any) -> Any:
        """Return what a method of the router's returned; in the async dialect, what it awaits."""
        return result

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:  # noqa: ARG003
        return cls.poolclass

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        check_pool(engine.pool)
        owner: RouterOwner = engine.dialect.owner  # type: ignore[attr-defined]
        if isinstance(engine.pool, RouterPool):
            engine.pool.replaced = owner.retire
            engine.pool.note_listeners()
        else:  # an engine with a listener looks for listeners at each statement
            event.listen(engine, "engine_disposed", lambda _: owner.retire())
        event.listen(engine.pool, "detach", _keep_apart)

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        _, params = super().create_connect_args(url)  # type: ignore[misc]
        params = {name: value for name, value in params.items() if name not in _PSYCOPG_ONLY}
        options = read_options(params)
        if "zone" not in options.arguments:  # which needs the host_options of the connect_args
            options.make(self.router_class)  # only to have mistakes told here
        return [], params

    @property
    def known(self) -> bool:
        """Whether the parameters of its connections are known, and nobody changes them at each one."""
        return self._read is not None and not self._has_events

    def hold(self, engine: Engine) -> Held:
        """Return the router of an engine, open."""
        return self.owner.get(self._options_of(engine))

    def find(self, engine: Engine) -> Held:
        """Return the router of an engine, which may not be open yet."""
        return self.owner.find(self._options_of(engine))

    def _options_of(self, engine: Engine) -> EngineOptions:
        return self._options(params_of(engine)) if self._read is None else self._read[1]

    def _options(self, params: Mapping[str, Any]) -> EngineOptions:
        if self._read is not None and self._read[0] == params:
            return self._read[1]
        options = read_options(params)
        if self._read is not None:
            raise ConfigError(
                "connect_args",
                sorted(params),
                "expected the same for each connection, they are the router's: credentials that change are for "
                "connect_args={'credentials': function}",
            )
        self._read = (params, options)
        return options

    def connect(self, *_: Any, **params: Any) -> Any:
        """Take a connection from the router."""
        route = chosen()
        if route is not None and route.look:
            raise Told(params)
        self._options(params)
        return self.lend()

    def lend(self) -> Any:
        """Take a connection from the router, once its parameters are known."""
        assert self._read is not None
        route, options = chosen(), self._read[1]
        if route is not None and route.attempt is not None:
            return self.handed(route.attempt.conn, route.attempt)
        while True:
            held = self.owner.get(options)
            manager, role, attrs = held.manager, options.role, options.attrs
            if route is not None and route.role is not None and route.role is not role:
                role, attrs = route.role, None
            if attrs is None:
                attrs = held.attrs[role]
            causal = None if route is None else route.reading(role, held)
            try:
                checkout = self.wait(
                    manager.acquire(attrs, role, manager.config.acquire_timeout, causal=causal)
                )
                break
            except PositionLost:
                if causal is not None:
                    causal.note_lost()
                raise
            except RouterClosed:
                if not held.retired:  # else the engine was disposed of meanwhile, and has another one
                    raise
        return self.handed(checkout.conn, Lent(checkout, held, role, attrs, self))

    def handed(self, conn: Any, lent: Any) -> Any:
        """Return the DBAPI connection for a connection of the router's."""
        conn.pgroute_lent = lent
        return conn

    def on_connect(self) -> None:
        """Do nothing: a connection is dressed when it is lent."""

    def initialize(self, connection: Any) -> None:
        """Ask the server what the dialect has to know; SQLAlchemy rolls back then."""
        super().initialize(connection)  # type: ignore[misc]
        of_connection(connection.connection).initialized()

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        actual = cursor._cursor if self.is_async else cursor  # noqa: SLF001  (SQLAlchemy's)
        conn = actual.connection
        if conn.pgconn.transaction_status or not begins(actual, conn, statement, parameters, context):
            cursor.execute(statement, parameters)
        else:
            self.begin_and_execute(conn, cursor, statement, parameters)

    def do_commit(self, dbapi_connection: Any) -> None:
        of_connection(dbapi_connection).commit()

    def do_rollback(self, dbapi_connection: Any) -> None:
        # psycopg's rollback() would send nothing: it is called if it has been replaced, to be watched.
        if of_connection(dbapi_connection).rollback() and "rollback" in getattr(
            dbapi_connection, "__dict__", ()
        ):
            super().do_rollback(dbapi_connection)  # type: ignore[misc]

    def do_close(self, dbapi_connection: Any) -> None:
        lent = of_connection(dbapi_connection)
        del dbapi_connection.pgroute_lent
        lent.close()

    def do_terminate(self, dbapi_connection: Any) -> None:
        lent = of_connection(dbapi_connection)
        del dbapi_connection.pgroute_lent
        lent.terminate()

    # A reader's connection may have ended without an error. That of `run_in_session` is in a transaction already.

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        if not of_connection(dbapi_connection).settles("isolation_level", level):
            super().set_isolation_level(dbapi_connection, level)  # type: ignore[misc]

    def set_readonly(self, connection: Any, value: bool) -> None:
        if not of_connection(connection).settles("postgresql_readonly", value):
            super().set_readonly(connection, value)  # type: ignore[misc]

    def set_deferrable(self, connection: Any, value: bool) -> None:
        if not of_connection(connection).settles("postgresql_deferrable", value):
            super().set_deferrable(connection, value)  # type: ignore[misc]

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        if not of_connection(dbapi_conn).settles("isolation_level", None):
            super().reset_isolation_level(dbapi_conn)  # type: ignore[misc]

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        if connection is None:
            return False
        lent = of_connection(connection)
        explain(e, lent)
        return bool(lent.failed(e))

    def set_engine_execution_options(self, engine: Engine, opts: Mapping[str, Any]) -> None:
        super().set_engine_execution_options(engine, opts)  # type: ignore[misc]
        install(engine, opts)

    def set_connection_execution_options(self, connection: Connection, opts: Mapping[str, Any]) -> None:
        if connect_as(connection, opts):
            opts = connection.get_execution_options()
        super().set_connection_execution_options(connection, opts)  # type: ignore[misc]


def _keep_apart(dbapi_connection: Any, _: object) -> None:
    of_connection(dbapi_connection).detach()
