"""Prepared statements beside psycopg's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def note_prepared(conn: Connection, *names: bytes) -> None:
    """Enter statements that SQL has prepared into psycopg's list.

    psycopg sends DEALLOCATE ALL after a ROLLBACK, a DROP or an ALTER, and then forgets its list. There is no other way
    to learn of that.
    """
    for name in names:
        conn._prepared._names[name, ()] = name


def not_prepared(conn: Connection, *names: bytes) -> list[bytes] | None:
    """Return which of these statements are not in psycopg's list; None: it is about to remove all that are prepared."""
    prepared = conn._prepared
    return None if prepared._to_flush else [name for name in names if (name, ()) not in prepared._names]


def note_gone(conn: Connection, *names: bytes) -> None:
    """Take statements out of psycopg's list that are gone."""
    for name in names:
        conn._prepared._names.pop((name, ()), None)
