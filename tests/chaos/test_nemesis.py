"""The sequence of faults depends on the seed and the terms alone."""

from __future__ import annotations

import itertools

from tests.chaos.faults import Terms
from tests.chaos.nemesis import FAULTS, NETWORK_OVERLAYS, OVERLAYS, Step, schedule
from tests.chaos.network import NETWORK_FAULTS

ROUND = len(FAULTS)


def steps(seed: int, number: int = 3 * ROUND, *, brisk: bool = False) -> list[Step]:
    return list(itertools.islice(schedule(seed, Terms(brisk=brisk, workers=4)), number))


def test_equal_seeds_make_equal_steps_and_others_do_not() -> None:
    assert steps(7) == steps(7)
    assert steps(7) != steps(8)
    assert steps(7) != steps(7, brisk=True)


def test_every_fault_comes_once_in_each_round() -> None:
    for first in range(0, 3 * ROUND, ROUND):
        assert {type(step.fault) for step in steps(7)[first : first + ROUND]} == set(FAULTS)


def test_names_of_faults_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_overlays_touch_no_server_and_the_network_only_beside_others() -> None:
    seen = set()
    for step in steps(7, 40 * ROUND):
        if step.overlay is not None:
            seen.add(type(step.overlay))
            assert type(step.overlay) is not type(step.fault)
            if type(step.fault) in NETWORK_FAULTS:
                assert type(step.overlay) in OVERLAYS
    assert seen == {*OVERLAYS, *NETWORK_OVERLAYS}


def test_a_brisk_run_has_the_same_faults_with_shorter_waiting() -> None:
    assert sum(step.calm for step in steps(7, brisk=True)) < sum(step.calm for step in steps(7)) / 2
