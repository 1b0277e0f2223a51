"""What changed between two snapshots, told to people and programs."""

from __future__ import annotations

import logging

import pytest

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.events import EventKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey
from pgroute.core.topology.changes import changes
from tests.core.world import A, B, C, D, World


def settled() -> World:
    world = World().settled()
    world.kinds()
    return world


def test_nothing_changed_is_no_event():
    world = settled().primary(A, lsn=5, rtt=0.7).standby(B)
    assert world.kinds() == []
    assert changes(world.topology, world.topology) == ()


def test_first_answers_and_the_first_primary():
    world = World().settled()
    assert world.kinds() == [EventKind.HOST_CHANGED] * 3 + [EventKind.PRIMARY_CHANGED]


def test_primary_changed_names_the_new_primary_and_its_timeline():
    world = settled().primary(B, 2)
    assert [(e.kind, e.host, str(e)) for e in world.events] == [
        (
            EventKind.STALE_PRIMARY,
            A,
            "a:5432 primary up -> primary stale (stale primary: on timeline 1 while timeline 2 was seen at b:5432)",
        ),
        (EventKind.HOST_CHANGED, B, "b:5432 standby up -> primary up"),
        (EventKind.PRIMARY_CHANGED, B, "primary is b:5432, timeline 2, after a:5432"),
    ]
    assert all(e.at == world.now for e in world.events)


def test_views_before_and_after_are_attached():
    world = settled()
    was = world.host(B)
    world.timeout(B)
    (event,) = world.events
    assert event.before is was
    assert event.after is world.host(B)
    assert event.text == "b:5432 standby up -> standby suspect (told timeout)"


def test_suspect_primary_is_not_lost_and_a_down_one_is():
    world = settled().timeout(A)
    assert world.kinds() == [EventKind.HOST_CHANGED]
    world.timeout(A)
    lost = world.events[-1]
    told = "no primary: a:5432 was the last, and is down (told timeout)"
    assert (lost.kind, lost.host, lost.text) == (EventKind.PRIMARY_LOST, A, told)


def test_primary_that_comes_back_is_told():
    world = settled().refuse(A).primary(A)
    assert world.kinds()[-1] is EventKind.PRIMARY_CHANGED


def test_a_name_that_moved_is_told():
    world = World(A).primary(A, address="10.0.0.1").primary(A, address="10.0.0.1")
    world.kinds()
    world.primary(A, address="10.0.0.2")
    (event,) = world.events
    assert (event.kind, event.host) == (EventKind.HOST_CHANGED, A)
    assert event.text == "a:5432 primary up -> primary up, from 10.0.0.1 to 10.0.0.2"


def test_stale_primary_is_told_once():
    world = settled().primary(B, 2)
    assert world.kinds().count(EventKind.STALE_PRIMARY) == 1
    world.primary(A, 1).primary(A, 1, read_only=True)
    assert world.kinds() == [EventKind.HOST_CHANGED]


def test_split_brain_is_told_when_confirmed_and_once():
    world = settled().primary(B, 1)
    assert EventKind.SPLIT_BRAIN not in world.kinds()
    world.primary(A, 1).primary(B, 1).primary(A, 1)
    told = [e for e in world.events if e.kind is EventKind.SPLIT_BRAIN]
    assert [(e.host, e.text) for e in told] == [(None, "split brain between a:5432 and b:5432")]


def test_third_rival_is_told():
    world = settled().primary(B, 1).primary(A, 1).primary(B, 1)
    world.kinds()
    world.primary(C, 1).primary(A, 1).primary(B, 1).primary(C, 1)
    assert world.events[-1].text == "split brain between a:5432 and b:5432 and c:5432"


def test_rivals_with_and_without_hostaddr_can_be_named():
    other = HostKey("a", 5432, "10.0.0.1")
    world = World(A, other).primary(A, 1).primary(other, 1, started_at=2.0)
    world.primary(A, 1).primary(other, 1, started_at=2.0)
    assert world.topology.split_brain == {A, other}
    assert world.events[-1].text == "split brain between a:5432 and a:5432 (10.0.0.1)"


def test_members_that_join_and_leave():
    world = settled().members(A, B, D)
    assert [(e.kind, e.host, e.text) for e in world.events] == [
        (EventKind.HOST_REMOVED, C, "c:5432 left"),
        (EventKind.HOST_ADDED, D, "d:5432 joined"),
    ]
    assert world.events[0].before is not None
    assert world.events[0].before.state is HostState.UP
    assert world.events[1].after is world.host(D)


def test_primary_that_left_the_list_is_lost():
    world = settled().members(B, C)
    assert [(e.kind, e.text) for e in world.events] == [
        (EventKind.HOST_REMOVED, "a:5432 left"),
        (EventKind.PRIMARY_LOST, "no primary: a:5432 was the last, and has left"),
    ]


def test_a_primary_that_became_a_standby_is_told_so():
    world = settled().standby(A)
    assert world.events[-1].text == "no primary: a:5432 was the last, and is a standby now"


def test_live_read_only_switch_is_told():
    world = settled().primary(A, read_only=True)
    assert [str(e) for e in world.events] == ["a:5432 primary up -> read-only primary up"]


def test_read_only_standby_is_a_standby():
    world = settled().standby(B, read_only=True)
    assert [str(e) for e in world.events] == ["b:5432 standby up -> standby up"]


def logged(world: World, level: int) -> list[str]:
    """Return the events so far that are logged at this level."""
    return [event.text for event in world.events if event.level == level]


def test_a_failover_is_two_warnings_and_tells_how_long_it_took():
    world = settled().refuse(A).pass_time(1.5).primary(B, 2)
    assert logged(world, logging.WARNING) == [
        "no primary: a:5432 was the last, and is down (told refused)",
        "primary is b:5432, timeline 2, after 1.5 s without one",
    ]
    assert logged(world, logging.INFO) == [
        "a:5432 primary up -> primary down (told refused)",
        "b:5432 standby up -> primary up",
    ]
    assert logged(world, logging.ERROR) == []


def test_the_first_primary_is_no_warning():
    world = World().settled()
    assert world.events[-1].kind is EventKind.PRIMARY_CHANGED
    assert {event.level for event in world.events} == {logging.INFO}


def test_a_primary_that_was_missing_from_the_start_is_a_warning_when_it_is_there():
    world = World(A, B).standby(B).refuse(A).pass_time(3.0).primary(A)
    assert logged(world, logging.WARNING) == [
        "no host can be written to: a:5432 down (told refused), b:5432 standby up",
        "primary is a:5432, timeline 1, after 3.0 s without one",
    ]


def test_a_standby_that_goes_and_comes_back_is_no_warning():
    world = settled().timeout(B).timeout(B).standby(B)
    assert len(world.events) == 3
    assert {event.level for event in world.events} == {logging.INFO}


def test_what_needs_a_person_is_an_error():
    world = settled().primary(B, 1).primary(A, 1).primary(B, 1)
    assert logged(world, logging.ERROR) == ["split brain between a:5432 and b:5432"]
    world = settled().primary(B, 2)
    [told] = logged(world, logging.ERROR)
    assert told.startswith("a:5432 primary up -> primary stale")


@pytest.mark.parametrize("fault", [FaultKind.REFUSED, FaultKind.TIMEOUT, FaultKind.REJECTED])
def test_an_hour_without_any_host_is_told_once(fault):
    world = settled()
    for host in (A, B, C):
        world.fail(host, fault).fail(host, fault)
    told = [event.text for event in world.events]
    assert len([text for text in told if text.startswith("no primary")]) <= 1
    assert len(told) == len(set(told))
    for _ in range(360):
        for host in (A, B, C):
            world.fail(host, fault)
        world.pass_time(10.0)
    assert [event.text for event in world.events] == told


def test_host_of_unknown_role():
    world = World(A).fail(A, FaultKind.REFUSED)
    assert [str(e) for e in world.events] == [
        "a:5432 unknown -> down (told refused)",
        "no host can be written to: a:5432 down (told refused)",
    ]


def test_nobody_to_write_to_is_told_once_everybody_was_asked():
    world = World(A, B).standby(B)
    assert EventKind.NO_PRIMARY not in [e.kind for e in world.events]
    world.fail(A, FaultKind.REJECTED)
    [told] = [e for e in world.events if e.kind is EventKind.NO_PRIMARY]
    assert str(told) == "no host can be written to: a:5432 rejected (told rejected), b:5432 standby up"
    world.refuse(A)
    assert [e.kind for e in world.events].count(EventKind.NO_PRIMARY) == 1


def test_refused_login_is_told_as_a_warning():
    world = World().settled().reject(B)
    told = world.events[-1]
    assert (
        str(told)
        == "b:5432 standby up -> standby rejected (told rejected; its role is not watched meanwhile)"
    )
    assert told.level == logging.WARNING
    assert world.standby(B, fresh=True).events[-1].level == logging.INFO
