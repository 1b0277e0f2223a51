# Generated from pgroute/_async/opening.py by .ci/unasync.py: edit that file, not this one.
"""Executes the first statement of a transaction, with BEGIN in the same round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute._psycopg.statements import begin_steps

if TYPE_CHECKING:
    import psycopg


def begin_and_execute(
    conn: psycopg.Connection[Any], cursor: psycopg.Cursor[Any], query: str, params: Any
) -> None:
    """Begin a transaction and execute a statement; for the other arguments, and the errors, see `begin_steps`."""
    with conn.lock:
        conn.wait(begin_steps(cursor, query, params))
