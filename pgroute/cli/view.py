"""The full-screen view of a cluster: hosts, lines of numbers over time, and the latest events."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from pgroute.cli.hosts import lay_out
from pgroute.cli.spark import ASCII, BLOCKS, sparkline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from pgroute import Topology

_LABEL = 9
_FIGURE = 16
_KEPT = 200


class Line(NamedTuple):
    """A line of numbers over time.

    Attributes:
        label: the text before the line.
        values: returns one value per column; the argument is the number of columns.
        figure: the text after the line.
        style: the style of the line.
    """

    label: str
    values: Callable[[int], Sequence[float]]
    figure: str
    style: str


class View:
    """The content of the screen; set its attributes and print it again.

    Args:
        topology: returns the current topology.
        names: short names of hosts, by their addresses.

    Attributes:
        title: returns the first line.
        lines: returns the numbers over time.
        verdict: returns the line below the hosts, and its style.
        log: the events, the latest at the end: time, text, style.
    """

    def __init__(self, topology: Callable[[], Topology], names: dict[str, str] | None = None) -> None:
        self._topology = topology
        self._names = names or {}
        self.title: Callable[[], str] = str
        self.lines: Callable[[], Iterable[Line]] = tuple
        self.verdict: Callable[[Topology], tuple[str, str]] | None = None
        self.log: deque[tuple[str, str, str | None]] = deque(maxlen=_KEPT)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        topology = self._topology()
        rows: list[Text | Table] = [
            Text(self.title(), style="bold", no_wrap=True, overflow="ellipsis"),
            Text(),
        ]
        table, reasons = lay_out(console, topology, self._names)
        for reason in reasons:
            reason.no_wrap, reason.overflow = True, "ellipsis"
        rows += [table, *reasons, Text()]
        used = len(topology.hosts) + len(reasons) + 4
        if self.verdict is not None:
            text, style = self.verdict(topology)
            verdict = Text(text, style=style).wrap(console, width)
            rows += [*verdict, Text()]
            used += len(verdict) + 1
        blocks = ASCII if options.ascii_only else BLOCKS
        lines = [self._line(line, width, blocks) for line in self.lines()]
        if lines:
            rows += [*lines, Text()]
            used += len(lines) + 1
        room = max(0, height - used)
        entries = list(self.log)[max(0, len(self.log) - room) :]
        rows += [
            Text(f"{moment}  {text}", style=mood or "", no_wrap=True, overflow="ellipsis")
            for moment, text, mood in entries
        ]
        yield from rows[:height]

    @staticmethod
    def _line(line: Line, width: int, blocks: str) -> Text:
        room = max(8, width - _LABEL - _FIGURE)
        text = Text(f"{line.label:<{_LABEL}}", no_wrap=True, overflow="crop")
        text.append(f"{sparkline(line.values(room), blocks=blocks):<{room}}", style=line.style)
        text.append(f"{line.figure:>{_FIGURE}}")
        return text
