"""The output of the demo: a full-screen view and a report after it, or plain lines in a pipe."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from pgroute.cli.spark import Histogram
from pgroute.cli.view import Line, View
from pgroute.runtime.console import can_redraw

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from pgroute.cli.demo.load import Load

_COLUMNS, _ROWS = 80, 24
"""The size that the view needs; a smaller or a dumb terminal gets lines, like a pipe."""

_REFRESH = 8
"""Refreshes per second."""

_STEP = 0.1
_RECENT = 5
"""Number of steps over which a rate is computed."""


class Screen(Protocol):
    """The output of a run."""

    def tell(self, moment: str, text: str, style: str | None) -> None:
        """Show an event; may be called from any thread."""


@contextmanager
def open_screen(
    console: Console, load: Load, names: dict[str, str], args: argparse.Namespace, version: str
) -> Iterator[Screen]:
    """Open the screen for a run."""
    nodes = ", ".join(f"{name} :{address.rsplit(':', 1)[1]}" for address, name in names.items())
    headline = f"PostgreSQL {version} on 127.0.0.1: {nodes}"
    if not can_redraw(console) or console.width < _COLUMNS or console.height < _ROWS:
        screen = Lines(console)
        console.print(headline)
        yield screen
        return
    from rich.live import Live

    view = View(lambda: load.topology, names)
    full = FullScreen(view, load, args, version)
    # A thread of its own draws it: steps of the servers may take seconds.
    try:
        with Live(view, console=console, screen=True, refresh_per_second=_REFRESH):
            yield full
    finally:
        # The full-screen view is gone: print the events again, so that they stay.
        console.print(headline, style="bold")
        for moment, text, style in full.told:
            console.print(f"{moment}  {text}", style=style)


class Lines:
    """Prints a line for each event.

    Args:
        console: the console to print to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()

    def tell(self, moment: str, text: str, style: str | None) -> None:
        with self._lock:
            self._console.print(f"{moment}  {text}", style=style)
            self._console.file.flush()


class FullScreen:
    """Shows events and rates in the full-screen view.

    Args:
        view: the view to draw.
        load: the source of the rates.
        args: the arguments of the command.
        version: the version of PostgreSQL.

    Attributes:
        told: all events.
    """

    def __init__(self, view: View, load: Load, args: argparse.Namespace, version: str) -> None:
        self.told: list[tuple[str, str, str | None]] = []
        self._view = view
        self._account = load.account
        self._began = time.monotonic()
        self._duration: float = args.duration
        self._head = f"pgroute demo: {args.fault}    PostgreSQL {version}"
        self._writes, self._reads, self._errors = (Histogram(self._began, _STEP) for _ in range(3))
        view.lines, view.title = self._lines, self._title

    def tell(self, moment: str, text: str, style: str | None) -> None:
        self.told.append((moment, text, style))
        self._view.log.append((moment, text, style))

    def _title(self) -> str:
        return f"{self._head}    {time.monotonic() - self._began:.1f} of {self._duration:g} s"

    def _lines(self) -> list[Line]:
        account = self._account
        for histogram, moments in (
            (self._writes, account.writes),
            (self._reads, account.reads),
            (self._errors, account.errors),
        ):
            histogram.update(moments)
        return [
            Line("writes", self._columns(self._writes), self._rate(self._writes), "green"),
            Line("reads", self._columns(self._reads), self._rate(self._reads), "cyan"),
            Line("errors", self._columns(self._errors), f"{len(account.errors)} in all", "red"),
        ]

    def _columns(self, histogram: Histogram) -> Columns:
        # The duration is known, so a column keeps its place; a longer run is squeezed.
        now = time.monotonic()
        return Columns(histogram, max(now, self._began + self._duration), now)

    def _rate(self, histogram: Histogram) -> str:
        """Return the rate of the last half second."""
        last = int((time.monotonic() - self._began) / _STEP)
        recent = histogram.counts[max(0, last - _RECENT) : last]
        return f"{sum(recent) / (_RECENT * _STEP):.0f} /s"


class Columns:
    """The columns of a histogram up to a moment, for any width."""

    def __init__(self, histogram: Histogram, until: float, now: float) -> None:
        self._histogram = histogram
        self._until = until
        self._now = now

    def __call__(self, width: int) -> Sequence[float]:
        """Return the values."""
        return self._histogram.columns(width, self._until, now=self._now)
