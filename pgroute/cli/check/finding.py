"""What an audit says: lines, each with how serious it is."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable


class Result(enum.Enum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the audit.

    Attributes:
        check: what was looked at, one word.
        result: how serious it is.
        text: what was found, and what to do.
    """

    check: str
    result: Result
    text: str

    def as_json(self) -> dict[str, str]:
        """Return it for --json."""
        return {"check": self.check, "result": self.result.value, "text": self.text}


def status_of(findings: Iterable[Finding]) -> int:
    """Return the exit status."""
    results = {finding.result for finding in findings}
    return 2 if Result.FAIL in results else 1 if Result.WARN in results else 0
