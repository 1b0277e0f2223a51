# Generated from pgroute/_async/transaction/attempts.py by .ci/unasync.py: edit that file, not this one.
"""The attempts at one transaction, one after the other."""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._acompat import LoopFace
from pgroute._sync.transaction.attempt import Attempt, pause
from pgroute.core.transactions.retry import RetryState

if TYPE_CHECKING:
    from typing import Self

    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.transactions.request import Request
    from pgroute.errors import CommitUnknown

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")


class Attempts(LoopFace, Generic[CT]):
    """What `attempts()` returns: an iterator over as many attempts as it takes.

    Raises:
        RuntimeError: it was gone through before, or an attempt was not entered.
    """

    _attempt: Attempt[CT] | None = None
    """Here, for an interrupt may leave an object without the rest."""

    def __init__(
        self,
        engine: SessionManager[CT],
        request: Request,
        policy: RetryPolicy,
        timeout: float | None,
        key: str | None = None,
    ) -> None:
        self._engine = engine
        self._request = request
        self._policy = policy
        self._timeout = timeout
        self._key = key
        self._course: RetryState | None = None
        self._begun = False

    @property
    def unknown(self) -> CommitUnknown | None:
        """The error of an attempt that may have been committed, as far as that is not decided."""
        return None if self._course is None else self._course.unknown

    @property
    def _phase(self) -> str:
        """How far the last attempt's COMMIT came, in words for whom an interrupt reaches."""
        return "" if self._attempt is None else self._attempt._phase

    def __del__(self) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.again is not None:
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
        before = self._attempt
        if before is None:
            self._course = RetryState(
                self._policy,
                time.monotonic(),
                timeout=self._timeout,
                acquire_timeout=self._engine.plan.acquire_timeout,
                decidable=self._request.decidable,
            )
        elif before.again is None:
            if not before.ended:
                raise RuntimeError("the attempt before this one was not used: enter it in a with statement")
            raise StopIteration
        else:
            seconds, before.again = before.again, None
            try:
                pause(self._engine, seconds)
            except BaseException as exc:
                assert self._course is not None
                self._course.interrupted(exc)
                raise
        assert self._course is not None
        self._attempt = Attempt(self._engine, self._request, self._course, self._key)
        return self._attempt
