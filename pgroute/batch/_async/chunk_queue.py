"""The queue from which the workers of a run take open chunks."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from pgroute._acompat import AsyncLock
from pgroute.batch.source import Keyset, fresh_items
from pgroute.batch.state import ITEMS_BATCH, PendingChunk, source_changed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.batch._async.job_store import AsyncJobStore
    from pgroute.batch.options import JobOptions
    from pgroute.batch.state import JobStatus


class AsyncChunkQueue:
    """Hands out each open chunk of a job once.

    Args:
        store: the job's rows.
        options: the options of the job.
        status: the progress of the job at the start.
    """

    def __init__(self, store: AsyncJobStore, options: JobOptions, status: JobStatus) -> None:
        self._store = store
        self._options = options
        self._status = status
        self._lock = AsyncLock()
        self._ended = False
        self._next = 0
        self._open: deque[int] | set[int] = deque()
        # For items only: the number of planned chunks, of all items, of items read, and the iterator.
        self._until = 0
        self._total = status.rows_total
        self._count = 0
        self._items: Iterator[Any] | None = None

    async def next(self) -> PendingChunk | None:
        """Return the next open chunk, None after the last."""
        async with self._lock:
            if self._ended:
                return None
            # A generator that has raised ends at its next use, as if there were no more items.
            self._ended = True
            pending = await (
                self._next_keys() if isinstance(self._options.source, Keyset) else self._next_items()
            )
            self._ended = pending is None or (
                pending.items is not None and len(pending.items) < self._options.chunk_size
            )
            return pending

    async def replan(self, number: int) -> None:
        """Plan a chunk of items again after a failover has undone its row."""
        if isinstance(self._options.source, Keyset):
            return
        job, _ = await self._store.plan(number, number + 1)
        if job.complete and number >= job.planned:
            text = f"it gives more than the {job.rows_total} items that another copy has read"
            raise source_changed(self._options.name, text)

    async def _next_keys(self) -> PendingChunk | None:
        if not self._open:
            self._open = deque(await self._store.open_chunks(self._next))
        if not self._open:
            return None
        assert isinstance(self._open, deque)
        number = self._open.popleft()
        self._next = number + 1
        return PendingChunk(number)

    async def _next_items(self) -> PendingChunk | None:
        size = self._options.chunk_size
        if self._items is None:
            self._items = iter(fresh_items(self._options.source))
            self._skip(self._items)
        while True:
            number = self._next
            if number >= self._until:
                self._until = number + ITEMS_BATCH
                job, self._open = await self._store.plan(number, self._until)
                self._total = job.rows_total
            items = list(islice(self._items, size))
            self._check(items)
            self._count += len(items)
            self._next += bool(items)
            if len(items) < size:
                await self._store.complete(self._next, self._count)
            if not items or number in self._open:
                return PendingChunk(number, items) if items else None
            if len(items) < size:
                return None

    def _skip(self, items: Iterator[Any]) -> None:
        """Skip the items of the chunks below the watermark."""
        self._next = self._status.watermark
        wanted = self._next * self._options.chunk_size
        if self._total is not None:
            wanted = min(wanted, self._total)
        self._count = sum(1 for _ in islice(items, wanted))
        if self._count < wanted:
            text = f"it ends after {self._count} items, but {wanted} are done"
            raise source_changed(self._options.name, text)

    def _check(self, items: list[Any]) -> None:
        """Raise BatchError if a chunk does not match the complete plan."""
        if self._total is None:
            return
        wanted = max(0, min(self._options.chunk_size, self._total - self._next * self._options.chunk_size))
        if len(items) != wanted:
            difference = "fewer" if len(items) < wanted else "more"
            text = f"it gives {difference} than the {self._total} items of the earlier run"
            raise source_changed(self._options.name, text)
