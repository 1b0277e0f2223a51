"""What follows from an adviser's word: who joins, stays and leaves, what is forgotten, when the primary makes way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.config.discovery import PatroniDiscovery
from pgroute.core.discovery.follow import Followed, follow
from pgroute.core.discovery.patroni import read_cluster
from pgroute.core.discovery.placing import Proof, prove
from pgroute.core.discovery.timing import Heard, due_at, handing_over, next_question, next_turn
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.observations import Answer, Listing
from tests.core.discovery.answers import MEMBERS, body, cluster
from tests.core.world import OTHER, OURS, A, B, C, World

OPTIONS = PatroniDiscovery()
PG1, PG2, PG3 = (HostKey(f"pg{n}", 5432) for n in (1, 2, 3))
AT = 100.0
JOINS = Proof(joins=True)


def heard(told: dict[str, Any] | None = None, at: float = AT, due: float | None = None, **more: Any) -> Heard:
    report = read_cluster(body(cluster() if told is None else told), OPTIONS)
    return Heard(report, at, due, "http://pg1:8008", asked=1, **more)


def followed(
    said: Heard,
    *hosts: HostKey,
    proofs: dict[HostKey, Proof] | None = None,
    before: tuple[HostKey, ...] = (),
    world: World | None = None,
    refusal: str = "",
    now: float = AT,
) -> Followed:
    listed = {key: Listing() for key in hosts}
    return follow(
        said,
        OPTIONS,
        listed=listed,
        before={key: Listing(origin="member") for key in before},
        topology=(world or World(*hosts, *before)).topology,
        proofs=proofs or {},
        refusal=lambda _: refusal,
        now=now,
    )


def advice(found: Followed) -> dict[HostKey, str]:
    assert found.advised is not None
    return {key: told.member for key, told in found.advised.hosts.items()}


def test_advice_is_for_the_hosts_of_the_dsn_that_members_are() -> None:
    found = followed(heard(), PG1, HostKey("PG2.", 5432), HostKey("pg3", 5433))
    assert advice(found) == {PG1: "pg1", HostKey("PG2.", 5432): "pg2"}
    assert not found.joined
    assert found.tried == (PG3,)


def test_member_is_known_by_the_address_that_probes_reach() -> None:
    world = World(A).primary(A, address="10.0.0.1")
    found = followed(heard(cluster({"host": "10.0.0.1"})), A, world=world)
    assert advice(found) == {A: "pg1"}


def test_unknown_member_joins_once_it_is_proven() -> None:
    assert followed(heard(), PG1).joined == {}
    found = followed(heard(), PG1, proofs={PG2: JOINS, PG3: Proof(reason="connection refused")})
    assert found.joined == {PG2: Listing(origin="member pg2")}
    assert advice(found) == {PG1: "pg1", PG2: "pg2"}
    assert found.tried == (PG3,)
    assert found.advised is not None
    assert found.advised.adviser.strangers == (("pg3", "pg3:5432: connection refused"),)
    assert found.advised.adviser.settled


def test_member_that_is_a_host_by_another_name_gives_that_one_its_advice() -> None:
    found = followed(heard(), A, proofs={PG1: Proof(alias=A), PG2: JOINS, PG3: JOINS})
    assert advice(found) == {A: "pg1", PG2: "pg2", PG3: "pg3"}
    assert PG1 not in found.joined
    # Its host has left: it has to be tried again.
    assert PG1 in followed(heard(), B, proofs={PG1: Proof(alias=A)}).tried


def test_alias_in_doubt_gives_its_advice_and_is_tried_again() -> None:
    found = followed(heard(), A, proofs={PG1: Proof(alias=A, doubted=True), PG2: JOINS, PG3: JOINS})
    assert advice(found)[A] == "pg1"
    assert found.tried == (PG1,)


def test_member_that_joined_and_is_found_to_be_another_host_is_tried_again() -> None:
    world = World(A, PG1).primary(A, started_at=1.0).primary(PG1, started_at=1.0)
    found = followed(heard(), A, before=(PG1,), world=world, proofs={PG1: JOINS})
    assert list(found.joined) == [PG1]
    assert PG1 in found.tried
    answer = Answer(PG1, HostRole.PRIMARY, 0.0, system_id=OURS, started_at=1.0)
    assert prove(answer, world.topology, check_system_id=True) == Proof(alias=A)


@pytest.mark.parametrize("place", [{"host": "pg1"}, {"host": "elsewhere"}])
@pytest.mark.parametrize("names", [("pg1", "node1"), ("node1", "pg1")])
@pytest.mark.parametrize("state", ["stopped", "running"])
def test_renamed_member_speaks_for_its_host(
    place: dict[str, Any], names: tuple[str, str], state: str
) -> None:
    old, new = names
    left = {"name": old, "role": "replica", "state": state, **place}
    members = [{**MEMBERS[0], "name": new}, {**MEMBERS[0], **left}]
    said = heard(cluster(members=members))
    proofs = {HostKey("elsewhere", 5432): Proof(alias=PG1)}
    assert advice(followed(said, PG1, proofs=proofs)) == {PG1: new}
    found = followed(said, PG2, proofs={PG1: JOINS, **proofs})
    assert advice(found) == {PG1: new}
    assert found.joined == {PG1: Listing(origin=f"member {new}")}


def test_order_of_those_that_joined_does_not_depend_on_who_leads() -> None:
    proofs = {PG1: JOINS, PG2: JOINS, PG3: JOINS}
    for leader in range(3):
        roles = [{"role": "leader" if n == leader else "replica"} for n in range(3)]
        assert list(followed(heard(cluster(*roles)), A, proofs=proofs).joined) == [PG1, PG2, PG3]


def test_renamed_standby_that_runs_goes_before_its_old_name() -> None:
    old = {**MEMBERS[1], "name": "pg9", "state": "stopped", "role": "replica"}
    found = followed(heard(cluster(members=[*MEMBERS, old])), PG1, PG2, PG3)
    assert advice(found) == {PG1: "pg1", PG2: "pg2", PG3: "pg3"}


def test_member_that_is_a_joined_one_by_another_name_waits_for_no_order() -> None:
    for alias, joins in ((PG1, PG2), (PG2, PG1)):
        found = followed(heard(), PG3, proofs={alias: Proof(alias=joins), joins: JOINS})
        assert list(found.joined) == [joins]
        assert found.tried == ()
        assert found.advised is not None
        assert found.advised.adviser.strangers == ()


def test_member_that_is_the_primary_by_another_name_is_no_stranger() -> None:
    # Patroni tells of it at another address only; the primary stays where it has joined.
    world = World(A, B).standby(A).primary(B)
    found = followed(
        heard(), A, before=(B,), world=world, proofs={PG1: Proof(alias=B), PG2: JOINS, PG3: JOINS}
    )
    assert set(found.joined) == {B, PG2, PG3}
    assert advice(found)[B] == "pg1"
    assert found.tried == ()


def test_refused_member_neither_joins_nor_is_tried() -> None:
    found = followed(heard(), PG1, refusal="not trusted", proofs={PG2: JOINS})
    assert (found.joined, found.tried) == ({}, ())
    assert found.advised is not None
    assert [why for _, why in found.advised.adviser.strangers] == [f"pg{n}:5432: not trusted" for n in (2, 3)]


def test_member_leaves_when_it_is_named_no_more() -> None:
    gone = heard(cluster({}, {"host": "elsewhere"}))
    found = followed(gone, PG1, before=(PG2,), proofs={PG2: JOINS})
    assert PG2 not in found.joined


def test_primary_stays_whatever_the_adviser_says() -> None:
    world = World(PG1, PG2).standby(PG1).primary(PG2)
    gone = heard(cluster({}, {"host": "elsewhere"}))
    assert list(followed(gone, PG1, before=(PG2,), world=world).joined) == [PG2]


def test_forgotten_adviser_leaves_hosts_that_serve_and_takes_its_tags_away() -> None:
    world = World(PG1, PG2, PG3).primary(PG1).standby(PG2).refuse(PG3)
    said, later = heard(error="dead"), AT + OPTIONS.forget_after
    found = followed(said, PG1, before=(PG2, PG3), world=world, proofs={PG2: JOINS, PG3: JOINS}, now=later)
    assert list(found.joined) == [PG2, PG3]
    assert len(advice(found)) == 3
    found = followed(said, PG1, before=(PG2, PG3), world=world, now=later + 0.1)
    assert list(found.joined) == [PG2]
    assert advice(found) == {}
    assert found.advised is not None
    assert found.advised.adviser.forgotten


@pytest.mark.parametrize(
    ("told", "proof"),
    [
        ({"started_at": 97.0}, Proof(alias=A)),
        ({"started_at": 1.0}, JOINS),
        ({"started_at": None}, JOINS),
        ({"started_at": 97.0, "system_id": None}, JOINS),
        (
            {"started_at": 1.0, "system_id": OTHER},
            Proof(reason=f"another cluster: system identifier {OTHER}"),
        ),
    ],
)
def test_proof(told: dict[str, Any], proof: Proof) -> None:
    answer = replace(Answer(PG2, HostRole.STANDBY, 0.0, system_id=OURS), **told)
    assert prove(answer, World().settled().topology, check_system_id=True) == proof


def test_nobody_joins_before_a_host_of_the_dsn_has_shown_the_cluster() -> None:
    answer = Answer(PG2, HostRole.PRIMARY, 0.0, system_id=OURS, started_at=1.0)
    assert prove(answer, World().primary(A).standby(B).topology, check_system_id=True).reason
    assert prove(answer, World().refuse(A).topology, check_system_id=True).reason
    assert prove(replace(answer, system_id=OTHER), World().settled().topology, check_system_id=False) == JOINS


def test_member_of_the_known_cluster_joins_while_no_host_serves() -> None:
    answer = Answer(PG2, HostRole.PRIMARY, 0.0, timeline=2, system_id=OURS, started_at=1.0)
    down = World().settled().refuse(A).refuse(B).refuse(C).topology
    assert prove(answer, down, check_system_id=True) == JOINS
    assert prove(replace(answer, system_id=OTHER), down, check_system_id=True).reason
    # Nothing tells here that it is of the same cluster.
    assert prove(answer, down, check_system_id=False).reason
    assert prove(replace(answer, system_id=None), down, check_system_id=True).reason


def test_member_of_the_pinned_cluster_joins_although_no_host_was_ever_heard() -> None:
    answer = Answer(PG2, HostRole.PRIMARY, 0.0, system_id=OURS, started_at=1.0)
    for pinned, joins in ((OURS, True), (OTHER, False)):
        world = World(A, system_id=pinned).refuse(A)
        assert prove(answer, world.topology, check_system_id=True).joins is joins


PLAN = {"at": "2026-11-29T17:00:00+00:00", "from": "pg1", "to": "pg2"}
EPOCH = 1795971600.0


def test_time_of_a_switchover_by_our_clock_or_the_one_of_the_adviser() -> None:
    report = heard(cluster(scheduled_switchover=PLAN)).report
    assert report is not None
    assert due_at(report, 50.0, EPOCH - 10, None) == 60.0
    assert due_at(report, 50.0, EPOCH - 10, EPOCH - 11) == 60.0  # it tells whole seconds
    assert due_at(report, 50.0, EPOCH - 10, EPOCH - 100) == 150.0
    assert due_at(replace(report, paused=True), 50.0, EPOCH, None) is None
    assert due_at(replace(report, switchover=None), 50.0, EPOCH, None) is None


def test_primary_makes_way_for_a_bounded_time() -> None:
    said = heard(cluster(scheduled_switchover=PLAN), at=AT, due=AT + 5)
    moments = {3.9: False, 4.0: True, 5.0: True, 9.9: True, 10.0: False}
    assert {after: handing_over(said, OPTIONS, AT + after) for after in moments} == moments
    assert not handing_over(said, PatroniDiscovery(drain_before=None), AT + 5)
    # What was said long ago may have been taken back.
    assert not handing_over(replace(said, at=AT - 20.1), OPTIONS, AT + 5)
    found = followed(said, PG1, PG2, now=AT + 5)
    assert found.advised is not None
    assert [key for key, told in found.advised.hosts.items() if told.handing_over] == [PG1]
    assert found.advised.hosts[PG1].successor == "pg2"


def test_odd_member_is_a_stranger_and_an_odd_plan_drains_nobody() -> None:
    plan = {"at": "2026-11-29T17:00:00", "from": "pg1"}
    found = followed(heard(cluster({}, {"port": "x"}, scheduled_switchover=plan)), PG1, PG2, PG3)
    assert advice(found) == {PG1: "pg1", PG3: "pg3"}
    assert found.advised is not None
    adviser = found.advised.adviser
    assert adviser.strangers == (("pg2", "'port' is no number from 1 to 65535"),)
    assert "no time with a time zone" in adviser.switchover
    assert adviser.switchover_at is None


def test_scope_is_known_while_the_last_answer_counts() -> None:
    assert Heard().scope(OPTIONS, AT) == ""
    assert heard().scope(OPTIONS, AT + OPTIONS.forget_after) == "shop"
    assert heard().scope(OPTIONS, AT + OPTIONS.forget_after + 0.1) == ""


def test_adviser_is_asked_before_a_switchover_and_while_it_is_due() -> None:
    assert next_question(heard(), OPTIONS, AT, 0.5) == 10.0
    due = heard(cluster(scheduled_switchover=PLAN), due=AT + 5)
    assert next_question(due, OPTIONS, AT, 0.5) == 3.5
    assert next_question(due, OPTIONS, AT + 4.5, 0.5) == 2.0
    assert next_question(due, OPTIONS, AT + 10, 0.5) == 10.0
    assert next_turn(due, OPTIONS, AT) == AT + 4
    assert next_turn(due, OPTIONS, AT + 4) == AT + 10
    stale = replace(due, due=AT + 18)  # the plan is due when what told of it is too old
    assert next_turn(stale, OPTIONS, AT + 17) == pytest.approx(AT + 2 * OPTIONS.interval, abs=0.01)
    assert next_turn(Heard(), OPTIONS, AT) is None


MOMENTS = st.floats(0, 1e6)


@given(at=MOMENTS, due=st.none() | MOMENTS, now=MOMENTS, chance=st.floats(0, 1))
def test_time_always_goes_on(at: float, due: float | None, now: float, chance: float) -> None:
    said = Heard(heard(cluster(scheduled_switchover=PLAN)).report, at, due, asked=1)
    assert 0 < next_question(said, OPTIONS, now, chance) <= 1.1 * OPTIONS.interval
    turn = next_turn(said, OPTIONS, now)
    assert turn is None or turn > now
    if due is not None and now >= due + OPTIONS.drain_for:
        assert not handing_over(said, OPTIONS, now)


@given(due=st.none() | st.floats(AT, AT + 30))
def test_nothing_changes_between_two_turns(due: float | None) -> None:
    said = heard(cluster(scheduled_switchover=PLAN), due=due)
    now = AT
    while (turn := next_turn(said, OPTIONS, now)) is not None:
        later = max(now, turn - 0.002)  # what ends is looked at a moment later
        assert handing_over(said, OPTIONS, later) == handing_over(said, OPTIONS, now)
        assert said.current(OPTIONS, later) == said.current(OPTIONS, now)
        now = turn
    assert not handing_over(said, OPTIONS, now)
    assert not said.current(OPTIONS, now)


KEYS = st.sampled_from([PG1, PG2, PG3, A, B, C])
PROOFS = st.sampled_from(
    [JOINS, Proof(alias=A), Proof(alias=A, doubted=True), Proof(alias=PG1), Proof(reason="no")]
)


@given(
    listed=st.lists(KEYS, min_size=1, unique=True),
    before=st.lists(KEYS, unique=True),
    proofs=st.dictionaries(KEYS, PROOFS),
    now=st.floats(AT, AT + 2000),
    due=st.none() | st.floats(AT, AT + 2000),
)
def test_adviser_never_takes_a_host_of_the_dsn(
    listed: list[HostKey],
    before: list[HostKey],
    proofs: dict[HostKey, Proof],
    now: float,
    due: float | None,
) -> None:
    before = [key for key in before if key not in listed]
    said = heard(cluster(scheduled_switchover=PLAN), due=due)
    found = followed(said, *listed, before=tuple(before), proofs=proofs, now=now)
    assert not set(listed) & found.joined.keys()
    assert not set(found.tried) & {*listed}
    assert found.advised is not None
    assert found.advised.hosts.keys() <= {*listed, *found.joined}
    assert all(proofs.get(key) == JOINS or key in before for key in found.joined)
