"""Hosts that came back: when a return counts as one, and how their share grows."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, SessionAttrs
from pgroute.core.routing.acquisition import Acquisition, Try
from pgroute.core.routing.balance import Ordered, Policy, Uniform
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.routing.round_robin import RoundRobin
from pgroute.core.routing.warm_up import COLD, WARM_UP, warmth
from tests.core.world import A, B, C, D, World


def idle(key: HostKey) -> int:
    return 0


def shares(world: World, policy: Policy, count: int = 4000) -> dict[HostKey, float]:
    rng = Random(7)
    got: Counter[HostKey] = Counter()
    for _ in range(count):
        chosen = first_choice(world.topology, SessionAttrs.STANDBY, policy, rng, idle, now=world.now)
        assert chosen is not None
        got[chosen.key] += 1
    return {key: n / count for key, n in got.items()}


def weights(world: World) -> dict[HostKey, float]:
    """The weights that a policy sees now."""

    class Spy:
        def pick(self, candidates: tuple[Candidate, ...], load: Any, rng: Random) -> Candidate:
            self.seen = {c.key: c.weight for c in candidates}
            return candidates[0]

    spy = Spy()
    first_choice(world.topology, SessionAttrs.STANDBY, spy, Random(1), idle, now=world.now)
    return spy.seen


# When a return counts as one.


def test_hosts_of_the_start_are_equal_however_late_they_answer() -> None:
    world = World(A, B, C, D).primary(A).standby(B).pass_time(0.9).standby(C).pass_time(0.5).standby(D)
    assert [h.returned_at for h in world.topology.hosts] == [None] * 4
    assert weights(world) == {B: 1, C: 1, D: 1}


def test_host_that_was_down_has_returned() -> None:
    world = World().settled().refuse(B)
    assert world.host(B).returned_at is None
    world.pass_time(5).standby(B)
    assert world.host(B).returned_at == world.now
    assert weights(world) == {B: COLD, C: 1}


def test_host_that_was_down_at_the_start_warms_up_when_it_comes() -> None:
    world = World().primary(A).refuse(B).standby(C).pass_time(60).standby(B)
    assert weights(world) == {B: COLD, C: 1}


def test_restart_that_no_probe_saw_is_a_return() -> None:
    world = World().settled().pass_time(30).standby(B, started_at=999.0)
    assert world.host(B).returned_at == world.now


def test_host_that_joins_has_returned() -> None:
    world = World().settled().members(A, B, C, D).standby(D)
    assert weights(world) == {B: 1, C: 1, D: COLD}


@pytest.mark.parametrize("change", ["a late probe", "a promotion", "a moved address of the same server"])
def test_host_with_warm_caches_has_not_returned(change: str) -> None:
    world = World().settled()
    match change:
        case "a late probe":
            world.timeout(B).standby(B)
        case "a promotion":
            world.refuse(A).primary(B, 2)
        case _:
            world.standby(B, address="10.0.0.1").standby(B, address="10.0.0.2")
    assert world.host(B).usable
    assert world.host(B).returned_at is None


def test_warm_up_goes_on_through_later_probes_and_begins_again_with_a_second_absence() -> None:
    world = World().settled().refuse(B).standby(B)
    back = world.host(B).returned_at
    world.pass_time(4).standby(B).standby(C)
    assert world.host(B).returned_at == back
    world.refuse(B).standby(B)
    assert world.host(B).returned_at == world.now


# How the share grows.


@pytest.mark.parametrize(
    ("after", "part"), [(-1, COLD), (0, COLD), (WARM_UP / 2, (1 + COLD) / 2), (WARM_UP, 1), (999, 1)]
)
def test_share_grows_evenly(after: float, part: float) -> None:
    assert warmth(50.0, 50.0 + after) == pytest.approx(part)


def test_host_that_was_never_away_has_its_whole_share() -> None:
    assert warmth(None, 0.0) == 1.0


@given(st.floats(0, 2 * WARM_UP), st.floats(0, 2 * WARM_UP))
def test_share_never_shrinks(one: float, two: float) -> None:
    early, late = sorted((one, two))
    assert COLD <= warmth(0.0, early) <= warmth(0.0, late) <= 1.0


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin])
def test_sessions_come_back_with_the_share(policy) -> None:
    world = World().settled().refuse(B).standby(B)
    seen = []
    for _ in range(3):
        seen.append(shares(world, policy())[B])
        world.pass_time(WARM_UP / 2)
    assert seen == pytest.approx([0.1 / 1.1, 0.55 / 1.55, 0.5], abs=0.03)


def test_ordered_goes_back_to_the_first_at_once() -> None:
    world = World().settled().refuse(B).standby(B)
    assert shares(world, Ordered(), 10) == {B: 1.0}


def test_all_that_return_together_are_equal() -> None:
    world = World().settled().refuse(B).refuse(C).pass_time(5).standby(B).standby(C).pass_time(1)
    assert shares(world, Uniform()) == pytest.approx({B: 0.5, C: 0.5}, abs=0.03)


def test_only_host_of_a_group_keeps_its_weight() -> None:
    world = World().settled().refuse(C).refuse(B).standby(B)
    assert weights(world) == {B: 1.0}


def test_weight_that_was_given_is_what_grows() -> None:
    world = World(weights={"b": 4.0, "c": 2.0}).settled().refuse(B).standby(B)
    assert weights(world) == {B: 4.0 * COLD, C: 2.0}


def test_later_choices_of_a_caller_warm_up_too() -> None:
    seen = []

    class Spy:
        def pick(self, candidates: tuple[Candidate, ...], load: Any, rng: Random) -> Candidate:
            seen.append({c.key: c.weight for c in candidates})
            return candidates[0]

    world = World().settled().refuse(B).standby(B)
    way = Acquisition(SessionAttrs.STANDBY, Spy(), Random(1), deadline=999.0, timeout=1.0, role="reader")
    assert isinstance(way.step(world.topology, world.now, idle), Try)
    assert seen == [{B: COLD, C: 1.0}]
