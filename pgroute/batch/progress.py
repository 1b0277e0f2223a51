"""The count of what a run has done, and the three ways to show it: rich bars, plain lines, a callable."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from pgroute.batch.model import BatchProgress
from pgroute.core.printable import printable
from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Display(Protocol):
        """Something that shows a run's progress."""

        def start(self, tally: ProgressTracker) -> None: ...
        def update(self, tally: ProgressTracker) -> None: ...
        def stop(self, tally: ProgressTracker) -> None: ...


_LINES_EVERY = 5.0


class ProgressTracker:
    """What a run has done so far; its methods may be called from any thread.

    Args:
        job: the job's name.
        primary: gives the primary's name now.
    """

    def __init__(self, job: str, primary: Callable[[], str | None]) -> None:
        self.job = job
        self.begun = time.monotonic()
        self.mine = 0
        self.rejected = 0
        self.retries = 0
        self.rows_total: int | None = None
        self.chunks_total: int | None = None
        self.finished = False
        self._primary = primary
        self._rows = self._chunks = self._own_rows = 0
        self._lock = threading.Lock()

    def found(self, *, chunks: int, rows: int) -> None:
        """Count what others have done."""
        with self._lock:
            self._chunks += chunks
            self._rows += rows

    def settle(self, *, chunks: int, rows: int) -> None:
        """Take what the database says in the end: copies of the job have done what this run has not seen."""
        with self._lock:
            self._chunks, self._rows = chunks, rows

    def done(self, rows: int, *, rejected: bool) -> None:
        """Count a chunk of this run's own."""
        with self._lock:
            self.mine += 1
            self.rejected += rejected
            self._own_rows += rows
            self._chunks += 1
            self._rows += rows

    def retried(self, count: int) -> None:
        """Count attempts that followed others."""
        with self._lock:
            self.retries += count

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.begun

    def now(self) -> BatchProgress:
        """Return all of it at this moment."""
        with self._lock:
            seconds = self.seconds
            rate = self._own_rows / seconds if seconds > 0 else 0.0
            left = None if self.rows_total is None else max(0, self.rows_total - self._rows)
            return BatchProgress(
                job=self.job,
                rows=self._rows,
                rows_total=self.rows_total,
                chunks=self._chunks,
                chunks_total=self.chunks_total,
                rejected=self.rejected,
                retries=self.retries,
                seconds=seconds,
                rate=rate,
                eta=left / rate if left is not None and rate else None,
                primary=self._primary(),
                finished=self.finished,
            )


def as_line(now: BatchProgress) -> str:
    """Return the progress in one line."""
    parts = [f"{now.rows} rows"]
    if now.rows_total is not None:
        percent = 100 * min(now.rows, now.rows_total) // now.rows_total if now.rows_total else 100
        parts = [f"{now.rows} of {now.rows_total} rows ({percent} %)"]
    if now.finished:
        parts.append(f"finished in {now.seconds:.1f} s")
    parts.append(f"{now.rate:.0f} rows/s")
    if now.eta is not None and not now.finished:
        parts.append(f"{duration(now.eta)} left")
    parts += [f"{now.retries} retries", f"{now.rejected} rejected", f"primary {now.primary or 'none'}"]
    return f"{printable(now.job)}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: 42 s, 3:07 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def display(progress: bool | Callable[[BatchProgress], object] | None) -> Display:
    """Return what shows the progress as `run()` was asked to."""
    if callable(progress):
        return _Callback(progress)
    if not progress:
        return _Nothing()
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return _Lines()
    console = Console(stderr=True)
    return _Bar(console) if console.is_terminal else _Lines()


class _Nothing:
    def start(self, tally: ProgressTracker) -> None: ...
    def update(self, tally: ProgressTracker) -> None: ...
    def stop(self, tally: ProgressTracker) -> None: ...


class _Callback:
    def __init__(self, fn: Callable[[BatchProgress], object]) -> None:
        self._fn = fn
        self._lock = threading.Lock()

    def start(self, tally: ProgressTracker) -> None:
        self.update(tally)

    def update(self, tally: ProgressTracker) -> None:
        with self._lock:
            self._fn(tally.now())

    def stop(self, tally: ProgressTracker) -> None:
        if tally.finished:
            self.update(tally)


class _Lines:
    """A line every few seconds, also while nothing goes on: from a thread of its own."""

    def __init__(self) -> None:
        self._stop = OneShotEvent()
        self._thread: threading.Thread | None = None

    def start(self, tally: ProgressTracker) -> None:
        self._thread = threading.Thread(
            target=self._write, args=(tally,), name="pgroute-progress", daemon=True
        )
        self._thread.start()

    def _write(self, tally: ProgressTracker) -> None:
        while not self._stop.wait(_LINES_EVERY):
            _print(tally)

    def update(self, tally: ProgressTracker) -> None: ...

    def stop(self, tally: ProgressTracker) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _print(tally)


def _print(tally: ProgressTracker) -> None:
    # Nobody who reads is no reason to end a job.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(as_line(tally.now()) + "\n")
        sys.stderr.flush()


class _Bar:
    """A bar that is redrawn by a thread of rich's, also while nothing goes on."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def start(self, tally: ProgressTracker) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        class Told(ProgressColumn):
            max_refresh = 0.1

            def render(self, task: Any) -> Text:
                return Text(as_line(tally.now()).removeprefix(f"{printable(tally.job)}: "))

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            Told(),
            console=self._console,
        )
        self._task = self._progress.add_task(printable(tally.job), total=tally.rows_total)
        self._progress.start()

    def update(self, tally: ProgressTracker) -> None:
        now = tally.now()
        self._progress.update(self._task, completed=now.rows, total=now.rows_total)

    def stop(self, tally: ProgressTracker) -> None:
        self.update(tally)
        self._progress.stop()
