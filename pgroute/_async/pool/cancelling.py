"""How the server is told to cancel a statement, and how a connection is closed on which one may run."""

from __future__ import annotations

import asyncio  # async-only
import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

# sync-only: from psycopg.waiting import wait as wait_for_socket
from psycopg.waiting import wait_async as wait_for_socket  # async-only

from pgroute._async.pool.lease import shut
from pgroute._psycopg.pooled import bare
from pgroute._psycopg.statements import heard_steps
from pgroute.core.faults.classify import one_line

if TYPE_CHECKING:
    # sync-only: from collections.abc import Callable
    from collections.abc import Awaitable, Callable  # async-only

    from pgroute._async.pool.lease import AsyncLease

logger = logging.getLogger("pgroute")

ACTIVE = TransactionStatus.ACTIVE

_FIRST_REPEAT = 0.1
"""Seconds from a cancel request to the next; the pause doubles."""

_HAS_TIMEOUT = psycopg.capabilities.has_cancel_safe()
"""Whether a cancel request has a timeout: since libpq 17."""

_BEYOND = 1.0 if _HAS_TIMEOUT else 0.0  # async-only
"""Seconds for which the loop may stand still before a request is given up that it has not sent."""  # async-only

_INTERVAL = 0.1
"""Seconds after which a wait looks for signals, as psycopg's own."""


async def cancel_until(
    conn: psycopg.AsyncConnection[Any],
    lease: AsyncLease,
    timeout: float,
    over: Callable[[float], Awaitable[bool]],
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
                # sync-only: type(conn).cancel_safe(conn, timeout=left)
                # psycopg looks at its timeout once the request is sent, even if the loop stood still.  # async-only
                async with asyncio.timeout(left + _BEYOND):  # async-only
                    await type(conn).cancel_safe(conn, timeout=left)  # async-only
            except (psycopg.Error, TimeoutError):
                if await over(0.0):  # by an earlier one
                    return
                raise
            after = pause
            if await over(max(0.0, min(pause, deadline - time.monotonic()))):
                return
            pause *= 2
        raise TimeoutError(f"no effect in {timeout:.2f} s")
    except BaseException:
        if late is not None:
            lease.pool.watch.cancel_late(late, after)
        raise


async def abandon(conn: psycopg.AsyncConnection[Any], lease: AsyncLease) -> None:
    """Close a connection; the server is told to cancel the statement that still runs there, if one does.

    It would end a statement only at its next look at the connection, such as for a row to send: a sleep, a wait for a
    lock or a bulk write goes on until its own end.
    """
    try:
        await stop_statement(conn, lease)
    finally:
        await shut(conn)


async def stop_statement(conn: psycopg.AsyncConnection[Any], lease: AsyncLease) -> None:
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

    async def heard(seconds: float) -> bool:
        # Of a pipeline that is left open the server owes results which it does not send.
        if pgconn.pipeline_status:
            return True
        # Another task or thread may hold the lock to receive the answer: libpq is its own then.
        if not conn.lock.locked() and not pgconn.is_busy():
            return True  # the answer is there, or the server waits for data to copy
        with suppress(psycopg.Error):
            await wait_for_socket(heard_steps(), pgconn.socket, interval=_INTERVAL, timeout=seconds)
            return True
        return pgconn.transaction_status != ACTIVE

    try:
        await cancel_until(conn, lease, lease.patience(), heard)
    except Exception as exc:  # noqa: BLE001  (the class is the user's, and the reason for the end is raised)
        logger.debug("a statement at %s could not be cancelled: %s", lease.pool.key, one_line(str(exc)))
