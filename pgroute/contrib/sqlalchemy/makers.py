"""What makes the sessions of `run_in_session`: a sessionmaker, or a scoped_session with one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import scoped_session, sessionmaker

from pgroute.contrib.sqlalchemy.engines import dialect_of
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


class SessionMaker:
    """Makes sessions on one engine.

    Args:
        given: a sessionmaker, or a scoped_session that has one; or those of asyncio. Its sessions may also find their
            engine by themselves, as those of Flask-SQLAlchemy.
        asynchronous: they are to be those of asyncio.

    Attributes:
        engine: of the sessions.
        options: that the maker has for its sessions.

    Raises:
        ConfigError: it is something else, or has no engine of ``postgresql+pgroute``, or several.
    """

    def __init__(self, given: Any, *, asynchronous: bool) -> None:
        scoped = isinstance(given, (scoped_session, async_scoped_session))
        self._registry: Any = given.registry if scoped else None
        self._make: Any = given.session_factory if scoped else given
        engine: object = None
        if isinstance(self._make, async_sessionmaker if asynchronous else sessionmaker):
            self.options: dict[str, Any] = self._make.kw
            engine = self.options.get("bind")
            self._finds_engine = engine is None and not asynchronous and not self.options.get("binds")
            if self._finds_engine:
                with self._make() as session, contextlib.suppress(UnboundExecutionError):
                    engine = session.get_bind()
        if not isinstance(engine, AsyncEngine if asynchronous else Engine) or self.options.get("binds"):
            kind = "an async_sessionmaker" if asynchronous else "a sessionmaker"
            scope = (
                "async_scoped_session"
                if asynchronous
                else "scoped_session, such as db.session of Flask-SQLAlchemy"
            )
            raise ConfigError(
                "maker",
                given,
                f"expected {kind} with bind= an engine of postgresql+pgroute, and no binds; or its {scope}",
            )
        dialect_of(engine)
        self.engine: Engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine

    def session(self, engine: Engine, bind: Any) -> Any:
        """Return a new session.

        Args:
            engine: what it uses in place of its own.
            bind: the same, as sessions of its face take it.
        """
        session = self._make(bind=bind)
        if self._finds_engine:
            find, own = session.get_bind, self.engine

            def get_bind(*args: Any, **options: Any) -> Any:
                found = find(*args, **options)
                if found is own:
                    return engine
                if found is not engine:
                    raise ConfigError(
                        "maker", self._make, "expected sessions of one database in run_in_session"
                    )
                return found

            session.get_bind = get_bind
        return session

    @contextlib.contextmanager
    def current(self, session: Any) -> Iterator[None]:
        """Make a session the current one of its scope within a block, if it has one."""
        registry = self._registry
        if registry is None:
            yield
            return
        before = registry() if registry.has() else None
        try:
            registry.set(session)
            yield
        finally:
            if before is None:
                registry.clear()
            else:
                registry.set(before)
