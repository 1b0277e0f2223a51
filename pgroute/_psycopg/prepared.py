"""Prepared statements beside psycopg's own."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Prepared:
    """Statements that SQL has prepared on a connection, until psycopg removes all that is prepared.

    psycopg does so, by DEALLOCATE ALL, after a ROLLBACK, a DROP or an ALTER, but only if it has prepared a statement
    itself. The only sign is that it clears its list. If that list named ours, psycopg would send DEALLOCATE ALL where
    it has prepared nothing, and remove what the user has prepared.

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


def remove_steps(conn: Connection) -> Generator[Any, Any, None]:
    """Remove all that is prepared, if psycopg has prepared anything, as it does after a ROLLBACK; for ``conn.wait``."""
    conn._prepared.clear()
    yield from conn._prepared.maintain_gen(conn)


def removes_prepared(conn: Connection) -> bool:
    """Return whether psycopg is about to remove what is prepared, together with its next statement."""
    return bool(conn._prepared._to_flush)
