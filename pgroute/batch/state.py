"""What a run knows of its job's rows, and how often it tidies them up."""

from __future__ import annotations

import enum
import threading
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgroute.batch.errors import BatchError

COMPACT_CHUNKS = 100
COMPACT_SECONDS = 2.0
BLOCK = 64
"""Chunks of items that are planned at once."""
AHEAD = 256
"""Open chunks of a Keyset that are looked up at once."""
STEPS = 128
"""Chunks of a Keyset that are cut at once."""


Row = tuple[bytes | None, ...]


def number(value: bytes | None) -> int:
    """Return a value that is never NULL."""
    assert value is not None
    return int(value)


class Job(NamedTuple):
    """A job's row, under lock or as it was seen; the columns of SEE_JOB."""

    begun: int
    planned: int
    complete: bool
    watermark: int
    rows_total: int | None

    @classmethod
    def read(cls, row: Row) -> Job:
        """Return what the first columns of a row say."""
        begun, planned, complete, watermark, rows_total = row[:5]
        total = None if rows_total is None else int(rows_total)
        return cls(number(begun), number(planned), complete == b"t", number(watermark), total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a job is.

    Attributes:
        planned: chunks that are planned.
        watermark: chunks below it are done.
        chunks_done: those done, above the watermark too.
        rows_done: rows in done chunks.
        rows_total: rows in all; None: not known yet.
        rejected: done chunks that were set aside.
        rejected_rows: rows in those.
        finished: all of it is done.
    """

    planned: int
    watermark: int
    chunks_done: int
    rows_done: int
    rows_total: int | None
    rejected: int
    rejected_rows: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk to do: its number, and its items (None for a Keyset)."""

    number: int
    items: list[Any] | None = None


class Partitioner:
    """Where the rows of a Keyset are cut, as they are walked through in the order of their keys.

    Attributes:
        rows: counted so far; after the end, all.
        count: of chunks, so far.
        ended: there are no more rows.
        beyond: rows after the last cut, whose last key has to be looked up.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.count = 0
        self.ended = False
        self.beyond = 0
        self._after: list[str] | None = None
        self._cut_at = 0
        self._new: list[dict[str, object]] = []

    def moved(self, rows: int) -> None:
        """Take note of so many rows that were passed over."""
        self.rows += rows

    def fetched(self, key: list[str] | None) -> None:
        """Cut after the row of a key; None: there was none left."""
        if key is None:
            self.ended = True
            self.beyond = self.rows - self._cut_at
        else:
            self.rows += 1
            self._cut(key)

    def last(self, key: list[str] | None) -> None:
        """Cut after the very last row."""
        if key is not None:
            self._cut(key)

    def take(self) -> list[dict[str, object]]:
        """Return the chunks that are new since the last time, the columns of PLAN_KEYS."""
        new, self._new = self._new, []
        return new

    def _cut(self, key: list[str]) -> None:
        rows, self._cut_at = self.rows - self._cut_at, self.rows
        self._new.append({"chunk": self.count, "after": self._after, "upto": key, "row_count": rows})
        self._after = key
        self.count += 1


class Outcome(enum.Enum):
    """What became of a chunk in a transaction that was committed."""

    APPLIED = "applied"
    REJECTED = "rejected"
    FOUND = "found"
    """Somebody else has done it."""
    UNPLANNED = "unplanned"
    """Its row is not there: a failover has undone the plan."""


class Cadence:
    """Says when to compact: every so many chunks, or seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks = 0
        self._last = time.monotonic()

    def due(self) -> bool:
        """Count a chunk, and return whether it is time; to one caller only."""
        with self._lock:
            self._chunks += 1
            now = time.monotonic()
            if self._chunks < COMPACT_CHUNKS and now - self._last < COMPACT_SECONDS:
                return False
            self._chunks, self._last = 0, now
            return True


def chunk_is(number: int, job: Job, *, present: bool, done: bool) -> Outcome | None:
    """Return what it means that a chunk could not be claimed; None: its row is missing without a reason."""
    if done or (not present and number < job.watermark):
        return Outcome.FOUND
    if present or number >= job.planned:
        return Outcome.UNPLANNED
    return None


def gone(name: str) -> BatchError:
    """Return the error for a job whose row is not the one that it was begun with."""
    return BatchError(
        f"the job {name!r} is not there any more as it was begun: it was reset, or a failover to a server that "
        "lacked its beginning has undone it; run it again to begin anew"
    )


def held(name: str, what: str, seconds: float) -> BatchError:
    """Return the error for a lock that was not given up in time."""
    return BatchError(
        f"another session holds {what} of the job {name!r}, and has not ended within {seconds:.1f} s: another copy "
        "of the job, or what is left of one; run it again later"
    )


def misread(name: str, problem: str) -> BatchError:
    """Return the error for items that are not those of the earlier runs."""
    return BatchError(
        f"the source of the job {name!r} is not what it was in an earlier run: {problem}; it has to give the same "
        "items in the same order in each run"
    )
