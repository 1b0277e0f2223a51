# Generated from pgroute/_async/transaction/attempts.py by .ci/unasync.py: edit that file, not this one.
"""Adapts attempts at a transaction to a loop with the body in place: what `attempts()` returns."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._acompat import Face, LoopFace
from pgroute._sync.checkout import note_commit
from pgroute._sync.transaction.attempt import Transaction
from pgroute._sync.transaction.loop import begin_attempts, pause
from pgroute.core.transactions.retry import Raise, Retry

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")


class _Handover:
    """Carries the outcome of an attempt to the loop around it: a ``with`` statement cannot return a value.

    Attributes:
        retry: set if the attempt failed and another follows.
    """

    __slots__ = ("retry",)

    def __init__(self) -> None:
        self.retry: Retry | None = None


class Attempt(Face, Generic[CT]):
    """One attempt at a transaction: a context manager that yields a connection, with its transaction begun.

    The end commits. If the transaction is to run again after an error, the end suppresses it, and the next attempt
    follows. So do not leave the block by return or break.
    """

    __module__ = "pgroute"

    __slots__ = ("__weakref__", "_free", "_handover", "_state", "_transaction")

    def __init__(self, transaction: Transaction[CT], state: RetryState, handover: _Handover) -> None:
        self._transaction = transaction
        self._state = state
        self._handover = handover
        self._free = [True]  # of several threads only one can take what is in a list

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._transaction.number

    def __enter__(self) -> CT:
        transaction = self._transaction
        try:
            self._free.pop()
        except IndexError:
            raise RuntimeError("an attempt can be used once: take the next from the iterator") from None
        while isinstance(begun := transaction.begin(), Retry):
            pause(transaction.manager, self._state, begun)
        return begun

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        if not self._transaction.open:
            raise RuntimeError("this attempt was not entered, or has ended already")
        try:
            if exc is None:
                self._handover.retry = self._transaction.commit()
                return self._handover.retry is not None
            step = self._transaction.fail(exc)
            if isinstance(step, Retry):
                self._handover.retry = step
            return not isinstance(step, Raise)
        except BaseException as failure:
            note_commit(failure, self._transaction.phase)  # interrupted after the COMMIT
            raise


class Attempts(LoopFace, Generic[CT]):
    """The iterator that `attempts()` returns, over as many attempts as are needed.

    Raises:
        RuntimeError: the iterator was used before, or an attempt was not entered.
    """

    __module__ = "pgroute"

    _handover: _Handover | None = None
    """A class attribute for `__del__`: an interrupt may leave an object whose constructor has not run."""

    def __init__(
        self,
        manager: SessionManager[CT],
        request: Request,
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> None:
        self._manager = manager
        self._request = request
        self._retry = retry
        self._timeout = timeout
        self._begun = False
        self._state: RetryState | None = None
        self._transaction: Transaction[CT] | None = None

    def __del__(self) -> None:
        # The caller has left the block by return or break, and has no other sign that nothing was committed.
        if self._handover is not None and self._handover.retry is not None:
            text = (
                "the loop over attempts() was left by return or break within an attempt that failed at its "
                "end: NOTHING of it was committed, and no other attempt was made"
            )
            logger.error(text)
            warnings.warn(text, ResourceWarning, stacklevel=1)

    def __iter__(self) -> Self:
        if self._begun:
            raise RuntimeError("attempts() serve for one loop: ask the router for others")
        self._begun = True
        return self

    def __next__(self) -> Attempt[CT]:
        if self._state is None or self._handover is None:
            self._state = begin_attempts(self._manager, self._request, self._retry, self._timeout)
            self._handover = _Handover()
        elif self._handover.retry is not None:
            step, self._handover.retry = self._handover.retry, None
            pause(self._manager, self._state, step)
        elif self._transaction is None or not self._transaction.ended:
            raise RuntimeError("the attempt before this one was not used: enter it in a with statement")
        else:
            raise StopIteration
        self._transaction = Transaction(self._manager, self._request, self._state)
        return Attempt(self._transaction, self._state, self._handover)
