"""The tables of an audit: what is the same at every host once, then one table for each host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.cli.check.finding import Finding, Result
from pgroute.cli.hosts import role_cell
from pgroute.cli.terminal import print_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from pgroute import HostInfo

_STYLES = {Result.OK: "green", Result.NOTE: "cyan", Result.WARN: "yellow", Result.FAIL: "bold red"}
_NAMES = {Result.FAIL: "failure", Result.WARN: "warning", Result.NOTE: "note"}


def show(
    console: Console, about_all: Sequence[Finding], about_each: Sequence[tuple[HostInfo, list[Finding]]]
) -> None:
    """Print the findings, those that all hosts share once, and their number."""
    common = [
        finding
        for finding in (about_each[0][1] if len(about_each) > 1 else ())
        if all(finding in found for _, found in about_each)
    ]
    sections = [("the cluster", list(about_all)), (f"all {len(about_each)} hosts", common)]
    for host, found in about_each:
        title = f"{host.key}  {role_cell(host) if host.role else host.state.value}"
        sections.append((title, [finding for finding in found if finding not in common]))
    for title, findings in sections:
        _section(console, title, findings)
    console.print(_summary(finding for _, findings in sections for finding in findings))


def _section(console: Console, title: str, findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not findings:
        return
    console.print(Text(title, style="bold", overflow="fold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=max(map(len, (result.value for result in Result))))
    table.add_column(no_wrap=True, min_width=11)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLES[finding.result]
        table.add_row(Text(finding.result.value, style=style), finding.check, Text(finding.text))
    print_table(console, table)
    console.print()


def _summary(findings: Iterable[Finding]) -> object:
    from rich.text import Text

    results = [finding.result for finding in findings]
    counts = [(result, results.count(result)) for result in _NAMES if result in results]
    text = ", ".join(f"{n} {_NAMES[result]}{'s' if n > 1 else ''}" for result, n in counts)
    worst = counts[0][0] if counts else Result.OK
    return Text(text or "nothing to say against it", style=_STYLES[worst])
