"""One host among honest ones that tells whatever it likes: what it can do, and that nothing of it lasts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.topology.timelines import CLAIM_FOR, PLAUSIBLE
from tests.core.world import OTHER, OURS, A, B, C, D, World

LIAR = HostKey("l", 5432)
HIGHEST = 2**31 - 1
TRUTH = 3
"""The timeline that the honest hosts are on."""


# The word of one standby.


def test_timeline_out_of_proportion_told_by_one_standby_is_not_believed():
    world = World().settled().standby(C, HIGHEST)
    assert world.writers == [A]
    assert world.topology.highest_timeline == 1
    assert world.reason(C) == f"not believed: it alone tells of timeline {HIGHEST}, far above 1"
    assert world.readers == [[B], [A], [C]], "it cannot be a standby of this primary"
    assert world.refuse(C).writers == [A]


def test_timeline_out_of_proportion_told_before_the_primary_was_heard_is_not_believed():
    world = World().standby(C, HIGHEST).standby(B, 1).primary(A, 1)
    assert world.writers == [A]


def test_word_of_one_standby_makes_the_primary_stale_while_it_is_given():
    world = World().settled().standby(C, 1 + PLAUSIBLE).pass_time(CLAIM_FOR * 2).standby(C, 1 + PLAUSIBLE)
    assert world.primary(A, 1).writers == []
    assert (
        world.reason(A)
        == f"stale primary: on timeline 1 while c:5432, a standby, tells of timeline {1 + PLAUSIBLE}, alone"
    )


@pytest.mark.parametrize(
    "gone", [lambda w: w.timeout(C).timeout(C), lambda w: w.refuse(C), lambda w: w.members(A, B)]
)
def test_word_of_one_standby_counts_for_a_while_after_it_is_gone(gone):
    world = World().settled().standby(C, 2)
    gone(world).pass_time(CLAIM_FOR - 1).primary(A, 1)
    assert world.writers == []
    assert world.state(A) is HostState.STALE
    assert world.pass_time(1).primary(A, 1).writers == [A]
    assert world.topology.highest_timeline == 1


def test_word_of_one_standby_that_takes_it_back_counts_no_more():
    world = World().settled().standby(C, 2)
    assert world.writers == []
    assert world.standby(C, 1).writers == [A]


def test_word_of_one_standby_that_tells_no_more_counts_for_a_while():
    world = World().settled().standby(C, 2).standby(C, None, reduced="permission denied")
    assert world.writers == []
    assert world.pass_time(CLAIM_FOR - 1).standby(C, None).primary(A, 1).writers == []
    assert world.pass_time(1).primary(A, 1).writers == [A]


def test_word_of_two_standbys_outlives_them():
    world = World().settled().standby(C, 2).standby(B, 2).refuse(C).refuse(B).pass_time(CLAIM_FOR * 10)
    assert world.primary(A, 1).writers == []
    assert world.reason(A) == "stale primary: on timeline 1 while timeline 2 was seen at b:5432"


def test_two_standbys_confirm_no_more_than_both_tell():
    world = World(A, B, C, D).settled().standby(D).standby(C, HIGHEST).standby(B, 2)
    assert world.topology.highest_timeline == 2
    assert world.refuse(C).refuse(B).primary(A, 1).writers == []


def test_timeline_that_is_not_believed_holds_no_mark_up():
    world = World().settled().primary(B, 2).standby(C, HIGHEST).standby(B, 1)
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_word_of_a_standby_that_turned_foreign_is_taken_back():
    world = World().settled().standby(C, 2)
    assert world.writers == []
    assert world.standby(C, 2, system_id=OTHER).writers == [A]


def test_one_standby_under_two_names_does_not_confirm_itself():
    world = World(A, B, C, D).settled().standby(C, 2, started_at=5.0).standby(D, 2, started_at=5.0)
    assert world.state(D) is HostState.ALIAS
    world.refuse(C).refuse(D).pass_time(CLAIM_FOR)
    assert world.primary(A, 1).writers == [A]


def test_word_of_a_standby_outlives_its_promotion_to_a_primary_that_does_not_tell():
    world = World().settled().standby(C, 2).primary(C, None)
    assert world.writers == [C]
    assert world.state(A) is HostState.STALE


def test_forgetting_the_timeline_takes_back_the_word_of_a_standby():
    world = World().settled().standby(C, 2).forget_timeline()
    assert world.writers == [A]
    assert world.standby(C, 2).writers == [A]


def test_forgetting_the_timeline_is_the_way_out_after_a_primary_lied():
    world = World().settled().primary(C, HIGHEST)
    assert world.writers == [C], "a listed host is trusted to be a server of the cluster"
    world.refuse(C).pass_time(CLAIM_FOR * 10).primary(A, 1)
    assert world.writers == []
    assert world.reason(A) == f"stale primary: on timeline 1 while timeline {HIGHEST} was seen at c:5432"
    assert world.forget_timeline().writers == [A]


# Pinned.


@pytest.mark.parametrize("role", list(HostRole))
def test_host_that_tells_no_identifier_never_serves_where_one_is_pinned(role):
    world = World(system_id=OURS).settled()
    world.answer(C, role, 9, system_id=None, reduced="permission denied for function pg_control_system")
    assert world.state(C) is HostState.FOREIGN
    assert world.reason(C) == (
        f"tells no system identifier, expected {OURS} (permission denied for function pg_control_system)"
    )
    for attrs in SessionAttrs:
        assert all(C not in group for group in world.groups(attrs)), attrs
    assert world.writers == [A]
    assert world.topology.highest_timeline == 1
    assert world.answer(C, HostRole.STANDBY, 1).readers == [[B, C], [A]]


def test_host_that_ceases_to_tell_its_identifier_serves_no_more_where_one_is_pinned():
    assert World(A, system_id=OURS).primary(A).primary(A, system_id=None).writers == []


def test_only_hosts_that_tell_no_identifier_do_not_serve_where_one_is_pinned():
    world = World(system_id=OURS).primary(A, system_id=None).standby(B, system_id=None).refuse(C)
    assert world.groups(SessionAttrs.ANY) == []


# Whatever it says.

timelines = st.sampled_from([None, 1, TRUTH - 1, TRUTH, TRUTH + 1, TRUTH + PLAUSIBLE, HIGHEST])
told = st.fixed_dictionaries(
    {
        "timeline": timelines,
        "system_id": st.sampled_from([OURS, OURS, OURS, OURS, OTHER, None, 9]),
        "started_at": st.sampled_from([None, 1.0, 2.0, float(ord("a")), float(ord("b"))]),
        "address": st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
        "fresh": st.booleans(),
        "read_only": st.booleans(),
    }
)
answers = st.tuples(st.sampled_from(HostRole), told)
words = st.one_of(answers, answers, st.tuples(st.sampled_from(FaultKind), st.booleans()))
honest = st.sampled_from([A, B, C])
histories = st.lists(st.one_of(words, words, honest, st.floats(0.1, 60.0)), max_size=25)


def tell(world: World, host: HostKey) -> None:
    if host == A:
        world.primary(A, TRUTH, address="10.0.0.1")
    else:
        world.standby(host, TRUTH)


def live(world: World, hosts: tuple[HostKey, ...], history: list[Any], *, pinned: bool, modest: bool) -> None:
    """Play a history; *modest*: the liar does not claim to be a primary on a higher timeline."""
    for step in history:
        match step:
            case HostKey():
                if step in hosts:
                    tell(world, step)
            case float():
                world.pass_time(step)
            case (HostRole() as role, dict() as said):
                more = dict(said)
                timeline = more.pop("timeline")
                if modest and role is HostRole.PRIMARY and (timeline or 0) > TRUTH:
                    timeline = TRUTH
                world.answer(LIAR, role, timeline, **more)
                if pinned and said["system_id"] != OURS:
                    assert all(LIAR not in group for attrs in SessionAttrs for group in world.groups(attrs))
            case (FaultKind() as kind, bool() as linked):
                world.fail(LIAR, kind, linked=linked)
        assert len(world.writers) <= 1
        assert set(world.writers) <= {A, LIAR}


def writable_in_time(world: World, hosts: tuple[HostKey, ...], *, unlisted: bool) -> bool:
    """Let the liar go, and tell whether the primary is written to, and stays so."""
    if unlisted:
        world.members(*hosts)
    else:
        world.refuse(LIAR)
    for _ in range(int(CLAIM_FOR) + 2):
        for host in hosts:
            tell(world, host)
        world.pass_time(1.0)
    return world.writers == [A]


places = st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.booleans())


def scene(place: tuple[int, bool, bool, bool]) -> tuple[World, tuple[HostKey, ...], bool, bool]:
    count, ahead, pinned, unlisted = place
    hosts = (A, B, C)[:count]
    listed = (LIAR, *hosts) if ahead else (*hosts, LIAR)
    return World(*listed, system_id=OURS if pinned else None), hosts, pinned, unlisted


@given(places, histories)
@settings(max_examples=60, deadline=None)
def test_whatever_a_lying_standby_says_the_primary_is_written_to_soon_after_it_is_gone(place, history):
    world, hosts, pinned, unlisted = scene(place)
    live(world, hosts, history, pinned=pinned, modest=True)
    assert writable_in_time(world, hosts, unlisted=unlisted)


@given(places, histories)
@settings(max_examples=60, deadline=None)
def test_whatever_a_lying_primary_says_forgetting_its_timeline_mends_it(place, history):
    world, hosts, pinned, unlisted = scene(place)
    live(world, hosts, history, pinned=pinned, modest=False)
    writable_in_time(world, hosts, unlisted=unlisted)
    world.forget_timeline()
    assert writable_in_time(world, hosts, unlisted=unlisted)
