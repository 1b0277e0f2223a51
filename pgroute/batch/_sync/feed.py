# Generated from pgroute/batch/_async/feed.py by .ci/unasync.py: edit that file, not this one.
"""The chunks of a job that are to be done, one after the other, to any number of workers."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from pgroute._acompat import Lock
from pgroute.batch.source import Keyset, fresh
from pgroute.batch.state import BLOCK, Work, misread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.batch._sync.job_store import JobStore
    from pgroute.batch.options import JobOptions
    from pgroute.batch.state import Standing


class Feed:
    """Gives the open chunks of a job, once each.

    Args:
        ledger: the job's rows.
        options: the job.
        standing: how far it is.
    """

    def __init__(self, ledger: JobStore, options: JobOptions, standing: Standing) -> None:
        self._ledger = ledger
        self._options = options
        self._standing = standing
        self._lock = Lock()
        self._ended = False
        self._next = 0
        self._open: deque[int] | set[int] = deque()
        # Of items only: the chunks that are planned for sure, how many there are in all, and what gives them.
        self._until = 0
        self._total = standing.rows_total
        self._count = 0
        self._items: Iterator[Any] | None = None

    def next(self) -> Work | None:
        """Return a chunk to do, None after the last."""
        with self._lock:
            if self._ended:
                return None
            # An iterator that has raised ends at its next use, as if there were no more items.
            self._ended = True
            work = (self._key() if isinstance(self._options.source, Keyset) else self._item())
            self._ended = work is None or (
                work.items is not None and len(work.items) < self._options.chunk_size
            )
            return work

    def replan(self, number: int) -> None:
        """RouterConfig a chunk of items again whose row was undone."""
        if isinstance(self._options.source, Keyset):
            return
        job, _ = self._ledger.plan(number, number + 1)
        if job.complete and number >= job.planned:
            text = f"it gives more than the {job.rows_total} items that another copy was given"
            raise misread(self._options.name, text)

    def _key(self) -> Work | None:
        if not self._open:
            self._open = deque(self._ledger.open_chunks(self._next))
        if not self._open:
            return None
        assert isinstance(self._open, deque)
        number = self._open.popleft()
        self._next = number + 1
        return Work(number)

    def _item(self) -> Work | None:
        size = self._options.chunk_size
        if self._items is None:
            self._items = iter(fresh(self._options.source))
            self._skip(self._items)
        while True:
            number = self._next
            if number >= self._until:
                self._until = number + BLOCK
                job, self._open = self._ledger.plan(number, self._until)
                self._total = job.rows_total
            items = list(islice(self._items, size))
            self._check(items)
            self._count += len(items)
            self._next += bool(items)
            if len(items) < size:
                self._ledger.complete(self._next, self._count)
            if not items or number in self._open:
                return Work(number, items) if items else None
            if len(items) < size:
                return None

    def _skip(self, items: Iterator[Any]) -> None:
        """Pass over the chunks below the watermark."""
        self._next = self._standing.watermark
        wanted = self._next * self._options.chunk_size
        if self._total is not None:
            wanted = min(wanted, self._total)
        self._count = sum(1 for _ in islice(items, wanted))
        if self._count < wanted:
            text = f"it ends after {self._count} items, and {wanted} of them are done"
            raise misread(self._options.name, text)

    def _check(self, items: list[Any]) -> None:
        """Refuse a chunk that is not what the complete plan has for its number."""
        if self._total is None:
            return
        wanted = max(0, min(self._options.chunk_size, self._total - self._next * self._options.chunk_size))
        if len(items) != wanted:
            which = "fewer" if len(items) < wanted else "more"
            raise misread(self._options.name, f"it gives {which} than the {self._total} items that it gave")
