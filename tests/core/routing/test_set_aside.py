"""Hosts that cannot be connected to come last, and are tried again."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.routing.acquisition import Acquisition, Try
from pgroute.core.routing.balance import Ordered
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.routing.set_aside import RETRY_GAP, SetAside
from tests.core.world import A, B, C, D, World


def candidate(key: HostKey, generation: int = 1) -> Candidate:
    return Candidate(key, generation, HostRole.STANDBY)


def never(key: HostKey) -> bool:
    return False


def keys(groups: Any) -> list[list[HostKey]]:
    return [[c.key for c in group] for group in groups]


GROUPS = ((candidate(A), candidate(B)), (candidate(C),), (candidate(D),))


@pytest.mark.parametrize(
    ("failed", "order"),
    [
        ([], [[A, B], [C], [D]]),
        ([A], [[B], [C], [D], [A]]),
        ([A, B], [[C], [D], [A, B]]),
        ([B, D], [[A], [C], [B], [D]]),
        ([A, B, C], [[D], [A, B], [C]]),
        ([A, B, C, D], [[A, B], [C], [D]]),
    ],
)
def test_failed_hosts_come_last_and_the_last_one_is_never_set_aside(failed, order) -> None:
    aside = SetAside()
    for key in failed:
        aside.failed(candidate(key), 0.0)
    assert keys(aside.behind(GROUPS, never)) == order


@given(st.sets(st.sampled_from([A, B, C, D])))
def test_no_host_is_lost_or_doubled(failed) -> None:
    aside = SetAside()
    for key in failed:
        aside.failed(candidate(key), 0.0)
    found = [c for group in aside.behind(GROUPS, never) for c in group]
    assert sorted(c.key for c in found) == [A, B, C, D]
    assert all(aside.behind(GROUPS, never))


def test_success_ends_it() -> None:
    aside = SetAside()
    aside.failed(candidate(A), 0.0)
    aside.succeeded(A)
    assert not aside.hosts
    assert aside.behind(GROUPS, never) is GROUPS


def test_another_generation_of_the_host_is_not_set_aside() -> None:
    aside = SetAside()
    aside.failed(candidate(A, generation=0), 0.0)
    assert aside.behind(GROUPS, never) is GROUPS


def test_host_with_an_idle_connection_serves_like_any_other() -> None:
    aside = SetAside()
    aside.failed(candidate(A), 0.0)
    assert aside.behind(GROUPS, {A}.__contains__) is GROUPS


def test_host_is_tried_again_by_one_caller_at_a_time() -> None:
    world = World().settled()
    host = world.host(B)
    aside = SetAside()
    aside.failed(candidate(B, host.generation), world.now)
    known = world.topology.by_key
    assert aside.due(known, world.now + RETRY_GAP / 2) == []
    assert aside.due(known, world.now + RETRY_GAP) == [host]
    assert aside.due(known, world.now + RETRY_GAP) == []
    assert aside.due(known, world.now + 2 * RETRY_GAP) == [host]


@pytest.mark.parametrize("fate", ["down", "restarted", "gone"])
def test_host_whose_connections_are_others_now_is_forgotten(fate: str) -> None:
    world = World().settled()
    aside = SetAside()
    aside.failed(candidate(B, world.host(B).generation), world.now)
    match fate:
        case "down":
            world.refuse(B)
        case "restarted":
            world.standby(B, started_at=999.0)
        case _:
            world.members(A, C)
    assert aside.due(world.topology.by_key, world.now) == []
    assert not aside.hosts


def test_hosts_that_left_are_forgotten() -> None:
    aside = SetAside()
    aside.failed(candidate(A), 0.0)
    aside.failed(candidate(B), 0.0)
    aside.retain({B})
    assert list(aside.hosts) == [B]


def test_callers_are_sent_elsewhere_first() -> None:
    world = World().settled()
    aside = SetAside()
    aside.failed(candidate(B, world.host(B).generation), world.now)

    def arrange(groups):
        return aside.behind(groups, never)

    def idle(key: HostKey) -> int:
        return 0

    attrs, rng = SessionAttrs.PREFER_STANDBY, Random(1)
    first = first_choice(world.topology, attrs, Ordered(), rng, idle, now=world.now, arrange=arrange)
    assert first is not None
    assert first.key == C
    way = Acquisition(attrs, Ordered(), rng, deadline=999.0, timeout=9.0, role="reader", arrange=arrange)
    order = []
    for _ in range(3):
        step = way.step(world.topology, world.now, idle)
        assert isinstance(step, Try)
        order.append(step.candidate.key)
        way.exhausted(step.candidate, "full")
    assert order == [C, A, B]
