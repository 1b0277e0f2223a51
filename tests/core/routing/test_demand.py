"""Which hosts satisfy what a session demands of their data, and in which order they are tried."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pgroute.core.model.position import Position
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.core.routing.acquisition import PATIENCE, Acquisition, GiveUp, Step, Try, Wait
from pgroute.core.routing.balance import Ordered
from pgroute.core.routing.demand import Demand, Proof, as_lsn
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.routing.replayed import Replayed
from pgroute.core.topology.observations import Members
from pgroute.errors import ConfigError, NoHostAvailable, PositionLost
from tests.core.world import OTHER, OURS, A, B, C, World

PREFER, STANDBY = SessionAttrs.PREFER_STANDBY, SessionAttrs.STANDBY


def at(lsn: int, timeline: int = 1, system_id: int = OURS) -> Position:
    return Position(system_id, timeline, lsn)


def cluster(*, b: int | None = 100, c: int | None = 100, age: float = 0.0) -> World:
    """A primary that wrote 100 bytes and, one second later, 200; two standbys; and how long ago that was."""
    world = (
        World(A, B, C)
        .primary(A, lsn=100)
        .pass_time(1.0)
        .standby(B, lsn=b)
        .standby(C, lsn=c)
        .primary(A, lsn=200)
    )
    return world.pass_time(age)


def proofs(world: World, demand: Demand) -> list[str]:
    topology = world.topology
    candidates = {c.key: c for group in topology.candidates[PREFER] for c in group}
    return [demand.proof(topology, candidates[key], world.now).value for key in (A, B, C)]


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Demand(max_lag=5.0), ["proven", "proven", "proven"]),
        (Demand(max_lag=0.5), ["proven", "ask", "proven"]),
        (Demand(after=at(100)), ["proven", "proven", "proven"]),
        (Demand(after=at(200)), ["proven", "ask", "proven"]),
        (Demand(max_lag=0.5, after=at(100)), ["proven", "ask", "proven"]),
        (Demand(after=at(1, timeline=2)), ["none", "none", "none"]),
        (Demand(primary=True), ["proven", "none", "none"]),
    ],
)
def test_hosts_satisfy_a_demand_by_what_the_probes_prove(demand, expected):
    assert proofs(cluster(b=100, c=200), demand) == expected


def test_no_question_helps_if_the_primary_itself_was_not_heard_for_as_long():
    assert proofs(cluster(b=200, c=200, age=3.0), Demand(max_lag=2.0)) == ["proven", "none", "none"]
    assert proofs(cluster(b=200, c=200, age=3.0), Demand(max_lag=3.5)) == ["proven", "proven", "proven"]


def test_candidate_of_an_earlier_generation_satisfies_nothing():
    world = cluster()
    [candidate] = [c for g in world.topology.candidates[STANDBY] for c in g if c.key == B]
    world.standby(B, lsn=200, started_at=99.0)
    assert Demand(max_lag=5.0).proof(world.topology, candidate, world.now) is Proof.NONE
    world.see(Members((A, C)))
    assert Demand(max_lag=5.0).proof(world.topology, candidate, world.now) is Proof.NONE


def test_standby_is_judged_by_what_it_tells_itself():
    world = cluster(b=100)
    demand = Demand(max_lag=0.5, after=at(200))
    assert demand.met_by(world.topology, 1, 200, world.now)
    assert not demand.met_by(world.topology, 1, 199, world.now)
    assert not demand.met_by(world.topology, 2, 200, world.now)
    assert not demand.met_by(world.topology, None, 200, world.now)
    assert not Demand(max_lag=0.5).met_by(world.topology, 1, 200, world.now + 0.6)


@pytest.mark.parametrize(
    ("timeline", "lsn", "waited_for"),
    [
        (2, 199, True),
        (2, 900, True),
        (1, 150, True),  # up to the fork
        (1, 151, False),  # on the lost end, or it cannot tell that it follows
        (1, None, False),
        (None, 151, False),
        (3, 151, False),
    ],
)
def test_standby_that_cannot_tell_its_timeline_is_not_waited_for(timeline, lsn, waited_for):
    world = World(A, B).primary(A, lsn=150).standby(B, lsn=150).refuse(A).primary(B, 2, lsn=200, replayed=150)
    assert Demand.may_get_there(world.topology, timeline, lsn) is waited_for


@pytest.mark.parametrize(
    ("b", "c", "order"),
    [
        (200, 200, [[B, C], [A]]),
        (100, 200, [[C], [B], [A]]),
        (100, 100, [[B, C], [A]]),
    ],
)
def test_proven_standbys_come_first_then_those_to_be_asked_then_the_primary(b, c, order):
    world = cluster(b=b, c=c)
    groups = Demand(after=at(200)).arrange(world.topology.candidates[PREFER], world.topology, world.now)
    assert [[candidate.key for candidate in group] for group in groups] == order


def test_nobody_is_asked_any_more_when_the_time_for_it_is_over():
    world = cluster(b=100, c=100)
    groups = world.topology.candidates[PREFER]
    assert [
        [candidate.key for candidate in group]
        for group in Demand(after=at(200)).arrange(groups, world.topology, world.now, asking=False)
    ] == [[A]]


# The position itself.


def test_position_of_another_cluster_is_refused():
    with pytest.raises(ConfigError, match=f"after '{at(1, system_id=OTHER)}'.*{OURS}"):
        Demand(after=at(1, system_id=OTHER)).check(cluster().topology)


def promoted(*, seen: bool = True) -> World:
    world = cluster().refuse(A)
    return world.primary(B, 2, lsn=300, replayed=150, **({} if seen else {"started_at": 99.0}))


@pytest.mark.parametrize(
    ("after", "seen", "says"),
    [
        (at(150), True, None),
        (at(151), True, "was lost: timeline 1 was left for timeline 2"),
        (at(150), False, "cannot be proven to be kept: timeline 1 was left for timeline 2"),
        (at(151), False, "was lost"),
        (at(10**9, timeline=2), True, None),
    ],
)
def test_position_beyond_the_fork_is_told(after, seen, says):
    demand = Demand(after=after)
    topology = promoted(seen=seen).topology
    if says is None:
        demand.check(topology)
        return
    with pytest.raises(PositionLost, match=says) as caught:
        demand.check(topology)
    assert caught.value.position == after
    assert str(after) in str(caught.value)


def test_position_of_a_timeline_that_the_operator_gave_up_was_lost():
    world = promoted()
    world.refuse(B).forget_timeline().primary(A, 1, lsn=200)
    with pytest.raises(PositionLost, match="timeline 2 was left for timeline 1"):
        Demand(after=at(10, timeline=2)).check(world.topology)
    Demand(after=at(10, timeline=3)).check(world.topology)


# The steps of a caller.


class Caller:
    def __init__(self, world: World, attrs: SessionAttrs, demand: Demand, timeout: float = 5.0) -> None:
        self.world = world
        self.demand = demand
        self.in_use = 0
        self.acquisition = Acquisition(
            attrs,
            Ordered(),
            random.Random(1),
            deadline=world.now + timeout,
            timeout=timeout,
            role="reader",
            demand=demand,
        )

    def step(self) -> Step:
        return self.acquisition.step(self.world.topology, self.world.now, lambda _: self.in_use)

    def asks(self, key) -> float:
        """The host is asked, and is behind; return the seconds for which it was asked."""
        step = self.step()
        assert isinstance(step, Try)
        assert step.candidate.key == key
        seconds = self.acquisition.ask_until(self.world.topology, self.world.now) - self.world.now
        self.world.pass_time(seconds)
        self.acquisition.behind(step.candidate)
        return seconds


def test_standbys_share_the_time_to_wait_and_then_the_primary_serves():
    caller = Caller(cluster(), PREFER, Demand(after=at(200), wait=0.1))
    assert caller.asks(B) == pytest.approx(0.05)
    assert caller.asks(C) == pytest.approx(0.05)
    step = caller.step()
    assert isinstance(step, Try)
    assert step.candidate.key == A


def test_without_time_to_wait_each_standby_is_asked_once_at_most():
    caller = Caller(cluster(), PREFER, Demand(after=at(200), wait=0.0))
    assert caller.asks(B) == 0.0
    step = caller.step()
    assert isinstance(step, Try)
    assert step.candidate.key == A


def test_readers_of_standbys_alone_give_up_when_the_time_to_wait_is_over():
    caller = Caller(cluster(), STANDBY, Demand(after=at(200), wait=0.1))
    caller.asks(B)
    caller.asks(C)
    step = caller.step()
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, NoHostAvailable)
    assert "no reader session (standby, after 1b59-1-c8)" in str(step.error)
    assert str(step.error).count("was last seen at 0/64 of 0/C8") == 2


def test_readers_of_standbys_alone_wait_for_a_fresh_one_until_their_deadline():
    caller = Caller(cluster(age=2.0), STANDBY, Demand(max_lag=1.0))
    assert isinstance(caller.step(), Wait)
    caller.world.pass_time(5.0)
    step = caller.step()
    assert isinstance(step, GiveUp)
    text = str(step.error)
    assert "no reader session (standby, max_lag 1 s) within 5 s" in text
    assert text.count("may miss the last 8.0") == 2, text


def test_error_tells_whose_staleness_is_unknown():
    caller = Caller(cluster(b=99, age=2.0), STANDBY, Demand(max_lag=1.0), timeout=0.0)
    step = caller.step()
    assert isinstance(step, GiveUp)
    assert str(step.error).count("staleness unknown") == 1


def test_doubt_about_the_session_before_leaves_only_the_primary():
    world = cluster(b=200, c=200)
    choice = first_choice(
        world.topology,
        PREFER,
        Ordered(),
        random.Random(1),
        lambda _: 0,
        demand=Demand(primary=True),
        now=world.now,
    )
    assert choice is not None
    assert choice.role is HostRole.PRIMARY
    step = Caller(world, STANDBY, Demand(primary=True)).step()
    assert isinstance(step, GiveUp)
    assert "on the primary, since the outcome of an earlier session is not known" in str(step.error)


def test_position_of_an_unseen_timeline_has_the_hosts_probed_once():
    caller = Caller(cluster(), PREFER, Demand(after=at(1, timeline=2)))
    assert isinstance(caller.step(), Wait)
    assert caller.acquisition.is_outdated(caller.world.topology)
    assert not caller.acquisition.is_outdated(caller.world.topology)
    assert not Caller(cluster(), PREFER, Demand(after=at(1))).acquisition.is_outdated(cluster().topology)


@pytest.mark.parametrize(
    ("lsn", "text"), [(0, "0/0"), (0x16B3748, "0/16B3748"), (2**64 - 1, "FFFFFFFF/FFFFFFFF")]
)
def test_positions_are_printed_as_postgresql_does(lsn, text):
    assert as_lsn(lsn) == text


def test_queue_at_a_standby_that_must_be_asked_ends_with_the_time_to_wait():
    caller = Caller(cluster(), PREFER, Demand(after=at(200), wait=0.1))
    caller.in_use = 10
    step = caller.step()
    assert isinstance(step, Try)
    assert step.candidate.key == B
    assert step.timeout == pytest.approx(0.05), "two standbys share the time"
    caller.acquisition.exhausted(step.candidate, "10 of max_size 10 connections in use")
    caller.world.pass_time(0.05)
    step = caller.step()
    assert isinstance(step, Try)
    assert step.candidate.key == C
    assert step.timeout == pytest.approx(0.05)
    caller.acquisition.exhausted(step.candidate, "10 of max_size 10 connections in use")
    caller.world.pass_time(0.05)
    step = caller.step()
    assert isinstance(step, Try)
    assert step.candidate.key == A
    assert step.timeout == PATIENCE


@pytest.mark.parametrize(
    ("attrs", "demand", "in_use"),
    [
        (STANDBY, Demand(after=at(200), wait=0.1), 10),  # no primary would do
        (PREFER, Demand(after=at(100), wait=0.1), 10),  # there is nothing to ask
        (PREFER, Demand(max_lag=0.5), 10),
        (PREFER, Demand(after=at(200), wait=0.1), 0),  # the pool may have to connect first
    ],
)
def test_queue_at_a_standby_lasts_as_long_as_any_otherwise(attrs, demand, in_use):
    caller = Caller(cluster(), attrs, demand)
    caller.in_use = in_use
    step = caller.step()
    assert isinstance(step, Try)
    assert step.timeout == PATIENCE


def test_error_tells_that_the_timeline_of_the_position_was_not_seen():
    step = Caller(cluster(), PREFER, Demand(after=at(1, timeline=2)), timeout=0.0).step()
    assert isinstance(step, GiveUp)
    assert "no host was seen on the timeline of the position" in str(step.error)


# What standbys have told in sessions.


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([(1, 200)], "proven"),
        ([(1, 199)], "ask"),
        ([(1, 200), (1, 150)], "proven"),
        ([(2, 200)], "ask"),
        ([(None, 200)], "ask"),
        ([(1, None)], "ask"),
    ],
)
def test_standby_that_has_told_to_be_there_need_not_be_asked_again(told, expected):
    world = cluster(b=100)
    [candidate] = [c for g in world.topology.candidates[STANDBY] for c in g if c.key == B]
    replayed = Replayed()
    for timeline, lsn in told:
        replayed.note(B, candidate.generation, timeline, lsn)
    demand = Demand(after=at(200))
    assert demand.proof(world.topology, candidate, world.now, replayed).value == expected
    other = replace(candidate, generation=candidate.generation + 1)
    assert not replayed.holds(world.topology.wal, at(200), other), "it has restarted since"
    groups = demand.arrange(world.topology.candidates[STANDBY], world.topology, world.now, replayed=replayed)
    assert [len(group) for group in groups] == ([1, 1] if expected == "proven" else [2])


def test_nothing_is_kept_of_standbys_that_left():
    replayed = Replayed()
    world = cluster()
    for key in (B, C):
        replayed.note(key, 0, 1, 200)
    replayed.retain({C})
    candidates = {c.key: replace(c, generation=0) for g in world.topology.candidates[STANDBY] for c in g}
    assert not replayed.holds(world.topology.wal, at(200), candidates[B])
    assert replayed.holds(world.topology.wal, at(200), candidates[C])


@pytest.mark.parametrize(("attrs", "seconds"), [(PREFER, 0.5), (STANDBY, 1.0)])
def test_waiting_for_standbys_leaves_time_for_the_primary_where_that_would_do(attrs, seconds):
    caller = Caller(cluster(c=None), attrs, Demand(after=at(200), wait=5.0), timeout=1.0)
    waited = [caller.asks(B), caller.asks(C)]
    assert sum(waited) == pytest.approx(seconds)


def test_error_tells_who_is_not_proven_to_follow():
    caller = Caller(promoted(), STANDBY, Demand(max_lag=1.0), timeout=0.0)
    caller.world.standby(C, 1, lsn=400).pass_time(5.0)
    step = caller.step()
    assert isinstance(step, GiveUp)
    assert "not proven to be on timeline 2" in str(step.error)
