# Generated from pgroute/batch/_async/job.py by .ci/unasync.py: edit that file, not this one.
"""A batch job: its work on a table or a list, in chunks that are applied once, by as many runs as it takes."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Literal

from pgroute._acompat import run_all
from pgroute._sync.router import Router, manager_of
from pgroute._sync.transaction.body import check_function
from pgroute.batch._sync.chunk import Chunks
from pgroute.batch._sync.feed import Feed
from pgroute.batch._sync.job_store import JobStore
from pgroute.batch.errors import BatchError
from pgroute.batch.model import BatchReport
from pgroute.batch.options import check_job, check_progress
from pgroute.batch.progress import ProgressTracker, display
from pgroute.batch.source import Keyset, one_shot
from pgroute.batch.state import Cadence, Outcome
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg

    from pgroute.batch.model import BatchProgress, Chunk
    from pgroute.batch.options import JobOptions
    from pgroute.batch.progress import Display
    from pgroute.batch.source import Source
    from pgroute.batch.state import Standing, Work
    from pgroute.core.transactions.retry import RetryPolicy

    Body = Callable[[psycopg.Connection[Any], Chunk], Any]


class BatchJob:
    """Work in chunks, each applied once: an interrupted job goes on where it was, through failover and restarts.

    Each chunk is a transaction that marks it as done along with its work, run again where that is safe. Several copies
    of a job may run at once, in any processes. What the body does outside of its transaction happens at each attempt.

    Args:
        router: leads to the database, which needs the tables that `install()` makes.
        name: what the job is known by, in that database; 1 to 512 bytes.
        source: a Keyset, an iterable of items, or a function without arguments that gives a fresh iterator. Items are
            read from their start in each run and have to be the same then, in the same order.
        chunk_size: rows in a chunk.
        workers: chunks that are worked on at once, each with a connection of its own.
        on_error: "stop": the first chunk that fails ends the run with its error, once the others have ended their
            current one. "reject": a chunk whose own work fails (not the connection, the server or the router) is set
            aside in pgroute.batch_reject, and the job goes on.
        retry: how long and how often a chunk is tried; None: the router's.

    Raises:
        ConfigError: an argument is not usable. There is no I/O here.
    """

    def __init__(
        self,
        router: Router[Any],
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
            raise ConfigError("router", router, "expected an Router")
        self._router = router
        self._options = check_job(
            name,
            source,
            chunk_size=chunk_size,
            workers=workers,
            most_workers=manager_of(router).config.writer.options.max_size,
            on_error=on_error,
            retry=retry,
        )
        self._used = False

    def __repr__(self) -> str:
        options: JobOptions | None = getattr(self, "_options", None)  # None: the constructor has raised
        return f"<{type(self).__name__} {'not made' if options is None else repr(options.name)}>"

    def run(
        self, fn: Body, progress: bool | Callable[[BatchProgress], object] | None = None
    ) -> BatchReport:
        """Call ``fn(conn, chunk)`` for each chunk that is not done yet, each in a transaction; return once all are.

        Args:
            fn: the body. The transaction is the job's: *fn* does not commit.
            progress: True: show it on stderr, as a bar on a terminal, else as a line every few seconds. A callable:
                called with a BatchProgress at the start, after each chunk and at the end; an error of it ends the run.

        Raises:
            ConfigError: *fn* or the source cannot serve, the tables are missing, or a job of this name was begun with
                another source or chunk_size; nothing was written.
            BatchError: the job was reset meanwhile, the source has changed, or another session holds a chunk.
            Exception: what a chunk failed with. Run the job again to go on.
        """
        check_function("fn", fn)
        check_progress(progress)
        source = self._options.source
        if not isinstance(source, Keyset) and one_shot(source):
            if self._used:
                text = "expected a list, or a function that gives a fresh iterator: an iterator can be run but once"
                raise ConfigError("source", source, text)
            self._used = True
        tally = ProgressTracker(self._options.name, self._primary)
        run = _Run(self._router, self._options, tally, fn)
        standing = run.start()
        shown = display(progress)
        shown.start(tally)
        try:
            if not standing.finished:
                standing = run.complete(standing, shown)
            tally.rows_total, tally.chunks_total = standing.rows_total, standing.planned
            tally.settle(chunks=standing.chunks_done, rows=standing.rows_done)
            tally.finished = True
        finally:
            shown.stop(tally)
        return BatchReport(
            job=self._options.name,
            rows=standing.rows_done - standing.rejected_rows,
            chunks=standing.planned - standing.rejected,
            skipped=max(0, standing.planned - tally.mine),
            rejected=standing.rejected,
            retries=tally.retries,
            seconds=tally.seconds,
            finished=standing.finished,
        )

    def _primary(self) -> str | None:
        host = self._router.topology.primary
        return str(host.key) if host else None


class _Run:
    """One run of a job.

    Args:
        router: leads to the primary.
        options: the job.
        tally: the count of what is done.
        fn: the body.
    """

    def __init__(
        self, router: Router[Any], options: JobOptions, tally: ProgressTracker, fn: Callable[..., Any]
    ) -> None:
        self._options = options
        self._tally = tally
        self._ledger = JobStore(router, options)
        self._chunks = Chunks(router, options, self._ledger, tally, fn)
        self._cadence = Cadence()
        self._halted = False

    def start(self) -> Standing:
        """Begin the job, or find it begun."""
        standing = self._ledger.start()
        source: Any = self._options.source
        tally = self._tally
        tally.found(chunks=standing.chunks_done, rows=standing.rows_done)
        tally.rows_total = standing.rows_total
        if tally.rows_total is None and isinstance(source, Sized):
            tally.rows_total = len(source)
        if tally.rows_total is not None:
            size = self._options.chunk_size
            keyset = isinstance(source, Keyset)
            tally.chunks_total = standing.planned if keyset else -(-tally.rows_total // size)
        return standing

    def complete(self, standing: Standing, shown: Display) -> Standing:
        """Do what is open until the database itself says that nothing is: a failover may undo what was done."""
        source = self._options.source
        while True:
            feed = Feed(self._ledger, self._options, standing)

            def work(feed: Feed = feed) -> None:
                self._work(feed, shown)

            if self._options.workers == 1:
                work()
            else:
                name = f"pgroute-batch-{self._options.name}"
                run_all(work, self._options.workers, self._halt, name)
            standing = self._ledger.finish()
            if standing.finished:
                return standing
            if not isinstance(source, Keyset) and one_shot(source):
                raise BatchError(
                    f"a failover has undone chunks of the job {self._options.name!r}, and its items cannot be read "
                    "again in this run: run the job again from the start of its items"
                )

    def _halt(self) -> None:
        self._halted = True

    def _work(self, feed: Feed, shown: Display) -> None:
        while not self._halted:
            work = feed.next()
            if work is None:
                return
            try:
                self._one(feed, work)
            except Exception as exc:
                exc.add_note(f"pgroute: in chunk {work.number} of the job {self._options.name!r}")
                raise
            shown.update(self._tally)
            if self._cadence.due():
                self._ledger.compact()

    def _one(self, feed: Feed, work: Work) -> None:
        while True:
            outcome, rows = self._chunks.do(work)
            if outcome is not Outcome.UNPLANNED:
                break
            feed.replan(work.number)
        if outcome is Outcome.FOUND:
            self._tally.found(chunks=1, rows=rows)
        else:
            self._tally.done(rows, rejected=outcome is Outcome.REJECTED)
