"""The report of the demo: the run as a timeline in text, the figures, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute import HostState
from pgroute.cli.hosts import role_cell
from pgroute.cli.spark import ASCII, BLOCKS, Histogram, sparkline

if TYPE_CHECKING:
    from collections import Counter

    from rich.console import Console

    from pgroute.cli.demo.outcome import Outcome

STEP = 0.1
_LABEL = 26
_TIMELINE_LABEL = 8
_TIMELINE_WIDTH = 68
_SHOWN = 5


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the timeline and the summary."""
    console.print()
    _show_timeline(console, outcome)
    console.print()
    _show_figures(console, outcome)
    _show_verdict(console, outcome)


def _show_timeline(console: Console, outcome: Outcome) -> None:
    """Print the run as lines of blocks, with the letters of the events below."""
    blocks = ASCII if console.options.ascii_only else BLOCKS
    width = min(_TIMELINE_WIDTH, console.width - _TIMELINE_LABEL - 1)
    begin, end = outcome.began_at, outcome.ended_at
    account = outcome.account
    for label, moments, style in (
        ("writes", account.writes, "green"),
        ("reads", account.reads, "cyan"),
        ("errors", account.errors, "red"),
    ):
        histogram = Histogram(begin, STEP)
        histogram.update(moments)
        values = histogram.columns(width, end)
        console.print(f"{label:<{_TIMELINE_LABEL}}", end="")
        console.print(sparkline(values, blocks=blocks).rstrip(), style=style)
    marks = [" "] * (width + 1)
    for moment in outcome.moments:
        column = round((moment.at - begin) / (end - begin) * width)
        # Events of one column stand side by side.
        while 0 <= column < width and marks[column] != " ":
            column += 1
        marks[min(max(column, 0), width)] = moment.mark
    console.print(" " * _TIMELINE_LABEL + "".join(marks).rstrip())
    console.print()
    for moment in outcome.moments:
        console.print(f"{moment.mark}{moment.at - begin:8.2f} s  {moment.label}")


def _show_figures(console: Console, outcome: Outcome) -> None:
    def line(label: str, text: str, style: str | None = None) -> None:
        console.print(f"{label:<{_LABEL}}{text}", style=style)

    account = outcome.account
    before, after = outcome.last_before, outcome.first_after
    reads = f"{len(account.reads)} served, "
    if outcome.moved:
        line("outage for writers", span(before, after) + " from the last write before to the first after")
        meanwhile = sum(before < at < after for at in account.reads) if before and after else 0
        reads += f"{meanwhile} during the outage"
    else:
        line("longest pause in writes", length(outcome.longest_pause(account.writes)))
        reads += f"longest pause {length(outcome.longest_pause(account.reads))}"
    if outcome.promoted_at is not None:
        line("promotion to session", "at most " + span(outcome.promoted_at, outcome.first_session))
        line("promotion to first write", "at most " + span(outcome.promoted_at, after), "bold")
    line("reads", reads)
    line("read errors", _errors(account.read_errors))
    line("write errors", _errors(account.write_errors))
    there = sum(row in outcome.found for row in account.unknown)
    line("commit unknown", f"{len(account.unknown)}, {there} of them found" if account.unknown else "none")
    acknowledged = len({ack.id for ack in account.acknowledged})
    line("rows", f"{acknowledged} acknowledged, {acknowledged - len(outcome.missing)} of them found", "bold")
    for label, rows in (
        ("MISSING", outcome.missing),
        ("DUPLICATED", outcome.duplicated),
        ("UNEXPECTED", outcome.unexpected),
    ):
        if rows:
            more = ", ..." if len(rows) > _SHOWN else ""
            line(label, f"{len(rows)}: id {', '.join(map(str, rows[:_SHOWN]))}{more}", "bold red")
    hosts = ", ".join(f"{name} {role_cell(host)} {host.state.value}" for name, host in outcome.hosts)
    all_up = all(host.state is HostState.UP for _, host in outcome.hosts)
    line("hosts at the end", hosts, "green" if all_up else "red")


def _show_verdict(console: Console, outcome: Outcome) -> None:
    if outcome.kept:
        console.print("Every acknowledged row is there exactly once.", style="bold green")
    elif outcome.first_after is None:
        console.print("No write succeeded after the fault.", style="bold red")
    else:
        console.print("The rows do not match the results of the writers.", style="bold red")


def span(start: float | None, end: float | None) -> str:
    """Return the time between two moments as text, "-" if one is missing."""
    return length(None if start is None or end is None else end - start)


def length(seconds: float | None) -> str:
    """Return a time as text, "-" for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _errors(errors: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in errors.most_common()) or "none"
