"""Decides whether and when a failed transaction is run again, and which error is raised in the end."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import psycopg

from pgroute.core.config.checks import check_number
from pgroute.core.faults.classify import Fault, FaultKind, plan_outdated, session_fault
from pgroute.core.printable import printable
from pgroute.errors import CommitUnknown, ConfigError, RouteError, SessionLost

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from pgroute.core.config.retry_policy import RetryPolicy

LEAST_COMMIT = 5.0
"""Seconds that a COMMIT has at least, even after a long body and close to the deadline."""

_NO_SESSION = Fault(FaultKind.OTHER, rerun_safe=True)
_LEAST_ATTEMPT = 0.001
"""Seconds without which no other attempt is made: it would fail for want of time, and hide why the one before did."""

_MOST_OUTDATED = 3
"""How often a plan may be outdated: each connection has its own. What psycopg has not prepared stays outdated."""

_LEAST_PAUSE = 0.02
_MOST_PAUSE = 2.0


class Phase(enum.Enum):
    """How far an attempt came."""

    ACQUIRE = "acquire"
    BEGIN = "begin"
    BODY = "body"
    COMMIT = "commit"
    EXIT = "exit"
    """After the body, without a COMMIT that was sent."""


class Retry(NamedTuple):
    """Run the transaction again, after *pause* seconds."""

    pause: float


class Raise(NamedTuple):
    """Raise the error.

    Attributes:
        reason: why the transaction is not run again.
        failed: a strategy of the policy raised an error.
    """

    reason: str
    failed: bool = False


def body_fault(exc: BaseException, *, lost: bool, closed: bool, read_write: bool) -> Fault:
    """Classify an exception of the body, in a transaction that the attempt still owns.

    Args:
        exc: the exception.
        lost: the connection broke.
        closed: the body closed its connection itself.
        read_write: the session was requested as read-write.
    """
    # Another session of a router inside the body, which may have committed: another run would repeat its work.
    foreign = isinstance(exc, RouteError) and exc.may_have_committed
    if not isinstance(exc, psycopg.Error) or closed or foreign:
        return Fault(FaultKind.OTHER)
    return session_fault(exc, closed=lost, read_write=read_write)


def end_fault(
    exc: psycopg.Error, phase: Phase, *, lost: bool, read_write: bool, time_limit: str = ""
) -> Fault:
    """Classify an error at the end of a transaction whose body raised nothing.

    Args:
        exc: the error of COMMIT, or the router's own.
        phase: COMMIT if it was sent, else EXIT.
        lost: the error closed the connection.
        read_write: the session was requested as read-write.
        time_limit: the setting with which the server had ended the connection before COMMIT; empty: it had not.
    """
    if isinstance(exc, CommitUnknown):
        return Fault(FaultKind.LOST, commit_unknown=True)
    if time_limit:
        return Fault(FaultKind.OTHER, time_limit=time_limit)
    if isinstance(exc, SessionLost):
        return Fault(FaultKind.LOST, rerun_safe=True)
    if phase is Phase.EXIT:
        return Fault(FaultKind.OTHER)  # an error in the body, which would happen again
    return session_fault(exc, closed=lost, committing=True, read_write=read_write)


def rerun_allowed(fault: Fault, phase: Phase, *, decidable: bool) -> bool:
    """Return True if the transaction can be run again without being applied twice.

    Args:
        fault: the error that ended the attempt.
        phase: how far the attempt came.
        decidable: the next attempt can find out whether this one was committed, by a row that this one wrote.
    """
    if phase is Phase.ACQUIRE:
        return False  # the acquisition has retried until its deadline
    return fault.rerun_safe or (decidable and fault.commit_unknown)


def decide(
    fault: Fault,
    phase: Phase,
    attempt: int,
    elapsed: float,
    *,
    policy: RetryPolicy,
    timeout: float | None = None,
    decidable: bool = False,
    error: BaseException | None = None,
) -> Retry | Raise:
    """Return whether a failed attempt is followed by another one.

    Args:
        fault: the error that ended the attempt.
        phase: how far the attempt came.
        attempt: the number of the attempt, from 1.
        elapsed: seconds since the start of the first attempt.
        policy: the strategies.
        timeout: seconds that the call was given, None if it was not.
        decidable: the next attempt can find out whether this one was committed.
        error: the exception, for strategies that use it.
    """
    if not rerun_allowed(fault, phase, decidable=decidable):
        return Raise("not to be run again")
    try:
        pause, stop = _ask(policy, _state(attempt, elapsed, error))
    except Exception as exc:  # noqa: BLE001  (of a user's strategy; it must not replace the error of the transaction)
        return Raise(f"the retry policy failed: {type(exc).__name__}: {printable(str(exc))}", failed=True)
    if stop:
        return Raise("the policy says stop")
    limit = policy.limit(timeout)
    if limit is not None and elapsed + pause >= limit:
        return Raise("out of time")
    return Retry(pause)


def _ask(policy: RetryPolicy, state: RetryCallState) -> tuple[float, bool]:
    """Return the pause in seconds, and whether to stop instead, from the strategies of a policy."""
    if policy.wait is None:
        import tenacity

        pause = tenacity.wait_random_exponential(multiplier=_LEAST_PAUSE, max=_MOST_PAUSE)(state)
    else:
        pause = policy.wait(state)
        check_number("wait", pause)
    state.upcoming_sleep = pause
    return pause, policy.stop is not None and bool(policy.stop(state))


def _state(attempt: int, elapsed: float, error: BaseException | None) -> RetryCallState:
    """Return the argument of tenacity's strategies, on a clock that begins at 0."""
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.start_time = 0.0
    state.attempt_number = attempt
    if error is not None:
        state.set_exception((type(error), error, error.__traceback__))
    state.outcome_timestamp = elapsed
    return state


class Budget(Protocol):
    """The retries of all calls of a router together."""

    def spend(self, fault: Fault, policy: RetryPolicy, now: float) -> str:
        """Count one more retry, and return why it is refused, in words; empty if it is not.

        Args:
            fault: what ended the attempt.
            policy: of the call.
            now: monotonic seconds.
        """
        ...


class RetryState:
    """The history of the attempts at one transaction.

    It is mutable because the loop and the attempt under way share it: each learns from the other what happened.

    Args:
        policy: the strategies.
        now: monotonic seconds.
        timeout: seconds for all attempts together, None for the limit of the policy.
        acquire_timeout: seconds to wait for a session if there is no other limit.
        decidable: see `decide`.
        budget: of the router; None: there is no limit.

    Attributes:
        attempt: the number of the attempt under way, from 1.
        timeout: the argument.
        unknown: the error of the last attempt that may have been committed, None once it is known that none was.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        now: float,
        *,
        timeout: float | None,
        acquire_timeout: float,
        decidable: bool,
        budget: Budget | None = None,
    ) -> None:
        self.attempt: int = 1
        self._policy = policy
        self._begun = now
        self._limit = policy.limit(timeout)
        self._patience = acquire_timeout if timeout is None else timeout
        self._decidable = decidable
        self._previous: BaseException | None = None
        self._remark = ""
        self._budget = budget
        self._spent = ""
        self._outdated = 0
        self.timeout = timeout
        self.unknown: CommitUnknown | None = None

    def left(self, now: float) -> float:
        """Return the seconds to wait for a session.

        Raises:
            BaseException: that of the attempt before, if the pause has taken the time that was left.
        """
        if self._limit is None:
            return self._patience
        left = self._begun + self._limit - now
        if left < _LEAST_ATTEMPT and self._previous is not None:
            previous, self._previous = self._previous, None
            self.attempt -= 1
            raise previous
        return min(self._patience, max(0.0, left))

    def until_end(self, now: float) -> float:
        """Return the seconds until no attempt begins any more; without a limit, those to wait for a session."""
        return self._patience if self._limit is None else max(0.0, self._begun + self._limit - now)

    def decided(self) -> None:
        """Record that no earlier attempt was committed."""
        self.unknown = None

    def failed(
        self, error: BaseException, fault: Fault, phase: Phase, now: float, *, refusal: str = ""
    ) -> Retry | Raise:
        """Record a failed attempt, and return what comes next.

        Args:
            error: the error.
            fault: what it means.
            phase: how far the attempt came.
            now: monotonic seconds.
            refusal: why the work cannot be done again, even if that is safe; empty: it can.
        """
        if isinstance(error, CommitUnknown) and phase is Phase.COMMIT:
            self.unknown = error
        step = decide(
            fault,
            phase,
            self.attempt,
            now - self._begun,
            policy=self._policy,
            timeout=self.timeout,
            decidable=self._decidable,
            error=error,
        )
        if plan_outdated(error):
            self._outdated += 1
            if self._outdated > _MOST_OUTDATED:
                refusal = (
                    refusal
                    or "its plan is still outdated, so the statement is none that psycopg has prepared"
                )
        if isinstance(step, Retry) and refusal:
            step = Raise(refusal)
            self._remark = f"; not run again: {refusal}"
        if isinstance(step, Retry) and self._budget is not None:
            self._spent = self._budget.spend(fault, self._policy, now)
            if self._spent:
                step = Raise(self._spent)
        if isinstance(step, Retry):
            self.attempt += 1
            self._previous = error
            return step
        if step.failed:
            self._remark = f"; {step.reason}"
        if fault.time_limit:
            self._remark = f"; not run again: it took longer than the server's {fault.time_limit}"
        if phase is not Phase.BODY and isinstance(error, RouteError) and self.unknown is None:
            error.rerun_safe = not error.may_have_committed
        return step

    def without_session(self, error: psycopg.Error, now: float) -> BaseException:
        """Record that an attempt got no session; return the exception to raise, as `final` does."""
        self.failed(error, _NO_SESSION, Phase.ACQUIRE, now)
        return self.final(error, now)

    def interrupted(self, error: BaseException) -> None:
        """Add a note to an exception that ended a pause, if the attempt before may have been committed."""
        if self.unknown is not None:
            error.add_note(f"an earlier attempt may have been committed: {_described(self.unknown)}")

    def final(self, error: BaseException, now: float) -> BaseException:
        """Return the exception to raise after the last attempt failed with *error*, with a note on all attempts.

        If an earlier attempt may have been committed, that is its CommitUnknown: the caller has to know.
        """
        raised = error
        if isinstance(error, Exception) and self.unknown is not None:
            raised = self.unknown
        if self.attempt > 1 or (isinstance(error, psycopg.Error) and not isinstance(error, ConfigError)):
            many = "s" if self.attempt > 1 else ""
            text = f"pgroute: {self.attempt} attempt{many} in {now - self._begun:.2f} s"
            other = error if raised is not error else self._previous
            if other is not None and other is not raised:
                which = "the last error" if raised is not error else "the error before"
                text += f"; {which}: {_described(other)}"
            raised.add_note(text + self._remark)
        if self._spent:
            raised.add_note(f"pgroute: not run again: {self._spent}")
        return raised


def _described(error: BaseException) -> str:
    first = printable(str(error).strip().split("\n", 1)[0])
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
