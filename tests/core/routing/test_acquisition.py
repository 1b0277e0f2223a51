"""The acquire step machine: what it does next, how long it takes, and what it says when it gives up."""

from __future__ import annotations

from random import Random
from typing import Any

import psycopg
import psycopg_pool
import pytest

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.routing.acquisition import (
    PATIENCE,
    Acquisition,
    GiveUp,
    Step,
    Try,
    Wait,
    patience,
)
from pgroute.core.routing.balance import Ordered
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.topology.changes import routes
from pgroute.core.topology.observations import Listing, Members
from pgroute.errors import AcquireTimeout, NoHostAvailable, PoolExhausted, SplitBrainError
from tests.core.world import A, B, C, World


def idle(key: HostKey) -> int:
    return 0


class Caller:
    """One caller, whose every step is made at the world's time."""

    def __init__(
        self, world: World, attrs: SessionAttrs = SessionAttrs.READ_WRITE, *, timeout: float = 30.0
    ) -> None:
        self.world = world
        self.way = Acquisition(
            attrs, Ordered(), Random(1), deadline=world.now + timeout, timeout=timeout, role=attrs.pool.value
        )

    def step(self) -> Step:
        return self.way.step(self.world.topology, self.world.now, idle)

    def tried(self) -> Candidate:
        step = self.step()
        assert isinstance(step, Try), step
        return step.candidate

    def waits(self) -> float:
        """The seconds from now until which to wait."""
        step = self.step()
        assert isinstance(step, Wait), step
        return step.until - self.world.now

    def gives_up(self) -> AcquireTimeout:
        step = self.step()
        assert isinstance(step, GiveUp), step
        return step.error

    def fails(self) -> None:
        self.way.failed(self.tried(), psycopg.OperationalError("it broke"))

    def exhausts(self, *, refused: bool = False) -> None:
        self.way.exhausted(self.tried(), "10 of 10 in use", refused=refused)


# Which host.


def test_first_choice_is_of_the_first_group():
    world = World().settled()
    choose: Any = (SessionAttrs.PREFER_STANDBY, Ordered(), Random(1), idle)
    chosen = first_choice(world.topology, *choose, now=world.now)
    assert chosen is not None
    assert chosen.key == B
    world.refuse(B)
    chosen = first_choice(world.topology, *choose, now=world.now)
    assert chosen is not None
    assert chosen.key == C
    world.refuse(A).refuse(C)
    assert first_choice(world.topology, *choose, now=world.now) is None


def test_first_choice_lets_the_policy_see_the_load():
    class LeastUsed:
        def pick(self, candidates: tuple[Candidate, ...], load: Any, rng: Random) -> Candidate:
            return min(candidates, key=lambda c: load(c.key))

    topology = World().settled().topology
    loads = {B: 5, C: 2}
    args = (LeastUsed(), Random(1), loads.__getitem__)
    chosen = first_choice(topology, SessionAttrs.STANDBY, *args, now=100.0)
    assert chosen is not None
    assert chosen.key == C
    way = Acquisition(SessionAttrs.STANDBY, *args[:2], deadline=999.0, timeout=1.0, role="reader")
    step = way.step(topology, 100.0, loads.__getitem__)
    assert isinstance(step, Try)
    assert step.candidate.key == C


def test_every_group_is_tried_before_any_host_again():
    caller = Caller(World().settled(), SessionAttrs.PREFER_STANDBY)
    order = []
    for _ in range(6):
        candidate = caller.tried()
        order.append(candidate.key)
        caller.way.exhausted(candidate, "full")
    assert order == [B, C, A, B, C, A]


@pytest.mark.parametrize("attrs", SessionAttrs)
def test_queue_is_left_after_a_second_by_those_who_may_go_elsewhere(attrs):
    caller = Caller(World().settled(), attrs, timeout=20.0)
    step = caller.step()
    assert isinstance(step, Try)
    alone = attrs in (SessionAttrs.READ_WRITE, SessionAttrs.PRIMARY)
    assert step.timeout == pytest.approx(20.0 if alone else PATIENCE)
    assert patience(attrs, 0.25) == 0.25
    assert patience(attrs, -0.25) == 0.0


def test_routes_differ_only_when_pools_are_concerned():
    world = World().settled()
    before = routes(world.topology)
    assert routes(world.primary(A, lsn=9, rtt=0.5).timeout(B).topology) == before
    assert routes(World().settled().reject(B).topology) == before, "a refused login leaves the pools alone"
    assert routes(World().settled().refuse(B).topology) != before
    assert routes(World().settled().primary(A, read_only=True).topology) != before
    assert routes(world.members(A, B).topology) != before


def test_try_never_outlasts_the_deadline():
    world = World().settled()
    caller = Caller(world, timeout=10.0)
    world.pass_time(9.75)
    step = caller.step()
    assert isinstance(step, Try)
    assert step.timeout == pytest.approx(0.25)


def test_promoted_host_is_tried_at_once_after_the_old_one_failed():
    world = World().settled()
    caller = Caller(world)
    caller.fails()
    world.primary(B, 2)
    assert caller.tried().key == B


def test_new_generation_of_a_failed_host_is_tried_at_once():
    world = World().settled()
    caller = Caller(world)
    caller.fails()
    assert caller.waits() > 0
    world.primary(A, started_at=9.0)
    assert caller.tried().key == A


# Waiting.


def test_without_a_host_it_waits_until_the_deadline():
    world = World()
    caller = Caller(world, timeout=5.0)
    assert caller.waits() == pytest.approx(5.0)
    world.pass_time(3)
    assert caller.waits() == pytest.approx(2.0)
    world.settled()
    assert caller.tried().key == A


def test_pause_grows_from_round_to_round_up_to_half_a_second():
    caller = Caller(World().settled())
    pauses = []
    for _ in range(7):
        caller.fails()
        pauses.append(caller.waits())
        caller.world.pass_time(pauses[-1] + 1e-9)
    longest = [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5]
    assert [0.5 <= pause / most <= 1.5 for pause, most in zip(pauses, longest, strict=True)] == [True] * 7


def test_pause_is_kept_however_often_the_topology_changes():
    world = World().settled()
    caller = Caller(world)
    caller.fails()
    until = world.now + caller.waits()
    for _ in range(3):
        world.now += 0.001
        world.topology = World.primary(world, A).topology
        world.now = min(world.now, until - 0.005)
        assert caller.waits() == pytest.approx(until - world.now)
    world.now = until
    assert caller.tried().key == A


def test_pause_never_outlasts_the_deadline():
    world = World().settled()
    caller = Caller(world, timeout=0.01)
    caller.fails()
    assert caller.waits() == pytest.approx(0.01)


def test_full_pools_are_tried_again_without_a_pause():
    caller = Caller(World().settled())
    caller.exhausts()
    assert caller.tried().key == A


def test_one_failed_host_makes_the_round_pause():
    caller = Caller(World().settled(), SessionAttrs.STANDBY)
    caller.fails()
    caller.exhausts()
    assert 0.01 <= caller.waits() <= 0.03


# The deadline.


def test_nothing_is_tried_after_the_deadline():
    world = World().settled()
    caller = Caller(world, SessionAttrs.STANDBY, timeout=1.0)
    caller.exhausts()
    world.pass_time(1.0)
    assert isinstance(caller.gives_up(), PoolExhausted)


def test_host_that_comes_at_the_deadline_comes_too_late():
    world = World()
    caller = Caller(world, timeout=1.0)
    caller.waits()
    world.pass_time(1.0).settled()
    assert isinstance(caller.gives_up(), NoHostAvailable)


def test_timeout_of_zero_looks_once_at_every_host():
    caller = Caller(World().settled(), SessionAttrs.PREFER_STANDBY, timeout=0.0)
    looked = []
    while isinstance(step := caller.step(), Try):
        assert step.timeout == 0.0
        looked.append(step.candidate.key)
        caller.way.exhausted(step.candidate, "full")
    assert looked == [B, C, A]
    assert isinstance(step, GiveUp)


def test_timeout_of_zero_without_a_host_gives_up_at_once():
    assert isinstance(Caller(World(), timeout=0.0).gives_up(), NoHostAvailable)


def test_timeout_of_zero_does_not_pause_for_a_failed_host():
    caller = Caller(World().settled(), timeout=0.0)
    caller.fails()
    caller.gives_up()


# Pools that let nobody queue.


def test_pool_that_refuses_to_queue_is_told_at_once():
    caller = Caller(World().settled())
    caller.exhausts(refused=True)
    error = caller.gives_up()
    assert isinstance(error, PoolExhausted)
    assert "within" not in str(error)


def test_refused_caller_queues_at_another_host():
    caller = Caller(World().settled(), SessionAttrs.STANDBY)
    caller.exhausts(refused=True)
    assert caller.tried().key == C
    caller.exhausts()
    assert 0.01 <= caller.waits() <= 0.03


def test_refusal_is_forgotten_when_the_host_lets_the_caller_queue():
    world = World().settled()
    caller = Caller(world, SessionAttrs.STANDBY)
    caller.exhausts(refused=True)
    caller.exhausts()
    world.pass_time(caller.waits() + 1e-9)
    caller.exhausts()
    caller.exhausts(refused=True)
    assert caller.waits() > 0


# What it says.


def test_no_host_error_names_every_host_with_state_reason_and_age():
    world = World().settled().refuse(A).reject(A).refuse(B).pass_time(2.5)
    caller = Caller(world, timeout=1.5)
    caller.waits()
    world.pass_time(1.5)
    error = caller.gives_up()
    assert type(error) is NoHostAvailable
    assert isinstance(error, psycopg_pool.PoolTimeout)
    assert error.topology is world.topology
    assert not error.rerun_safe
    assert str(error).splitlines() == [
        "no writer session (read-write) within 1.5 s",
        "  a:5432: primary, rejected for 4.0 s: told rejected",
        "  b:5432: standby, down for 4.0 s: told refused",
        "  c:5432: standby, up for 4.0 s",
    ]


def test_host_of_unknown_role_is_not_said_to_be_a_role():
    world = World(A, B, C).refuse(B).reject(C)
    error = Caller(world, timeout=0.0).gives_up()
    assert str(error).splitlines()[1:] == [
        "  a:5432: unknown for 0.0 s: not heard from yet",
        "  b:5432: down for 0.0 s, never answered: told refused",
        "  c:5432: rejected for 0.0 s: told rejected",
    ]


def test_host_that_serves_on_while_it_refuses_logins_is_told_as_such():
    world = World().settled().reject(A).pass_time(2)
    caller = Caller(world, timeout=0.0)
    caller.fails()
    error = caller.gives_up()
    assert type(error) is NoHostAvailable
    assert "  a:5432: primary, rejected for 2.0 s, only open connections are used: told rejected" in str(
        error
    )


@pytest.mark.parametrize("role", [SessionAttrs.READ_WRITE, SessionAttrs.PREFER_STANDBY, SessionAttrs.ANY])
def test_caller_gives_up_at_once_where_every_host_refuses_the_login_at_first_contact(role):
    world = World()
    caller = Caller(world, role)
    caller.waits()
    world.reject(A).reject(B)
    assert caller.waits() == pytest.approx(caller.way._deadline - world.now), "one has not been asked"
    world.reject(C)
    error = caller.gives_up()
    assert type(error) is NoHostAvailable
    assert (
        str(error).splitlines()[0]
        == f"no {role.pool.value} session ({role.value}): every host refuses the login"
    )
    assert str(error).count("told rejected") == 3


@pytest.mark.parametrize(
    "history",
    [
        lambda w: w.reject(A).reject(B).refuse(C),
        lambda w: w.reject(A).reject(B).fail(C, FaultKind.STARTING),
        lambda w: w.reject(A).reject(B).fail(C, FaultKind.BUSY),
        lambda w: w.settled().refuse(A).refuse(B).refuse(C).reject(A).reject(B).reject(C),
        lambda w: w.standby(C, fresh=True).fail(C, FaultKind.STARTING).reject(A).reject(B).reject(C),
        lambda w: w.members(),
    ],
    ids=[
        "one is down",
        "one is starting",
        "one is full",
        "all accepted logins before",
        "one did",
        "no hosts",
    ],
)
def test_caller_waits_where_a_login_may_succeed_later(history):
    world = World()
    history(world)
    assert Caller(world, timeout=5.0).waits() == pytest.approx(5.0)


# A host that lets nobody new in.


def test_pool_that_cannot_grow_because_logins_are_refused_is_exhausted():
    world = World().settled().reject(A, linked=True)
    caller = Caller(world, timeout=1.0)
    caller.way.failed(caller.tried(), psycopg_pool.PoolTimeout("no connection within 1 s"), in_use=3)
    world.pass_time(1.0)
    error = caller.gives_up()
    assert type(error) is PoolExhausted
    assert str(error).splitlines()[0] == (
        "no writer session (read-write) within 1 s: "
        "a:5432: all of its 3 connections are in use, and new ones are refused: told rejected"
    )


def test_full_pool_of_a_host_that_refuses_logins_says_so():
    world = World().settled()
    caller = Caller(world, timeout=0.0)
    caller.exhausts()
    world.reject(A, linked=True)
    first = str(caller.gives_up()).splitlines()[0]
    assert first.endswith("a:5432: 10 of 10 in use, and new ones are refused: told rejected")


def test_pool_of_a_sound_host_that_could_not_connect_in_time_is_not_exhausted():
    caller = Caller(World().settled(), timeout=0.0)
    caller.way.failed(caller.tried(), psycopg_pool.PoolTimeout("too late"), in_use=3)
    assert type(caller.gives_up()) is NoHostAvailable


# In order from the first session on.


@pytest.mark.parametrize("attrs", [SessionAttrs.PREFER_STANDBY, SessionAttrs.STANDBY, SessionAttrs.ANY])
def test_first_session_in_order_waits_for_an_earlier_host(attrs):
    world = World(ordered=True).standby(C)
    caller = Caller(world, attrs)
    world.standby(B)
    assert first_choice(world.topology, attrs, Ordered(), Random(1), idle, now=world.now) is None
    assert world.topology.only.get(attrs) is None
    assert caller.waits() > 0
    world.standby(A)
    assert caller.tried().key == A
    caller.way.exhausted(Candidate(A, 0, HostRole.STANDBY), "full")
    assert caller.tried().key == B


@pytest.mark.parametrize("miss", [World.timeout, World.refuse, World.reject, World.standby])
def test_first_session_in_order_passes_over_an_earlier_host_once_it_is_heard_of(miss):
    world = World(ordered=True).standby(C).standby(B)
    caller = Caller(world, SessionAttrs.STANDBY)
    caller.waits()
    miss(world, A)
    assert caller.tried().key == (A if miss is World.standby else B)


def test_first_session_in_any_order_takes_who_answers():
    assert Caller(World().standby(C).standby(B), SessionAttrs.STANDBY).tried().key == B


def test_later_a_host_that_joins_ahead_is_not_waited_for():
    world = World(B, C, ordered=True).standby(B).standby(C).members(A, B, C)
    assert not world.topology.initial_scan_done
    assert world.groups(SessionAttrs.STANDBY) == [[B, C]]


def test_host_of_a_later_priority_is_not_waited_for():
    for first, last, groups in [(2, 1, [[B]]), (1, 2, [])]:
        world = World(A, B, ordered=True, check_system_id=False)
        world.see(Members((A, B), {A: Listing(priority=first), B: Listing(priority=last)}))
        assert world.standby(B).groups(SessionAttrs.STANDBY) == groups


def test_read_only_primary_is_told_as_such_and_the_time_in_few_digits():
    world = World().settled().primary(A, read_only=True)
    caller = Caller(world, timeout=4.99998)
    caller.waits()
    world.pass_time(5.0)
    error = str(caller.gives_up())
    assert "within 5 s" in error
    assert "a:5432: read-only primary, up for" in error


def test_age_of_a_state_is_never_negative():
    world = World().settled()
    world.now -= 5
    assert "for 0.0 s" in str(
        Caller(world, SessionAttrs.READ_WRITE, timeout=0.0).way._error(world.topology, 1.0)
    )


def test_exhausted_error_tells_the_pool():
    world = World().settled()
    caller = Caller(world, timeout=1.0)
    caller.exhausts()
    world.pass_time(1.0)
    error = caller.gives_up()
    assert type(error) is PoolExhausted
    first = str(error).splitlines()[0]
    assert first == "no writer session (read-write) within 1 s: a:5432: 10 of 10 in use"


def test_pool_of_a_host_that_no_longer_serves_is_not_what_is_exhausted():
    world = World().settled()
    caller = Caller(world, timeout=1.0)
    caller.exhausts()
    world.refuse(A).pass_time(1.0)
    assert type(caller.gives_up()) is NoHostAvailable


def test_host_that_failed_after_it_was_full_is_not_exhausted():
    world = World().settled()
    caller = Caller(world, timeout=1.0)
    caller.exhausts()
    caller.fails()
    world.pass_time(1.0)
    assert type(caller.gives_up()) is NoHostAvailable


def test_split_brain_error_names_both():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1)
    caller = Caller(world, timeout=1.0)
    assert caller.waits() == pytest.approx(1.0)
    world.pass_time(1.0)
    error = caller.gives_up()
    assert type(error) is SplitBrainError
    assert "split brain, a:5432 and b:5432 both claim to be the primary" in str(error).splitlines()[0]


def test_reader_that_found_only_full_pools_in_a_split_brain_is_told_of_them():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1)
    caller = Caller(world, SessionAttrs.STANDBY, timeout=0.0)
    caller.exhausts()
    assert type(caller.gives_up()) is PoolExhausted


def test_reader_whose_standby_failed_in_a_split_brain_is_not_told_of_it():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1)
    caller = Caller(world, SessionAttrs.STANDBY, timeout=0.0)
    caller.fails()
    assert type(caller.gives_up()) is NoHostAvailable


def test_causes_are_attached():
    world = World().settled()
    caller = Caller(world, SessionAttrs.STANDBY, timeout=0.0)
    first, last = psycopg.OperationalError("first"), psycopg.OperationalError("last")
    caller.way.failed(caller.tried(), first)
    caller.way.failed(caller.tried(), last)
    error = caller.gives_up()
    assert error.__cause__ is last
    assert error.__notes__ == ["b:5432: first", "c:5432: last"]
    assert str(error).splitlines()[2:] == [
        "  b:5432: standby, up for 0.0 s: connecting failed: first",
        "  c:5432: standby, up for 0.0 s: connecting failed: last",
    ]


def test_error_without_a_cause_has_none():
    error = Caller(World(), timeout=0.0).gives_up()
    assert error.__cause__ is None
    assert not hasattr(error, "__notes__")


@pytest.mark.many
def test_thousand_callers_never_wait_past_their_deadline():
    rng = Random(7)
    for _ in range(200):
        world = World().settled()
        attrs = rng.choice(list(SessionAttrs))
        timeout = rng.choice([0.0, 0.3, 2.0])
        caller = Caller(world, attrs, timeout=timeout)
        deadline = world.now + timeout
        for _ in range(500):
            step = caller.step()
            if isinstance(step, GiveUp):
                break
            if isinstance(step, Wait):
                assert step.until <= deadline
                world.now = rng.choice([step.until, (world.now + step.until) / 2])
            else:
                assert world.now + step.timeout <= deadline + 1e-9
                outcome = rng.randrange(3)
                if outcome == 0:
                    world.now += step.timeout
                    caller.way.exhausted(step.candidate, "full")
                elif outcome == 1:
                    caller.way.exhausted(step.candidate, "full", refused=True)
                else:
                    world.now += min(step.timeout, 0.01)
                    caller.way.failed(step.candidate, OSError("x"))
            if rng.random() < 0.2:
                now = world.now
                world.fail(rng.choice([A, B, C]), rng.choice([FaultKind.TIMEOUT, FaultKind.REFUSED]))
                world.now = now
        else:
            pytest.fail("never gave up")
        assert isinstance(step, GiveUp)
