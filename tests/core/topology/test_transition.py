"""The snapshot: generations, candidates, times, lag, membership, its text; and what holds after any history."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgroute.core.abort_policy import sessions_to_abort
from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.schedule import connect_delay, probe_delay
from pgroute.core.topology.observations import Answer, Failure, ForgetTimeline, Listing, Members
from pgroute.core.topology.snapshot import Rules
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.core.topology.wal_history import MOST_SAMPLES, Fork
from tests.core.world import OTHER, OURS, A, B, C, D, World

# Candidates.

SERVING = [
    (SessionAttrs.ANY, [[A, B, C]]),
    (SessionAttrs.READ_WRITE, [[A]]),
    (SessionAttrs.PRIMARY, [[A]]),
    (SessionAttrs.READ_ONLY, [[B, C]]),
    (SessionAttrs.STANDBY, [[B, C]]),
    (SessionAttrs.PREFER_STANDBY, [[B, C], [A]]),
]


@pytest.mark.parametrize(("attrs", "groups"), SERVING)
def test_candidates_of_a_healthy_cluster(attrs, groups):
    assert World().settled().groups(attrs) == groups


@pytest.mark.parametrize(
    ("attrs", "groups"),
    [
        (SessionAttrs.ANY, [[A, B]]),
        (SessionAttrs.READ_WRITE, []),
        (SessionAttrs.PRIMARY, [[A]]),
        (SessionAttrs.READ_ONLY, [[A, B]]),
        (SessionAttrs.STANDBY, [[B]]),
        (SessionAttrs.PREFER_STANDBY, [[B], [A]]),
    ],
)
def test_candidates_with_a_read_only_primary(attrs, groups):
    assert World(A, B).primary(A, read_only=True).standby(B).groups(attrs) == groups


@pytest.mark.parametrize(
    ("attrs", "groups"),
    [
        (SessionAttrs.ANY, [[C], [B], [A]]),
        (SessionAttrs.READ_WRITE, [[A]]),
        (SessionAttrs.PRIMARY, [[A]]),
        (SessionAttrs.READ_ONLY, [[C], [B]]),
        (SessionAttrs.STANDBY, [[C], [B]]),
        (SessionAttrs.PREFER_STANDBY, [[C], [B], [A]]),
    ],
)
def test_busy_and_suspect_hosts_come_after_sound_ones(attrs, groups):
    world = World().settled().timeout(A).fail(B, FaultKind.BUSY)
    assert world.groups(attrs) == groups


def test_reader_falls_back_to_the_primary_without_standbys():
    world = World().settled().refuse(B).refuse(C)
    assert world.readers == [[A]]
    assert world.groups(SessionAttrs.STANDBY) == []


def test_standbys_serve_any_session_without_a_primary():
    world = World().settled().refuse(A)
    assert world.groups(SessionAttrs.ANY) == [[B, C]]
    assert world.groups(SessionAttrs.READ_WRITE) == []


def test_candidate_carries_what_a_policy_may_weigh():
    world = World(weights={str(B): 2.5}).primary(A, lsn=100).standby(B, lsn=40, rtt=0.25).standby(C)
    b, c = world.topology.candidates[SessionAttrs.STANDBY][0]
    assert (b.key, b.role, b.order, b.weight, b.rtt, b.lag_bytes) == (B, HostRole.STANDBY, 1, 2.5, 0.25, 60)
    assert (c.order, c.weight, c.lag_bytes) == (2, 1.0, None)


def test_start_knows_nothing():
    topology = initial_topology((A, B), 5.0)
    assert [h.state for h in topology.hosts] == [HostState.UNKNOWN] * 2
    assert [h.reason for h in topology.hosts] == ["not heard from yet"] * 2
    assert topology.primary is None
    assert topology.standbys == ()
    assert topology.primary_lost_at == 5.0
    assert topology.at == 5.0
    assert topology.highest_timeline is None
    assert not topology.initial_scan_done
    assert all(groups == () for groups in topology.candidates.values())
    assert set(topology.candidates) == set(SessionAttrs)


def test_primary_and_standbys_are_views_of_the_hosts():
    topology = World().settled().topology
    assert topology.primary is topology.host(A)
    assert [h.key for h in topology.standbys] == [B, C]
    assert topology.host(D) is None
    assert (topology.hosts[1].host, topology.hosts[1].port) == ("b", 5432)


def test_standby_that_may_not_serve_is_not_among_the_standbys():
    topology = World().settled().standby(C, system_id=OTHER).topology
    assert [h.key for h in topology.standbys] == [B]


def test_view_shows_what_the_host_told():
    world = World(A).primary(A, 3, address="10.0.0.1", lsn=7, server_version=180001, read_only=True)
    host = world.host(A)
    assert host.address == "10.0.0.1"
    assert (host.role, host.read_only, host.timeline) == (HostRole.PRIMARY, True, 3)
    assert (host.rtt, host.system_id, host.started_at) == (0.005, OURS, float(ord("a")))
    assert host.server_version == 180001
    assert host.last_seen == world.now


def test_snapshot_is_immutable():
    topology = World().settled().topology
    with pytest.raises(dataclasses.FrozenInstanceError):
        topology.primary = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        topology.by_key[A] = topology.hosts[0]  # type: ignore[index]
    with pytest.raises(TypeError):
        topology.candidates[SessionAttrs.ANY] = ()  # type: ignore[index]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])  # noqa: S301  (its own)
def test_snapshot_can_be_copied_and_pickled(copied):
    world = World().settled()
    again = copied(world.topology)
    assert again == world.topology
    assert again.host(A) == world.host(A)
    with pytest.raises(TypeError):
        again.by_key[A] = again.hosts[0]
    world.topology = again
    assert world.refuse(A).primary(B, 2).writers == [B], "it is as good as the original"


# Generations.


def test_answers_of_the_same_server_keep_the_generation():
    world = World().settled()
    before = world.host(A).generation
    world.primary(A, address="10.0.0.1").primary(A, address="10.0.0.1").primary(A).timeout(A).primary(A)
    assert world.host(A).generation == before


@pytest.mark.parametrize(
    ("change", "host"),
    [
        ({"started_at": 5.0}, A),
        ({"address": "10.0.0.2"}, A),
        ({"read_only": True}, A),
        ({"started_at": 5.0}, B),
    ],
)
def test_changed_server_is_a_new_generation(change, host):
    world = World().primary(A, address="10.0.0.1").standby(B, address="10.0.0.1").standby(C)
    before = world.host(host).generation
    answer = world.primary if host is A else world.standby
    answer(host, **{"address": "10.0.0.1", **change})
    assert world.host(host).usable
    assert world.host(host).generation == before + 1


def test_server_of_another_cluster_is_a_new_generation_where_clusters_are_not_told_apart():
    world = World(A, check_system_id=False).primary(A)
    before = world.host(A).generation
    assert world.primary(A, system_id=None).host(A).generation == before
    world.primary(A)
    assert world.primary(A, system_id=OTHER).host(A).usable
    assert world.host(A).generation == before + 1


def test_promoted_standby_is_a_new_generation():
    world = World().settled()
    before = world.host(B).generation
    assert world.primary(B, 2).host(B).generation == before + 1


@pytest.mark.parametrize("fall", ["refuse", "stop"])
def test_host_that_may_no_longer_serve_is_a_new_generation_once(fall):
    world = World().settled()
    before = world.host(A).generation
    for _ in range(2):
        world.refuse(A) if fall == "refuse" else world.fail(A, FaultKind.STARTING)
        assert world.host(A).generation == before + 1
    world.primary(A, started_at=9.0, fresh=True)
    assert world.host(A).usable
    assert world.host(A).generation == before + 1


def test_stale_primary_is_a_new_generation():
    world = World().settled()
    before = world.host(A).generation
    assert world.primary(B, 2).host(A).generation == before + 1


def test_suspect_host_keeps_its_generation():
    world = World().settled()
    before = world.host(A).generation
    assert world.timeout(A).host(A).generation == before


def test_host_that_left_and_came_back_is_a_new_generation():
    world = World().settled().refuse(C).standby(C)
    before = world.host(C).generation
    world.members(A, B)
    world.members(A, B, C).standby(C)
    assert world.host(C).usable
    assert world.host(C).generation > before


# Times.


def test_primary_lost_at_starts_when_the_primary_stops_answering():
    world = World().settled()
    assert world.lost_at() is None
    world.pass_time(5).timeout(A)
    lost = world.now
    assert world.lost_at() == lost
    world.pass_time(1).timeout(A)
    assert world.lost_at() == lost
    world.primary(B, 2)
    assert world.lost_at() is None


def test_outage_at_the_start_counts_from_the_start():
    world = World()
    assert world.primary(A).topology.primary_lost_at == 100.0


def test_since_changes_with_state_use_and_role_only():
    world = World().settled()
    since = world.host(B).since
    assert world.pass_time(1).standby(B, lsn=5, rtt=0.5).host(B).since == since
    assert world.timeout(B).host(B).since == world.now
    assert world.standby(B).host(B).since == world.now
    assert world.primary(B, 2).host(B).since == world.now
    world = World().primary(A).standby(B)
    since = world.host(A).since
    assert world.refuse(C).host(A).usable
    assert world.host(A).since == world.now > since


def test_at_and_version_follow_the_observations():
    world = World().settled()
    version = world.topology.version
    world.timeout(A)
    assert world.topology.version == version + 1
    assert world.topology.at == world.now


# Staleness.


@pytest.mark.parametrize(
    ("primary", "standby", "lag_bytes", "known"),
    [
        (1000, 400, 600, False),
        (1000, 1000, 0, True),
        (1000, 1200, 0, True),
        (None, 400, None, False),
        (1000, None, None, False),
    ],
)
def test_lag_is_what_the_primary_wrote_and_the_standby_did_not_replay(primary, standby, lag_bytes, known):
    world = World(A, B).primary(A, lsn=primary).standby(B, lsn=standby)
    b = world.host(B)
    assert (b.lag_bytes, b.staleness is not None, b.current_as_of is not None) == (lag_bytes, known, known)
    assert (world.host(A).lag_bytes, world.host(A).staleness, world.host(A).current_as_of) == (
        None,
        0.0,
        None,
    )
    assert (world.host(A).lsn, b.lsn) == (primary, standby)


def test_what_is_inserted_and_not_flushed_is_no_lag_in_bytes():
    assert World(A, B).primary(A, lsn=1000, flushed=900).standby(B, lsn=400).host(B).lag_bytes == 500


def test_staleness_is_the_age_of_the_newest_position_that_is_replayed():
    world = World(A, B).standby(B, lsn=100)
    for lsn in range(100, 200, 10):
        world.primary(A, lsn=lsn).pass_time(0.99)
    for lsn, seconds in [(190, 1.0), (185, 2.0), (180, 2.0), (179, 3.0), (100, 10.0), (99, None)]:
        staleness = world.standby(B, lsn=lsn).host(B).staleness
        assert staleness == (seconds and pytest.approx(seconds, abs=0.1)), lsn


def test_one_record_after_an_idle_hour_is_no_staleness_of_an_hour():
    world = World(A, B)
    for _ in range(60):
        world.primary(A, lsn=100).standby(B, lsn=100).pass_time(60.0)
    world.primary(A, lsn=100).standby(B, lsn=100).pass_time(1.0).primary(A, lsn=108)
    assert world.host(B).staleness == pytest.approx(1.0, abs=0.1)
    assert world.standby(B, lsn=108).host(B).staleness == pytest.approx(0.0, abs=0.1)


def test_staleness_grows_while_the_standby_stands_still():
    world = World(A, B).primary(A, lsn=100).standby(B, lsn=100)
    for seconds in range(1, 4):
        world.pass_time(1.0).primary(A, lsn=100 + seconds)
        assert world.host(B).staleness == pytest.approx(seconds, abs=0.1)


def test_staleness_grows_while_no_primary_answers():
    world = World(A, B).primary(A, lsn=100).standby(B, lsn=100).refuse(A)
    as_of = world.host(B).current_as_of
    for seconds in range(1, 4):
        world.pass_time(1.0).standby(B, lsn=100)
        assert world.host(B).staleness == pytest.approx(seconds, abs=0.1)
        assert world.host(B).current_as_of == as_of
    assert world.host(B).lag_bytes is None
    assert world.host(A).staleness is None


def test_promotion_that_is_seen_leaves_the_old_timeline_at_the_position_of_its_recovery():
    world = World(A, B, C).primary(A, lsn=100).standby(B, lsn=100).standby(C, lsn=100).refuse(A)
    assert world.topology.wal.timeline == 1
    world.pass_time(1.0).primary(B, 2, lsn=160, replayed=110)
    assert world.topology.wal.forks == (Fork(1, 110, 110),)
    assert world.host(C).staleness == pytest.approx(1.0, abs=0.1), (
        "the primary's positions up to the fork still count"
    )
    assert world.standby(C, 2, lsn=160).host(C).staleness == pytest.approx(0.0, abs=0.1)
    # A crash of the new primary moves on what it reports, and not the fork.
    world.primary(B, 2, lsn=300, replayed=250)
    assert world.topology.wal.forks == (Fork(1, 110, 110),)


def test_standby_that_tells_its_own_timeline_before_its_promotion_is_over_has_left_the_one_before():
    world = World(A, B, C).primary(A, lsn=100).standby(B, lsn=100).standby(C, lsn=100).refuse(A)
    world.pass_time(0.1).standby(B, 2, lsn=110).standby(B, 1, lsn=110).primary(B, 2, lsn=160, replayed=110)
    assert world.topology.wal.forks == (Fork(1, 110, 110),)
    assert world.host(C).staleness is not None


def test_standby_without_a_receiver_is_still_on_the_timeline_that_it_told_before():
    # Its control file tells of the second failover's timeline minutes late, and its receiver ends with the primary.
    world = World(A, B, C).primary(A, 2, lsn=100).standby(B, 2, lsn=100).standby(C, 2, lsn=100).refuse(A)
    world.pass_time(1.0).standby(B, 1, lsn=110).standby(C, 1, lsn=100)
    assert world.host(C).timeline == 2
    assert world.host(C).staleness == pytest.approx(1.0, abs=0.1)
    world.primary(B, 3, lsn=160, replayed=110)
    assert world.topology.wal.forks == (Fork(2, 110, 110),)
    assert world.host(C).staleness == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("more", [{"started_at": 99.0}, {"started_at": None}])
def test_standby_that_was_restarted_may_be_on_a_lower_timeline(more):
    world = World(A, B).primary(A, 2, lsn=100).standby(B, 2, lsn=100).standby(B, 1, lsn=100, **more)
    assert (world.host(B).timeline, world.host(B).staleness) == (1, None)


def test_restart_between_standby_and_primary_may_have_moved_the_position():
    world = World(A, B).primary(A, lsn=100).standby(B, lsn=100).refuse(A)
    world.primary(B, 2, lsn=160, replayed=110, started_at=99.0)
    assert world.topology.wal.forks == (Fork(1, 0, 110),)


def test_staleness_is_unknown_without_timelines():
    world = World(A, B, C).primary(A, None, lsn=100).standby(B, None, lsn=100).standby(C, lsn=100)
    assert world.host(B).staleness is None
    assert world.host(C).staleness is None
    assert World(A, B).primary(A, lsn=100).standby(B, None, lsn=100).host(B).staleness is None


# Membership.


def test_joining_host_is_unknown_and_leaving_host_is_gone():
    world = World(A, B).primary(A).standby(B).members(A, C)
    assert [h.key for h in world.topology.hosts] == [A, C]
    assert world.state(C) is HostState.UNKNOWN
    assert world.writers == [A]
    assert world.standby(B).topology.host(B) is None


def test_order_of_the_hosts_is_that_of_the_list():
    world = World().settled().members(C, A, B)
    assert world.groups(SessionAttrs.STANDBY) == [[C, B]]
    assert [c.order for g in world.topology.candidates[SessionAttrs.ANY] for c in g] == [0, 1, 2]


def test_stale_primary_is_still_stale_when_the_list_changes():
    world = World().settled().primary(B, 2).refuse(B).members(A, B, C, D)
    assert world.state(A) is HostState.STALE


def test_what_is_known_already_is_no_new_snapshot():
    world = World().settled()
    before = world.topology
    assert world.members(A, B, C).topology is before
    assert world.fail(A, FaultKind.TIMEOUT, sent_at=world.now - 9).topology is before
    assert world.primary(A).topology is not before
    assert world.events[-1].host == A


@pytest.mark.parametrize("kind", [FaultKind.REJECTED, FaultKind.BUSY, FaultKind.NO_CREDENTIALS])
def test_a_login_refused_late_says_nothing_after_one_that_was_sent_later_and_accepted(kind):
    world = World().settled()
    sent_at = world.now
    world.primary(A, fresh=True)
    world.primary(A).primary(A, flushed=7)  # alike, and not on a new connection
    before = world.topology
    assert world.fail(A, kind, sent_at=sent_at, linked=True).topology is before
    assert world.fail(A, kind, linked=True).state(A) is not HostState.UP


def test_text_is_a_table_of_the_hosts():
    world = World().primary(A, 12, lsn=900).standby(B, 12, lsn=400, rtt=0.0123).refuse(C)
    assert str(world.topology).splitlines() == [
        "host    role     state  timeline  lag    rtt      reason",
        "a:5432  primary  up     12        -      5.0 ms",
        "b:5432  standby  up     >=12      500 B  12.3 ms",
        "c:5432  -        down   -         -      -        told refused",
    ]
    assert "primary (read-only)" in str(World(A).primary(A, read_only=True).topology)
    assert "(read-only)" not in str(World(A).standby(A, read_only=True).topology)


# Whatever happens.

KEYS = (A, B, C, HostKey("a", 5432, "10.0.0.1"))
TIMELINES = st.none() | st.integers(1, 4)
EVERY = st.sampled_from(KEYS)
RNG = Random(1)


class AnyHistory(RuleBasedStateMachine):
    """Random observations of up to four hosts, and what must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.topology = initial_topology((), self.now)
        self.generations: dict[HostKey, int] = {}

    @initialize(
        hosts=st.lists(EVERY, max_size=5),
        check=st.booleans(),
        pinned=st.none() | st.just(OURS),
        ordered=st.booleans(),
    )
    def begin(self, hosts: list[HostKey], check: bool, pinned: int | None, ordered: bool) -> None:
        self.topology = initial_topology(tuple(hosts), self.now, Rules(check, pinned, ordered=ordered))

    def see(self, seen: Any) -> None:
        before = self.topology
        self.topology, events = apply(before, seen, self.now)
        if self.topology is before:
            assert events == ()
            assert not (isinstance(seen, Answer) and seen.host in before.by_key)
        else:
            assert self.topology.version == before.version + 1
            assert self.topology.at == self.now
        for event in events:
            assert event.text
        for host in self.topology.hosts:
            assert host.generation >= self.generations.get(host.key, 0)
            self.generations[host.key] = host.generation
            was = before.host(host.key)
            if was and was.usable and (not host.usable or was.role is not host.role):
                assert host.generation > was.generation

    @rule(
        host=EVERY,
        role=st.sampled_from(HostRole),
        timeline=TIMELINES,
        system_id=st.sampled_from([OURS, OURS, OURS, OTHER, None]),
        started_at=st.none() | st.sampled_from([1.0, 2.0, 3.0]),
        lsn=st.none() | st.integers(0, 9),
        read_only=st.booleans(),
        fresh=st.booleans(),
        delay=st.sampled_from([0.001, 0.5, 3.0]),
    )
    def answer(self, host: HostKey, role: HostRole, delay: float, **told: Any) -> None:
        self.now += 0.01
        self.see(Answer(host, role, sent_at=self.now - delay, **told))

    @rule(
        host=EVERY,
        kind=st.sampled_from([*FaultKind, FaultKind.REJECTED, FaultKind.REJECTED]),
        delay=st.sampled_from([0.001, 0.5, 3.0]),
        linked=st.booleans(),
    )
    def failure(self, host: HostKey, kind: FaultKind, delay: float, linked: bool) -> None:
        self.now += 0.01
        before = self.topology
        self.see(Failure(host, Fault(kind, reason=kind.value), self.now - delay, linked))
        was, now = before.host(host), self.topology.host(host)
        if kind is FaultKind.REJECTED and was and now and was.usable:
            # One server of two names is used by the other one.
            aliased = any(h.state is HostState.ALIAS for h in before.hosts)
            # Another one that said it was the primary, and lets nobody in either, has as good a claim now.
            rivalled = host in self.topology.split_brain
            assert aliased or rivalled or (now.usable and now.generation == was.generation)

    @rule(hosts=st.lists(EVERY, max_size=5))
    def members(self, hosts: list[HostKey]) -> None:
        self.see(Members(tuple(hosts)))
        assert [h.key for h in self.topology.hosts] == list(dict.fromkeys(hosts))

    @rule()
    def forget(self) -> None:
        self.see(ForgetTimeline())

    @rule(seconds=st.sampled_from([0.1, 1.0, 29.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def at_most_one_usable_primary(self) -> None:
        primaries = [h for h in self.topology.hosts if h.usable and h.role is HostRole.PRIMARY]
        assert primaries == ([self.topology.primary] if self.topology.primary else [])

    @invariant()
    def usable_primary_is_never_below_the_mark(self) -> None:
        primary, mark = self.topology.primary, self.topology.highest_timeline
        if primary is not None and primary.timeline is not None and mark is not None:
            assert primary.timeline >= mark

    @invariant()
    def no_primary_before_the_round_is_done(self) -> None:
        assert self.topology.initial_scan_done or self.topology.primary is None

    @invariant()
    def writers_go_to_one_host_that_is_not_read_only(self) -> None:
        groups = self.topology.candidates[SessionAttrs.READ_WRITE]
        writers = [c for group in groups for c in group]
        assert len(writers) <= 1
        for candidate in writers:
            assert self.topology.primary is not None
            assert candidate.key == self.topology.primary.key
            assert not self.topology.primary.read_only

    @invariant()
    def candidates_are_the_usable_hosts_that_the_attributes_accept(self) -> None:
        for attrs, groups in self.topology.candidates.items():
            assert all(groups)
            found = sorted(str(c.key) for group in groups for c in group)
            wanted = sorted(
                str(h.key)
                for h in self.topology.hosts
                if h.usable and h.role is not None and attrs.accepts(h.role, read_only=h.read_only)
            )
            assert found == wanted or (self.topology._rules.ordered and set(found) <= set(wanted))
            for group in groups:
                for c in group:
                    assert c.generation == self.topology.by_key[c.key].generation

    @invariant()
    def usable_hosts_are_in_a_state_to_serve(self) -> None:
        for host in self.topology.hosts:
            if host.usable:
                serving = (HostState.UP, HostState.BUSY, HostState.SUSPECT, HostState.REJECTED)
                assert host.state in serving
                assert host.role is not None

    @invariant()
    def host_that_refuses_logins_serves_only_where_somebody_may_be_in(self) -> None:
        for facts in self.topology._facts:
            host = self.topology.by_key[facts.key]
            if host.usable and host.state is HostState.REJECTED:
                assert facts.sessions_possible
            assert facts.login_accepted or not facts.sessions_possible
            assert facts.checked or not facts.login_accepted
            assert facts.observable or facts.state in (
                HostState.REJECTED, HostState.DOWN, HostState.STARTING
            )  # fmt: skip

    @invariant()
    def nobody_is_offered_before_an_earlier_host_is_heard_of_in_an_order(self) -> None:
        topology = self.topology
        unheard = [i for i, h in enumerate(topology.hosts) if h.state is HostState.UNKNOWN]
        offered = {c.order for groups in topology.candidates.values() for g in groups for c in g}
        if topology._rules.ordered and not topology._memory.ever_scanned and unheard:
            assert all(order < min(unheard) for order in offered)
        elif not unheard or not topology._rules.ordered:
            assert offered == {i for i, h in enumerate(topology.hosts) if h.usable}

    @invariant()
    def staleness_is_told_by_few_positions_and_grows(self) -> None:
        history = self.topology.wal
        assert len(history.samples) <= MOST_SAMPLES
        assert list(history.samples) == sorted(set(history.samples))
        for host in self.topology.hosts:
            if host.role is HostRole.STANDBY:
                assert (host.staleness is None) == (host.current_as_of is None)
                assert host.staleness is None or host.staleness >= 0.0
            else:
                assert host.staleness == (0.0 if host is self.topology.primary else None)

    @invariant()
    def no_use_in_waiting_only_where_no_host_ever_let_us_in(self) -> None:
        if self.topology.locked_out:
            assert all(h.state is HostState.REJECTED and not h.usable for h in self.topology.hosts)

    @invariant()
    def split_brain_is_between_listed_primaries_and_none_is_written_to(self) -> None:
        split = self.topology.split_brain
        assert len(split) != 1
        for key in split:
            host = self.topology.host(key)
            assert host is not None
            assert host.role is HostRole.PRIMARY
            assert not host.usable
        assert not (split and self.topology.primary)
        assert self.topology.urgent <= set(self.topology.by_key)

    @invariant()
    def primary_lost_at_tells_of_a_lost_or_suspect_primary(self) -> None:
        primary = self.topology.primary
        sound = any(primary and f.key == primary.key and f.reporting for f in self.topology._facts)
        assert not sound or (primary and primary.state is not HostState.SUSPECT)
        assert (self.topology.primary_lost_at is None) == sound
        assert self.topology.primary_lost_at is None or self.topology.primary_lost_at <= self.now

    @invariant()
    def its_text_and_its_pace_can_always_be_told(self) -> None:
        assert len(str(self.topology).splitlines()) == len(self.topology.hosts) + 1
        options = ProbeOptions()
        aborted = sessions_to_abort(self.topology.hosts, self.topology, options, self.now)
        assert {host.key for host, _ in aborted} <= set(self.topology.by_key)
        for key in self.topology.by_key:
            assert probe_delay(self.topology, key, options.interval, self.now, RNG) >= 0.0
            assert connect_delay(self.topology, key, options, self.now, RNG) >= 0.2


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase


@pytest.mark.long
class TestManyHistories(AnyHistory.TestCase):  # type: ignore[valid-type,misc]
    settings = settings(max_examples=1500, stateful_step_count=40, deadline=None)


@given(
    st.lists(
        st.tuples(st.sampled_from(HostRole), TIMELINES, st.sampled_from([OURS, OTHER, None]), st.booleans())
        | st.sampled_from(FaultKind),
        max_size=12,
    )
)
def test_single_host_that_answers_at_last_as_a_sound_primary_is_written_to(history):
    world = World(A)
    for seen in history:
        if isinstance(seen, FaultKind):
            world.fail(A, seen)
        else:
            role, timeline, system_id, fresh = seen
            world.answer(A, role, timeline, system_id=system_id, fresh=fresh)
    world.pass_time(31).primary(A, 1, fresh=True)
    assert world.writers == [A]


@given(
    st.lists(
        st.tuples(EVERY, st.sampled_from(HostRole), TIMELINES, st.sampled_from([OURS, OTHER, None]))
        | st.tuples(EVERY, st.sampled_from(FaultKind)),
        max_size=25,
    )
)
def test_healthy_cluster_is_served_whatever_it_went_through(history):
    world = World(A, B, C)
    for seen in history:
        if len(seen) == 2:
            world.fail(*seen)
        else:
            host, role, timeline, system_id = seen
            world.answer(host, role, timeline, system_id=system_id)
    for _ in range(3):
        world.pass_time(31)
        world.primary(A, 1, fresh=True).standby(B, 1, fresh=True).standby(C, 1, fresh=True)
    assert world.writers == [A]
    assert world.readers == [[B, C], [A]]


@given(st.permutations([(A, HostRole.PRIMARY, 2), (B, HostRole.PRIMARY, 1), (C, HostRole.STANDBY, 1)]))
def test_order_of_the_first_answers_does_not_matter(order):
    world = World(A, B, C)
    for host, role, timeline in order:
        world.answer(host, role, timeline)
        assert B not in world.writers
    assert world.writers == [A]
    assert world.state(B) is HostState.STALE


def test_whether_it_is_writable_and_readable_and_why_not():
    world = World()
    told = world.topology
    assert (told.writable, told.readable, told.why_not_writable) == (False, False, "no host can be used")
    told = world.settled().topology
    assert (told.writable, told.readable, told.why_not_writable) == (True, True, "")
    told = world.refuse(A).topology
    assert (told.writable, told.readable, told.why_not_writable) == (False, True, "no primary")
    told = World().settled().primary(A, read_only=True).topology
    assert (told.writable, told.readable) == (False, True)
    assert told.why_not_writable == f"the primary {A} is read-only"
    world = World().settled().primary(B).primary(A).primary(B)
    assert world.topology.why_not_writable == f"split brain between {A} and {B}"


def test_a_standby_that_is_one_of_several_addresses_says_so_while_there_is_no_primary() -> None:
    world = World(A, B)
    world.see(Members((A, B), {A: Listing(addresses=3), B: Listing(addresses=2)}))
    world.standby(A).refuse(B)
    assert world.host(A).reason == "one of the 3 addresses of its name; addresses='expand' makes each a host"
    assert world.host(A).state is HostState.UP
    assert world.host(B).reason == "told refused"
    world.primary(B)
    assert (world.host(A).reason, world.host(B).reason) == ("", "")
