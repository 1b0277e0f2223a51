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


def still_prepared(conn: Connection, *names: bytes) -> bool:
    """Return whether psycopg has not removed these statements, as far as it knows, and is not about to."""
    prepared = conn._prepared
    return not prepared._to_flush and all((name, ()) in prepared._names for name in names)


def note_gone(conn: Connection, *names: bytes) -> None:
    """Take statements out of psycopg's list that are gone."""
    for name in names:
        conn._prepared._names.pop((name, ()), None)
