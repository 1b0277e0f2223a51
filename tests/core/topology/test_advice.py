"""What advice changes about hosts, and what it does not: their roles."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute.core.model.advice import AdviserInfo, HostAdvice
from pgroute.core.model.events import EventKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, SessionAttrs
from pgroute.core.topology.observations import Advised
from tests.core.world import A, B, C, World

ADVISER = AdviserInfo("Patroni", answering=True, source="http://x", heard_at=1.0, members=3, settled=True)


def advise(world: World, hosts: dict[HostKey, HostAdvice] | None = None, **adviser: Any) -> World:
    info = AdviserInfo(**{**{name: getattr(ADVISER, name) for name in ADVISER.__slots__}, **adviser})
    return world.see(Advised(info, hosts or {}))


def test_host_without_reads_comes_last_for_readers_and_serves_alone() -> None:
    world = advise(World().settled(), {B: HostAdvice("b", no_reads=True)})
    assert world.readers == [[C], [A], [B]]
    assert world.groups(SessionAttrs.STANDBY) == [[C], [B]]
    assert world.groups(SessionAttrs.ANY) == [[A, C], [B]]
    assert world.writers == [A]
    world.refuse(A).refuse(C)
    assert world.readers == [[B]]


def test_host_without_reads_comes_before_one_that_may_be_dead() -> None:
    world = advise(World().settled(), {B: HostAdvice("b", no_reads=True)}).timeout(C).timeout(A)
    assert world.readers == [[B], [C], [A]]


def test_primary_without_reads_is_still_the_primary() -> None:
    world = advise(World().settled(), {A: HostAdvice("a", role="replica", no_reads=True)})
    assert world.writers == [A]
    assert world.groups(SessionAttrs.PRIMARY) == [[A]]


def test_zone_of_a_tag_counts_unless_the_user_gives_one() -> None:
    tags = {B: HostAdvice("b", zone="east"), C: HostAdvice("c", zone="east")}
    world = advise(World(zone="east", zones={"c": "west"}).settled(), tags)
    assert world.groups(SessionAttrs.STANDBY) == [[B], [C]]
    assert [world.host(key).zone for key in (A, B, C)] == ["", "east", "west"]


def test_primary_that_hands_over_gets_no_new_sessions_until_another_has_the_role() -> None:
    world = World().settled()
    generation = world.host(A).generation
    told = {A: HostAdvice("a", handing_over="a switchover begins")}
    advise(world, told)
    assert (world.state(A), world.reason(A)) == (HostState.DRAINED, "a switchover begins")
    assert world.host(A).generation > generation
    assert not world.host(A).drained
    assert world.writers == []
    assert world.topology.why_not_writable == "the primary a:5432 is drained"
    assert world.topology.primary is not None
    world.standby(A, 1).primary(B, 2)
    assert world.writers == [B]
    assert world.state(A) is HostState.UP


def test_primary_keeps_its_sessions_if_nobody_can_take_over() -> None:
    told = {A: HostAdvice("a", handing_over="a switchover begins")}
    world = advise(World().settled(), told | {key: HostAdvice("x", no_failover=True) for key in (B, C)})
    assert world.writers == [A]
    world = advise(World().settled().refuse(B).timeout(C), told)
    assert world.writers == [A]


def test_primary_makes_way_only_for_the_member_that_is_named() -> None:
    told = {
        A: HostAdvice("a", handing_over="a switchover begins", successor="c"),
        B: HostAdvice("b"),
        C: HostAdvice("c"),
    }
    world = advise(World().settled(), told)
    assert world.state(A) is HostState.DRAINED
    world.refuse(C)
    assert world.writers == [A]
    assert world.state(A) is HostState.UP
    # Nor for one that is no host.
    world = advise(World().settled(), {key: told[key] for key in (A, B)})
    assert world.writers == [A]


def test_standby_that_is_told_to_hand_over_serves_on() -> None:
    world = advise(World().settled(), {B: HostAdvice("b", handing_over="a switchover begins")})
    assert world.state(B) is HostState.UP
    assert world.writers == [A]


def test_advice_says_nothing_about_roles() -> None:
    lies = {
        A: HostAdvice("a", role="replica", state="stopped"),
        B: HostAdvice("b", role="leader", lag_bytes=0),
    }
    world = advise(World().settled(), lies)
    assert world.writers == [A]
    assert world.readers == [[B, C], [A]]


def test_same_advice_changes_nothing() -> None:
    world = advise(World().settled(), {B: HostAdvice("b", zone="east")})
    before = world.topology
    assert advise(world, {B: HostAdvice("b", zone="east")}).topology is before


def texts(world: World) -> list[str]:
    found = [event.text for event in world.events if event.kind is EventKind.ADVICE]
    world.events.clear()
    return found


def test_each_change_is_told_once() -> None:
    world = World().settled()
    world.events.clear()
    advise(world, {B: HostAdvice("b", lag_bytes=1)}, scope="shop")
    assert texts(world) == ["Patroni at http://x advises on 3 members of shop"]
    advise(world, {B: HostAdvice("b", lag_bytes=2)}, scope="shop")
    assert texts(world) == []
    advise(world, {B: HostAdvice("b", no_reads=True, zone="east")}, scope="shop", paused=True)
    told = ["Patroni is paused: it does not fail over by itself", "b:5432: Patroni says no reads, zone east"]
    assert texts(world) == told
    advise(world, scope="shop", switchover="from a to b", switchover_at=1.0)
    assert texts(world) == [
        "Patroni is not paused any more",
        "Patroni has scheduled a switchover from a to b",
        "b:5432: Patroni says no more: no reads, zone east",
    ]
    advise(world, answering=False, error="dead", strangers=(("d", "d:5432: refused"),))
    assert texts(world) == [
        "Patroni gives no advice, its last answer counts for some time: dead",
        "Patroni has no switchover scheduled any more",
        "member d is no host of the router: d:5432: refused",
    ]
    advise(world, answering=False, error="deader", strangers=(("d", "d:5432: timeout"),), forgotten=True)
    assert texts(world) == ["what Patroni said last is forgotten"]
    advise(world, strangers=(("d", "d:5432: timeout"),))
    assert texts(world) == ["Patroni at http://x advises again on 3 members"]


@pytest.mark.parametrize("paused", [True, False])
def test_why_nothing_can_be_written_names_the_pause(paused: bool) -> None:
    world = advise(World().settled(), paused=paused).refuse(A)
    assert world.topology.why_not_writable == "no primary" + ("; Patroni is paused" if paused else "")
