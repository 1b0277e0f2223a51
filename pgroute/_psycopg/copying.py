"""The steps of COPY, made of libpq's functions.

psycopg's own only wait until they can write: a server that sends many notices during a COPY FROM waits for them to be
read, and then neither side goes on (libpq docs, PQflush).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import generators
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGconn, PGresult


def flush_steps(pgconn: PGconn) -> Generator[Any, Any, bool]:
    """Send what COPY FROM has put, for ``conn.wait``; return whether something arrived meanwhile."""
    arrived = False
    while pgconn.flush():
        ready = yield WAIT_RW
        if ready and ready & READY_R:
            pgconn.consume_input()
            arrived = True
    return arrived


def end_steps(pgconn: PGconn, refusal: bytes | None = None) -> Generator[Any, Any, list[PGresult]]:
    """End COPY FROM, for ``conn.wait``; return libpq's results.

    Args:
        pgconn: in COPY FROM.
        refusal: why nothing of it is to be kept; None: all is.
    """
    while pgconn.put_copy_end(refusal) == 0:
        yield from flush_steps(pgconn)
    received: list[PGresult] = yield from generators.execute(pgconn)
    return received


def receive_steps(
    pgconn: PGconn, most: int, take: Callable[[Buffer], object]
) -> Generator[Any, Any, tuple[int, int, list[PGresult]]]:
    """Receive of COPY TO what has arrived, for ``conn.wait``; return the numbers of rows and bytes, and the results.

    There are results, those of libpq, in the end alone.

    Args:
        pgconn: in COPY TO.
        most: bytes after which no further row is taken.
        take: called with each row.
    """
    rows, size, looked = 0, 0, False
    while size < most:
        count, data = pgconn.get_copy_data(1)
        if count > 0:
            take(data)
            rows, size, looked = rows + 1, size + count, False
        elif count < 0:
            received: list[PGresult] = yield from generators.execute(pgconn)
            return rows, size, received
        elif not looked:
            pgconn.consume_input()
            looked = True
        elif rows:
            break
        elif (yield WAIT_R):
            looked = False
    return rows, size, []
