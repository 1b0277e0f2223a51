"""The error of a failed probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.faults.classify import Fault, FaultKind

if TYPE_CHECKING:
    from typing import Self


class ProbeFailed(Exception):
    """A probe failed.

    Attributes:
        fault: how.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault

    @classmethod
    def malformed(cls, what: object) -> Self:
        """Return the error for an answer that no PostgreSQL server gives, whatever else the server says."""
        return cls(Fault(FaultKind.OTHER, host_suspect=True, reason=f"malformed answer: {what}"))

    @classmethod
    def timed_out(cls, reason: str) -> Self:
        """Return the error for a host that did not answer in time."""
        return cls(Fault(FaultKind.TIMEOUT, host_suspect=True, reason=reason))


class NoCredentials(ProbeFailed):
    """The user's credentials function gave none: nothing was learned about the host."""

    def __init__(self, reason: str) -> None:
        super().__init__(Fault(FaultKind.NO_CREDENTIALS, host_suspect=True, reason=reason))
