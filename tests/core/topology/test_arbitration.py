"""Who may serve: the rows of the design's table of observations, each as scenarios."""

from __future__ import annotations

import pytest

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, SessionAttrs
from tests.core.world import OTHER, OURS, A, B, C, D, World

# First sight of a primary.


@pytest.mark.parametrize(
    "told", [FaultKind.TIMEOUT, FaultKind.REFUSED, FaultKind.REJECTED, FaultKind.STARTING]
)
def test_first_primary_is_admitted_when_every_other_host_was_heard_of(told):
    world = World().primary(A)
    assert world.writers == []
    assert "not admitted" in world.reason(A)
    world.standby(B)
    assert world.writers == []
    assert not world.initial_scan_done()
    world.fail(C, told)
    assert world.initial_scan_done()
    assert world.writers == [A]
    assert world.reason(A) == ""
    assert world.topology.primary is world.host(A)


def test_only_host_is_admitted_with_its_first_answer():
    assert World(A).primary(A).writers == [A]


def test_router_opened_while_both_live_and_the_stale_one_answers_first():
    world = World().primary(A, 1).standby(C, 1)
    assert world.writers == []
    world.primary(B, 2)
    assert world.writers == [B]
    assert world.state(A) is HostState.STALE


def test_standbys_serve_before_the_first_round_once_most_hosts_told_their_cluster():
    world = World().standby(B)
    assert world.readers == []
    world.standby(C)
    assert world.readers == [[B, C]]
    assert not world.initial_scan_done()


def test_standby_without_system_identifier_waits_for_the_first_round():
    world = World().standby(B, system_id=None).standby(C, system_id=None)
    assert world.readers == []
    assert world.refuse(A).readers == [[B, C]]


def test_primary_seen_after_the_first_round_is_admitted_at_once():
    world = World().refuse(A).refuse(B).refuse(C)
    assert world.primary(A).writers == [A]


def test_no_host_at_all_is_no_round():
    world = World()
    world.members()
    assert not world.initial_scan_done()
    world.members(A, B).primary(A)
    assert world.writers == []


def test_higher_timeline_after_the_first_round_is_admitted_at_once():
    world = World().settled().primary(B, 2)
    assert world.writers == [B]
    assert world.topology.highest_timeline == 2


# Timelines below the mark.


def test_stale_primary_never_writes_and_never_reads():
    world = World().settled().primary(B, 2)
    for attrs in SessionAttrs:
        assert all(A not in group for group in world.groups(attrs)), attrs
    assert world.state(A) is HostState.STALE
    assert world.reason(A) == "stale primary: on timeline 1 while timeline 2 was seen at b:5432"


def test_outrun_primary_is_asked_at_once_whether_it_is_alive():
    world = World().settled().primary(B, 2)
    assert world.topology.urgent == {A}
    assert world.topology.highest_timeline_since == world.now
    world.primary(A, 1, sent_at=world.now)
    assert world.topology.urgent == {A}
    world.primary(A, 1)
    assert world.topology.urgent == frozenset()


def test_outrun_primary_that_does_not_answer_is_not_asked_again_and_again():
    world = World().settled().timeout(A).primary(B, 2)
    assert world.topology.urgent == frozenset()


def test_split_brain_stays_confirmed_while_an_outrun_primary_is_asked():
    world = World(A, B, C, D).settled().primary(D, 2).primary(A, 2).primary(D, 2).primary(A, 2)
    assert world.topology.split_brain == {A, D}
    world.primary(B, 1, sent_at=99.0)
    assert world.topology.urgent == {B}
    assert world.topology.split_brain == {A, D}


def test_mark_is_as_old_as_its_timeline():
    world = World().settled().primary(B, 2)
    since = world.now
    assert world.primary(B, 2).primary(A, 1).topology.highest_timeline_since == since
    assert world.primary(C, 3).topology.highest_timeline_since == world.now > since


def test_old_primary_thawed_after_the_new_one_died_stays_stale():
    world = World().settled().timeout(A).timeout(A).primary(B, 2).refuse(B)
    world.primary(A, 1)
    assert world.state(A) is HostState.STALE
    assert world.writers == []


def test_mark_falls_when_every_host_answered_and_none_holds_it():
    world = World().settled().primary(B, 2)
    world.standby(B, 1)
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_restored_backup_on_a_lower_timeline_is_the_only_truth():
    world = World()
    world.primary(A, 5).standby(B, 5).standby(C, 5)
    world.refuse(A).refuse(B).refuse(C)
    world.primary(A, 3)
    assert world.writers == []
    world.standby(B, 3)
    assert world.writers == []
    world.standby(C, None)
    assert world.writers == [A]
    assert world.topology.highest_timeline == 3


@pytest.mark.parametrize(
    "silent", [FaultKind.TIMEOUT, FaultKind.REFUSED, FaultKind.REJECTED, FaultKind.STARTING]
)
def test_mark_stays_while_one_host_does_not_answer(silent):
    world = World().settled().primary(B, 2).fail(C, silent).standby(B, 1)
    assert world.topology.highest_timeline == 2
    assert world.writers == []


def test_mark_stays_while_a_standby_proves_to_be_on_it():
    world = World().settled().primary(B, 2).standby(C, 2).standby(B, 1)
    assert world.topology.highest_timeline == 2
    assert world.writers == []


def test_mark_stays_while_a_primary_does_not_tell_its_timeline():
    world = World().settled().primary(B, 2).primary(B, None)
    assert world.topology.highest_timeline == 2
    assert world.state(A) is HostState.STALE
    assert world.writers == [B]


def test_mark_falls_although_a_foreign_primary_does_not_tell_its_timeline():
    world = World(A, B, C, D).settled().primary(D, None, system_id=OTHER).primary(B, 2).standby(B, 1)
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_mark_stays_when_no_host_tells_a_timeline():
    world = World().settled().primary(B, 2).standby(A, None).standby(C, None).standby(B, None)
    assert world.topology.highest_timeline == 2


def test_standby_on_a_higher_timeline_raises_the_mark():
    world = World().settled().standby(C, 2)
    assert world.state(A) is HostState.STALE
    assert world.writers == []


def test_forget_timeline_admits_the_lower_primary():
    world = World().settled().primary(B, 2).refuse(B).primary(A, 1)
    assert world.writers == []
    world.forget_timeline()
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_standby_of_the_forgotten_timeline_is_not_believed():
    world = World().settled().primary(B, 2).standby(C, 2).refuse(B)
    assert world.writers == []
    world.forget_timeline()
    assert world.writers == [A]
    world.standby(C, 2)
    assert world.writers == [A]
    world.standby(C, 3)
    assert world.writers == []


def test_forgotten_timeline_counts_again_when_a_primary_writes_on_it():
    world = World().settled().primary(B, 2).refuse(B).forget_timeline()
    world.primary(B, 2)
    assert world.writers == [B]


def test_forgetting_twice_pardons_the_higher_of_both_marks():
    world = World().settled().standby(C, 2).forget_timeline()
    world.forget_timeline()
    world.standby(C, 2)
    assert world.writers == [A]


def test_timeline_seen_before_the_cluster_was_known_still_counts():
    world = World(A, B, C).primary(A, 2).timeout(A).timeout(A)
    world.primary(B, 1).refuse(C)
    assert world.topology.highest_timeline == 2
    assert world.state(B) is HostState.STALE
    assert world.writers == []


def test_foreign_timeline_seen_before_the_cluster_was_known_does_not_count():
    world = World().primary(C, 9, system_id=OTHER).primary(A, 1)
    assert world.state(A) is not HostState.STALE
    world.standby(B, 1)
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_nothing_is_stale_or_split_before_the_cluster_is_known():
    world = World(A, B, C, D).primary(A, 1).primary(B, 9, system_id=OTHER)
    assert world.state(A) is HostState.UP
    world = World(A, B, C, D).primary(A, 1).primary(B, 1, system_id=OTHER)
    assert world.state(A) is HostState.UP
    assert world.topology.urgent == frozenset()


def test_higher_timeline_told_by_a_host_that_refuses_logins_counts():
    world = World().settled().reject(B)
    world.primary(B, 2)
    assert world.state(B) is HostState.REJECTED
    assert world.state(A) is HostState.STALE
    assert world.writers == []


# Split brain.


def test_split_brain_is_confirmed_by_a_second_probe_of_both():
    world = World().settled().primary(B, 1)
    assert world.writers == []
    assert world.topology.split_brain == frozenset()
    assert world.topology.urgent == {A, B}
    assert world.reason(A).endswith("(being asked again)")
    world.primary(A, 1)
    assert world.topology.urgent == {B}
    assert world.topology.split_brain == frozenset()
    world.primary(B, 1)
    assert world.topology.urgent == frozenset()
    assert world.topology.split_brain == {A, B}
    assert world.state(A) is world.state(B) is HostState.CONFLICT
    assert world.reason(A) == "split brain: primary on timeline 1, and so is b:5432"
    assert world.writers == []
    assert world.topology.primary is None
    assert world.readers == [[C]]


def test_answer_to_a_probe_sent_before_the_conflict_confirms_nothing():
    world = World().settled().primary(B, 1)
    world.primary(A, 1, sent_at=world.now - 0.5).primary(B, 1)
    assert world.topology.urgent == {A}
    assert world.topology.split_brain == frozenset()


def test_conflict_that_the_second_probe_denies_is_none():
    world = World().settled().primary(B, 1).standby(B, 1)
    assert world.writers == [A]
    assert world.topology.split_brain == frozenset()


def test_two_primaries_on_unknown_timelines_are_a_split_brain():
    world = World().primary(A, None).primary(B, None).standby(C, None).primary(A, None).primary(B, None)
    assert world.topology.split_brain == {A, B}
    assert "an unknown timeline" in world.reason(A)


def test_primary_on_an_unknown_timeline_rivals_the_one_on_the_mark():
    world = World().settled().primary(B, None)
    assert world.writers == []
    assert world.topology.urgent == {A, B}


def test_third_primary_is_confirmed_anew():
    world = World(A, B, C, D).settled().refuse(D)
    world.primary(B, 1).primary(A, 1).primary(B, 1)
    assert world.topology.split_brain == {A, B}
    world.primary(C, 1)
    assert world.topology.urgent == {A, B, C}
    assert world.topology.split_brain == {A, B}
    assert "b:5432 and c:5432" in world.reason(A)
    world.primary(A, 1).primary(B, 1).primary(C, 1)
    assert world.topology.split_brain == {A, B, C}


def test_other_rivals_are_no_confirmed_split_brain():
    world = World(A, B, C, D).settled().primary(D, 1).primary(A, 1).primary(D, 1)
    world.members(A, B, C).primary(B, 1)
    assert world.topology.urgent == {A, B}
    assert world.topology.split_brain == frozenset()


def test_split_brain_does_not_end_with_one_missed_probe():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1)
    world.timeout(A)
    assert world.writers == []
    assert world.topology.split_brain == {A, B}
    assert world.state(A) is HostState.SUSPECT
    world.timeout(A)
    assert world.writers == [B]


def test_second_primary_beside_a_suspect_one_is_not_written_to():
    world = World().settled().timeout(A)
    assert world.writers == [A]
    world.primary(B, 1)
    assert world.writers == []
    world.timeout(A)
    assert world.writers == [B]


def test_split_brain_ends_when_one_is_shut_down():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1).refuse(B)
    assert world.writers == [A]
    assert world.topology.split_brain == frozenset()


def test_split_brain_ends_with_a_higher_timeline():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1).primary(B, 2)
    assert world.writers == [B]
    assert world.state(A) is HostState.STALE


def test_rival_that_refuses_logins_but_answers_is_a_rival():
    world = World().settled().reject(B)
    world.primary(B, 1)
    assert world.state(B) is HostState.REJECTED
    assert world.writers == []
    world.reject(B)
    assert world.writers == [A]


def test_no_split_brain_of_the_same_host_listed_twice():
    world = World(A, A).primary(A)
    assert [h.key for h in world.topology.hosts] == [A]
    assert world.writers == [A]
    world.members(A, B, A)
    assert [h.key for h in world.topology.hosts] == [A, B]


# Aliases.


def test_one_server_listed_twice_is_an_alias_not_a_second_primary():
    world = World(A, B, C).primary(A, started_at=1.5).standby(C).primary(B, started_at=1.5)
    assert world.state(B) is HostState.ALIAS
    assert world.reason(B) == "the same server as a:5432"
    assert world.writers == [A]
    assert world.readers == [[C], [A]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"system_id": None, "started_at": 1.5}, {"system_id": None, "started_at": 1.5}),
        ({"started_at": 1.5}, {"system_id": None, "started_at": 1.5}),
        ({"started_at": None, "address": "::1"}, {"started_at": None, "address": "::1"}),
    ],
)
def test_start_or_else_address_tells_one_server_where_a_role_may_read_no_more(one, other):
    world = World(A, B).primary(A, **one).primary(B, **other)
    assert world.state(B) is HostState.ALIAS
    assert world.writers == [A]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"started_at": None}, {"started_at": None}),
        ({"system_id": OURS, "started_at": 1.5}, {"system_id": OTHER, "started_at": 1.5}),
        ({"started_at": 1.5, "address": "::1"}, {"started_at": 2.5, "address": "::1"}),
        ({"started_at": None, "address": "::1"}, {"started_at": 1.5, "address": "::1"}),
        ({"started_at": None, "address": "::1"}, {"started_at": None, "address": "127.0.0.1"}),
    ],
)
def test_hosts_not_known_to_be_one_server_are_rivals(one, other):
    world = World(A, B, check_system_id=False).primary(A, **one).primary(B, **other)
    assert world.state(B) is HostState.CONFLICT


def test_equal_addresses_with_another_port_are_two_servers():
    other = HostKey("a", 5433)
    world = World(A, other).primary(A, started_at=None, address="::1")
    world.primary(other, started_at=None, address="::1")
    assert world.state(other) is HostState.CONFLICT


def test_alias_serves_when_its_other_name_is_down():
    world = World(A, B).primary(A, started_at=1.5).primary(B, started_at=1.5)
    world.timeout(A)
    assert world.writers == [A]
    world.timeout(A)
    assert world.writers == [B]
    assert world.state(B) is HostState.UP


def test_silent_alias_shows_that_it_is_silent():
    world = World(A, B).primary(A, started_at=1.5).primary(B, started_at=1.5).timeout(B)
    assert world.state(B) is HostState.SUSPECT
    assert world.writers == [A]
    assert world.topology.urgent == frozenset()


def test_name_that_refuses_logins_is_an_alias_of_the_name_that_takes_them():
    world = World(A, B).primary(A, started_at=1.5).primary(B, started_at=1.5).reject(A)
    world.primary(A, started_at=1.5)
    assert world.state(A) is HostState.REJECTED
    assert world.writers == [B]


def test_alias_that_still_tells_of_a_standby_is_no_alias_of_the_promoted_server():
    world = World(A, B).standby(A, started_at=1.5).standby(B, started_at=1.5)
    world.primary(B, 2, started_at=1.5)
    assert world.writers == [B]


# Read-only primaries.


def test_read_only_primary_is_a_primary_but_not_read_write():
    world = World().settled().primary(A, read_only=True)
    assert world.writers == []
    assert world.topology.primary is world.host(A)
    assert world.groups(SessionAttrs.PRIMARY) == [[A]]
    assert world.groups(SessionAttrs.READ_ONLY) == [[A, B, C]]
    assert world.primary(A).writers == [A]


# Standbys while a stale primary answers.


def test_standby_not_proven_on_the_mark_serves_last_while_a_stale_primary_answers():
    world = World(A, B, C, D).settled().standby(D).primary(B, 2).standby(C, 2)
    assert world.readers == [[C], [B], [D]]
    assert world.groups(SessionAttrs.STANDBY) == [[C], [D]]
    assert world.reason(D) == "may follow the stale primary: not proven to be on timeline 2"
    world.standby(C, None)
    assert world.groups(SessionAttrs.STANDBY) == [[C, D]]


def test_unproven_standbys_serve_as_before_once_the_stale_primary_is_gone():
    world = World().settled().primary(B, 2)
    assert world.readers == [[B], [C]]
    world.timeout(A)
    assert world.readers == [[C], [B]]
    assert world.reason(C) == ""


def test_suspect_standby_keeps_its_own_reason_while_a_stale_primary_answers():
    world = World().settled().primary(B, 2).timeout(C)
    assert world.reason(C) == "told timeout"
    assert world.readers == [[B], [C]]


def test_stale_primary_that_refuses_logins_still_taints_its_standbys():
    world = World().settled().primary(B, 2).reject(A)
    assert world.readers == [[C], [B]]
    world.primary(A, 1)
    assert world.state(A) is HostState.REJECTED
    assert world.readers == [[B], [C]]


# Foreign clusters.


def test_minority_of_another_cluster_is_foreign_and_never_used():
    world = World().settled().primary(C, 9, system_id=OTHER)
    assert world.state(C) is HostState.FOREIGN
    assert world.reason(C) == f"another cluster: system identifier {OTHER}, expected {OURS}"
    for attrs in SessionAttrs:
        assert all(C not in group for group in world.groups(attrs)), attrs
    assert world.topology.highest_timeline == 1
    assert world.writers == [A]


def test_foreign_host_that_answers_first_is_outvoted():
    world = World().primary(C, 9, system_id=OTHER).primary(A).standby(B)
    assert world.writers == [A]
    assert world.state(C) is HostState.FOREIGN


def test_tie_at_the_first_round_names_both_and_uses_neither():
    world = World(A, B).primary(A).primary(B, system_id=OTHER)
    for key in (A, B):
        assert world.state(key) is HostState.FOREIGN
        assert f"a:5432 is {OURS}, b:5432 is {OTHER}" in world.reason(key)
        assert "ProbeOptions(system_id=...)" in world.reason(key)
    assert world.groups(SessionAttrs.ANY) == []


def test_tie_ends_when_one_cluster_was_silent_for_half_a_minute():
    world = World(A, B).primary(A).primary(B, system_id=OTHER).refuse(B)
    assert world.pass_time(29).primary(A).writers == []
    assert world.pass_time(2).primary(A).writers == [A]


def test_tie_ends_when_the_host_is_mended():
    world = World(A, B).primary(A).primary(B, system_id=OTHER).standby(B)
    assert world.writers == [A]


def test_hosts_without_identifier_are_not_foreign():
    world = World().settled().standby(C, system_id=None)
    assert world.state(C) is HostState.UP
    assert world.readers == [[B, C], [A]]


def test_identifier_told_by_few_gives_way_to_the_word_of_most():
    world = World().primary(A, system_id=OTHER).refuse(B).refuse(C)
    assert world.writers == [A]
    world.primary(B, 1)
    assert world.writers == [A]
    world.standby(C, 1)
    assert world.writers == [B]
    assert world.state(A) is HostState.FOREIGN


def test_identifier_told_by_most_does_not_give_way_to_another_majority():
    world = World().settled().primary(B, system_id=OTHER).standby(C, system_id=OTHER)
    assert world.writers == [A]
    assert world.state(B) is HostState.FOREIGN


def test_cluster_is_relearned_when_the_old_one_was_silent_for_half_a_minute():
    world = World().settled().refuse(A).refuse(B).refuse(C)
    world.primary(A, 4, system_id=OTHER).standby(B, 4, system_id=OTHER)
    assert world.state(A) is HostState.FOREIGN
    world.pass_time(29).primary(A, 4, system_id=OTHER)
    assert world.writers == []
    world.pass_time(2).primary(A, 4, system_id=OTHER)
    assert world.writers == [A]
    assert world.topology.highest_timeline == 4


def test_relearning_starts_from_the_new_clusters_own_timelines():
    world = World().primary(A, 9).standby(B, 9).standby(C, 9).refuse(A).refuse(B).refuse(C)
    world.pass_time(31).primary(A, 2, system_id=OTHER)
    assert world.writers == [A]
    assert world.topology.highest_timeline == 2


def test_relearning_ends_the_pardon_of_the_old_clusters_timelines():
    world = World().primary(A, 9).standby(B, 9).standby(C, 9).forget_timeline()
    world.refuse(A).refuse(B).refuse(C).pass_time(31)
    world.primary(A, 2, system_id=OTHER).standby(B, 3, system_id=OTHER)
    assert world.topology.highest_timeline == 3
    assert world.writers == []


def test_cluster_is_not_relearned_while_one_of_its_hosts_answers():
    world = World().settled().pass_time(60).primary(B, 2, system_id=OTHER).standby(C, 2, system_id=OTHER)
    assert world.writers == [A]


def test_only_host_that_turned_foreign_is_believed_after_half_a_minute():
    world = World(A).primary(A).primary(A, 1, system_id=OTHER)
    assert world.writers == []
    assert world.pass_time(31).primary(A, 1, system_id=OTHER).writers == [A]


def test_name_moved_to_another_cluster_is_not_believed_because_others_were_long_silent():
    world = World().settled().refuse(B).refuse(C).pass_time(60).primary(A)
    world.primary(A, 1, system_id=OTHER)
    assert world.writers == []
    assert world.state(A) is HostState.FOREIGN


def test_tie_between_two_new_clusters_keeps_the_learned_one():
    world = World().settled().refuse(A).refuse(B).refuse(C).pass_time(31)
    world.primary(B, system_id=OTHER)
    assert world.writers == [B]
    world = World().settled().refuse(A).primary(B, system_id=OTHER).primary(C, system_id=9).pass_time(31)
    world.primary(B, system_id=OTHER).primary(C, system_id=9)
    assert world.writers == []
    assert world.primary(A).writers == [A]


def test_relearned_identifier_told_by_few_gives_way_to_the_word_of_most():
    world = World().settled().refuse(A).refuse(B).refuse(C).pass_time(31)
    world.primary(A, system_id=OTHER)
    assert world.writers == [A]
    world.primary(B, system_id=9).standby(C, system_id=9)
    assert world.writers == [B]


def test_identifier_told_by_half_gives_way_to_the_word_of_most():
    world = World(A, B, C, D).primary(A, system_id=OTHER).standby(B, system_id=OTHER).refuse(C).refuse(D)
    assert world.writers == [A]
    world.primary(C).standby(D)
    assert world.writers == [A]
    world.standby(B)
    assert world.writers == [C]


def test_most_votes_of_a_round_suffice_without_a_majority_of_the_hosts():
    world = World(A, B, C, D).primary(A).standby(B).primary(C, system_id=OTHER).refuse(D)
    assert world.writers == [A]
    assert world.state(C) is HostState.FOREIGN


def test_pinned_identifier_refuses_even_a_majority_of_others():
    world = World(system_id=OURS).primary(A).primary(B, 5, system_id=OTHER).standby(C, 5, system_id=OTHER)
    assert world.writers == [A]
    assert world.state(B) is world.state(C) is HostState.FOREIGN
    world.refuse(A).pass_time(60).primary(B, 5, system_id=OTHER)
    assert world.writers == []


def test_switched_off_the_identifier_does_not_matter():
    world = World(check_system_id=False).primary(A).standby(B, system_id=OTHER).standby(C, system_id=9)
    assert world.writers == [A]
    assert world.readers == [[B, C], [A]]


def test_standby_without_identifier_serves_at_once_when_the_check_is_off():
    assert World(check_system_id=False).standby(B).readers == [[B]]


# How a contact went.


def test_57p03_is_starting_and_not_used():
    world = World().settled().fail(C, FaultKind.STARTING)
    assert world.state(C) is HostState.STARTING
    assert world.reason(C) == "told starting"
    assert world.readers == [[B], [A]]
    assert world.host(C).last_seen == world.now


def test_timeout_makes_suspect_and_a_second_in_a_row_down():
    world = World().settled().timeout(B)
    assert world.state(B) is HostState.SUSPECT
    assert world.readers == [[C], [A], [B]]
    world.timeout(B)
    assert world.state(B) is HostState.DOWN
    assert world.readers == [[C], [A]]


def test_timeouts_with_an_answer_between_are_not_in_a_row():
    world = World().settled().timeout(B).standby(B).timeout(B)
    assert world.state(B) is HostState.SUSPECT


def test_refused_connection_is_down_at_once():
    world = World().settled().refuse(B)
    assert world.state(B) is HostState.DOWN


def test_timeout_of_a_host_never_heard_of_is_down():
    assert World().timeout(B).state(B) is HostState.DOWN


@pytest.mark.parametrize("kind", [FaultKind.UNRESOLVED, FaultKind.LOST, FaultKind.OTHER])
def test_fault_that_is_no_word_from_the_host_counts_as_a_missed_probe(kind):
    world = World().settled().fail(A, kind)
    assert world.state(A) is HostState.SUSPECT
    assert world.writers == [A]
    world.fail(A, kind)
    assert world.state(A) is HostState.DOWN


def test_suspect_primary_is_written_to_when_it_is_the_only_one():
    world = World().settled().timeout(A)
    assert world.writers == [A]
    assert world.timeout(A).writers == []


def test_two_suspect_primaries_are_not_written_to():
    world = World(A, B, C).primary(A, None).standby(B, None).standby(C, None)
    world.timeout(A).primary(B, None).timeout(B)
    assert world.writers == []


def test_started_host_is_up_with_its_first_answer():
    world = World().settled().fail(A, FaultKind.STARTING).primary(A)
    assert world.state(A) is HostState.UP


def test_starting_then_silent_is_down():
    world = World().settled().fail(A, FaultKind.STARTING).timeout(A)
    assert world.state(A) is HostState.DOWN


@pytest.mark.parametrize("linked", [True, False])
def test_refused_login_leaves_a_host_that_let_us_in_before_to_its_open_connections(linked):
    world = World().settled()
    before = world.host(A).generation
    world.reject(A, linked=linked)
    assert world.state(A) is HostState.REJECTED
    assert world.reason(A).startswith("told rejected")
    assert world.writers == [A]
    assert world.primary(A).writers == [A]
    assert world.state(A) is HostState.REJECTED
    assert world.primary(A, fresh=True).state(A) is HostState.UP
    assert world.reason(A) == ""
    assert world.host(A).generation == before, "its pools have stayed"


def test_host_that_never_let_us_in_is_not_used_although_an_old_connection_answers():
    world = World(A).reject(A).primary(A)
    assert world.state(A) is HostState.REJECTED
    assert world.writers == []
    assert world.primary(A, fresh=True).writers == [A]


@pytest.mark.parametrize("end", [World.refuse, lambda w, h: w.fail(h, FaultKind.STARTING)])
def test_refused_login_after_the_end_of_the_connections_leaves_nothing_to_serve_with(end):
    world = World().settled()
    end(world, A)
    assert world.reject(A).state(A) is HostState.REJECTED
    assert world.writers == []
    assert world.primary(A).writers == []
    assert world.primary(A, fresh=True).writers == [A]


@pytest.mark.parametrize("change", [{"started_at": 9.0}, {"read_only": True}, {"address": "10.0.0.2"}])
def test_rejecting_host_that_is_another_now_has_no_open_connections(change):
    world = World().primary(A, address="10.0.0.1").standby(B).standby(C).reject(A, linked=True)
    assert world.primary(A, **{"address": "10.0.0.1", **change}).groups(SessionAttrs.PRIMARY) == []


def test_rejecting_hosts_come_after_busy_and_before_suspect_ones():
    world = World(A, B, C, D).settled().standby(D).reject(B).fail(C, FaultKind.BUSY).timeout(D)
    assert world.readers == [[A], [C], [B], [D]]


def test_rejecting_host_that_missed_a_probe_comes_with_the_suspect_ones():
    world = World().settled().reject(B, linked=True).timeout(B).reject(C, linked=True)
    assert world.state(B) is HostState.REJECTED
    assert world.groups(SessionAttrs.STANDBY) == [[C], [B]]
    world.timeout(B)
    assert world.state(B) is HostState.DOWN
    assert world.groups(SessionAttrs.STANDBY) == [[C]]


def test_primary_that_nobody_can_ask_is_one_until_another_host_says_so():
    world = World().primary(A, None).standby(B, None).standby(C, None).reject(A)
    assert world.reason(A) == "told rejected; its role is not watched meanwhile"
    assert world.writers == [A]
    assert world.lost_at() == world.now, "the others are asked as in an outage"
    world.primary(B, None)
    assert world.writers == [B]
    assert world.topology.split_brain == frozenset()


def test_primary_that_nobody_can_ask_is_stale_below_a_higher_timeline():
    world = World().settled().reject(A).standby(B, 2)
    assert world.writers == []
    assert world.primary(B, 2).writers == [B]


def test_primary_that_nobody_can_ask_and_that_falls_silent_is_down():
    world = World().settled().reject(A).timeout(A)
    assert world.state(A) is HostState.REJECTED
    assert world.writers == [A]
    assert world.timeout(A).state(A) is HostState.DOWN
    assert world.writers == []


def test_refusal_is_a_word_of_a_host_that_missed_a_probe():
    world = World().settled().timeout(A).reject(A)
    assert world.host(A).silent_since is None
    assert world.timeout(A).writers == [A]


def test_of_two_primaries_that_nobody_can_ask_neither_is_written_to():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1).reject(A).reject(B)
    assert world.writers == []


def test_server_of_two_names_is_used_by_the_one_that_lets_us_in():
    world = World(A, B).primary(A, started_at=1.5).primary(B, started_at=1.5).reject(A, linked=True)
    assert world.writers == [B]
    assert world.reject(B, linked=True).writers == [A]


def test_busy_host_serves_when_no_other_can():
    world = World().settled().fail(A, FaultKind.BUSY).fail(B, FaultKind.BUSY)
    assert world.writers == [A]
    assert world.readers == [[C], [B], [A]]
    assert world.state(A) is HostState.BUSY


def test_busy_outlives_answers_on_the_open_connection_for_a_while():
    world = World().settled().fail(A, FaultKind.BUSY).pass_time(2.4).primary(A)
    assert world.state(A) is HostState.BUSY
    world.pass_time(0.2).primary(A)
    assert world.state(A) is HostState.UP


def test_busy_ends_with_an_answer_on_a_fresh_connection():
    world = World().settled().fail(A, FaultKind.BUSY).primary(A, fresh=True)
    assert world.state(A) is HostState.UP


def test_busy_host_that_never_answered_is_not_used():
    world = World(A).fail(A, FaultKind.BUSY)
    assert world.groups(SessionAttrs.ANY) == []


def test_busy_host_that_misses_a_probe_is_suspect():
    assert World().settled().fail(A, FaultKind.BUSY).timeout(A).state(A) is HostState.SUSPECT


@pytest.mark.parametrize("kind", [FaultKind.TIMEOUT, FaultKind.REFUSED, FaultKind.UNRESOLVED])
def test_attempt_begun_before_the_last_answered_probe_proves_nothing(kind):
    world = World().settled()
    before = world.now - 5
    assert world.fail(A, kind, sent_at=before).state(A) is HostState.UP


def test_login_refused_during_a_later_probe_on_an_open_connection_counts():
    world = World().settled()
    assert world.fail(A, FaultKind.REJECTED, sent_at=world.now - 1).state(A) is HostState.REJECTED


def test_login_refused_before_a_later_fresh_connection_proves_nothing():
    world = World().settled().primary(A, fresh=True)
    assert world.fail(A, FaultKind.REJECTED, sent_at=world.now - 1).state(A) is HostState.UP


def test_silence_is_counted_from_the_first_attempt_whatever_it_met():
    world = World().settled()
    assert world.host(A).silent_since is None
    world.timeout(A)
    first = world.now - 0.005
    assert world.host(A).silent_since == first
    world.timeout(A).refuse(A).timeout(A)
    assert world.host(A).silent_since == first
    assert world.fail(A, FaultKind.STARTING).host(A).silent_since is None
    world.refuse(A)
    assert world.host(A).silent_since == world.now - 0.005
    assert world.primary(A).host(A).silent_since is None


def test_host_that_is_not_listed_changes_nothing():
    world = World().settled()
    before = world.topology
    assert world.primary(HostKey("z", 1), 9).topology is before
    assert world.timeout(HostKey("z", 1)).topology is before


def test_rejection_outlives_silence_and_the_answer_that_comes_late():
    world = World().settled().reject(A, linked=True)
    world.timeout(A)
    assert world.state(A) is HostState.REJECTED
    assert world.host(A).silent_since is not None
    world.timeout(A)
    assert world.state(A) is HostState.DOWN
    assert world.primary(A).state(A) is HostState.REJECTED
    assert world.reason(A) == "told rejected"
    assert world.writers == []
    assert world.primary(A, fresh=True).state(A) is HostState.UP
    assert world.writers == [A]


@pytest.mark.parametrize("linked", [True, False])
def test_rejection_is_not_taken_back_by_too_many_connections(linked):
    world = World().settled().reject(A, linked=True).fail(A, FaultKind.BUSY, linked=linked)
    assert world.state(A) is HostState.REJECTED
    assert world.writers == [A]
    assert world.pass_time(10).primary(A).state(A) is HostState.REJECTED


def test_rival_that_refuses_logins_again_and_again_stays_a_rival_on_its_open_connection():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1)
    for _ in range(3):
        world.reject(B, linked=True)
        assert world.state(B) is HostState.REJECTED
        assert world.writers == []
        assert world.topology.split_brain == {A, B}
        world.primary(B, 1)
        assert world.writers == []


def test_rival_that_refuses_logins_and_missed_one_probe_is_a_rival():
    world = World().settled().primary(B, 1).primary(A, 1).primary(B, 1).reject(B, linked=True)
    assert world.timeout(B).writers == []
    assert world.timeout(B).writers == [A]


def test_copies_of_a_running_machine_are_told_apart_once_one_is_promoted():
    world = World(A, B).primary(A, 1, started_at=1.5).primary(B, 2, started_at=1.5)
    assert world.writers == [B]
    assert world.state(A) is HostState.STALE


def test_rejected_primary_that_fell_silent_is_no_rival():
    world = World().settled().reject(A).primary(A)
    world.timeout(A).timeout(A)
    assert world.primary(B, 1).writers == [B]
    assert world.topology.split_brain == frozenset()
