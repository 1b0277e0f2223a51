# Generated from pgroute/_async/transaction/loop.py by .ci/unasync.py: edit that file, not this one.
"""Runs a transaction around a body: one attempt, and the loop over attempts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._sync.checkout import note_commit
from pgroute._sync.transaction.attempt import Transaction
from pgroute._sync.transaction.once import Keep, advice
from pgroute.core.transactions.retry import Raise, Retry, RetryState

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.transactions.request import Request
    from pgroute.runtime.causality import CausalReading

CT = TypeVar("CT", bound="psycopg.Connection[Any]")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The attempt is over. Its result is the body's; None if the body asked for a rollback."""

    value: T | None


def run_transaction(
    manager: SessionManager[CT],
    request: Request,
    body: Callable[[Transaction[CT], CT], T],
    *,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
    key: str | None = None,
    causal: CausalReading | None = None,
) -> T | None:
    """Call a body in a transaction and return its result; run it again as a whole if that is safe.

    Args:
        manager: of the router.
        request: what kind of transaction it is.
        body: a function of the attempt and its connection.
        retry: the policy of retries; None: the router's.
        timeout: seconds for all attempts; None: the limit of the policy.
        key: of ``once=``, if there is one.
        causal: gives the demand of each attempt, and takes note of its end; None: there is no demand.

    Raises:
        psycopg.Error: there was no session in time, or the transaction failed and is not run again.
        BaseException: an error of the body after which it is not run again.
    """
    state = begin_attempts(manager, request, retry, timeout)
    transaction = Transaction(manager, request, state, key, causal)
    try:
        while True:
            outcome = perform(transaction, body)
            if isinstance(outcome, Done):
                return outcome.value.stored if isinstance(outcome.value, Keep) else outcome.value
            pause(manager, state, outcome)
            transaction = Transaction(manager, request, state, key, causal)
    except BaseException as exc:
        note_commit(exc, transaction.phase)
        if key is not None and (exc is state.unknown or not isinstance(exc, Exception)):
            exc.add_note(advice(key))
        raise


def perform(
    transaction: Transaction[CT],
    body: Callable[[Transaction[CT], CT], T],
) -> Done[T] | Retry:
    """Make one attempt: begin, call the body, and commit, or roll back if it raises.

    Raises:
        psycopg.Error: there was no session in time, or the commit failed, and no attempt follows.
        BaseException: an error of the body after which no attempt follows.
    """
    try:
        conn = transaction.begin()
        if isinstance(conn, Retry):
            return conn
        value = body(transaction, conn)
        return transaction.commit() or Done(value)
    except BaseException as exc:
        if not transaction.open:
            raise  # begin() and commit() have released the connection
        step = transaction.fail(exc)
        if isinstance(step, Raise):
            raise
        return step or Done(None)


def begin_attempts(
    manager: SessionManager[Any], request: Request, retry: RetryPolicy | None, timeout: float | None
) -> RetryState:
    """Return the state of attempts that begin now."""
    return RetryState(
        retry or manager.config.retry,
        time.monotonic(),
        timeout=timeout,
        acquire_timeout=manager.config.acquire_timeout,
        decidable=request.decidable,
    )


def pause(manager: SessionManager[Any], state: RetryState, step: Retry) -> None:
    """Wait until the next attempt; an interrupt gets a note if the outcome of an earlier attempt is unknown."""
    try:
        manager.pause(step.pause)
    except BaseException as exc:
        state.interrupted(exc)
        raise
