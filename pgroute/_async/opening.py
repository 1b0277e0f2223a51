"""Executes the first statement of a transaction, with BEGIN in the same round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute._psycopg.statements import begin_steps

if TYPE_CHECKING:
    import psycopg


async def begin_and_execute(
    conn: psycopg.AsyncConnection[Any], cursor: psycopg.AsyncCursor[Any], query: str, params: Any
) -> None:
    """Begin a transaction and execute a statement; for the other arguments, and the errors, see `begin_steps`."""
    async with conn.lock:
        await conn.wait(begin_steps(cursor, query, params))
