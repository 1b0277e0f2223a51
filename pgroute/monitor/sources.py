"""What an adviser is asked through: the answer of a source, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pgroute.core.discovery.report import Report


class NoAnswer(Exception):
    """The adviser gave no answer that can be used; the text says why."""


class Told(NamedTuple):
    """An answer: the report, who gave it, and what time it is there; None: it does not tell."""

    report: Report
    source: str
    date: float | None = None


class Source(Protocol):
    """Somebody to ask."""

    async def ask(self, scope: str) -> Told:
        """Ask once.

        Args:
            scope: the name of the cluster; an answer that names another one is none. Empty: it is not known.

        Raises:
            NoAnswer: there was none.
        """
        ...
