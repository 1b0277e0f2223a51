"""A short run: increments under keys by several processes, in both faces, through a few faults."""

from __future__ import annotations

import os

import pytest

from tests.chaos.clients import KillWorker
from tests.chaos.failover import Crash
from tests.chaos.network import LostCommit
from tests.soak.calls import Call
from tests.soak.run import Plan, misled, run

SEED = int(os.environ.get("PGROUTE_CHAOS_SEED", "20"))
"""Another sequence can be asked for; the count must be the same."""


@pytest.mark.cluster
def test_increments_under_keys_are_counted_exactly_once_through_faults() -> None:
    lines: list[str] = [f"seed {SEED}"]
    kinds = (Crash, LostCommit, KillWorker)
    result = run(
        Plan(seed=SEED, increments=300, processes=3, faults=len(kinds), kinds=kinds, brisk=True, spread=4.0),
        lines.append,
    )
    assert not result.wrong, "\n".join([*lines, *result.wrong])
    assert len(result.played) == len(kinds)
    assert (result.counter, result.keys) == (300, 300)
    assert sum(call.attempts for call in result.calls) > len(result.calls)


def call(number: int, begun: float, error: str = "", *, bodies: int = 0, worker: int = 1) -> Call:
    return Call(number, worker, 0, begun, bodies=bodies, value=0 if error else number, error=error)


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([call(1, 0.0, bodies=1), call(1, 1.0)], 0),
        ([call(1, 0.0, "CommitUnknown", bodies=1), call(1, 1.0)], 0),
        ([call(1, 0.0, "CommitUnknown"), call(1, 1.0, "NoHostAvailable"), call(1, 2.0)], 0),
        ([call(1, 0.0, "NoHostAvailable"), call(1, 1.0, bodies=1)], 0),
        ([call(1, 0.0, "NoHostAvailable", bodies=1), call(1, 1.0)], 1),
        ([call(1, 0.0)], 1),
        ([call(1, 0.0, bodies=1), call(1, 1.0, worker=3), call(2, 2.0, worker=3)], 0),
        ([call(1, 0.0, worker=3), call(2, 2.0, worker=3)], 1),
    ],
    ids=[
        "asked again",
        "unknown",
        "unknown still",
        "done later",
        "misled",
        "never done",
        "killed",
        "killed once",
    ],
)
def test_what_is_found_done_must_have_been_said_to_be_possible(calls: list[Call], wrong: int) -> None:
    assert len(misled(2, calls)) == wrong
