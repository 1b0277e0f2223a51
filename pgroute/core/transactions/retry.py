"""Whether a transaction that failed is run again, when, and what is raised in the end; the time is an argument."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from pgroute.core.config.options import check_number
from pgroute.core.faults.classify import Fault, FaultKind, session_fault
from pgroute.core.printable import printable
from pgroute.errors import CommitUnknown, ConfigError, RouteError, SessionLost

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from pgroute.core.config.retry_policy import RetryPolicy

LEAST_COMMIT = 5.0
"""Seconds that a COMMIT has, however late it is: a body that took long is to be committed all the same."""

_LEAST_PAUSE = 0.02
_MOST_PAUSE = 2.0


class Phase(enum.Enum):
    """How far an attempt at a transaction had come."""

    ACQUIRE = "acquire"
    BEGIN = "begin"
    BODY = "body"
    COMMIT = "commit"
    EXIT = "exit"
    """After the body, before COMMIT was sent, if it was sent at all."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Run it again, after *pause* seconds."""

    pause: float


@dataclass(frozen=True, slots=True)
class Raise:
    """Let the error out.

    Attributes:
        reason: why.
        failed: the policy itself is at fault.
    """

    reason: str
    failed: bool = False


def body_fault(exc: BaseException, *, lost: bool, closed: bool, read_write: bool) -> Fault:
    """Read what a body raised, in a transaction that is still its attempt's.

    Args:
        exc: what was raised.
        lost: the connection broke.
        closed: the body closed its connection itself.
        read_write: the session was asked for as read-write.
    """
    # A session of the router's own within the body, which may have committed: running the body again would repeat it.
    foreign = isinstance(exc, RouteError) and exc.may_have_committed
    if not isinstance(exc, psycopg.Error) or closed or foreign:
        return Fault(FaultKind.OTHER)
    return session_fault(exc, closed=lost, read_write=read_write)


def end_fault(exc: psycopg.Error, phase: Phase, *, lost: bool, read_write: bool) -> Fault:
    """Read what went wrong behind a body that raised nothing.

    Args:
        exc: the error of the end: COMMIT's, or the router's own.
        phase: COMMIT if that was sent, else EXIT.
        lost: the connection was closed by it.
        read_write: the session was asked for as read-write.
    """
    if isinstance(exc, CommitUnknown):
        return Fault(FaultKind.LOST, commit_unknown=True)
    if isinstance(exc, SessionLost):
        return Fault(FaultKind.LOST, rerun_safe=True)
    if phase is Phase.EXIT:
        return Fault(FaultKind.OTHER)  # a mistake of the body's, which it would make again
    return session_fault(exc, closed=lost, committing=True, read_write=read_write)


def rerun_allowed(fault: Fault, phase: Phase, *, decidable: bool) -> bool:
    """Return whether running the transaction again cannot apply it twice.

    Args:
        fault: what ended the attempt.
        phase: how far it had come.
        decidable: the next attempt can find out whether this one was committed, by a row written in it.
    """
    if phase is Phase.ACQUIRE:
        return False  # acquiring has tried again by itself, until its deadline
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
    """Return whether an attempt that failed is followed by another.

    Args:
        fault: what ended the attempt.
        phase: how far it had come.
        attempt: its number, from 1.
        elapsed: seconds since the first attempt began.
        policy: the strategies.
        timeout: seconds that the call itself was given.
        decidable: the next attempt can find out whether this one was committed.
        error: what was raised, for strategies that look at it.
    """
    if not rerun_allowed(fault, phase, decidable=decidable):
        return Raise("not to be run again")
    try:
        pause, stop = _ask(policy, _state(attempt, elapsed, error))
    except Exception as exc:  # noqa: BLE001  (a strategy of the user's; what went wrong before must not be lost for it)
        return Raise(f"the retry policy failed: {type(exc).__name__}: {printable(str(exc))}", failed=True)
    if stop:
        return Raise("the policy says stop")
    limit = policy.limit(timeout)
    if limit is not None and elapsed + pause >= limit:
        return Raise("out of time")
    return Retry(pause)


def _ask(policy: RetryPolicy, state: RetryCallState) -> tuple[float, bool]:
    """Return what a policy's strategies say: the seconds to pause, and whether to stop instead."""
    if policy.wait is None:
        import tenacity

        pause = tenacity.wait_random_exponential(multiplier=_LEAST_PAUSE, max=_MOST_PAUSE)(state)
    else:
        pause = policy.wait(state)
        check_number("wait", pause)
    state.upcoming_sleep = pause
    return pause, policy.stop is not None and bool(policy.stop(state))


def _state(attempt: int, elapsed: float, error: BaseException | None) -> RetryCallState:
    """Return what tenacity's strategies are asked with, on a clock that begins at 0."""
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.start_time = 0.0
    state.attempt_number = attempt
    if error is not None:
        state.set_exception((type(error), error, error.__traceback__))
    state.outcome_timestamp = elapsed
    return state


class RetryState:
    """How the attempts at one transaction went so far.

    Args:
        policy: the strategies.
        now: monotonic seconds.
        timeout: seconds for the whole; None: as the policy says.
        acquire_timeout: seconds that one session may be waited for where nothing else bounds it.
        decidable: see `decide`.

    Attributes:
        attempt: the number of the attempt under way, from 1.
        timeout: as given.
        unknown: of this transaction's attempts the last that may have been committed, as far as that is not decided.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        now: float,
        *,
        timeout: float | None,
        acquire_timeout: float,
        decidable: bool,
    ) -> None:
        self.attempt = 1
        self._policy = policy
        self._begun = now
        self._limit = policy.limit(timeout)
        self._patience = acquire_timeout if timeout is None else timeout
        self._decidable = decidable
        self._before: BaseException | None = None
        self._remark = ""
        self.timeout = timeout
        self.unknown: CommitUnknown | None = None

    def left(self, now: float) -> float:
        """Return the seconds that a session may be waited for now."""
        return min(self._patience, self.until_end(now))

    def until_end(self, now: float) -> float:
        """Return the seconds until no attempt begins any more; where there is no such moment, the patience of one."""
        return self._patience if self._limit is None else max(0.0, self._begun + self._limit - now)

    def decided(self) -> None:
        """Take note that no earlier attempt was committed."""
        self.unknown = None

    def failed(self, error: BaseException, fault: Fault, phase: Phase, now: float) -> Retry | Raise:
        """Take note of an attempt that failed, and return what comes next."""
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
        if isinstance(step, Retry):
            self.attempt += 1
            self._before = error
            return step
        if step.failed:
            self._remark = f"; {step.reason}"
        if phase is not Phase.BODY and isinstance(error, RouteError) and self.unknown is None:
            error.rerun_safe = not error.may_have_committed
        return step

    def interrupted(self, error: BaseException) -> None:
        """Have what ends a pause between two attempts tell what is not known of the one before."""
        if self.unknown is not None:
            error.add_note(f"an earlier attempt may have been committed: {_told(self.unknown)}")

    def final(self, error: BaseException, now: float) -> BaseException:
        """Return what is raised for the last attempt's *error*, with a note on how it went.

        As long as an earlier attempt may have been committed, that is what the caller has to know.
        """
        raised = error
        if isinstance(error, Exception) and self.unknown is not None:
            raised = self.unknown
        if self.attempt > 1 or (isinstance(error, psycopg.Error) and not isinstance(error, ConfigError)):
            many = "s" if self.attempt > 1 else ""
            text = f"pgroute: {self.attempt} attempt{many} in {now - self._begun:.2f} s"
            other = error if raised is not error else self._before
            if other is not None and other is not raised:
                which = "the last error" if raised is not error else "the error before"
                text += f"; {which}: {_told(other)}"
            raised.add_note(text + self._remark)
        return raised


def _told(error: BaseException) -> str:
    first = printable(str(error).strip().split("\n", 1)[0])
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
