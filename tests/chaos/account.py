"""What one process is told of its writes and reads, and how that is put down."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from pgroute import AsyncRouter, RouteError, Router
from tests.chaos.journal import Begun, Ended, Journal, Left, Outcome, Read, make_id, writer_of

LONGEST_HOLD = 0.05
TIMEOUTS = (30.0, 3.0, 10.0)
"""Seconds that writers wait for a session, in turn."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a writer writes.

    Attributes:
        autocommit: the INSERT commits by itself, else the end of the session does.
        hold: seconds for which the transaction stays open, at most.
        timeout: seconds that a session is waited for.
    """

    autocommit: bool
    hold: float
    timeout: float

    @classmethod
    def of(cls, writer: int) -> Style:
        """Return the style of a writer: the first three all differ."""
        return cls(
            writer % 3 == 1, LONGEST_HOLD if writer % 3 == 2 else 0.0, TIMEOUTS[writer % len(TIMEOUTS)]
        )


class Account:
    """What the writers and readers of a process share: the journal, and what its router has seen so far."""

    def __init__(self, process: int, journal: Journal, router: Router[Any] | AsyncRouter[Any]) -> None:
        self.process = process
        self.rng = random.Random(process)
        self._journal = journal
        self._router = router
        self._mark = 0

    def mark(self) -> int:
        """Return the highest timeline that the router has shown until now, whomever it held for the primary."""
        told = (host.timeline or 0 for host in self._router.topology.hosts)
        self._mark = max(self._mark, *told)
        return self._mark

    def begin(self, writer: int, number: int) -> Write:
        """Return a new write, put down as begun."""
        write = Write(self, Style.of(writer), make_id(self.process, writer, number), self.mark())
        self._journal.write(Begun(write.id, time.monotonic()))
        return write

    def put(self, record: Ended | Read | Left) -> None:
        self._journal.write(record)


class Write:
    """One write under way: where it is, what it came to, and its key if `run` is to apply it exactly once."""

    def __init__(self, account: Account, style: Style, id_: int, mark: int) -> None:
        self.style = style
        self.id = id_
        self.entered = False
        self.place: Any = (0, 0)
        self.key = str(id_) if writer_of(id_)[1] % 2 else None
        self.hold = account.rng.uniform(0, style.hold)
        self._account = account
        self._mark = mark

    def end(self, exc: Exception | None) -> None:
        """Put down what the writer was told."""
        outcome = Outcome.ACKNOWLEDGED if exc is None else judge(exc, autocommit=self.style.autocommit)
        self._account.put(
            Ended(self.id, time.monotonic(), outcome, self._mark, self.entered, *told(exc), *self.place)
        )


def judge(exc: Exception, *, autocommit: bool) -> Outcome:
    """Return what an error says of a write: the router's own say it themselves.

    Any other is raised before COMMIT is sent, except in autocommit, where the statement itself commits: only if the
    server refused it, and went on, it certainly did not.
    """
    if isinstance(exc, RouteError):
        return Outcome.UNKNOWN if exc.may_have_committed else Outcome.FAILED
    if not isinstance(exc, psycopg.Error):
        return Outcome.UNKNOWN
    if autocommit and exc.diag.severity_nonlocalized != "ERROR":
        return Outcome.UNKNOWN
    return Outcome.FAILED


def told(exc: Exception | None) -> tuple[str, str, str]:
    """Return an error's class, SQLSTATE and text."""
    if exc is None:
        return "", "", ""
    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    return name, getattr(exc, "sqlstate", None) or "", str(exc).partition("\n")[0]


def window(process: int, rng: random.Random) -> tuple[int, int]:
    """Return the bounds of the ids that a reader counts."""
    first = make_id(process, rng.randrange(3), 0)
    return first, first + 1000


def put_read(
    account: Account,
    begun: float,
    mark: int,
    error: Exception | None,
    found: tuple[Any, ...],
    *,
    entered: bool,
    wrote: bool,
) -> None:
    """Put down what a reader saw."""
    port, timeline, recovering, read_only, count = found or (0, 0, False, False, 0)
    seen = port, timeline, recovering, read_only, wrote, count
    account.put(Read(begun, time.monotonic(), mark, entered, *told(error), *seen))
