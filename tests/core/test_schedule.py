"""When a host is probed and connected to next."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import FaultKind
from pgroute.core.schedule import (
    CONNECT_GAP,
    REJECTED_GAP,
    Beat,
    connect_delay,
    login_spread,
    pace,
    probe_delay,
    steady,
)
from tests.core.world import A, B, C, World


class Dice(Random):
    """A Random that rolls what it is told."""

    def __init__(self, roll: float = 0.5) -> None:
        super().__init__()
        self.roll = roll

    def random(self) -> float:
        return self.roll


OPTIONS = ProbeOptions()


def probe(world: World, *, outage: float = 0.0, roll: float = 0.5, options: ProbeOptions = OPTIONS) -> float:
    return probe_delay(world.topology, B, options.interval, world.now + outage, Dice(roll))


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


@pytest.mark.parametrize(
    ("outage", "delay"), [(0.0, 0.005), (5.0, 0.005), (20.0, 0.02), (500.0, 0.5), (3600.0, 0.5)]
)
def test_a_shared_watch_asks_more_often_in_an_outage(outage, delay):
    assert pace(1.0, outage, processes=1) == pytest.approx(delay)
    assert pace(1.0, outage, processes=64) == pytest.approx(delay)


@pytest.mark.parametrize(("processes", "delay"), [(None, 0.1), (1, 0.1), (2, 0.05), (4, 0.025), (64, 0.025)])
def test_a_large_server_is_asked_less_often_in_an_outage_by_processes_that_watch_for_few(processes, delay):
    assert pace(1.0, 0.0, slots=2000, processes=processes) == pytest.approx(delay)


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


@pytest.mark.parametrize(
    ("slots", "seconds"),
    [(1, 0.0), (100, 0.0), (400, 0.0), (1000, 0.3), (3200, 1.4), (10_000, 1.4), (2**31, 1.4)],
)
def test_a_fleet_spreads_its_logins_by_the_size_of_the_server(slots, seconds):
    assert login_spread(slots) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("slots", "outage", "delay"),
    [
        (100, 0.0, 0.02),
        (400, 0.0, 0.02),
        (2000, 0.0, 0.1),
        (2000, 20.0, 0.2),
        (10_000, 0.0, 0.5),
        (50_000, 60.0, 0.5),
    ],
)
def test_a_large_fleet_asks_less_often_during_an_outage(slots, outage, delay):
    world = World().settled().refuse(A)
    found = probe_delay(world.topology, B, 1.0, world.now + outage, Dice(), slots=slots)
    assert found == pytest.approx(delay)
    assert probe_delay(World().settled().topology, B, 1.0, 200.0, Dice(), slots=slots) == 1.0


@pytest.mark.parametrize(
    ("slots", "roll", "delay"), [(100, 1.0, 0.22), (800, 0.5, 0.4), (10_000, 0.0, 1.4), (10_000, 1.0, 4.2)]
)
def test_a_large_fleet_connects_less_often_to_a_host_that_is_away(slots, roll, delay):
    world = World().settled().refuse(A)
    found = connect_delay(world.topology, A, OPTIONS, world.now, Dice(roll), slots=slots)
    assert found == pytest.approx(delay)
    assert (
        connect_delay(world.topology, A, OPTIONS, world.now, Dice(roll), slots=slots, kicked=True)
        == CONNECT_GAP
    )


def rounds(phases: list[float], interval: float, seed: int, count: int) -> list[list[float]]:
    """Return the times at which hosts are probed that were probed first at these times, host by host."""
    beat, rng = Beat(), Random(seed)
    asked = [[100.0 + phase] for phase in phases]
    due = [beat.next(times[-1], interval, rng) for times in asked]
    while min(map(len, asked)) < count:
        host = due.index(min(due))
        asked[host].append(due[host])
        due[host] = beat.next(due[host], interval, rng)
    return [times[:count] for times in asked]


@pytest.mark.parametrize("interval", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("phases", [[0.0, 0.0, 0.0], [0.0, 0.3, 0.5], [0.0, 0.45, 0.9], [0.0, 0.51]])
def test_hosts_are_soon_probed_together_at_irregular_moments(phases, interval):
    for seed in range(20):
        times = rounds([phase * interval for phase in phases], interval, seed, 40)
        for host in times:
            gaps = [later - earlier for earlier, later in itertools.pairwise(host)]
            assert all(0.9 - 1e-9 <= gap / interval <= 1.1 + 1e-9 for gap in gaps)
            assert sum(gaps) / len(gaps) == pytest.approx(interval, rel=0.05)
            assert len({round(gap, 6) for gap in gaps}) > 20
        # Each host has 20 more; together they have hardly any more than that.
        assert len({round(at, 6) for host in times for at in host[20:]}) <= 22


def test_a_host_that_was_asked_in_between_comes_back_to_the_others():
    beat, rng = Beat(), Random(1)
    others = [beat.next(100.0, 1.0, rng)]
    while others[-1] < 120.0:
        others.append(beat.next(others[-1], 1.0, rng))
    mine = [100.4]
    while mine[-1] < 119.0:
        mine.append(beat.next(mine[-1], 1.0, rng))
    assert mine[-1] in others


def test_moments_of_other_intervals_do_not_count():
    beat, rng = Beat(), Random(1)
    slow = beat.next(100.0, 1.0, rng)
    assert 100.09 <= beat.next(100.0, 0.1, rng) <= 100.11
    assert beat.next(100.0, 1.0, rng) == slow


def test_a_beat_begins_anew_after_a_pause():
    beat, rng = Beat(), Random(1)
    beat.next(100.0, 1.0, rng)
    assert 5000.9 <= beat.next(5000.0, 1.0, rng) <= 5001.1


def test_intervals_that_are_out_of_use_are_forgotten():
    beat, rng = Beat(), Random(1)
    for number in range(1000):
        beat.next(100.0 + number, 0.5 + number / 1000, rng)
    assert len(beat._moments) < 5


def test_neither_an_outage_nor_a_rival_waits_for_the_moment():
    world = World().settled()
    assert steady(world.topology, B, world.now)
    assert not steady(world.refuse(A).topology, B, world.now)
    rival = World().settled().primary(B, 1)
    assert not steady(rival.topology, B, rival.now)
    assert steady(all_standbys(World()).topology, B, 300.0)
