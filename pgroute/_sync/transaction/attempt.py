# Generated from pgroute/_async/transaction/attempt.py by .ci/unasync.py: edit that file, not this one.
"""One attempt at a transaction that is run again where that is safe: a session with a transaction in it."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg

from pgroute._acompat import Face, Watchdog
from pgroute._sync.pool.lease import alive, lease_of, shut
from pgroute._sync.session import (
    COMMIT_SENT,
    COMMITTED,
    INTRANS,
    NOTHING_SENT,
    _commit_failed,
    _end,
    _lost_early,
    _roll_back,
    _tell_unconfirmed,
    give_back,
    note_commit,
    refused,
)
from pgroute.core.faults.classify import Fault, FaultKind, one_line, session_fault
from pgroute.core.model.roles import Role
from pgroute.core.transactions.retry import LEAST_COMMIT, Phase, Retry, body_fault, end_fault
from pgroute.errors import RouteError

if TYPE_CHECKING:
    from types import TracebackType

    from pgroute._sync.manager import SessionManager
    from pgroute._sync.session import Block
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState

    Bound = Watchdog | contextlib.nullcontext[None]

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")


class _Around:
    """An attempt, which it does not keep alive, and those around it."""

    __slots__ = ("attempt", "outer")

    def __init__(self, attempt: Attempt[Any], outer: _Around | None) -> None:
        self.attempt = weakref.ref(attempt)
        self.outer = outer


_around: ContextVar[_Around | None] = ContextVar("_around", default=None)
"""The attempt in whose body this code runs; a task that was started there has it too, even when that is over."""


class Attempt(Face, Generic[CT]):
    """One attempt at a transaction: a context manager that yields a connection, with its transaction begun.

    The end commits. An error after which the transaction is run again is not let out: the next attempt follows. So the
    block must not be left by return or break.

    Attributes:
        again: seconds to pause before another attempt; None: there is no need for one.
        ended: it was entered, and left.
    """

    __slots__ = (
        "__weakref__",
        "_around",
        "_block",
        "_conn",
        "_course",
        "_engine",
        "_key",
        "_phase",
        "_request",
        "_transaction",
        "again",
        "ended",
    )

    def __init__(
        self, engine: SessionManager[CT], request: Request, course: RetryState, key: str | None = None
    ) -> None:
        self._engine = engine
        self._request = request
        self._course = course
        self._key = key
        self._around: _Around | None = None
        self._conn: CT | None = None
        self._block: Block | None = None
        self._transaction: psycopg.Transaction | None = None
        self.again: float | None = None
        self.ended = False
        self._phase = NOTHING_SENT

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._course.attempt

    @property
    def whole(self) -> bool:
        """Whether the transaction is still the one that was begun, and the connection there."""
        conn = self._conn
        return conn is not None and not conn.closed and not _ended_by_body(conn)

    @property
    def left(self) -> float:
        """The seconds that another transaction may be waited for."""
        return self._course.until_end(time.monotonic())

    def decided(self) -> None:
        """Take note that no earlier attempt was committed, so that the error of one is of no more concern."""
        self._course.decided()

    def __enter__(self) -> CT:
        if self._conn is not None or self.ended:
            raise RuntimeError("an attempt can be used once: take the next from the iterator")
        _refuse_nested(self._engine, self._request, self._key)
        self._around = _still_open(_around.get())
        while True:
            conn: CT | None = None
            try:
                conn = self._acquired()
                lease = lease_of(conn)
                lease.holder = weakref.ref(self, lease.holder_lost)
                with self.bounded(conn):
                    self._begin(conn)
                self._conn = conn
                _around.set(_Around(self, self._around))
                return conn
            except BaseException as exc:
                if conn is None:
                    raise
                self._conn = None
                _around.set(self._around)
                seconds = self._not_begun(conn, exc)
                if seconds is None:
                    raise
            pause(self._engine, seconds)

    def _acquired(self) -> CT:
        try:
            left = self._course.left(time.monotonic())
            return self._engine.acquire(self._request.attrs, self._request.role, left)
        except psycopg.Error as exc:
            self.ended = True
            self._course.failed(exc, _NO_SESSION, Phase.ACQUIRE, time.monotonic())
            raise self._course.final(exc, time.monotonic())  # noqa: B904  (the same one, or the one before)

    def bounded(self, conn: psycopg.Connection[Any], *, least: float = 0.0, grace: float = 0.0) -> Bound:
        """Return a block in which the connection is cut when the time that the call was given is over.

        Only for a time of the call's own: the router's policy says when attempts begin, not how long they may last.

        Args:
            conn: the connection.
            least: seconds that the block has in any case.
            grace: seconds beyond the time, for the server to say itself that it is over.
        """
        if self._course.timeout is None:
            return _UNBOUNDED
        cut = lease_of(conn).abort
        return Watchdog(max(self.left, least, _LEAST_BOUND) + grace, cut)

    def _begin(self, conn: CT) -> None:
        request = self._request
        if request.isolation is not None:
            conn.set_isolation_level(request.isolation)
        if request.read_only is not None:
            conn.set_read_only(request.read_only)
        if request.deferrable is not None:
            conn.set_deferrable(request.deferrable)
        self._block = conn.transaction()
        self._transaction = self._block.__enter__()
        lease_of(conn).was_idle = False

    def _not_begun(self, conn: CT, exc: BaseException) -> float | None:
        try:
            seconds = None
            if isinstance(exc, psycopg.Error):
                fault = session_fault(exc, closed=conn.closed, read_write=self._request.read_write)
                _roll_back(self._engine, conn, exc, read_write=self._request.read_write)
                error = exc
                if fault.kind is FaultKind.LOST:
                    error = _lost_early(self._engine, conn, exc, "in BEGIN")
                seconds = self._next(error, fault, Phase.BEGIN)
                if seconds is None and error is not exc:
                    self.ended = True
                    raise error from exc
            else:
                shut(conn)
            if seconds is None:
                self.ended = True
            return seconds
        finally:
            give_back(self._engine, conn)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        conn, self._conn = self._conn, None
        assert conn is not None
        self.ended = True
        _around.set(self._around)
        if self._engine.inherited:
            # A forked child shares the socket with its parent, whose session goes on: nothing may be sent.
            if exc is None:
                self._engine.check_usable()
            return False
        try:
            try:
                if exc is None:
                    return self._commit(conn)
                return self._fail(conn, exc)
            finally:
                self._block = self._transaction = None
                give_back(self._engine, conn)
        except BaseException as failure:
            note_commit(failure, self._phase)
            raise

    def _commit(self, conn: CT) -> bool:
        block = self._block
        assert block is not None
        phase, lost = Phase.EXIT, False
        try:
            if _ended_by_body(conn):
                self._refuse(conn, _SPLIT)
            if conn.pgconn.pipeline_status:
                # COMMIT would only be queued here, and its failure would be nobody's.
                self._refuse(conn, "the body left its pipeline open: nothing was committed")
            if (status := conn.pgconn.transaction_status) == INTRANS and alive(conn):
                phase = Phase.COMMIT
                self._phase = COMMIT_SENT
                try:
                    with self.bounded(conn, least=LEAST_COMMIT):
                        block.__exit__(None, None, None)
                except BaseException as failure:
                    if refused(conn, failure):
                        self._phase = NOTHING_SENT
                    _commit_failed(self._engine, conn, failure)
                    lost = conn.closed
                    if conn.pgconn.transaction_status:
                        shut(conn)  # the body left another transaction() of its own open
                    raise
                self._phase = COMMITTED
            else:
                _end(self._engine, conn, block, status=status, read_write=self._request.read_write)
            if lease_of(conn).unconfirmed:
                _tell_unconfirmed(self._engine, conn, None)
        except psycopg.Error as failure:
            fault = end_fault(failure, phase, lost=lost, read_write=self._request.read_write)
            if not self._failed(failure, fault, phase):
                raise
            return True
        return False

    @staticmethod
    def _refuse(conn: CT, why: str) -> None:
        shut(conn)
        raise psycopg.ProgrammingError(why)

    def _fail(self, conn: CT, exc: BaseException) -> bool:
        """Roll back for the body's error; return whether another attempt follows, or nothing was wrong."""
        read_write = self._request.read_write
        # As it is before ROLLBACK is tried, which may close it.
        closed = conn.closed and not conn.broken
        fault = body_fault(exc, lost=conn.closed and conn.broken, closed=closed, read_write=read_write)
        if _ended_by_body(conn):
            exc.add_note("the body ended the transaction by a COMMIT or ROLLBACK of its own: not run again")
            if isinstance(exc, RouteError):
                exc.rerun_safe = False
            shut(conn)
            return False
        _roll_back(self._engine, conn, exc, read_write=read_write, block=self._block)
        if isinstance(exc, psycopg.Rollback) and exc.transaction in (None, self._transaction):
            return True
        return self._failed(exc, fault, Phase.BODY)

    def _failed(self, exc: BaseException, fault: Fault, phase: Phase) -> bool:
        self.again = self._next(exc, fault, phase)
        return self.again is not None

    def _next(self, exc: BaseException, fault: Fault, phase: Phase) -> float | None:
        """Return the seconds to pause; if it is over, None, or raise the error that says more than this one."""
        now = time.monotonic()
        number = self._course.attempt
        step = self._course.failed(exc, fault, phase, now)
        if isinstance(step, Retry):
            why = one_line(str(exc))
            logger.info("attempt %d failed in %s, again in %.3f s: %s", number, phase.value, step.pause, why)
            return step.pause
        error = self._course.final(exc, now)
        if error is not exc:
            raise error
        return None


_NO_SESSION = Fault(FaultKind.OTHER, rerun_safe=True)
_UNBOUNDED: Bound = contextlib.nullcontext()
_LEAST_BOUND = 0.001
_SPLIT = (
    "the body ended the transaction by a COMMIT or ROLLBACK of its own: what it committed stands, the rest was rolled "
    "back, and it is not run again"
)


def _ended_by_body(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the body has ended the transaction by a COMMIT or ROLLBACK of its own."""
    return lease_of(conn).was_idle


def _still_open(around: _Around | None) -> _Around | None:
    """Return the innermost attempt that has not ended: one that an interrupt tore out of its end stays behind."""
    while around is not None and ((attempt := around.attempt()) is None or attempt.ended):
        around = around.outer
    return around


def _refuse_nested(engine: SessionManager[Any], request: Request, key: str | None) -> None:
    """Refuse what would be committed on its own within a body that may be run again, or wait for that body itself."""
    writes = request.role is Role.WRITER and not request.read_only
    around = _around.get()
    while around is not None:
        attempt = around.attempt()
        if attempt is not None and not attempt.ended and attempt._engine is engine:
            if key is not None and attempt._key == key:
                raise psycopg.ProgrammingError(
                    f"run(once={key!r}) within its own body: it would wait for itself"
                )
            if writes and not request.independent:
                raise psycopg.ProgrammingError(
                    "run() or attempts() for a writer within the body of another: it would be committed on its own, "
                    "and again when the outer one is run again. Use the connection that the body was given (its "
                    "transaction() makes a savepoint), or give a key of your own: run(once=KEY)"
                )
        around = around.outer


def pause(engine: SessionManager[Any], seconds: float) -> None:
    """Wait, unless the router is closed meanwhile."""
    until = time.monotonic() + seconds
    while not engine.closing and not engine.inherited:
        version = engine.changes.version
        left = until - time.monotonic()
        if left <= 0:
            return
        engine.changes.wait(version, left)
