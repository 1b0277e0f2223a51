"""When a host is asked next, and whose sessions are beyond hope."""

from __future__ import annotations

from random import Random

import pytest

from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey
from pgroute.core.schedule import (
    CONNECT_GAP,
    REJECTED_GAP,
    connect_delay,
    forsaken,
    hopeless,
    probe_delay,
    release_after,
)
from tests.core.world import A, B, C, D, World


class Dice(Random):
    """A Random that rolls what it is told."""

    def __init__(self, roll: float = 0.5) -> None:
        super().__init__()
        self.roll = roll

    def random(self) -> float:
        return self.roll


OPTIONS = ProbeOptions()


def probe(world: World, *, outage: float = 0.0, roll: float = 0.5, options: ProbeOptions = OPTIONS) -> float:
    return probe_delay(world.topology, B, options, world.now + outage, Dice(roll))


def connect(world: World, *, outage: float = 0.0, roll: float = 0.5) -> float:
    return connect_delay(world.topology, B, OPTIONS, world.now + outage, Dice(roll))


def test_interval_while_a_primary_is_known():
    assert probe(World().settled(), outage=100) == 1.0
    assert probe(World().settled(), options=ProbeOptions(interval=7.5)) == 7.5


@pytest.mark.parametrize(
    ("outage", "delay"),
    [(0.0, 0.02), (2.0, 0.02), (4.0, 0.04), (20.0, 0.2), (50.0, 0.5), (600.0, 0.5)],
)
def test_one_percent_of_the_outage_between_20_and_500_ms(outage, delay):
    assert probe(World().settled().refuse(A), outage=outage) == pytest.approx(delay)


def test_suspect_primary_hurries_the_probes():
    assert probe(World().settled().timeout(A)) == pytest.approx(0.02)


def test_outage_never_makes_the_probes_rarer():
    world = World().settled().refuse(A)
    assert probe(world, outage=600, options=ProbeOptions(interval=0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize(("roll", "delay"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_delay_is_jittered_by_a_tenth(roll, delay):
    assert probe(World().settled(), roll=roll) == pytest.approx(delay)


RARELY = ProbeOptions(interval=30.0)


def all_standbys(world: World) -> World:
    return world.standby(A).standby(B).standby(C)


def test_hosts_that_have_long_been_standbys_all_are_asked_at_the_interval():
    world = all_standbys(World())
    assert probe(world, outage=59, options=RARELY) == pytest.approx(0.5, rel=0.3)
    assert probe(world, outage=61, options=RARELY) == 30.0
    assert all_standbys(world.pass_time(3600)).topology.outage(world.now) is None


@pytest.mark.parametrize(
    "world",
    [
        World().settled().standby(A),
        all_standbys(World()).refuse(C),
        all_standbys(World()).timeout(C),
        World().standby(A).standby(B).primary(C, 1).refuse(C).members(A, B),
        World().members(),
    ],
    ids=["one was the primary", "one is down", "one is silent", "the primary left", "no hosts"],
)
def test_lost_primary_is_looked_for_however_long_it_takes(world):
    assert probe(world, outage=3600, options=RARELY) == 0.5


def test_standby_that_refuses_new_logins_still_tells_that_it_is_one():
    world = all_standbys(World()).reject(C, linked=True)
    assert probe(world, outage=61, options=RARELY) == 30.0


def test_rival_is_asked_at_once():
    world = World().settled().primary(B, 1)
    assert probe(world) == 0.0
    assert probe(world.primary(B, 1)) > 0.0


def test_attempts_at_a_rejecting_host_are_5_s_apart():
    assert connect(World().settled().reject(B), roll=1.0) == REJECTED_GAP == 5.0


@pytest.mark.parametrize(("roll", "delay"), [(0.0, 0.2), (1.0, 0.22)])
def test_starting_host_is_tried_again_soon_even_while_a_primary_is_known(roll, delay):
    assert connect(World().settled().fail(B, FaultKind.STARTING), roll=roll) == pytest.approx(delay)


@pytest.mark.parametrize(("waited", "delay"), [(1.0, 0.2), (5.0, 0.5), (10.0, 1.0), (3600.0, 1.0)])
def test_host_that_stays_starting_is_tried_ever_more_rarely_down_to_the_interval(waited, delay):
    world = World().settled().fail(B, FaultKind.STARTING)
    since = world.host(B).since
    world.pass_time(waited / 2).fail(B, FaultKind.STARTING)
    assert connect(world, outage=since + waited - world.now, roll=0.5) == pytest.approx(delay, rel=0.06)


def test_starting_host_without_a_primary_is_tried_at_least_as_often_as_any():
    world = World().settled().refuse(A).fail(B, FaultKind.STARTING)
    assert connect(world, outage=600) == pytest.approx(0.5)


def test_attempts_are_as_rare_as_probes_while_a_primary_is_known():
    assert connect(World().settled().refuse(B)) == 1.0


@pytest.mark.parametrize(("roll", "outage", "delay"), [(0.0, 0, 0.2), (1.0, 0, 0.22), (0.5, 600, 0.5)])
def test_attempts_without_a_primary_are_at_least_200_ms_apart(roll, outage, delay):
    world = World().settled().refuse(A).refuse(B)
    assert connect(world, roll=roll, outage=outage) == pytest.approx(delay)
    assert connect(world, roll=roll, outage=outage) >= CONNECT_GAP


def test_attempts_at_a_rival_are_not_a_storm():
    assert connect(World().settled().primary(B, 1)) >= CONNECT_GAP


def test_host_that_left_the_list_is_not_hurried():
    world = World().settled().members(A, C)
    assert connect(world) == 1.0


# Sessions to abort.


def lost(world: World, *, after: float = 0.0, options: ProbeOptions = OPTIONS) -> dict[str, str]:
    told = hopeless(world.topology, options, world.now + after)
    return {key.host: text for key, text in told.items()}


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
    """What is forsaken by one change."""
    before = world.topology
    change(world)
    return forsaken(before, world.topology)


def test_a_silent_host_whose_name_moves_is_forsaken():
    world = World().settled().primary(A, address="10.0.0.1").timeout(A)
    found = left(world, lambda w: w.primary(A, 2, address="10.0.0.2"))
    assert found == {A: f"{A} did not answer at 10.0.0.1, and is at 10.0.0.2 now"}


def test_a_silent_host_that_leaves_is_forsaken():
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
def test_others_are_not_forsaken(change):
    assert left(World().settled().primary(A, address="10.0.0.1"), change) == {}


def test_a_silent_host_that_answers_again_is_not_forsaken():
    world = World().settled().primary(A, address="10.0.0.1").timeout(A)
    assert left(world, lambda w: w.primary(A, address="10.0.0.1")) == {}
