"""Engines over a router that the application has, and the router of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgroute.contrib.sqlalchemy.routed import RoutedDialect
from pgroute.core.config.checks import check_mapping
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from typing import Literal

    from pgroute import AsyncRouter, Role, Router

_URL = "postgresql+pgroute://"


def router_engine(
    router: Router[Any], *, role: Literal["writer", "reader"] | Role = "writer", **options: Any
) -> Engine:
    """Return an engine whose connections come from a router.

    The router stays yours: open it before the first use, and close it after the last.

    Args:
        router: the router.
        role: of the engine's sessions, "writer" or "reader".
        options: for sqlalchemy.create_engine.
    """
    return sqlalchemy.create_engine(_URL, **_with(router, role, options))


def async_router_engine(
    router: AsyncRouter[Any], *, role: Literal["writer", "reader"] | Role = "writer", **options: Any
) -> AsyncEngine:
    """Return an async engine whose connections come from a router.

    The router stays yours: open it before the first use, and close it after the last.

    Args:
        router: the router.
        role: of the engine's sessions, "writer" or "reader".
        options: for sqlalchemy.ext.asyncio.create_async_engine.
    """
    return create_async_engine(_URL, **_with(router, role, options))


def _with(router: object, role: object, options: dict[str, Any]) -> dict[str, Any]:
    given = options.pop("connect_args", None)
    check_mapping("connect_args", given)
    return {**options, "connect_args": {**(given or {}), "router": router, "role": role}}


def router_of(engine: Engine | AsyncEngine) -> Any:
    """Return the router of an engine: a Router, an AsyncRouter for an AsyncEngine.

    One that the engine makes is open from the first connection on. After `dispose()` it is another.

    Args:
        engine: an engine of ``postgresql+pgroute``.

    Raises:
        ConfigError: it is none, or its parameters are no router's.
        RouterClosed: it was used before this process was forked.
    """
    dialect = dialect_of(engine)
    return dialect.find(engine.sync_engine if isinstance(engine, AsyncEngine) else engine).router


def dialect_of(engine: object) -> Any:
    """Return the dialect of an engine.

    Raises:
        ConfigError: it is no engine of ``postgresql+pgroute``.
    """
    dialect = getattr(engine, "dialect", None)
    if not isinstance(dialect, RoutedDialect):
        raise ConfigError("engine", engine, "expected an engine of postgresql+pgroute")
    return dialect
