# Generated from pgroute/_async/alone.py by .ci/unasync.py: edit that file, not this one.
"""Runs a statement as a transaction of its own, and again where that cannot apply it twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from psycopg_pool.abc import CT

from pgroute._sync.ending import roll_back
from pgroute._sync.pool.cancelling import abandon
from pgroute._sync.transaction.attempt import acquire
from pgroute._sync.transaction.loop import begin_attempts, pause
from pgroute.core.faults.classify import Fault, FaultKind, plan_outdated, session_fault
from pgroute.core.model.roles import Role
from pgroute.core.transactions.nesting import refuse_nested, surroundings
from pgroute.core.transactions.retry import Phase, Raise, Retry
from pgroute.errors import CommitUnknown, RouteError, SessionLost

if TYPE_CHECKING:
    from pgroute._sync.checkout import Checkout
    from pgroute._sync.manager import SessionManager
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NOTHING, UNKNOWN, COMMITTED = "nothing", "unknown", "committed"
"""What a statement has committed. Not an enumeration, as in `checkout`."""

_IDLE = TransactionStatus.IDLE


class Work(Protocol[T_co]):
    """A statement to run.

    Attributes:
        name: what it is, for errors and notes.
        keeps_session: a run that succeeds leaves the session to the work, which has to release it.
    """

    name: str
    keeps_session: bool

    def run(self, checkout: Checkout[Any]) -> T_co:
        """Run the statement on a connection in autocommit mode."""
        ...

    def outcome(self) -> str:
        """Return NOTHING, UNKNOWN or COMMITTED."""
        ...

    def is_own(self, exc: psycopg.Error) -> bool:
        """Return whether an error is one of this connection; others are as they are, and nothing is run again."""
        ...

    def why_not_again(self, exc: psycopg.Error) -> str:
        """Return why it cannot run again after an error, empty if it can."""
        ...


class Alone(Generic[CT]):
    """Runs one statement.

    Args:
        manager: of the router.
        request: what kind of transaction it is.
        timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
    """

    __slots__ = ("_checkout", "_manager", "_may_write", "_request", "_state")

    def __init__(self, manager: SessionManager[CT], request: Request, timeout: float | None) -> None:
        self._manager = manager
        self._request = request
        self._state: RetryState = begin_attempts(manager, request, None, timeout)
        self._may_write = request.role is Role.WRITER or not manager.config.reader.read_only
        self._checkout: Checkout[CT] | None = None

    def run(self, work: Work[T]) -> T:
        """Run a statement and return its result.

        Raises:
            psycopg.ProgrammingError: the call is in the body of a transaction that may be run again.
            RouteError: there was no session in time, or the connection was lost and the statement is not run again.
            psycopg.Error: the server's error.
            BaseException: what the work raises otherwise.
        """
        if surroundings.get() is not None:
            refuse_nested(self._manager, self._request, None)
        try:
            while True:
                outcome = self._perform(work)
                if not isinstance(outcome, Retry):
                    return outcome
                pause(self._manager, self._state, outcome)
        except BaseException as exc:
            if not isinstance(exc, Exception) and self._outcome(work) is not NOTHING:
                # It may have ended before it could be cancelled.
                exc.add_note(f"interrupted during the {work.name}: it may have been committed")
            raise

    def _outcome(self, work: Work[Any]) -> str:
        """Return what the attempt under way, or the last one, has committed."""
        checkout = self._checkout
        if checkout is None or not self._may_write:
            return NOTHING
        return work.outcome()

    def _perform(self, work: Work[T]) -> T | Retry:
        """Make one attempt."""
        checkout: Checkout[CT] | None = None
        kept = False
        try:
            checkout = acquire(self._manager, self._request, self._state)
            checkout.hold()
            checkout.conn.set_autocommit(True)
            checkout.note_begin()
            self._checkout = checkout
            value = work.run(checkout)
            kept = work.keeps_session
            if not kept:
                check_end(checkout)
            return value
        except psycopg.Error as exc:
            if checkout is None:
                raise
            kept = checkout.left_to_parent(exc)
            if kept:
                raise
            step = self.failed(checkout, work, exc)
            if isinstance(step, Raise):
                raise
            self._checkout = None
            return step
        except BaseException as exc:
            if checkout is not None:
                kept = checkout.left_to_parent(exc)
                if not kept:
                    self._ended(checkout, work, exc)
            raise
        finally:
            if checkout is not None and not kept:
                checkout.release()

    def _ended(self, checkout: Checkout[CT], work: Work[Any], exc: BaseException) -> None:
        """Tell in a note what an error that is not the server's has left behind."""
        checkout.note_failure(exc)
        if isinstance(exc, Exception) and self._outcome(work) is COMMITTED:
            rest = ", but no synchronous standby has confirmed it" if checkout.lease.unconfirmed else ""
            exc.add_note(f"the {work.name} was committed{rest}")  # as of a row factory
        idle = checkout.conn.pgconn.transaction_status == _IDLE
        if not checkout.transaction_ended and not (idle and isinstance(exc, Exception)):
            abandon(checkout.conn, checkout.lease)

    def failed(
        self, checkout: Checkout[CT], work: Work[Any], exc: psycopg.Error
    ) -> Retry | Raise:
        """Return whether to run the statement again; raise what a lost connection means."""
        if not work.is_own(exc):
            self._ended(checkout, work, exc)
            return Raise("it is not an error of this connection")
        conn, error, request = checkout.conn, exc, self._request
        lost = conn.closed
        unknown = lost and self._outcome(work) is not NOTHING and not plan_outdated(exc)
        if isinstance(exc, RouteError):
            fault = Fault(FaultKind.LOST, commit_unknown=isinstance(exc, CommitUnknown))
        else:
            fault = session_fault(exc, closed=lost, committing=unknown, read_write=request.read_write)
            roll_back(checkout, exc, read_write=request.read_write)
            if unknown:
                error = checkout.commit_unknown(
                    f"the connection to {checkout.key} was lost during the {work.name}: it may have been committed"
                )
                fault = Fault(FaultKind.LOST, commit_unknown=True)
            elif lost and not fault.time_limit:
                error = SessionLost(f"the connection to {checkout.key} was lost", topology=checkout.topology)
                fault = Fault(FaultKind.LOST, rerun_safe=True)
        state, refusal = self._state, work.why_not_again(exc)
        step = state.failed(error, fault, Phase.COMMIT, time.monotonic(), refusal=refusal)
        if isinstance(step, Retry):
            self._manager.meter.run_again(fault)
            return step
        final = state.final(error, time.monotonic())
        if final is not exc:
            raise final from exc
        return step


def check_end(checkout: Checkout[Any]) -> None:
    """Raise if the statement was not all that was to be, or is not confirmed by the synchronous standby."""
    status = checkout.conn.pgconn.transaction_status
    if status != _IDLE:
        raise psycopg.ProgrammingError(
            "the query began a transaction, which was rolled back: use writer(), reader() or run()"
        )
    checkout.check_confirmed()
