"""Speaks COPY on one connection: begins it, sends or receives, and ends it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import termios
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from pgroute._acompat import AsyncWatchdog
from pgroute._async.pool.cancelling import abandon
from pgroute._async.pool.lease import alive, lease_of, shut
from pgroute._async.statements import error_of
from pgroute._psycopg.copying import end_steps, flush_steps, receive_steps
from pgroute._psycopg.statements import query_steps
from pgroute.core.copying import BLOCK
from pgroute.core.faults.classify import TIME_LIMITS
from pgroute.core.transactions.begin import begin_statement

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGconn, PGresult

    from pgroute._async.pool.lease import AsyncLease

T = TypeVar("T")

_PIECE = 128 * 1024
"""Bytes that libpq is given at once. With far more it spends its time on moving its buffer (psycopg#255)."""

_REFUSAL_TIMEOUT = 5.0
_DOUBT = 5.0
"""Seconds after which what has arrived during COPY FROM, and is no notice, must be an error: all of it is there."""


class AsyncWire:
    """COPY on one connection, once.

    Args:
        conn: the connection, idle or in a transaction.

    Attributes:
        conn: as given.
        failure: the error of the connection or of the server; those of the user's source and target are others.
        ending: the end of COPY FROM, or COMMIT, may have been sent.
        bytes: sent or received.
    """

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.conn = conn
        self.failure: psycopg.Error | None = None
        self.ending = False
        self.bytes = 0
        self._pgconn = conn.pgconn
        self._lease: AsyncLease = lease_of(conn)
        self._unflushed = 0
        self._notices = 0
        self._inward = False
        self._pid = os.getpid()
        self._doubt: tuple[int, float] | None = None

    async def begin(self, statement: bytes, *, direction: ExecStatus, block: bool = False) -> PGresult:
        """Send the statement of COPY, and return the result with which it has begun.

        Args:
            statement: one COPY.
            direction: COPY_IN or COPY_OUT.
            block: begin a transaction block with it, in the same round trip.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
            psycopg.ProgrammingError: the statement is no COPY in this direction alone.
        """
        conn = self.conn
        before = begin_statement(conn.isolation_level, conn.read_only, conn.deferrable) if block else b""
        results = await self._wait(query_steps(self._pgconn, before + statement))
        self._check(results, *([ExecStatus.COMMAND_OK] if block else ()), direction)
        if direction == ExecStatus.COPY_IN:
            conn.add_notice_handler(self._on_notice)
            self._inward = True
        return results[-1]

    def _check(self, results: list[PGresult], *wanted: ExecStatus) -> None:
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                self.failure = error_of(self.conn, result)
                raise self.failure
        if tuple(result.status for result in results) != wanted:
            self.failure = psycopg.ProgrammingError("expected one COPY and no other statement")
            raise self.failure

    async def put(self, data: Buffer) -> None:
        """Send bytes, or keep them until there are more.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        size = len(data)
        if size > _PIECE:
            view = memoryview(data)
            for start in range(0, size, _PIECE):
                await self._put(view[start : start + _PIECE])
        elif size:
            await self._put(data)

    async def _put(self, data: Buffer) -> None:
        try:
            while self._pgconn.put_copy_data(data) == 0:
                await self._flush()
        except psycopg.Error as exc:
            self.failure = exc
            raise
        self.bytes += len(data)
        self._unflushed += len(data)
        if self._unflushed >= BLOCK:
            await self._flush()

    async def _flush(self) -> None:
        self._unflushed = 0
        notices = self._notices
        arrived = await self._wait(flush_steps(self._pgconn))
        await self._look(notices, arrived=arrived)

    async def _look(self, notices: int, *, arrived: bool) -> None:
        """Stop if the server has refused the copy already. libpq tells it only at the end, which may be far.

        Nothing else is sent during COPY FROM: since PostgreSQL 14 changed settings are reported after the statement.
        """
        arrived |= await self._wait(_hear(self._pgconn))
        if self._notices != notices:
            self._doubt = None
        elif self._doubt is not None:
            if time.monotonic() - self._doubt[1] > _DOUBT:
                await self.refuse("the server has answered before the end")
        elif arrived:
            self._doubt = notices, time.monotonic()

    async def end(self) -> int:
        """End COPY FROM and return the number of rows that were copied.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        await self._flush()  # a connection that was lost by now has certainly committed nothing
        self.ending = True
        results = await self._wait(end_steps(self._pgconn))
        self._check(results, ExecStatus.COMMAND_OK)
        return results[0].command_tuples or 0

    async def refuse(self, reason: str) -> None:
        """End COPY FROM so that nothing of it is kept.

        Args:
            reason: for the log of the server.

        Raises:
            psycopg.Error: always, the server's: that it was ended so, or another one that came before.
        """
        async with AsyncWatchdog(_REFUSAL_TIMEOUT, self._lease.abort):
            results = await self._wait(end_steps(self._pgconn, reason.encode()))
        self._check(results, ExecStatus.COMMAND_OK)

    async def commit(self) -> None:
        """Commit the block that `begin` has begun.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        if not alive(self.conn):  # who has read all may have taken longer than the server waits
            await shut(self.conn)
            self.failure = _ended_before(self._lease.time_limit)
            raise self.failure
        self.ending = True
        self._check(await self._wait(query_steps(self._pgconn, b"COMMIT")), ExecStatus.COMMAND_OK)

    async def receive(self, take: Callable[[Buffer], object], *, most: int = BLOCK) -> tuple[int, int | None]:
        """Receive what has arrived of COPY TO; return the number of items, and in the end the number of rows.

        Args:
            take: called with each item: a row, a header or a trailer.
            most: bytes after which no further item is taken.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        items, size, results = await self._wait(receive_steps(self._pgconn, most, take))
        self.bytes += size
        if not results:
            return items, None
        self._check(results, ExecStatus.COMMAND_OK)
        return items, results[0].command_tuples or 0

    async def close(self, exc: BaseException | None) -> None:
        """Leave the connection so that it can go on, or closed; nothing that was sent without an end is kept.

        Args:
            exc: the error that ends the copy; None: it has come to its end.
        """
        if self._pid != os.getpid():
            return  # a forked child: the connection is its parent's
        failure = self.failure
        try:
            if self._inward:
                self.conn.remove_notice_handler(self._on_notice)
                if isinstance(exc, Exception) and failure is None and not self.ending:
                    with contextlib.suppress(psycopg.Error):  # that the copy failed, as it was to
                        await self.refuse(f"the client failed: {type(exc).__name__}")
        finally:
            self.failure = failure
            if self._pgconn.transaction_status == TransactionStatus.ACTIVE:
                if self.ending:  # a COMMIT is not cancelled
                    await shut(self.conn)
                else:
                    await abandon(self.conn, self._lease)

    async def _wait(self, steps: Generator[Any, Any, T]) -> T:
        try:
            result: T = await self.conn.wait(steps)
        except psycopg.Error as exc:
            self.failure = exc
            raise
        return result

    def _on_notice(self, _: object) -> None:
        self._notices += 1


def _ended_before(limit: str) -> psycopg.Error:
    """Return what tells that a connection was lost before COMMIT, by which of the server's time limits if any."""
    text = "the server ended the connection before COMMIT was sent: nothing was committed"
    for sqlstate, setting in TIME_LIMITS.items():
        if setting == limit:
            return psycopg.errors.lookup(sqlstate)(text)
    return psycopg.OperationalError(text)


def _hear(pgconn: PGconn) -> Generator[Any, Any, bool]:
    """Read what has arrived, for ``conn.wait``, which takes care of interrupts; return whether that is anything."""
    waiting = array.array("i", [0])
    fcntl.ioctl(pgconn.socket, termios.FIONREAD, waiting)
    if waiting[0]:
        pgconn.consume_input()
    yield from ()
    return bool(waiting[0])
