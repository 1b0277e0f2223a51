"""One attempt at a transaction: begun on a connection of its own, then committed or rolled back."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import psycopg

from pgroute._async.checkout import NOTHING_SENT, REFUSED, UNBOUNDED, note_commit
from pgroute._async.pool.lease import shut
from pgroute._async.statements import ask
from pgroute._psycopg import enter_block, is_only_block, leave_block
from pgroute.core.faults.classify import Fault, FaultKind, one_line, session_fault
from pgroute.core.model.roles import Role
from pgroute.core.transactions.begin import begin_statement
from pgroute.core.transactions.nesting import Surroundings, open_surroundings, refuse_nested, surroundings
from pgroute.core.transactions.retry import (
    LEAST_COMMIT,
    Phase,
    Raise,
    Retry,
    body_fault,
    end_fault,
)
from pgroute.errors import RouteError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._async.checkout import AsyncCheckout, Block, Bound
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState
    from pgroute.runtime.causality import CausalReading

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

logger = logging.getLogger("pgroute")

_NO_SESSION = Fault(FaultKind.OTHER, rerun_safe=True)
_LEAST_BOUND = 0.001
_LET_OUT = Raise("not to be run again")
_SPLIT = (
    "the body ended the transaction by a COMMIT or ROLLBACK of its own: what it committed stands, the rest was rolled "
    "back, and it is not run again"
)


class Final(Protocol):
    """A statement that is sent together with COMMIT.

    Attributes:
        statement: of one result.
    """

    statement: bytes

    def read(self, result: PGresult) -> None:
        """Take the result, after the COMMIT."""
        ...

    def refused(self, failure: psycopg.Error) -> None:
        """Raise what an error means that came from the statement or from COMMIT; return if nothing else."""
        ...


class AsyncTransaction(Generic[CT]):
    """One attempt at a transaction.

    `begin` comes before the body, `commit` or `fail` after it. Each returns a Retry if another attempt follows.

    Args:
        manager: gives the connection.
        request: what kind of transaction it is.
        state: how the attempts so far went.
        key: of ``once=``, if there is one.
        causal: gives the demand, and takes note of how far the transaction came; None: there is no demand.

    Attributes:
        manager, key: as given.
        ended: the attempt is over.
        final: a statement to send together with COMMIT, None if there is none.
        phase: how far COMMIT came; see `AsyncCheckout`.
    """

    __slots__ = (
        "__weakref__",
        "_block",
        "_causal",
        "_checkout",
        "_outer",
        "_pending",
        "_request",
        "_state",
        "ended",
        "final",
        "key",
        "manager",
        "phase",
    )

    def __init__(
        self,
        manager: AsyncSessionManager[CT],
        request: Request,
        state: RetryState,
        key: str | None = None,
        causal: CausalReading | None = None,
    ) -> None:
        self.manager = manager
        self.ended = False
        self.phase = NOTHING_SENT
        self._request = request
        self._state = state
        self._causal = causal
        self.key = key
        self._checkout: AsyncCheckout[CT] | None = None
        self._block: Block | None = None
        self._pending = b""
        self.final: Final | None = None
        self._outer: Surroundings | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._state.attempt

    @property
    def open(self) -> bool:
        """Whether the transaction was begun and has not ended."""
        return self._checkout is not None and not self.ended

    @property
    def checkout(self) -> AsyncCheckout[CT]:
        """The checkout of its connection, from `begin` to the end."""
        assert self._checkout is not None
        return self._checkout

    @property
    def intact(self) -> bool:
        """Whether the connection is open, and the body has not ended the transaction."""
        return not (self.checkout.conn.closed or self.checkout.transaction_ended)

    @property
    def left(self) -> float:
        """The seconds until the time for all attempts is over, for waits for locks."""
        return self._state.until_end(time.monotonic())

    @property
    def earlier_unknown(self) -> bool:
        """Whether an earlier attempt may have been committed."""
        return self._state.unknown is not None

    def mark_resolved(self) -> None:
        """Record that no earlier attempt was committed, so that its CommitUnknown is not raised any more."""
        self._state.decided()

    def bounded(self, *, least: float = 0.0, grace: float = 0.0) -> Bound:
        """Return a block that cuts the connection at the end of the call's timeout.

        Without a timeout of the call's own there is no limit: the policy says when attempts begin, not how long they
        last.

        Args:
            least: seconds that the block has at least.
            grace: seconds after the timeout, in which the server itself can report it.
        """
        if self._state.timeout is None:
            return UNBOUNDED
        return self.checkout.within(max(self.left, least, _LEAST_BOUND) + grace)

    async def begin(self) -> CT | Retry:
        """Take a connection and begin the transaction.

        Raises:
            psycopg.ProgrammingError: the call is in the body of another transaction.
            psycopg.Error: the transaction cannot begin, and no attempt follows.
        """
        refuse_nested(self.manager, self._request, self.key)
        self._outer = open_surroundings()
        checkout: AsyncCheckout[CT] | None = None
        try:
            self._checkout = checkout = await self._acquire()
            conn = checkout.hold()
            async with self.bounded():
                await self._begin(checkout)
            surroundings.set(Surroundings(self, self._outer))
            return conn
        except BaseException as exc:
            if checkout is None:
                raise
            self._checkout = None
            surroundings.set(self._outer)
            step = await self._not_begun(checkout, exc)
            if isinstance(step, Raise):
                raise
            return step

    async def _acquire(self) -> AsyncCheckout[CT]:
        try:
            return await acquire(self.manager, self._request, self._state, causal=self._causal)
        except psycopg.Error:
            self.ended = True
            raise

    async def _begin(self, checkout: AsyncCheckout[CT]) -> None:
        conn, request = checkout.conn, self._request
        if type(conn).transaction is not psycopg.AsyncConnection.transaction:
            await self._begin_theirs(conn)
            checkout.note_begin()
            return
        checkout.note_begin()
        enter_block(conn)
        self._pending = begin_statement(
            conn.isolation_level if request.isolation is None else request.isolation,
            conn.read_only if request.read_only is None else request.read_only,
            conn.deferrable if request.deferrable is None else request.deferrable,
        )
        if self.key is None:
            await self.ask(b"")

    async def _begin_theirs(self, conn: CT) -> None:
        """Begin by the transaction() of a class of the user's, which may do more than psycopg's."""
        request = self._request
        if request.isolation is not None:
            await conn.set_isolation_level(request.isolation)
        if request.read_only is not None:
            await conn.set_read_only(request.read_only)
        if request.deferrable is not None:
            await conn.set_deferrable(request.deferrable)
        self._block = conn.transaction()
        await self._block.__aenter__()

    async def ask(self, statement: bytes, /, **values: str | float | bytes | None) -> list[PGresult]:
        """Run statements as `pgroute._async.statements.ask` does; BEGIN goes along with the first ones.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        checkout, pending = self.checkout, self._pending
        self._pending = b""
        if not pending:
            return await ask(checkout.conn, statement, **values)
        try:
            return await ask(checkout.conn, pending + statement, **values)
        finally:
            checkout.note_begin()  # if BEGIN was refused, no body has ended the transaction

    async def _not_begun(self, checkout: AsyncCheckout[CT], exc: BaseException) -> Retry | Raise:
        read_write = self._request.read_write
        try:
            if not isinstance(exc, psycopg.Error):
                self.ended = True
                await shut(checkout.conn)
                return _LET_OUT
            fault = session_fault(exc, closed=checkout.conn.closed, read_write=read_write)
            await checkout.roll_back(exc, read_write=read_write, own=True)
            error = checkout.lost_early(exc, "in BEGIN") if fault.kind is FaultKind.LOST else exc
            step = self._next(error, fault, Phase.BEGIN)
            if isinstance(step, Raise):
                self.ended = True
                if error is not exc:
                    raise error from exc
            return step
        finally:
            _leave_block(checkout.conn)
            checkout.forget()
            await checkout.release()

    async def commit(self) -> Retry | None:
        """Commit, after a body that raised no error. Returns None if that succeeded.

        Raises:
            psycopg.Error: the commit failed or its outcome is unknown, and no attempt follows.
        """
        checkout = self._leave()
        if checkout.left_to_parent(None):
            return None
        try:
            try:
                return await self._commit(checkout)
            finally:
                await self._release(checkout)
        except BaseException as failure:
            checkout.settle()
            note_commit(failure, checkout.phase)
            raise

    async def _commit(self, checkout: AsyncCheckout[CT]) -> Retry | None:
        conn, read_write = checkout.conn, self._request.read_write
        try:
            if checkout.transaction_ended:
                await shut(conn)
                raise psycopg.ProgrammingError(_SPLIT)
            if conn.pgconn.pipeline_status:
                # COMMIT would only be queued here, and nobody would see its failure.
                await shut(conn)
                raise psycopg.ProgrammingError("the body left its pipeline open: nothing was committed")
            result = await checkout.end(
                read_write=read_write,
                own=self._block is None,
                block=self._block,
                may_write=not self._request.read_only,
                last=b"" if self.final is None else self.final.statement,
                bound=self.bounded(least=LEAST_COMMIT),
            )
            if self.final is not None and result is not None:
                self.final.read(result)
        except psycopg.Error as failure:
            if self.final is not None and checkout.phase is REFUSED:
                self.final.refused(failure)
            phase = Phase.EXIT if checkout.phase is NOTHING_SENT else Phase.COMMIT
            fault = end_fault(failure, phase, lost=False, read_write=read_write)
            step = self._next(failure, fault, phase)
            if isinstance(step, Raise):
                raise
            self._discard_reads(checkout)
            return step
        return None

    async def fail(self, exc: BaseException) -> Retry | Raise | None:
        """Roll back after an error of the body. Returns None for a psycopg.Rollback, Raise to raise the error.

        Raises:
            CommitUnknown: an earlier attempt may have been committed, which says more than this error.
        """
        checkout = self._leave()
        if checkout.left_to_parent(exc):
            return _LET_OUT
        try:
            try:
                return await self._fail(checkout, exc)
            finally:
                await self._release(checkout)
        except BaseException as failure:
            checkout.settle()
            note_commit(failure, checkout.phase)
            raise

    async def _fail(self, checkout: AsyncCheckout[CT], exc: BaseException) -> Retry | Raise | None:
        conn, read_write = checkout.conn, self._request.read_write
        # Before ROLLBACK, which may close the connection.
        closed = conn.closed and not conn.broken
        fault = body_fault(exc, lost=conn.closed and conn.broken, closed=closed, read_write=read_write)
        if checkout.transaction_ended:
            exc.add_note("the body ended the transaction by a COMMIT or ROLLBACK of its own: not run again")
            if isinstance(exc, RouteError):
                exc.rerun_safe = False
            await shut(conn)
            return _LET_OUT
        await checkout.roll_back(exc, read_write=read_write, own=self._block is None, block=self._block)
        if isinstance(exc, psycopg.Rollback) and exc.transaction is None:
            return None
        step = self._next(exc, fault, Phase.BODY)
        if isinstance(step, Retry):
            self._discard_reads(checkout)
        return step

    def _discard_reads(self, checkout: AsyncCheckout[CT]) -> None:
        """Another attempt follows, so what a reader has read does not count. A writer's goes to the primary anyway."""
        if self._request.role is Role.READER:
            checkout.forget()

    def _leave(self) -> AsyncCheckout[CT]:
        """Note that the body is over."""
        checkout = self.checkout
        self.ended = True
        surroundings.set(self._outer)
        return checkout

    async def _release(self, checkout: AsyncCheckout[CT]) -> None:
        self.phase = checkout.phase
        if self._block is None:
            _leave_block(checkout.conn)
        self._checkout = self._block = None
        await checkout.release()

    def _next(self, exc: BaseException, fault: Fault, phase: Phase) -> Retry | Raise:
        """Return what follows. If nothing does and an earlier error says more than this one, raise that."""
        now = time.monotonic()
        number = self._state.attempt
        step = self._state.failed(exc, fault, phase, now)
        if isinstance(step, Retry):
            why = one_line(str(exc))
            logger.info("attempt %d failed in %s, again in %.3f s: %s", number, phase.value, step.pause, why)
            return step
        error = self._state.final(exc, now)
        if error is not exc:
            raise error
        return step


async def acquire(
    manager: AsyncSessionManager[CT],
    request: Request,
    state: RetryState,
    *,
    causal: CausalReading | None = None,
) -> AsyncCheckout[CT]:
    """Take a connection for one attempt.

    Args:
        manager: of the router.
        request: what kind of transaction it is.
        state: how the attempts so far went.
        causal: gives the demand, and takes note of how far the transaction came; None: there is no demand.

    Raises:
        psycopg.Error: there was none in time; that of an earlier attempt, if it says more.
    """
    try:
        left = state.left(time.monotonic())
        return await manager.acquire(request.attrs, request.role, left, causal=causal)
    except psycopg.Error as exc:
        state.failed(exc, _NO_SESSION, Phase.ACQUIRE, time.monotonic())
        raise state.final(exc, time.monotonic())  # noqa: B904  (the same error, or that of an earlier attempt)


def _leave_block(conn: psycopg.AsyncConnection[Any]) -> None:
    """End what `enter_block` began. If the body has left a transaction() open, the pool closes the connection."""
    if is_only_block(conn):
        leave_block(conn)
