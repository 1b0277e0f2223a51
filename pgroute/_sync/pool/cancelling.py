# Generated from pgroute/_async/pool/cancelling.py by .ci/unasync.py: edit that file, not this one.
"""How the server is told to cancel a statement, and how a connection is closed on which one may run."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from psycopg.waiting import wait as wait_for_socket

from pgroute._sync.pool.lease import shut
from pgroute._psycopg.pooled import bare
from pgroute._psycopg.statements import heard_steps
from pgroute.core.faults.classify import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._sync.pool.lease import Lease

logger = logging.getLogger("pgroute")

ACTIVE = TransactionStatus.ACTIVE

_FIRST_REPEAT = 0.1
"""Seconds from a cancel request to the next; the pause doubles."""

_HAS_TIMEOUT = psycopg.capabilities.has_cancel_safe()
"""Whether a cancel request has a timeout: since libpq 17."""


_INTERVAL = 0.1
"""Seconds after which a wait looks for signals, as psycopg's own."""


def cancel_until(
    conn: psycopg.Connection[Any],
    lease: Lease,
    timeout: float,
    over: Callable[[float], bool],
) -> None:
    """Ask the server to cancel the statement under way, and ask again until it has an effect.

    A server ignores a request for a statement that it has not begun ("Canceling Requests in Progress" in the protocol's
    documentation: it may or may not have an effect). A busy one may take the request too late for the caller, and the
    monitor sends it then.

    Args:
        conn: the connection.
        lease: its own.
        timeout: seconds.
        over: waits for the effect so many seconds at most, and returns whether there is one.

    Raises:
        psycopg.Error: the server did not take a request.
        TimeoutError: none has had an effect in time.
    """
    deadline, pause, after = time.monotonic() + timeout, _FIRST_REPEAT, 0.0
    late = conn.pgconn.cancel_conn() if _HAS_TIMEOUT else None
    try:
        while (left := deadline - time.monotonic()) > 0:
            after = 0.0
            try:
                type(conn).cancel_safe(conn, timeout=left)
            except (psycopg.Error, TimeoutError):
                if over(0.0):  # by an earlier one
                    return
                raise
            after = pause
            if over(max(0.0, min(pause, deadline - time.monotonic()))):
                return
            pause *= 2
        raise TimeoutError(f"no effect in {timeout:.2f} s")
    except BaseException:
        if late is not None:
            lease.pool.watch.cancel_late(late, after)
        raise


def abandon(conn: psycopg.Connection[Any], lease: Lease) -> None:
    """Close a connection; the server is told to cancel the statement that still runs there, if one does.

    It would end a statement only at its next look at the connection, such as for a row to send: a sleep, a wait for a
    lock or a bulk write goes on until its own end.
    """
    try:
        stop_statement(conn, lease)
    finally:
        shut(conn)


def stop_statement(conn: psycopg.Connection[Any], lease: Lease) -> None:
    """Have the server cancel what runs on a connection that is of no use any more.

    Not if the connection is lost, or was cut off because the server had not taken a request.
    """
    if lease.doomed or conn.pgconn.transaction_status != ACTIVE:
        return
    if not _HAS_TIMEOUT:
        return  # it would wait for a frozen host without end
    if isinstance(sys.exception(), GeneratorExit):
        return  # nothing can be awaited
    conn = bare(conn)
    pgconn = conn.pgconn

    def heard(seconds: float) -> bool:
        # Of a pipeline that is left open the server owes results which it does not send.
        if pgconn.pipeline_status:
            return True
        # Another task or thread may hold the lock to receive the answer: libpq is its own then.
        if not conn.lock.locked() and not pgconn.is_busy():
            return True  # the answer is there, or the server waits for data to copy
        with suppress(psycopg.Error):
            wait_for_socket(heard_steps(), pgconn.socket, interval=_INTERVAL, timeout=seconds)
            return True
        return pgconn.transaction_status != ACTIVE

    try:
        cancel_until(conn, lease, lease.patience(), heard)
    except Exception as exc:  # noqa: BLE001  (the class is the user's, and the reason for the end is raised)
        logger.debug("a statement at %s could not be cancelled: %s", lease.pool.key, one_line(str(exc)))
