"""The progress of a run, and three ways to show it: a rich bar, plain lines, a callable."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, cast

from pgroute.batch.model import BatchProgress
from pgroute.core.printable import printable
from pgroute.runtime.console import can_redraw
from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Display(Protocol):
        """Shows the progress of a run."""

        def start(self, tracker: ProgressTracker) -> None: ...
        def update(self, tracker: ProgressTracker) -> None: ...
        def stop(self, tracker: ProgressTracker) -> None: ...


_LINES_EVERY = 5.0


class ProgressTracker:
    """Counts the work of a run; its methods may be called from any thread.

    Args:
        job: the job's name.
        primary: returns the name of the current primary, None if there is none.
    """

    def __init__(self, job: str, primary: Callable[[], str | None]) -> None:
        self.job = job
        self.started: float = time.monotonic()
        self.own_chunks: int = 0
        self.rejected: int = 0
        self.retries: int = 0
        self.rows_total: int | None = None
        self.chunks_total: int | None = None
        self.finished = False
        self._primary = primary
        self._rows = self._chunks = self._own_rows = 0
        self._lock = threading.Lock()

    def add_found(self, *, chunks: int, rows: int) -> None:
        """Count chunks that earlier runs or other copies of the job have done."""
        with self._lock:
            self._chunks += chunks
            self._rows += rows

    def set_final(self, *, chunks: int, rows: int) -> None:
        """Replace the counts by those of the database, which include the chunks of other copies of the job."""
        with self._lock:
            self._chunks, self._rows = chunks, rows

    def add_own(self, rows: int, *, rejected: bool) -> None:
        """Count a chunk that this run has applied or set aside."""
        with self._lock:
            self.own_chunks += 1
            self.rejected += rejected
            self._own_rows += rows
            self._chunks += 1
            self._rows += rows

    def add_retries(self, count: int) -> None:
        """Count attempts beyond the first one of a chunk."""
        with self._lock:
            self.retries += count

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def snapshot(self) -> BatchProgress:
        """Return the progress at this moment."""
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
    """Return the progress as one line of text."""
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
    """Return seconds in a readable form: 42 s, 3:07 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def display(progress: bool | Callable[[BatchProgress], object] | None) -> Display:
    """Return the display for the `progress` argument of `run()`."""
    if callable(progress):
        return _Callback(progress)
    if not progress:
        return _Nothing()
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return _Lines()
    console = Console(file=cast("IO[str]", _Stderr()))
    return _Bar(console) if can_redraw(console) else _Lines()


class _Nothing:
    def start(self, tracker: ProgressTracker) -> None: ...
    def update(self, tracker: ProgressTracker) -> None: ...
    def stop(self, tracker: ProgressTracker) -> None: ...


class _Callback:
    def __init__(self, fn: Callable[[BatchProgress], object]) -> None:
        self._fn = fn
        self._lock = threading.Lock()

    def start(self, tracker: ProgressTracker) -> None:
        self.update(tracker)

    def update(self, tracker: ProgressTracker) -> None:
        with self._lock:
            self._fn(tracker.snapshot())

    def stop(self, tracker: ProgressTracker) -> None:
        if tracker.finished:
            self.update(tracker)


class _Lines:
    """Writes a line every few seconds from a thread of its own, so also while the job waits."""

    def __init__(self) -> None:
        self._stop = OneShotEvent()
        self._thread: threading.Thread | None = None

    def start(self, tracker: ProgressTracker) -> None:
        self._thread = threading.Thread(
            target=self._write, args=(tracker,), name="pgroute-progress", daemon=True
        )
        self._thread.start()

    def _write(self, tracker: ProgressTracker) -> None:
        while not self._stop.wait(_LINES_EVERY):
            _print(tracker)

    def update(self, tracker: ProgressTracker) -> None: ...

    def stop(self, tracker: ProgressTracker) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _print(tracker)


def _print(tracker: ProgressTracker) -> None:
    stream = _Stderr()
    stream.write(as_line(tracker.snapshot()) + "\n")
    stream.flush()


class _Stderr:
    """The stderr of this moment. It may be closed, or its terminal gone, which must not end the job."""

    def __init__(self) -> None:
        self._stream: Any = sys.stderr  # None in a program without a console

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Bar:
    """A bar that a thread of rich redraws, also while the job waits."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def start(self, tracker: ProgressTracker) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        class Figures(ProgressColumn):
            max_refresh = 0.1

            def render(self, task: Any) -> Text:
                return Text(as_line(tracker.snapshot()).removeprefix(f"{printable(tracker.job)}: "))

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            Figures(),
            console=self._console,
        )
        self._task = self._progress.add_task(printable(tracker.job), total=tracker.rows_total)
        self._progress.start()

    def update(self, tracker: ProgressTracker) -> None:
        now = tracker.snapshot()
        self._progress.update(self._task, completed=now.rows, total=now.rows_total)

    def stop(self, tracker: ProgressTracker) -> None:
        self.update(tracker)
        self._progress.stop()
