# Generated from pgroute/_async/copying/stream.py by .ci/unasync.py: edit that file, not this one.
"""COPY TO as an iterator, whose user decides how fast and how far it is read."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from pgroute._acompat import Face
from pgroute._sync.alone import NOTHING, UNKNOWN, Alone, check_end
from pgroute._sync.copying.rows import row_reader
from pgroute._sync.copying.wire import Wire
from pgroute._sync.ending import roll_back
from pgroute._sync.pool.cancelling import abandon
from pgroute._sync.pool.lease import shut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from psycopg.abc import Buffer

    from pgroute._sync.checkout import Checkout
    from pgroute._sync.copying.copy_out import Extract
    from pgroute._sync.manager import SessionManager
    from pgroute.core.transactions.request import Request

T = TypeVar("T")

_FEW = 16 * 1024
"""Bytes of rows that are loaded at once. The garbage collector goes through more of them again and again."""


class CopyStream(Face, Generic[T]):
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
        manager: SessionManager[Any],
        request: Request,
        timeout: float | None,
        extract: Extract,
        *,
        rows: bool,
        types: Sequence[str | int] | None = None,
    ) -> None:
        self._manager = manager
        self._request = request
        self._timeout = timeout
        self._reading = _Reading(extract, rows=rows, types=types)
        self._alone: Alone[Any] | None = None
        self._checkout: Checkout[Any] | None = None

    def __enter__(self) -> Self:
        if self._alone is not None:
            raise RuntimeError("this copy was used already; ask the router for another")
        self._alone = alone = Alone(self._manager, self._request, self._timeout)
        self._checkout = alone.run(self._reading)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        checkout, self._checkout = self._checkout, None
        assert checkout is not None
        if checkout.left_to_parent(exc):
            return
        try:
            if exc is None:
                self._end(checkout)
            elif self._reading.finished:
                roll_back(checkout, exc, read_write=self._request.read_write)
            else:
                checkout.note_failure(exc)
                abandon(checkout.conn, checkout.lease)
        finally:
            checkout.release()

    def _end(self, checkout: Checkout[Any]) -> None:
        assert self._alone is not None
        reading = self._reading
        try:
            if reading.all_read():
                reading.commit()
                check_end(checkout)
            else:
                shut(checkout.conn)
        except psycopg.Error as exc:
            self._alone.failed(checkout, reading, exc)
            raise
        except BaseException as exc:
            checkout.note_failure(exc)
            if reading.outcome() is not NOTHING:
                exc.add_note("interrupted during COMMIT: it may have been committed")
                shut(checkout.conn)  # a COMMIT is not cancelled
            else:
                abandon(checkout.conn, checkout.lease)
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        reading = self._reading
        ready = reading.ready
        while not ready:
            if self._checkout is None:
                raise RuntimeError("iterate over it within its `with` statement")
            if reading.broken is not None:
                raise reading.broken
            if reading.finished:
                raise StopIteration
            self._receive(self._checkout)
        item: T = ready.popleft()
        return item

    def _receive(self, checkout: Checkout[Any]) -> None:
        assert self._alone is not None
        try:
            self._reading.receive()
        except psycopg.Error as exc:
            self._reading.finished = checkout.conn.closed or checkout.transaction_ended
            self._alone.failed(checkout, self._reading, exc)
            raise


class _Reading:
    """A copy that is read bit by bit, as `Alone` begins it.

    Attributes:
        ready: what has arrived and not been handed out.
        finished: nothing more arrives.
        broken: what comes after *ready*, again and again: something could not be loaded, or is missing.
    """

    name = "copy"
    keeps_session = True

    def __init__(self, extract: Extract, *, rows: bool, types: Sequence[str | int] | None) -> None:
        self.ready: deque[Any] = deque()
        self.finished = False
        self.broken: Exception | None = None
        self._extract = extract
        self._rows = rows
        self._types = types
        self._block = False
        self._load: Callable[[Buffer], Any] | None = None
        self._wire: Wire | None = None
        self._begun = False
        self._foreign: BaseException | None = None

    def run(self, checkout: Checkout[Any]) -> Checkout[Any]:
        """Begin the copy, and return the checkout, which is the caller's from now on."""
        conn = checkout.conn
        self._wire = None
        self._block = self._extract.may_write and not checkout.lease.read_only
        wire = Wire(conn)
        try:
            statement = self._extract.statement(conn)
            self._wire = wire
            result = wire.begin(statement, direction=ExecStatus.COPY_OUT, block=self._block)
            if self._rows:
                self._load = row_reader(conn, result, binary=self._extract.binary, types=self._types)
        except BaseException as exc:
            if exc is not wire.failure:
                self._foreign = exc
            wire.close(exc)
            raise
        self._begun = True
        return checkout

    def receive(self) -> None:
        """Take what has arrived, or wait for something."""
        assert self._wire is not None
        received: list[Buffer] = []
        try:
            if self._load is None:
                _, total = self._wire.receive(received.append)
                if received:
                    self.ready.append(b"".join(received))
            else:
                _, total = self._wire.receive(received.append, most=_FEW)
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

    def all_read(self) -> bool:
        """Return whether all was handed out; for a query that may write it is waited for what comes next."""
        while self._block and not (self.finished or self.ready or self.broken):
            self.receive()
        return self.finished and not (self._block and self.ready)

    def commit(self) -> None:
        """Commit what the query has written."""
        wire = self._wire
        if (
            self._block
            and wire is not None
            and wire.conn.pgconn.transaction_status == TransactionStatus.INTRANS
        ):
            wire.commit()

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
