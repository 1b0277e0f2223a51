# Generated from pgroute/_async/pool/interrupt.py by .ci/unasync.py: edit that file, not this one.
"""An interrupted statement: the server is asked to cancel it, for a moment, then its socket is cut."""

from __future__ import annotations

import logging
import sys
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._sync.pool.connector import Lease

logger = logging.getLogger("pgroute")

IDLE = TransactionStatus.IDLE
ACTIVE = TransactionStatus.ACTIVE

_INTERRUPTS = (KeyboardInterrupt,)
_LEAST, _MOST = 0.2, 2.0
_ROUND_TRIPS = 6


def patience(round_trip: float | None) -> float:
    """Return the seconds that a server has to answer a cancel request: TCP, TLS, the request, the statement's error."""
    return min(_MOST, _LEAST + _ROUND_TRIPS * (round_trip or 0.0))


def guard(conn: psycopg.Connection[Any], lease: Lease, suspect: Callable[[], object]) -> None:
    """Bound what an interrupt of a statement on this connection may take, and note when its transaction ends.

    psycopg asks the server to cancel an interrupted statement, and waits up to 5 s for that and 5 s for the statement.
    A frozen host answers neither. So the methods that it does this by, `wait` and `cancel_safe`, are overridden on the
    connection: its class is the user's.

    Args:
        conn: a connection just made.
        lease: its own.
        suspect: called when the server did not answer in time.
    """
    cls, pgconn = type(conn), conn.pgconn
    this = weakref.ref(conn)
    fuse: Watchdog | None = None

    def wait(gen: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal fuse
        try:
            return cls.wait(this(), gen, *args, **kwargs)  # type: ignore[arg-type]  # its caller holds it
        finally:
            if fuse is not None:
                burning, fuse = fuse, None
                burning.__exit__(None, None, None)
            if pgconn.transaction_status == IDLE:
                lease.was_idle = True

    def cancel_safe(*, timeout: float = 30.0) -> None:
        nonlocal fuse
        conn = this()
        assert conn is not None
        # Only where wait() handles an interrupt: a caller's own cancel_safe() is as psycopg documents it.
        if not isinstance(sys.exception(), _INTERRUPTS) or pgconn.transaction_status != ACTIVE:
            cls.cancel_safe(conn, timeout=timeout)
            return
        timeout = min(timeout, lease.patience())
        fuse = Watchdog(timeout, cut)
        fuse.__enter__()
        try:
            cls.cancel_safe(conn, timeout=timeout)
            # libpq before 17 knows no timeout.
        except (psycopg.errors.CancellationTimeout, TimeoutError):
            logger.info("the server did not take a cancel request in %.2f s: closing the connection", timeout)
            cut()

    def cut() -> None:
        lease.wire.cut()
        suspect()

    conn.wait = wait  # type: ignore[method-assign]
    conn.cancel_safe = cancel_safe  # type: ignore[method-assign]
