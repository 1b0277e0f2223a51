"""The state of a job as a run knows it: its rows, its plan, the outcome of its chunks, its errors."""

from __future__ import annotations

import enum
import threading
import time
from typing import Any, NamedTuple

from pgroute.batch.errors import BatchError
from pgroute.core.late_dataclass import dataclass

COMPACT_CHUNKS = 100
COMPACT_SECONDS = 2.0
ITEMS_BATCH = 64
"""Number of item chunks planned in one transaction."""
LOOKUP_BATCH = 256
"""Number of open Keyset chunks read in one query."""
PLAN_BATCH = 128
"""Number of Keyset chunks planned in one round trip."""


Row = tuple[bytes | None, ...]


def number(value: bytes | None) -> int:
    """Return the integer of a column that is never NULL."""
    assert value is not None
    return int(value)


class Job(NamedTuple):
    """A job's row; its fields are the columns of READ_JOB."""

    started: int
    planned: int
    complete: bool
    watermark: int
    rows_total: int | None

    @classmethod
    def read(cls, row: Row) -> Job:
        """Return the job of a row that begins with those columns."""
        started, planned, complete, watermark, rows_total = row[:5]
        total = None if rows_total is None else int(rows_total)
        return cls(number(started), number(planned), complete == b"t", number(watermark), total)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The progress of a job, as recorded in the database.

    Attributes:
        planned: number of planned chunks.
        watermark: all chunks below this number are done.
        chunks_done: number of done chunks, above the watermark too.
        rows_done: rows in done chunks.
        rows_total: all rows of the job; None: not known yet.
        rejected: done chunks that were set aside.
        rejected_rows: rows in chunks that were set aside.
        finished: True if all chunks are done.
    """

    planned: int
    watermark: int
    chunks_done: int
    rows_done: int
    rows_total: int | None
    rejected: int
    rejected_rows: int
    finished: bool

    @classmethod
    def read(cls, job: Row, done: Row | None, rejected: Row | None, *, finished: bool) -> JobStatus:
        """Return the status of a job's planned, watermark, rows_total and rows_done, and the counts of its chunks."""
        planned, watermark, rows_total, rows_done = job
        chunks_above, rows_above = done or (b"0", b"0")
        rejected_chunks, rejected_rows = rejected or (b"0", b"0")
        return cls(
            planned=number(planned),
            watermark=number(watermark),
            chunks_done=number(watermark) + number(chunks_above),
            rows_done=number(rows_done) + number(rows_above),
            rows_total=None if rows_total is None else int(rows_total),
            rejected=number(rejected_chunks),
            rejected_rows=number(rejected_rows),
            finished=finished,
        )


@dataclass(frozen=True, slots=True)
class PendingChunk:
    """A chunk that is not done: its number, and its items (None for a Keyset)."""

    number: int
    items: list[Any] | None = None


class Partitioner:
    """Divides the rows of a Keyset into chunks while a cursor walks through them in key order.

    Attributes:
        rows: rows counted so far.
        count: chunks planned so far.
        ended: True once the cursor has reached the end.
        remainder: rows after the last planned chunk, whose last key has to be read.
    """

    def __init__(self) -> None:
        self.rows: int = 0
        self.count: int = 0
        self.ended: bool = False
        self.remainder: int = 0
        self._after: list[str] | None = None
        self._chunk_start = 0
        self._new: list[dict[str, object]] = []

    def skip(self, rows: int) -> None:
        """Count rows that the cursor has moved over."""
        self.rows += rows

    def end_chunk(self, key: list[str] | None) -> None:
        """End a chunk with the row of this key; None: there was no row left."""
        if key is None:
            self.ended = True
            self.remainder = self.rows - self._chunk_start
        else:
            self.rows += 1
            self._add(key)

    def end_last_chunk(self, key: list[str] | None) -> None:
        """End a chunk with the last row of all; None: there are no rows."""
        if key is not None:
            self._add(key)

    def take(self) -> list[dict[str, object]]:
        """Return the chunks planned since the last call, with the columns of PLAN_KEYS."""
        new, self._new = self._new, []
        return new

    def _add(self, key: list[str]) -> None:
        rows, self._chunk_start = self.rows - self._chunk_start, self.rows
        self._new.append({"chunk": self.count, "after": self._after, "upto": key, "row_count": rows})
        self._after = key
        self.count += 1


class Outcome(enum.Enum):
    """The result of a committed transaction for one chunk."""

    APPLIED = "applied"
    REJECTED = "rejected"
    ALREADY_DONE = "already done"
    """An earlier run or another copy of the job has done it."""
    PLAN_LOST = "plan lost"
    """Its row is missing: a failover has undone the plan."""


class CompactionSchedule:
    """Tells when to compact: every COMPACT_CHUNKS chunks or COMPACT_SECONDS seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks = 0
        self._last = time.monotonic()

    def due(self) -> bool:
        """Count a chunk; return True to one caller once compaction is due."""
        with self._lock:
            self._chunks += 1
            now = time.monotonic()
            if self._chunks < COMPACT_CHUNKS and now - self._last < COMPACT_SECONDS:
                return False
            self._chunks, self._last = 0, now
            return True


def unclaimed_outcome(number: int, job: Job, *, present: bool, done: bool) -> Outcome | None:
    """Return why a chunk could not be claimed; None: its row is missing without a reason."""
    if done or (not present and number < job.watermark):
        return Outcome.ALREADY_DONE
    if present or number >= job.planned:
        return Outcome.PLAN_LOST
    return None


def job_gone(name: str) -> BatchError:
    """Return the error for a job whose row was removed or replaced."""
    return BatchError(
        f"the job {name!r} no longer exists in the database: it was reset, or a failover lost the transaction that "
        "created it; run it again to start from the beginning"
    )


def lock_not_released(name: str, what: str, seconds: float) -> BatchError:
    """Return the error for a lock that was not released in time."""
    return BatchError(
        f"another session holds {what} of the job {name!r} and did not release it within {seconds:.1f} s: another copy "
        "of the job, or the session of a copy that has died; run the job again later"
    )


def wait_ended(name: str, seconds: float, why: str) -> BatchError:
    """Return the error for a statement of ours that the server ended."""
    return BatchError(
        f"the server ended a statement on the tables of the job {name!r} after {seconds:.1f} s ({why}): another "
        "session, such as another copy of the job, may hold a row of it; run the job again later, or with a longer "
        "statement_timeout"
    )


def source_changed(name: str, problem: str) -> BatchError:
    """Return the error for items that differ from those of an earlier run."""
    return BatchError(
        f"the source of the job {name!r} has changed since an earlier run: {problem}; it must give the same items in "
        "the same order in each run"
    )
