"""Where the demo is seen: a view that fills the terminal and a report behind it, or plain lines in a pipe."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from pgroute.cli.spark import Histogram
from pgroute.cli.view import Line, View

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from pgroute.cli.demo.load import Load

_COLUMNS, _ROWS = 80, 24
"""What the view needs; on a smaller terminal there are lines, as in a pipe."""

_REFRESH = 8
"""Times a second."""

_STEP = 0.1
_RECENT = 5
"""Steps over which a rate is taken."""


class Screen(Protocol):
    """What a run is told to."""

    def tell(self, moment: str, text: str, style: str | None) -> None:
        """Show a line of what happens; from any thread."""


@contextmanager
def open_screen(
    console: Console, load: Load, names: dict[str, str], args: argparse.Namespace, version: str
) -> Iterator[Screen]:
    """Give the screen for a run."""
    nodes = ", ".join(f"{name} :{address.rsplit(':', 1)[1]}" for address, name in names.items())
    headline = f"PostgreSQL {version} on 127.0.0.1: {nodes}"
    if not console.is_terminal or console.width < _COLUMNS or console.height < _ROWS:
        screen = Lines(console)
        console.print(headline)
        yield screen
        return
    from rich.live import Live

    view = View(lambda: load.topology, names)
    full = FullScreen(view, load, args, version)
    # It is drawn in a thread of its own: the servers' steps may take seconds.
    try:
        with Live(view, console=console, screen=True, refresh_per_second=_REFRESH):
            yield full
    finally:
        # The view is gone with the terminal's other screen: what happened is told again, to stay.
        console.print(headline, style="bold")
        for moment, text, style in full.told:
            console.print(f"{moment}  {text}", style=style)


class Lines:
    """A line for each thing that happens.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()

    def tell(self, moment: str, text: str, style: str | None) -> None:
        with self._lock:
            self._console.print(f"{moment}  {text}", style=style)
            self._console.file.flush()


class FullScreen:
    """The view.

    Args:
        view: what is drawn.
        load: where the figures come from.
        args: the command's.
        version: PostgreSQL's.

    Attributes:
        told: all that was told.
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
        # The run's length is known, so a column keeps its place; a run that takes longer is squeezed.
        now = time.monotonic()
        return Columns(histogram, max(now, self._began + self._duration), now)

    def _rate(self, histogram: Histogram) -> str:
        """Return the rate of the last half second."""
        last = int((time.monotonic() - self._began) / _STEP)
        recent = histogram.counts[max(0, last - _RECENT) : last]
        return f"{sum(recent) / (_RECENT * _STEP):.0f} /s"


class Columns:
    """Gives a histogram's columns up to a moment, for any width."""

    def __init__(self, histogram: Histogram, until: float, now: float) -> None:
        self._histogram = histogram
        self._until = until
        self._now = now

    def __call__(self, width: int) -> Sequence[float]:
        """Return the values."""
        return self._histogram.columns(width, self._until, now=self._now)
