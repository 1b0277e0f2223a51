"""Calls the user's setup with a connection that is about to be lent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import AsyncWatchdog
from pgroute._async.pool.callback import call_back
from pgroute._async.pool.lease import shut
from pgroute.core.faults.classify import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._async.pool.lease import AsyncLease

SETUP_ATTEMPTS = 3
"""The connections with which setup may fail in one checkout."""

_LEAST_TIME = 0.2
"""Seconds that setup has, even with a timeout of 0: its statements take round trips."""
_ENDED = "setup left a transaction open, or closed the connection: commit or roll back, and leave it open"


class SetupFailed(Exception):
    """The user's setup failed, and the server is not at fault.

    Args:
        failure: what it raised.

    Attributes:
        failure: as given.
    """

    def __init__(self, failure: Exception) -> None:
        super().__init__(failure)
        self.failure = failure


async def set_up(
    setup: Callable[[Any], Any], lease: AsyncLease, conn: psycopg.AsyncConnection[Any], seconds: float
) -> SetupFailed | psycopg.OperationalError | None:
    """Call the user's setup; return why the connection must not be lent, None if it may be.

    If the connection was lost, its lease is doomed then. It is cut after *seconds*: its server may be frozen.
    """
    failure: Exception | None = None
    lease.begin = b""  # it may change the attributes
    try:
        async with AsyncWatchdog(max(_LEAST_TIME, seconds), lease.abort):
            failure = await call_back("setup", setup, conn)
    except Exception as exc:  # noqa: BLE001  (returned)
        failure = exc
    except BaseException:
        await shut(conn)
        raise
    if conn.broken or lease.doomed:
        lease.doomed = True
        why = "" if failure is None else f": {one_line(str(failure))}"
        return psycopg.OperationalError(f"the connection was lost in setup{why}")
    if failure is None and conn.pgconn.transaction_status != TransactionStatus.IDLE:
        failure = psycopg.ProgrammingError(_ENDED)
    return None if failure is None else SetupFailed(failure)
