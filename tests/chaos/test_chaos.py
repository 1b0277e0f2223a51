"""A short run: workers of both faces against a cluster that fails in a known sequence of ways, and the check."""

from __future__ import annotations

import os

import pytest

from tests.chaos.faults import Crash, Freeze, Overtake, Restart, Terminate
from tests.chaos.journal import Outcome
from tests.chaos.nemesis import Step
from tests.chaos.network import LostCommit, Partition
from tests.chaos.run import Plan, Result, run

pytestmark = pytest.mark.cluster

SEED = int(os.environ.get("PGROUTE_CHAOS_SEED", "20"))
"""Another sequence can be asked for; the verdict must be the same."""


def play(plan: Plan) -> Result:
    """Run it, and fail with all that is wrong."""
    lines: list[str] = [f"seed {plan.seed}"]
    result = run(plan, lines.append)
    assert not result.verdict.violations, "\n".join([*lines, *map(str, result.verdict.violations)])
    return result


def test_nothing_acknowledged_is_lost_and_nobody_is_misled() -> None:
    faults = (Crash, Freeze, Partition, Terminate, LostCommit, Restart)
    result = play(
        Plan(seed=SEED, seconds=30, steps=len(faults), faces=("sync", "async"), faults=faults, brisk=True)
    )
    assert len(result.played) == len(faults)
    assert result.history.count(Outcome.ACKNOWLEDGED) > 200
    assert {read.recovering for read in result.history.reads if read.port} >= {True}
    assert max(row.timeline for row in result.history.rows) == 4


def test_without_synchronous_replication_only_the_servers_lose() -> None:
    script = (
        Step(1, 0.2, Crash("kill", promoted=0.3, lag=0.3, frozen=0, back=0.0)),
        Step(2, 0.2, Overtake(lag=0.3, beside=0.3)),
    )
    result = play(
        Plan(seed=SEED, seconds=30, script=script, mode="async-replication", faces=("async", "sync"))
    )
    told = {
        row.id for row in result.history.left_behind if result.history.outcome(row.id) is Outcome.ACKNOWLEDGED
    }
    # What was written in the seconds before, which no standby received.
    assert result.verdict.lost_by_servers == len(told) > 0
