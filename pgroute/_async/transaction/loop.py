"""Runs a transaction around a body, in as many attempts as are needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from pgroute._async.checkout import note_commit
from pgroute._async.transaction.attempt import AsyncTransaction
from pgroute._async.transaction.once import Claim, advice
from pgroute.core.transactions.retry import Raise, Retry, RetryState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    import psycopg

    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.transactions.request import Request
    from pgroute.runtime.causality import CausalReading

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")
T = TypeVar("T")


async def run_transaction(
    manager: AsyncSessionManager[CT],
    request: Request,
    body: Callable[[AsyncTransaction[CT], CT], Awaitable[T]],
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
    config = manager.config
    manager.retries.begun += 1
    state = RetryState(
        retry or config.retry,
        time.monotonic(),
        timeout=timeout,
        acquire_timeout=config.acquire_timeout,
        decidable=request.decidable,
        budget=manager.retries,
    )
    transaction = AsyncTransaction(manager, request, state, key, causal)
    try:
        while True:
            try:
                conn = await transaction.begin()
                if isinstance(conn, Retry):
                    step: Retry | None = conn
                else:
                    value = await body(transaction, conn)
                    step = await transaction.commit()
            except BaseException as exc:
                if not transaction.open:
                    raise  # begin() and commit() have released the connection
                value, failed = None, await transaction.fail(exc)
                if isinstance(failed, Raise):
                    raise
                step = failed
            if step is None:
                return value.stored if isinstance(value, Claim) else value
            await pause(manager, state, step)
            transaction = AsyncTransaction(manager, request, state, key, causal)
    except BaseException as exc:
        note_commit(exc, transaction.phase)
        if key is not None and (exc is state.unknown or not isinstance(exc, Exception)):
            exc.add_note(advice(key))
        raise


def begin_attempts(
    manager: AsyncSessionManager[Any], request: Request, retry: RetryPolicy | None, timeout: float | None
) -> RetryState:
    """Return the state of attempts that begin now."""
    manager.retries.begun += 1
    return RetryState(
        retry or manager.config.retry,
        time.monotonic(),
        timeout=timeout,
        acquire_timeout=manager.config.acquire_timeout,
        decidable=request.decidable,
        budget=manager.retries,
    )


async def pause(manager: AsyncSessionManager[Any], state: RetryState, step: Retry) -> None:
    """Wait until the next attempt; an interrupt gets a note if the outcome of an earlier attempt is unknown."""
    try:
        await manager.pause(step.pause)
    except BaseException as exc:
        state.interrupted(exc)
        raise
