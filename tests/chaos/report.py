"""The summary of a run, for people."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tests.chaos.check import Wrong
from tests.chaos.journal import Ended, Outcome, Read
from tests.chaos.run import Played, Result

SHOWN = 20
"""Violations that are shown in full."""


def show(console: Console, result: Result) -> None:
    """Print the counts, the faults, the errors and the verdict."""
    history, verdict = result.history, result.verdict
    good = sum(not read.error for read in history.reads)
    counts = {
        "writes": len(history.begun),
        **{str(outcome): history.count(outcome) for outcome in Outcome},
        "unknown, yet there": _there(result),
        "reads": good,
        "reads on standbys": sum(read.recovering for read in history.reads),
        "failed reads": len(history.reads) - good,
        "lost by the servers": verdict.lost_by_servers,
        **{str(wrong): verdict.count(wrong) for wrong in Wrong},
    }
    table = Table(title=f"{result.seconds:.0f} s, {len(result.played)} faults", show_header=False)
    for name, value in counts.items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(_faults(result))
    console.print(_errors(history.ended.values(), history.reads))
    for violation in verdict.violations[:SHOWN]:
        console.print(str(violation), style="red", markup=False, highlight=False, soft_wrap=True)
    if len(verdict.violations) > SHOWN:
        console.print(f"and {len(verdict.violations) - SHOWN} more", style="red")


def outages(result: Result) -> dict[str, tuple[int, float, float]]:
    """Return for each kind of fault: how often it was played, the longest time without any acknowledged write, and
    the longest from a repair until every writer had written again.
    """
    acknowledged = sorted(
        end.at for end in result.history.ended.values() if end.outcome is Outcome.ACKNOWLEDGED
    )
    found: dict[str, tuple[int, float, float]] = {}
    for played in result.played:
        times, gap, recovery = found.get(played.step.fault.name, (0, 0.0, 0.0))
        found[played.step.fault.name] = (
            times + 1,
            max(gap, _longest_gap(acknowledged, played)),
            max(recovery, played.recovered - played.repaired),
        )
    return found


def _longest_gap(times: list[float], played: Played) -> float:
    within = [at for at in times if played.begun <= at <= played.recovered]
    edges = [played.begun, *within, played.recovered]
    return max(later - earlier for earlier, later in itertools.pairwise(edges))


def _there(result: Result) -> int:
    return sum(
        result.history.outcome(id_) is Outcome.UNKNOWN for id_ in {row.id for row in result.history.rows}
    )


def _faults(result: Result) -> Table:
    table = Table("fault", "times", "longest without a write", "longest until all write again")
    for name, (times, gap, recovery) in sorted(outages(result).items()):
        table.add_row(name, str(times), f"{gap:.2f} s", f"{recovery:.2f} s")
    overlays = Counter(played.step.overlay.name for played in result.played if played.step.overlay)
    for name, times in sorted(overlays.items()):
        table.add_row(f"+ {name}", str(times))
    return table


def _errors(writes: Iterable[Ended], reads: Iterable[Read]) -> Table:
    table = Table("error", "SQLSTATE", "writes", "reads")
    in_writes = Counter((end.error, end.sqlstate) for end in writes if end.error)
    in_reads = Counter((read.error, read.sqlstate) for read in reads if read.error)
    for error, sqlstate in sorted({*in_writes, *in_reads}):
        kind = (error, sqlstate)
        table.add_row(error, sqlstate, str(in_writes[kind]), str(in_reads[kind]))
    return table
