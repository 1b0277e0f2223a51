"""Whose sessions in flight are aborted, and why."""

from __future__ import annotations

import pytest

from pgroute.core.abort_policy import release_after, sessions_to_abort, silent_departures
from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey
from tests.core.world import A, B, C, D, World

OPTIONS = ProbeOptions()


def lost(world: World, *, after: float = 0.0, options: ProbeOptions = OPTIONS) -> dict[str, str]:
    told = sessions_to_abort(world.topology.hosts, world.topology, options, world.now + after)
    return {host.key.host: text for host, text in told}


def test_no_session_of_a_healthy_cluster_is_aborted():
    assert lost(World().settled(), after=3600) == {}


@pytest.mark.parametrize("misses", [1, 2])
def test_frozen_old_primary_is_given_up_at_once_when_a_higher_timeline_serves(misses):
    world = World().settled().primary(B, 2)
    for _ in range(misses):
        world.timeout(A)
    assert list(lost(world)) == ["a"]
    assert lost(world, options=ProbeOptions(abort_after=None)).keys() == {"a"}
    assert lost(world, after=2.995) == {"a": lost(world, after=2.995)["a"]}
    assert lost(world)["a"].endswith("s and b:5432 serves")


def test_frozen_primary_keeps_its_sessions_while_no_other_primary_serves():
    world = World().settled().timeout(A).timeout(A)
    assert lost(world, after=3600) == {}


def test_overloaded_standby_keeps_its_sessions_although_the_primary_is_on_a_higher_timeline():
    world = World().settled().primary(B, 2).standby(A, 2).timeout(C)
    assert lost(world) == {}


def test_silent_standby_is_given_up_after_ten_seconds_when_another_host_serves():
    world = World().settled().timeout(C)
    silent = world.host(C).silent_since
    assert silent is not None
    wait = silent + 10 - world.now
    assert lost(world, after=wait - 0.1) == {}
    assert lost(world, after=wait + 0.001) == {"c": "c:5432 has not answered for 10.0 s and a:5432 serves"}
    assert lost(world, after=wait + 0.001, options=ProbeOptions(abort_after=None)) == {}
    assert lost(world, after=5.1, options=ProbeOptions(abort_after=5.0)).keys() == {"c"}


def test_refusing_host_is_given_up_like_a_silent_one():
    world = World().settled().refuse(C)
    assert lost(world, after=9) == {}
    assert list(lost(world, after=11)) == ["c"]


def test_vanished_old_primary_that_refuses_is_given_up_at_once():
    world = World().settled().primary(B, 2).refuse(A)
    assert list(lost(world)) == ["a"]


def test_old_primary_is_given_up_in_time_when_timelines_are_unknown():
    world = World().primary(A, None).standby(B, None).standby(C, None)
    world.timeout(A).timeout(A).primary(B, None)
    assert lost(world, after=5) == {}
    assert list(lost(world, after=11)) == ["a"]


def test_old_primary_is_not_overtaken_by_one_of_unknown_timeline():
    world = World().settled().timeout(A).timeout(A).primary(B, None)
    assert world.writers == [B]
    assert lost(world) == {}


def test_primary_on_the_same_timeline_does_not_overtake():
    world = World().settled().timeout(A).timeout(A).primary(B, 1)
    assert world.writers == [B]
    assert lost(world) == {}
    assert list(lost(world, after=11)) == ["a"]


def test_other_hosts_that_are_not_sound_serve_nobody():
    world = World(A, B).primary(A).standby(B).timeout(A).timeout(B)
    assert lost(world, after=3600) == {}


def test_suspect_new_primary_overtakes_nobody():
    world = World().settled().timeout(A).timeout(A).primary(B, 2).timeout(B)
    assert lost(world, after=1) == {}


def test_old_primary_that_stays_silent_once_a_higher_timeline_was_seen_is_given_up():
    world = World().settled().primary(B, 2)
    assert world.state(A) is HostState.STALE
    assert lost(world, after=3600) == {}
    world.fail(A, FaultKind.TIMEOUT, sent_at=world.topology.highest_timeline_since)
    assert list(lost(world)) == ["a"]
    assert lost(world.refuse(B)) == {}


def test_old_primary_that_has_answered_since_a_higher_timeline_was_seen_keeps_its_sessions():
    world = World().settled().primary(B, 2)
    highest_timeline_since = world.topology.highest_timeline_since
    world.primary(A, 1).fail(A, FaultKind.TIMEOUT, sent_at=highest_timeline_since)
    assert world.state(A) is HostState.STALE
    assert lost(world, after=3600) == {}


@pytest.mark.parametrize(("rtt", "seconds"), [(0.0, 0.15), (0.05, 0.15), (0.2, 0.6)])
def test_distant_old_primary_has_the_time_of_three_answers(rtt, seconds):
    assert release_after(World().primary(A, rtt=rtt).host(A)) == pytest.approx(seconds)


def test_sessions_on_a_stale_primary_that_answers_are_left_alone_unless_asked_for():
    world = World().settled().primary(B, 2).primary(A, 1)
    assert lost(world, after=3600) == {}
    options = ProbeOptions(abort_stale=True)
    assert lost(world, options=options) == {"a": "a:5432 is a stale primary and b:5432 is the primary"}
    assert lost(world.refuse(B), options=options) == {}


def test_sessions_on_an_old_primary_that_is_shutting_down_are_left_alone_unless_asked_for():
    world = World().settled().fail(A, FaultKind.STARTING)
    options = ProbeOptions(abort_stale=True)
    assert lost(world, options=options) == {}, "nobody was promoted"
    world.primary(B, 2)
    assert lost(world, after=3600) == {}
    assert list(lost(world, options=options)) == ["a"]


def test_starting_and_rejecting_hosts_answer():
    world = World(A, B, C, D).settled().standby(D).fail(C, FaultKind.STARTING).reject(D)
    assert lost(world, after=3600) == {}


def left(world: World, change) -> dict[HostKey, str]:
    """Return the hosts whose sessions are aborted at their departure by one change."""
    before = world.topology
    change(world)
    return {was.key: text for was, text in silent_departures(before, world.topology)}


def test_a_silent_host_whose_name_moves_loses_its_sessions():
    world = World().settled().primary(A, address="10.0.0.1").timeout(A)
    found = left(world, lambda w: w.primary(A, 2, address="10.0.0.2"))
    assert found == {A: f"{A} did not answer at 10.0.0.1, and is at 10.0.0.2 now"}


def test_a_silent_host_that_leaves_loses_its_sessions():
    found = left(World().settled().timeout(B), lambda w: w.members(A, C))
    assert found == {B: f"{B} did not answer, and is not listed any more"}


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.members(A, C),
        lambda w: w.primary(A, address="10.0.0.9"),
        lambda w: w.timeout(B),
    ],
    ids=["left while it answered", "moved while it answered", "stayed"],
)
def test_others_keep_their_sessions(change):
    assert left(World().settled().primary(A, address="10.0.0.1"), change) == {}


def test_a_silent_host_that_answers_again_keeps_its_sessions():
    world = World().settled().primary(A, address="10.0.0.1").timeout(A)
    assert left(world, lambda w: w.primary(A, address="10.0.0.1")) == {}
