"""Prepared statements beside psycopg's own."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Prepared:
    """Statements that SQL has prepared on a connection, until psycopg removes all that is prepared.

    It does so, by DEALLOCATE ALL, after a ROLLBACK, a DROP or an ALTER, if it has prepared something itself. It then
    clears its list, which is the only sign. In that list ours would have it do so where it has prepared nothing.

    Args:
        conn: the connection.

    Attributes:
        intact: psycopg has not removed them.
    """

    def __init__(self, conn: Connection) -> None:
        self.intact: bool = True
        manager = conn._prepared
        clear, this = type(manager).clear, weakref.ref(manager)

        def watched_clear() -> bool:
            manager = this()
            assert manager is not None  # its caller holds it
            removed = clear(manager)
            if removed:
                self.intact = False
            return removed

        manager.clear = watched_clear  # type: ignore[method-assign]


def removes_prepared(conn: Connection) -> bool:
    """Return whether psycopg is about to remove what is prepared, together with its next statement."""
    return bool(conn._prepared._to_flush)
