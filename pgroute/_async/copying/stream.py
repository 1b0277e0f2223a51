"""COPY TO as an iterator, whose user decides how fast and how far it is read."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from pgroute._acompat import AsyncFace
from pgroute._async.alone import NOTHING, UNKNOWN, AsyncAlone, check_end
from pgroute._async.copying.rows import row_reader
from pgroute._async.copying.wire import AsyncWire
from pgroute._async.ending import roll_back
from pgroute._async.pool.cancelling import abandon
from pgroute._async.pool.lease import shut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from psycopg.abc import Buffer

    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.copying.copy_out import AsyncExtract
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.transactions.request import Request

T = TypeVar("T")

_FEW = 16 * 1024
"""Bytes of rows that are loaded at once. The garbage collector goes through more of them again and again."""


class AsyncCopyStream(AsyncFace, Generic[T]):
    """An iterator over what is copied out, as `copy_rows()` and `copy_chunks()` return it.

    Use it once, in a ``with`` statement, and iterate over it there. Until that is entered, the copy can move to another
    host. What you have got cannot be taken back, so a connection that is lost later ends the iteration with an error.
    You may leave early: the connection is closed then, and the pool opens another one. What a query of a writer writes
    is committed on leaving, if all rows were taken and the block raised nothing.

    Raises:
        RuntimeError: on entering, it was used already; on iterating, it is not entered.
        ConfigError: on entering, a type is not known, or the client_encoding is none for rows in the text format.
        NoHostAvailable, PoolExhausted, SplitBrainError: on entering, there was no session in time.
        RouterClosed: on entering, the router is not open.
        SessionLost: on iterating, the connection was lost; what came before is not all. On leaving, nothing of a query
            of a writer was committed.
        CommitUnknown: on leaving, the connection was lost during the COMMIT of a query of a writer, or no synchronous
            standby has confirmed what it wrote.
        psycopg.Error: the server's error.
    """

    __module__ = "pgroute"

    def __init__(
        self,
        manager: AsyncSessionManager[Any],
        request: Request,
        timeout: float | None,
        extract: AsyncExtract,
        *,
        rows: bool,
        types: Sequence[str | int] | None = None,
    ) -> None:
        self._manager = manager
        self._request = request
        self._timeout = timeout
        self._reading = _AsyncReading(extract, rows=rows, types=types)
        self._alone: AsyncAlone[Any] | None = None
        self._checkout: AsyncCheckout[Any] | None = None

    async def __aenter__(self) -> Self:
        if self._alone is not None:
            raise RuntimeError("this copy was used already; ask the router for another")
        self._alone = alone = AsyncAlone(self._manager, self._request, self._timeout)
        self._checkout = await alone.run(self._reading)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        checkout, self._checkout = self._checkout, None
        assert checkout is not None
        if checkout.left_to_parent(exc):
            return
        try:
            if exc is None:
                await self._end(checkout)
            elif self._reading.finished:
                await roll_back(checkout, exc, read_write=self._request.read_write)
            else:
                checkout.note_failure(exc)
                await abandon(checkout.conn, checkout.lease)
        finally:
            await checkout.release()

    async def _end(self, checkout: AsyncCheckout[Any]) -> None:
        assert self._alone is not None
        reading = self._reading
        try:
            if await reading.all_read():
                await reading.commit()
                check_end(checkout)
            else:
                await shut(checkout.conn)
        except psycopg.Error as exc:
            await self._alone.failed(checkout, reading, exc)
            raise
        except BaseException as exc:
            checkout.note_failure(exc)
            if reading.outcome() is not NOTHING:
                exc.add_note("interrupted during COMMIT: it may have been committed")
                await shut(checkout.conn)  # a COMMIT is not cancelled
            else:
                await abandon(checkout.conn, checkout.lease)
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        reading = self._reading
        ready = reading.ready
        while not ready:
            if self._checkout is None:
                raise RuntimeError("iterate over it within its `with` statement")
            if reading.broken is not None:
                raise reading.broken
            if reading.finished:
                raise StopAsyncIteration
            await self._receive(self._checkout)
        item: T = ready.popleft()
        return item

    async def _receive(self, checkout: AsyncCheckout[Any]) -> None:
        assert self._alone is not None
        try:
            await self._reading.receive()
        except psycopg.Error as exc:
            self._reading.finished = checkout.conn.closed or checkout.transaction_ended
            await self._alone.failed(checkout, self._reading, exc)
            raise


class _AsyncReading:
    """A copy that is read bit by bit, as `AsyncAlone` begins it.

    Attributes:
        ready: what has arrived and not been handed out.
        finished: nothing more arrives.
        broken: what comes after *ready*, again and again: something could not be loaded, or is missing.
    """

    name = "copy"
    keeps_session = True

    def __init__(self, extract: AsyncExtract, *, rows: bool, types: Sequence[str | int] | None) -> None:
        self.ready: deque[Any] = deque()
        self.finished = False
        self.broken: Exception | None = None
        self._extract = extract
        self._rows = rows
        self._types = types
        self._block = False
        self._load: Callable[[Buffer], Any] | None = None
        self._wire: AsyncWire | None = None
        self._begun = False
        self._foreign: BaseException | None = None

    async def run(self, checkout: AsyncCheckout[Any]) -> AsyncCheckout[Any]:
        """Begin the copy, and return the checkout, which is the caller's from now on."""
        conn = checkout.conn
        self._wire = None
        self._block = self._extract.may_write and not checkout.lease.read_only
        wire = AsyncWire(conn)
        try:
            statement = self._extract.statement(conn)
            self._wire = wire
            result = await wire.begin(statement, direction=ExecStatus.COPY_OUT, block=self._block)
            if self._rows:
                self._load = row_reader(conn, result, binary=self._extract.binary, types=self._types)
        except BaseException as exc:
            if exc is not wire.failure:
                self._foreign = exc
            await wire.close(exc)
            raise
        self._begun = True
        return checkout

    async def receive(self) -> None:
        """Take what has arrived, or wait for something."""
        assert self._wire is not None
        received: list[Buffer] = []
        try:
            if self._load is None:
                _, total = await self._wire.receive(received.append)
                if received:
                    self.ready.append(b"".join(received))
            else:
                _, total = await self._wire.receive(received.append, most=_FEW)
                self._load_rows(self._load, received)
        except BaseException as exc:
            if exc is not self._wire.failure:
                self.broken = psycopg.OperationalError("an interrupt has ended the copy: rows are missing")
            raise
        self.finished = total is not None and self.broken is None

    def _load_rows(self, load: Callable[[Buffer], Any], received: list[Buffer]) -> None:
        try:
            for data in received:
                row = load(data)
                if row is not None:
                    self.ready.append(row)
        except Exception as exc:  # noqa: BLE001  (raised after the rows before it)
            self.broken = exc

    async def all_read(self) -> bool:
        """Return whether all was handed out; for a query that may write it is waited for what comes next."""
        while self._block and not (self.finished or self.ready or self.broken):
            await self.receive()
        return self.finished and not (self._block and self.ready)

    async def commit(self) -> None:
        """Commit what the query has written."""
        wire = self._wire
        if (
            self._block
            and wire is not None
            and wire.conn.pgconn.transaction_status == TransactionStatus.INTRANS
        ):
            await wire.commit()

    def outcome(self) -> str:
        """Return what was committed: nothing before COMMIT was sent."""
        wire = self._wire
        if wire is None or not wire.ending:
            return NOTHING
        return UNKNOWN if wire.failure is None or wire.conn.closed else NOTHING

    def is_own(self, exc: psycopg.Error) -> bool:
        """Return whether an error is not that of a value."""
        return exc is not self._foreign

    def why_not_again(self, exc: psycopg.Error) -> str:
        """Return why it cannot begin again, empty if it can."""
        return "what was copied has been handed out already" if self._begun else ""
