"""A short seeded run against Patroni, and what its sequence of faults depends on."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.chaos.faults import Terms
from tests.chaos.journal import Outcome
from tests.chaos.nemesis import Step
from tests.docker.chaos import (
    FAULTS,
    Fault,
    Kill,
    KillEtcd,
    Partition,
    Switchover,
    Terminate,
    plan_of,
    play,
    schedule,
)
from tests.docker.patroni import running

SEED = int(os.environ.get("PGROUTE_CHAOS_SEED", "4"))
"""Another sequence can be asked for; the verdict must be the same."""

ROUND = len(FAULTS)


def steps(seed: int, *, brisk: bool = False) -> list[Step]:
    return list(itertools.islice(schedule(seed, Terms(brisk=brisk)), 30 * ROUND))


def test_equal_seeds_make_equal_steps_and_others_do_not() -> None:
    assert steps(7) == steps(7)
    assert steps(7) != steps(8)
    assert steps(7) != steps(7, brisk=True)


def test_every_fault_comes_once_in_each_round() -> None:
    for first in range(0, 30 * ROUND, ROUND):
        kinds: set[type] = {type(step.fault) for step in steps(7)[first : first + ROUND]}
        assert kinds == set(FAULTS)


def test_names_of_faults_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == ROUND


def test_sessions_are_ended_beside_some_faults_but_not_beside_their_ending() -> None:
    beside: set[type] = {type(step.fault) for step in steps(7) if step.overlay is not None}
    assert {type(step.overlay) for step in steps(7)} == {Terminate, type(None)}
    assert beside == {*FAULTS} - {Terminate}


@pytest.mark.long
@pytest.mark.usefixtures("images")
def test_nothing_acknowledged_is_lost_and_nobody_is_misled(compose_command: str, tmp_path: Path) -> None:
    faults: tuple[type[Fault], ...] = (Kill, KillEtcd, Partition, Switchover)
    lines: list[str] = [f"seed {SEED}"]
    with running(compose_command) as cluster:
        plan = plan_of(SEED, 60, faults=faults, steps=len(faults), brisk=True)
        result = play(cluster, plan, tmp_path, lines.append)
    assert not result.verdict.violations, "\n".join([*lines, *map(str, result.verdict.violations)])
    assert len(result.played) == len(faults)
    assert result.history.count(Outcome.ACKNOWLEDGED) > 200
    assert {read.recovering for read in result.history.reads if read.port} >= {True}
    assert max(row.timeline for row in result.history.rows) > 1
