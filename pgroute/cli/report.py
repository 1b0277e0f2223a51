"""What the demo found: the outage in figures, and whether the rows agree with what the writers were told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute import HostState
from pgroute.cli.hosts import role_cell

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from rich.console import Console

    from pgroute import HostInfo
    from pgroute.cli.workload import Workload

_WIDTH = 26
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """The facts after a run.

    Attributes:
        load: what writers and readers were told.
        found: how often each id is in the table of the new primary.
        old_port, new_port: of the primary that was killed, and of the one promoted.
        promoted_at: when an independent session saw the promotion, None if it never did (monotonic seconds).
        hosts: the router's view at the end, with the nodes' names.
    """

    load: Workload
    found: Mapping[int, int]
    old_port: int
    new_port: int
    promoted_at: float | None
    hosts: tuple[tuple[str, HostInfo], ...]

    @property
    def missing(self) -> list[int]:
        """Ids that were acknowledged and are not there."""
        return sorted({ack.id for ack in self.load.acknowledged} - self.found.keys())

    @property
    def doubled(self) -> list[int]:
        """Ids that are there more than once."""
        return sorted(row for row, count in self.found.items() if count > 1)

    @property
    def unaccounted(self) -> list[int]:
        """Ids that are there though their writer was told that they are not."""
        told = {ack.id for ack in self.load.acknowledged} | set(self.load.unknown)
        return sorted(self.found.keys() - told)

    @property
    def last_before(self) -> float | None:
        """When the last write to the old primary was acknowledged."""
        return max((ack.at for ack in self.load.acknowledged if ack.port == self.old_port), default=None)

    @property
    def first_session(self) -> float | None:
        """When a writer first got a session at the new primary."""
        return min((at for at, port in self.load.sessions if port == self.new_port), default=None)

    @property
    def first_after(self) -> float | None:
        """When the first write to the new primary was acknowledged."""
        return min((ack.at for ack in self.load.acknowledged if ack.port == self.new_port), default=None)

    @property
    def kept(self) -> bool:
        """Whether writing resumed and the rows are those that the writers were told of."""
        wrong = self.missing or self.doubled or self.unaccounted
        return self.first_after is not None and not wrong


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the summary."""

    def line(label: str, text: str, style: str | None = None) -> None:
        console.print(f"{label:<{_WIDTH}}{text}", style=style)

    load = outcome.load
    before, after = outcome.last_before, outcome.first_after
    meanwhile = sum(before < at < after for at in load.reads) if before and after else 0
    there = sum(row in outcome.found for row in load.unknown)
    acknowledged = len({ack.id for ack in load.acknowledged})
    hosts = ", ".join(f"{name} {role_cell(host)} {host.state.value}" for name, host in outcome.hosts)
    all_up = all(host.state is HostState.UP for _, host in outcome.hosts)
    console.print()
    line("outage for writers", _span(before, after) + " from the last write before to the first after")
    line("promotion to session", "at most " + _span(outcome.promoted_at, outcome.first_session))
    line("promotion to first write", "at most " + _span(outcome.promoted_at, after), "bold")
    line(
        "reads",
        f"{len(load.reads)} served, {meanwhile} during the outage; errors: {_errors(load.read_errors)}",
    )
    line("write errors", _errors(load.write_errors))
    line("commit unknown", f"{len(load.unknown)}, {there} of them found" if load.unknown else "none")
    line("rows", f"{acknowledged} acknowledged, {acknowledged - len(outcome.missing)} of them found", "bold")
    for label, rows in (
        ("MISSING", outcome.missing),
        ("DOUBLED", outcome.doubled),
        ("UNACCOUNTED FOR", outcome.unaccounted),
    ):
        if rows:
            more = ", ..." if len(rows) > _SHOWN else ""
            line(label, f"{len(rows)}: id {', '.join(map(str, rows[:_SHOWN]))}{more}", "bold red")
    line("hosts at the end", hosts, "green" if all_up else "red")
    if outcome.kept:
        console.print("Every acknowledged row is there, once.", style="bold green")
    elif after is None:
        console.print("No write went through after the promotion.", style="bold red")
    else:
        console.print("The rows do not agree with what the writers were told.", style="bold red")


def _span(start: float | None, end: float | None) -> str:
    if start is None or end is None:
        return "-"
    seconds = end - start
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _errors(errors: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in errors.most_common()) or "none"
