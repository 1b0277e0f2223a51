"""Hosts that the operator has drained: no new sessions, whatever else is observed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.events import EventKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.topology.observations import Drain, Listing, Members, Readmit
from tests.core.world import A, B, C, D, World

BY_OPERATOR = "drained by the operator, gets no new sessions"


def drain(world: World, *hosts: HostKey) -> World:
    return world.see(Drain(frozenset(hosts)))


def readmit(world: World, *hosts: HostKey) -> World:
    return world.see(Readmit(frozenset(hosts)))


def everywhere(world: World) -> set[HostKey]:
    return {key for attrs in SessionAttrs for group in world.groups(attrs) for key in group}


def test_a_drained_standby_gets_no_session_of_any_kind() -> None:
    world = drain(World().settled(), B)
    assert everywhere(world) == {A, C}
    host = world.host(B)
    assert (host.state, host.reason, host.usable, host.drained) == (
        HostState.DRAINED,
        BY_OPERATOR,
        False,
        True,
    )
    assert host.role is HostRole.STANDBY
    assert [h.key for h in world.topology.standbys] == [C]
    assert BY_OPERATOR in str(world.topology)


def test_a_drained_primary_is_still_the_primary_and_nobody_writes() -> None:
    world = drain(World().settled(), A)
    assert world.topology.primary is not None
    assert world.topology.primary.key == A
    assert world.writers == []
    assert everywhere(world) == {B, C}
    assert world.topology.why_not_writable == f"the primary {A} is drained"
    assert world.lost_at() is None


def test_its_pools_end_and_new_ones_begin_when_it_is_readmitted() -> None:
    world = World().settled()
    before = world.host(B)
    drained = drain(world, B).host(B)
    assert drained.generation == before.generation + 1
    again = readmit(world.pass_time(5.0), B).host(B)
    assert again.generation == drained.generation
    assert (again.state, again.usable, again.drained, again.reason) == (HostState.UP, True, False, "")
    assert again.returned_at == world.now


def test_both_are_told() -> None:
    world = World().settled()
    world.events.clear()
    readmit(drain(world, B), B)
    assert [(e.kind, e.host, e.text) for e in world.events] == [
        (EventKind.HOST_CHANGED, B, f"{B} standby up -> standby drained ({BY_OPERATOR})"),
        (EventKind.HOST_CHANGED, B, f"{B} standby drained -> standby up"),
    ]


@pytest.mark.parametrize("do", [drain, readmit])
def test_what_is_so_already_changes_nothing(do: Any) -> None:
    world = World().settled()
    do(world, B)
    before = world.topology
    do(world, B)
    assert world.topology is before


def test_it_stays_drained_through_failures_and_answers() -> None:
    world = drain(World().settled(), B)
    world.timeout(B)
    assert (world.state(B), world.host(B).usable) == (HostState.SUSPECT, False)
    assert world.reason(B) == f"told timeout; {BY_OPERATOR}"
    world.timeout(B)
    assert world.state(B) is HostState.DOWN
    world.standby(B)
    assert (world.state(B), world.host(B).usable) == (HostState.DRAINED, False)


def test_a_host_may_be_drained_before_it_was_heard_of_and_while_it_is_down() -> None:
    world = drain(World(), B)
    assert world.reason(B) == f"not heard from yet; {BY_OPERATOR}"
    world.settled()
    assert world.state(B) is HostState.DRAINED
    world.refuse(C)
    world.events.clear()
    drain(world, C)
    assert [e.host for e in world.events] == [C]
    assert world.host(C).drained


def test_it_stays_drained_when_it_leaves_and_comes_back() -> None:
    world = drain(World().settled(), B)
    world.members(A, C)
    assert world.topology.drained == {B}
    world.members(A, B, C, D).standby(B).standby(D)
    assert world.state(B) is HostState.DRAINED
    assert everywhere(world) == {A, C, D}
    world.members(A, C)
    readmit(world, B)
    world.members(A, B, C).standby(B)
    assert everywhere(world) == {A, B, C}


def test_a_promoted_standby_serves_while_the_old_primary_is_drained() -> None:
    world = drain(World().settled(), A)
    world.primary(B, timeline=2)
    assert world.writers == [B]
    assert world.state(A) is HostState.STALE
    assert world.reason(A).endswith(f"; {BY_OPERATOR}")
    world.standby(A, timeline=2, started_at=9999.0)
    assert world.state(A) is HostState.DRAINED


def test_a_drained_standby_that_is_promoted_keeps_writers_waiting() -> None:
    world = drain(World().settled(), B).refuse(A)
    world.primary(B, timeline=2)
    assert world.topology.primary is not None
    assert world.topology.primary.key == B
    assert world.writers == []
    readmit(world, B)
    assert world.writers == [B]


def test_no_rule_is_changed_by_it() -> None:
    """A drained primary still counts: beside it no other one on its timeline is elected."""
    world = drain(World().settled(), A)
    world.primary(B).primary(A).primary(B)
    assert world.topology.split_brain == {A, B}
    assert world.writers == []


class Operated(RuleBasedStateMachine):
    """Whatever is observed, exactly the hosts that were drained last are not used because of that."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.free = World()
        self.drained: set[HostKey] = set()

    hosts = st.sampled_from([A, B, C])

    def both(self, do: Any) -> None:
        for world in (self.world, self.free):
            do(world)

    @rule(host=hosts, primary=st.booleans(), timeline=st.integers(1, 3))
    def answers(self, host: HostKey, primary: bool, timeline: int) -> None:
        self.both(lambda w: w.primary(host, timeline) if primary else w.standby(host, timeline))

    @rule(host=hosts, kind=st.sampled_from([FaultKind.TIMEOUT, FaultKind.REFUSED, FaultKind.REJECTED]))
    def fails(self, host: HostKey, kind: FaultKind) -> None:
        self.both(lambda w: w.fail(host, kind))

    @rule(hosts=st.sets(hosts, min_size=1))
    def listed(self, hosts: set[HostKey]) -> None:
        self.both(lambda w: w.members(*sorted(hosts)))

    @rule(host=hosts)
    def is_drained(self, host: HostKey) -> None:
        self.drained.add(host)
        drain(self.world, host)

    @rule(host=hosts)
    def is_readmitted(self, host: HostKey) -> None:
        self.drained.discard(host)
        readmit(self.world, host)

    @invariant()
    def only_the_drained_are_missing(self) -> None:
        assert everywhere(self.world) == everywhere(self.free) - self.drained
        assert self.world.topology.drained == self.drained
        for host in self.world.topology.hosts:
            assert host.drained is (host.key in self.drained)
            assert (BY_OPERATOR in host.reason) is host.drained
        ours, theirs = self.world.topology.primary, self.free.topology.primary
        assert (ours and ours.key) == (theirs and theirs.key)


Operated.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestOperated = Operated.TestCase


NAME, SERVICE = HostKey("db.test", 5432), HostKey("_pg._tcp.test", 5432)


@pytest.mark.parametrize(
    ("entry", "origin", "stands_for"),
    [
        (NAME, "name db.test", [NAME._replace(hostaddr=f"10.0.0.{n}") for n in (1, 2)]),
        (SERVICE, "SRV _pg._tcp.test", [HostKey("one.test", 5433), HostKey("two.test", 5434)]),
    ],
    ids=["name", "service"],
)
def test_a_name_that_is_drained_before_it_resolves_is_drained_whatever_it_stands_for(
    entry: HostKey, origin: str, stands_for: list[HostKey]
) -> None:
    def follow(*hosts: HostKey) -> None:
        world.see(Members((A, other, *hosts), {key: Listing(origin) for key in hosts}))

    first, second = stands_for
    other = NAME._replace(port=1, hostaddr="10.0.0.3")
    world = drain(World(A, entry).primary(A).refuse(entry), entry)
    follow(first)
    world.standby(first)
    assert everywhere(world) == {A}
    follow(first, second)
    assert {host.key for host in world.topology.hosts if host.drained} == {first, second}
    readmit(world, entry)
    assert not world.topology.drained
    assert everywhere(world.standby(second, started_at=1.0)) == {A, first, second}
