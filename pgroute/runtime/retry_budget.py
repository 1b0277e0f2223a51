"""The retries of one router's transactions, counted across its threads."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from pgroute.core.transactions.retry_budget import Usage, costs

if TYPE_CHECKING:
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.faults.classify import Fault

logger: logging.Logger = logging.getLogger("pgroute")

_TELL_GAP = 60.0


class RetryBudget:
    """Decides whether a transaction may be run again; from any thread.

    Attributes:
        begun: transactions begun so far. Callers count up without a lock, which would cost each of them more than a
            count lost now and then.
    """

    __slots__ = ("_lock", "_told_at", "_usage", "begun")

    def __init__(self) -> None:
        self.begun: int = 0
        self._lock = threading.Lock()
        self._usage = Usage(time.monotonic())
        self._told_at = -math.inf

    def spend(self, fault: Fault, policy: RetryPolicy, now: float) -> str:
        """Count one more retry, and return why it is refused, in words; empty if it is not.

        Args:
            fault: what ended the attempt.
            policy: of the call.
            now: monotonic seconds.
        """
        if not costs(fault):
            return ""
        with self._lock:
            usage = self._usage.moved(self.begun, now)
            refusal = usage.refusal(policy)
            self._usage = usage if refusal else usage.spent()
            tell = bool(refusal) and now >= self._told_at + _TELL_GAP
            if tell:
                self._told_at = now
        if tell:
            logger.warning("transactions are not run again: %s", refusal)
        return refusal
