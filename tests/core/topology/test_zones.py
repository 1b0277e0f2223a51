"""Zones: what they decide, and what comes before them."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.topology.observations import Listing, Members
from tests.core.world import A, B, C, D, World

ZONES = {"a": "east", "b": "east", "c": "west", "d": "west"}
EVERY = (A, B, C, D)


def world(zone: str, *hosts: HostKey, **more: Any) -> World:
    return World(*(hosts or EVERY), zones=ZONES, zone=zone, **more)


def settled(zone: str, **more: Any) -> World:
    return world(zone, **more).primary(A).standby(B).standby(C).standby(D)


def test_own_zone_comes_first() -> None:
    assert settled("west").groups(SessionAttrs.STANDBY) == [[C, D], [B]]
    assert settled("east").groups(SessionAttrs.STANDBY) == [[B], [C, D]]


def test_without_a_zone_of_its_own_a_router_takes_all_alike() -> None:
    assert settled("").groups(SessionAttrs.STANDBY) == [[B, C, D]]


def test_host_without_a_zone_is_in_another_one() -> None:
    made = World(zones={"b": "east"}, zone="east").settled()
    assert made.groups(SessionAttrs.STANDBY) == [[B], [C]]


def test_other_zones_serve_when_the_own_one_is_down() -> None:
    made = settled("east").refuse(B)
    assert made.groups(SessionAttrs.STANDBY) == [[C, D]]


def test_host_that_is_up_in_another_zone_comes_before_a_suspect_one_of_the_own() -> None:
    made = settled("east").timeout(B)
    assert made.groups(SessionAttrs.STANDBY) == [[C, D], [B]]


def test_standby_of_another_zone_comes_before_the_primary_of_the_own() -> None:
    assert settled("east").groups(SessionAttrs.PREFER_STANDBY) == [[B], [C, D], [A]]


def test_primary_is_the_primary_wherever_it_is() -> None:
    assert settled("west").writers == [A]


def test_priority_of_a_service_comes_before_the_zone() -> None:
    made = world("west")
    listings = {B: Listing(priority=1), C: Listing(priority=2), D: Listing(priority=1)}
    made.see(Members(EVERY, listings))
    made.primary(A).standby(B).standby(C).standby(D)
    assert made.groups(SessionAttrs.STANDBY) == [[D], [B], [C]]


def test_ordered_waits_for_the_hosts_of_the_own_zone_and_not_for_those_of_others() -> None:
    made = world("west", ordered=True, check_system_id=False).standby(D)
    assert made.groups(SessionAttrs.STANDBY) == []
    made.standby(C)
    assert made.groups(SessionAttrs.STANDBY) == [[C, D]]
    made.standby(B).primary(A)
    assert made.groups(SessionAttrs.STANDBY) == [[C, D], [B]]


def test_most_specific_name_gives_the_zone() -> None:
    made = World(zones={"b": "east", "b:5432": "west"}, zone="west").settled()
    assert made.host(B).zone == "west"


def test_zones_are_shown_only_where_there_are_any() -> None:
    shown = str(World(zones={"b": "east"}).settled().topology).splitlines()
    assert [line.split()[:3] for line in shown] == [
        ["host", "zone", "role"],
        ["a:5432", "-", "primary"],
        ["b:5432", "east", "standby"],
        ["c:5432", "-", "standby"],
    ]
    assert "zone" not in str(World(zones={"b": ""}).settled().topology)


def test_candidates_and_hosts_tell_their_zone() -> None:
    made = settled("east")
    assert [h.zone for h in made.topology.hosts] == ["east", "east", "west", "west"]
    [[b], [c, _]] = made.topology.candidates[SessionAttrs.STANDBY]
    assert (b.zone, c.zone, b.role) == ("east", "west", HostRole.STANDBY)


@pytest.mark.parametrize("zone", ["east", "west"])
def test_zone_of_one_host_leaves_no_choice(zone: str) -> None:
    made = World(zones={"b": "east", "c": "west"}, zone=zone).settled()
    assert made.topology.only[SessionAttrs.STANDBY].zone == zone
