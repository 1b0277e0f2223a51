# Generated from pgroute/_async/direct/whole.py by .ci/unasync.py: edit that file, not this one.
"""Runs a statement alone, or several executions of one in a whole transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pgroute._sync.alone import Alone
from pgroute._sync.transaction.runner import run_function

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg

    from pgroute._sync.direct.statement import Statement
    from pgroute._sync.manager import SessionManager
    from pgroute.core.model.roles import Role

T = TypeVar("T")
CT_co = TypeVar("CT_co", bound="psycopg.Connection[Any]", covariant=True)
"""Covariant, so that a subclass of Connection[Row] tells the type of the rows too."""


def run_alone(
    manager: SessionManager[Any],
    statement: Statement,
    role: Literal["writer", "reader"] | Role,
    timeout: float | None,
) -> Any:
    """Run a statement as a transaction of its own, and return what it makes of its rows."""
    request = manager.request(role, timeout=timeout)
    return Alone(manager, request, timeout).run(statement)


def run_whole(
    manager: SessionManager[Any],
    body: Callable[[psycopg.Connection[Any]], T],
    role: Literal["writer", "reader"] | Role,
    timeout: float | None,
    once: str | bool | None = None,
) -> T:
    """Run a body as `run()` does, without settings of its own."""
    return run_function(
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
