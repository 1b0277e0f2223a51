"""Runs a statement alone, or several executions of one in a whole transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pgroute._async.alone import AsyncAlone
from pgroute._async.transaction.runner import run_function

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    import psycopg

    from pgroute._async.direct.statement import AsyncStatement
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role

T = TypeVar("T")
CT_co = TypeVar("CT_co", bound="psycopg.AsyncConnection[Any]", covariant=True)
"""Covariant, so that a subclass of AsyncConnection[Row] tells the type of the rows too."""


async def run_alone(
    manager: AsyncSessionManager[Any],
    statement: AsyncStatement,
    role: Literal["writer", "reader"] | Role,
    timeout: float | None,
) -> Any:
    """Run a statement as a transaction of its own, and return what it makes of its rows."""
    request = manager.request(role, timeout=timeout)
    return await AsyncAlone(manager, request, timeout).run(statement)


async def run_whole(
    manager: AsyncSessionManager[Any],
    body: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]],
    role: Literal["writer", "reader"] | Role,
    timeout: float | None,
    once: str | bool | None = None,
) -> T:
    """Run a body as `run()` does, without settings of its own."""
    return await run_function(
        manager,
        body,
        (),
        role=role,
        timeout=timeout,
        retry=None,
        once=once,
        isolation=None,
        read_only=None,
        deferrable=None,
    )
