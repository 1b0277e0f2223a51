"""One attempt at a transaction: begun on a connection of its own, then committed or rolled back."""

from __future__ import annotations

import logging
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgroute._async.checkout import NOTHING_SENT, REFUSED, note_commit
from pgroute._async.commit import BY_ROUTER
from pgroute._async.ending import end, roll_back
from pgroute._async.pool.cancelling import abandon
from pgroute._async.transaction.under_way import AsyncUnderWay
from pgroute._psycopg.state import leave_block
from pgroute.core.faults.classify import Fault, FaultKind, one_line, session_fault
from pgroute.core.model.roles import Role
from pgroute.core.transactions.nesting import open_surroundings, refuse_nested, surroundings
from pgroute.core.transactions.retry import LEAST_COMMIT, Phase, Raise, Retry, body_fault, end_fault
from pgroute.errors import PositionLost, RouteError

if TYPE_CHECKING:
    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

logger = logging.getLogger("pgroute")

_LET_OUT = Raise("not to be run again")
_SPLIT = (
    "the body ended the transaction by a COMMIT or ROLLBACK of its own: what it committed stands, the rest was rolled "
    "back, and it is not run again"
)


class AsyncTransaction(AsyncUnderWay[CT]):
    """One attempt at a transaction; the arguments are those of `AsyncUnderWay`.

    `begin` comes before the body, `commit` or `fail` after it. Each returns a Retry if another attempt follows.
    """

    __slots__ = ()
    ended: bool
    kept: AsyncCheckout[CT] | None
    phase: str

    async def begin(self) -> CT | Retry:
        """Take a connection and begin the transaction.

        Raises:
            psycopg.ProgrammingError: the call is in the body of another transaction.
            psycopg.Error: the transaction cannot begin, and no attempt follows.
        """
        request, state = self._request, self._state
        if surroundings.get() is not None:
            refuse_nested(self.manager, request, self.key)
            self._outer = open_surroundings()
        checkout: AsyncCheckout[CT] | None = None
        try:
            self._checkout = checkout = await self.manager.acquire(
                request.attrs,
                request.role,
                state.left(time.monotonic()),
                causal=self._causal,
                attempt=state.attempt,
            )
            conn = checkout.hold()
            if self.timeout is None:
                await self._begin(checkout)
            else:
                async with self.bounded():
                    await self._begin(checkout)
            surroundings.set((weakref.ref(self), self._outer))
            return conn
        except BaseException as exc:
            if checkout is None:
                if isinstance(exc, psycopg.Error):
                    self.ended = True
                    if self._causal is not None and isinstance(exc, PositionLost):
                        self._causal.note_lost()
                    raise state.without_session(exc, time.monotonic())  # noqa: B904  (most often the same error)
                raise
            self._checkout = None
            surroundings.set(self._outer)
            step = await self._not_begun(checkout, exc)
            if isinstance(step, Raise):
                raise
            return step

    async def _not_begun(self, checkout: AsyncCheckout[CT], exc: BaseException) -> Retry | Raise:
        read_write = self._request.read_write
        try:
            if not isinstance(exc, psycopg.Error):
                self.ended = True
                checkout.note_failure(exc)
                await abandon(checkout.conn, checkout.lease)
                return _LET_OUT
            fault = session_fault(exc, closed=checkout.conn.closed, read_write=read_write)
            await roll_back(checkout, exc, BY_ROUTER, read_write=read_write)
            error = checkout.lost_early(exc, "in BEGIN") if fault.kind is FaultKind.LOST else exc
            step = self._next(error, fault, Phase.BEGIN)
            if isinstance(step, Raise):
                self.ended = True
                if error is not exc:
                    raise error from exc
            return step
        finally:
            leave_block(checkout.conn)
            checkout.forget()
            await checkout.release()

    async def commit(self) -> Retry | None:
        """Commit, after a body that raised no error. Returns None if that succeeded.

        Raises:
            psycopg.Error: the commit failed or its outcome is unknown, and no attempt follows.
        """
        checkout = self._checkout
        assert checkout is not None
        self.ended = True
        surroundings.set(self._outer)
        if checkout.left_to_parent(None):
            return None
        try:
            try:
                return await self._commit(checkout)
            finally:
                self.phase, self._checkout = checkout.phase, None
                if self.keep:
                    self.kept = checkout
                else:
                    await checkout.release()
        except BaseException as failure:
            checkout.settle()
            note_commit(failure, checkout.phase)
            raise

    async def _commit(self, checkout: AsyncCheckout[CT]) -> Retry | None:
        conn, final, read_write = checkout.conn, self.final, self._request.read_write
        try:
            if checkout.lease.was_idle:
                await abandon(conn, checkout.lease)
                raise psycopg.ProgrammingError(_SPLIT)
            if conn.pgconn.pipeline_status:
                # COMMIT would only be queued here, and nobody would see its failure.
                await abandon(conn, checkout.lease)
                raise psycopg.ProgrammingError("the body left its pipeline open: nothing was committed")
            result = await end(
                checkout,
                self._begun,
                read_write=read_write,
                may_write=not self._request.read_only,
                last=b"" if final is None else final.statement,
                bound=None if self.timeout is None else self.bounded(least=LEAST_COMMIT),
            )
            if final is not None and result is not None:
                final.read(result)
        except psycopg.Error as failure:
            checkout.note_failure(failure)
            fault = final.refused(failure) if final is not None and checkout.phase is REFUSED else None
            phase = Phase.EXIT if checkout.phase is NOTHING_SENT else Phase.COMMIT
            fault = fault or end_fault(
                failure, phase, lost=False, read_write=read_write, time_limit=checkout.lease.time_limit
            )
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
        checkout = self.checkout
        self.ended = True
        surroundings.set(self._outer)
        if checkout.left_to_parent(exc):
            return _LET_OUT
        try:
            try:
                return await self._fail(checkout, exc)
            finally:
                self.phase, self._checkout = checkout.phase, None
                if self.keep:
                    self.kept = checkout
                else:
                    await checkout.release()
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
            checkout.note_failure(exc)
            await abandon(conn, checkout.lease)
            return _LET_OUT
        wanted = isinstance(exc, psycopg.Rollback) and exc.transaction is None
        await roll_back(checkout, exc, self._begun, read_write=read_write, wanted=wanted)
        if wanted:
            return None
        step = self._next(exc, fault, Phase.BODY)
        if isinstance(step, Retry):
            self._discard_reads(checkout)
        return step

    def _discard_reads(self, checkout: AsyncCheckout[CT]) -> None:
        """Another attempt follows, so what a reader has read does not count. A writer's goes to the primary anyway."""
        if self._request.role is Role.READER:
            checkout.forget()

    def _next(self, exc: BaseException, fault: Fault, phase: Phase) -> Retry | Raise:
        """Return what follows. If nothing does and an earlier error says more than this one, raise that."""
        now = time.monotonic()
        number = self._state.attempt
        step = self._state.failed(exc, fault, phase, now)
        if isinstance(step, Retry):
            self.manager.meter.run_again(fault)
            why = one_line(str(exc))
            logger.debug("attempt %d failed in %s, again in %.3f s: %s", number, phase.value, step.pause, why)
            return step
        error = self._state.final(exc, now)
        if error is not exc:
            raise error
        return step


async def acquire(manager: AsyncSessionManager[CT], request: Request, state: RetryState) -> AsyncCheckout[CT]:
    """Take a connection for one attempt at a statement.

    Args:
        manager: of the router.
        request: what kind of transaction it is.
        state: how the attempts so far went.

    Raises:
        psycopg.Error: there was none in time; that of an earlier attempt, if it says more.
    """
    try:
        left = state.left(time.monotonic())
        return await manager.acquire(request.attrs, request.role, left, attempt=state.attempt)
    except psycopg.Error as exc:
        raise state.without_session(exc, time.monotonic())  # noqa: B904  (most often the same error)
