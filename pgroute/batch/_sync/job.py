# Generated from pgroute/batch/_async/job.py by .ci/unasync.py: edit that file, not this one.
"""A batch job: work on a table or a list in chunks, each applied once, over any number of runs."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Generic, Literal

from psycopg_pool.abc import CT

from pgroute._acompat import run_all
from pgroute._sync.router import Router, manager_of
from pgroute._sync.transaction.body import check_function
from pgroute.batch._sync.chunk_queue import ChunkQueue
from pgroute.batch._sync.chunk_runner import ChunkRunner
from pgroute.batch._sync.job_store import JobStore
from pgroute.batch.errors import BatchError
from pgroute.batch.model import BatchReport
from pgroute.batch.options import check_job, check_progress
from pgroute.batch.progress import ProgressTracker, display
from pgroute.batch.source import Keyset, is_one_shot
from pgroute.batch.state import CompactionSchedule, Outcome
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from collections.abc import Callable
    from pgroute.batch.model import BatchProgress, Chunk
    from pgroute.batch.options import JobOptions
    from pgroute.batch.progress import Display
    from pgroute.batch.source import Source
    from pgroute.batch.state import JobStatus, PendingChunk
    from pgroute.core.config.retry_policy import RetryPolicy


class BatchJob(Generic[CT]):
    """Work in chunks, each applied once: after an interruption, a failover or a restart the job continues.

    Each chunk is one transaction, which applies the chunk and marks it as done; it is retried where that is safe.
    Several copies of a job may run at once, in any processes. Side effects of the body outside its transaction happen
    at each attempt.

    Each run reads the items of an iterable from their start. They must be the same, in the same order.

    With ``on_error="stop"`` the first chunk that fails ends the run with its error, after the other workers have ended
    their current chunks. With "reject" a chunk that fails by itself (not by the connection, the server or the router)
    is recorded in ``pgroute.batch_reject``, and the job continues.

    Args:
        router: the router of the database, which needs the tables that `install()` creates.
        name: the job's name, unique in the database; 1 to 512 bytes.
        source: a Keyset, an iterable of items, or a function without arguments that returns a new iterator.
        chunk_size: number of rows in a chunk.
        workers: number of chunks processed at once, each on its own connection.
        on_error: "stop" or "reject".
        retry: how long and how often a chunk is tried; None: the router's policy.

    Raises:
        ConfigError: an argument is invalid. The constructor does no I/O.
    """

    def __init__(
        self,
        router: Router[CT],
        name: str,
        source: Source,
        *,
        chunk_size: int = 1000,
        workers: int = 1,
        on_error: Literal["stop", "reject"] = "stop",
        retry: RetryPolicy | None = None,
    ) -> None:
        given: object = router
        if not isinstance(given, Router):
            raise ConfigError("router", router, "expected a Router")
        self._router: Router[CT] = router
        self._options = check_job(
            name,
            source,
            chunk_size=chunk_size,
            workers=workers,
            most_workers=manager_of(router).pools[Role.WRITER].options.max_size,
            on_error=on_error,
            retry=retry,
        )
        self._used = False

    def __repr__(self) -> str:
        options: JobOptions | None = getattr(self, "_options", None)  # None: the constructor has raised
        return f"<{type(self).__name__} {'not made' if options is None else repr(options.name)}>"

    def run(
        self,
        fn: Callable[[CT, Chunk], Any],
        progress: bool | Callable[[BatchProgress], object] | None = None,
    ) -> BatchReport:
        """Call ``fn(conn, chunk)`` in a transaction for each chunk that is not done; return once all are done.

        With ``progress=True`` the progress is shown on stderr, as a bar on a terminal, otherwise as a line every few
        seconds. A callable is called with a BatchProgress at the start, after each chunk and at the end. An error that
        it raises ends the run.

        Args:
            fn: the body. The job commits its transaction; *fn* must not.
            progress: True, or a function of a BatchProgress.

        Raises:
            ConfigError: *fn* or the source is invalid, the tables are missing, or a job of this name was started with
                another source or chunk_size. Nothing was written.
            BatchError: the job was reset, its source has changed, or another session holds a chunk.
            Exception: the error of the chunk that failed. Run the job again to continue.
        """
        check_function("fn", fn)
        check_progress(progress)
        source = self._options.source
        if not isinstance(source, Keyset) and is_one_shot(source):
            if self._used:
                text = "expected a list, or a function that returns a new iterator: an iterator can be read only once"
                raise ConfigError("source", source, text)
            self._used = True
        tracker = ProgressTracker(self._options.name, self._primary)
        run = _Run(self._router, self._options, tracker, fn)
        status = run.start()
        shown = display(progress)
        shown.start(tracker)
        try:
            if not status.finished:
                status = run.complete(status, shown)
            tracker.rows_total, tracker.chunks_total = status.rows_total, status.planned
            tracker.set_final(chunks=status.chunks_done, rows=status.rows_done)
            tracker.finished = True
        finally:
            shown.stop(tracker)
        return BatchReport(
            job=self._options.name,
            rows=status.rows_done - status.rejected_rows,
            chunks=status.planned - status.rejected,
            skipped=max(0, status.planned - tracker.own_chunks),
            rejected=status.rejected,
            retries=tracker.retries,
            seconds=tracker.seconds,
            finished=status.finished,
        )

    def _primary(self) -> str | None:
        host = self._router.topology.primary
        return str(host.key) if host else None


class _Run:
    """One run of a job.

    Args:
        router: routes to the primary.
        options: the options of the job.
        tracker: counts the work of the run.
        fn: the body.
    """

    def __init__(
        self, router: Router[Any], options: JobOptions, tracker: ProgressTracker, fn: Callable[..., Any]
    ) -> None:
        self._options = options
        self._tracker = tracker
        self._store = JobStore(router, options)
        self._runner = ChunkRunner(router, options, self._store, tracker, fn)
        self._compaction = CompactionSchedule()
        self._halted = False

    def start(self) -> JobStatus:
        """Create the job, or find it."""
        status = self._store.start()
        source: Any = self._options.source
        tracker = self._tracker
        tracker.add_found(chunks=status.chunks_done, rows=status.rows_done)
        tracker.rows_total = status.rows_total
        if tracker.rows_total is None and isinstance(source, Sized):
            tracker.rows_total = len(source)
        if tracker.rows_total is not None:
            size = self._options.chunk_size
            keyset = isinstance(source, Keyset)
            tracker.chunks_total = status.planned if keyset else -(-tracker.rows_total // size)
        return status

    def complete(self, status: JobStatus, shown: Display) -> JobStatus:
        """Run open chunks until the database records all as done; a failover may undo some of them."""
        source = self._options.source
        while True:
            queue = ChunkQueue(self._store, self._options, status)

            def work(queue: ChunkQueue = queue) -> None:
                self._work(queue, shown)

            if self._options.workers == 1:
                work()
            else:
                name = f"pgroute-batch-{self._options.name}"
                run_all(work, self._options.workers, self._halt, name)
            status = self._store.finish()
            if status.finished:
                return status
            if not isinstance(source, Keyset) and is_one_shot(source):
                raise BatchError(
                    f"a failover has undone chunks of the job {self._options.name!r}, and its iterator cannot be read "
                    "again: run the job again with a new iterator"
                )

    def _halt(self) -> None:
        self._halted = True

    def _work(self, queue: ChunkQueue, shown: Display) -> None:
        while not self._halted:
            pending = queue.next()
            if pending is None:
                return
            try:
                self._run_chunk(queue, pending)
            except Exception as exc:
                exc.add_note(f"pgroute: in chunk {pending.number} of the job {self._options.name!r}")
                raise
            shown.update(self._tracker)
            if self._compaction.due():
                self._store.compact()

    def _run_chunk(self, queue: ChunkQueue, pending: PendingChunk) -> None:
        while True:
            outcome, rows = self._runner.run_chunk(pending)
            if outcome is not Outcome.PLAN_LOST:
                break
            queue.replan(pending.number)
        if outcome is Outcome.ALREADY_DONE:
            self._tracker.add_found(chunks=1, rows=rows)
        else:
            self._tracker.add_own(rows, rejected=outcome is Outcome.REJECTED)
