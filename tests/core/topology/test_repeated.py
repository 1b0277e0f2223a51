"""Answers that bring nothing but positions and times lead to the same snapshot without an arbitration."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.arbitration import Arbitration, arbitrate
from pgroute.core.topology.host_facts import Facts
from pgroute.core.topology.observations import Answer, Drain, Failure, Members, Observation
from pgroute.core.topology.snapshot import Rules, Topology
from pgroute.core.topology.transition import apply, initial_topology
from tests.core.world import OTHER, OURS, A, B, C, World


def settled() -> World:
    """A healthy cluster whose hosts have all answered, so that nothing has to be worked out again."""
    world = World().settled()
    return world.settled()


def everything(topology: Topology) -> dict[str, Any]:
    """Return all fields, also those that do not count when snapshots are compared."""
    return {field.name: getattr(topology, field.name) for field in fields(topology)}


def twice(topology: Topology, seen: Observation, now: float) -> Topology:
    """Apply an answer as it is, and with an arbitration; both must lead to the same."""
    new, events = apply(topology, seen, now)
    if not isinstance(seen, Answer) or new is topology:
        return new
    plain, told = apply(replace(topology, _settled=None), seen, now)
    assert everything(new) == everything(plain)
    assert events == told
    return new


@pytest.fixture
def arbitrations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Facts, ...]]:
    """Return a list to which each arbitration adds the facts that it was about."""
    found: list[tuple[Facts, ...]] = []

    def noting(hosts: tuple[Facts, ...], *args: Any, **kwargs: Any) -> Arbitration:
        found.append(hosts)
        return arbitrate(hosts, *args, **kwargs)

    monkeypatch.setattr("pgroute.core.topology.transition.arbitrate", noting)
    return found


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (A, {}),
        (A, {"lsn": 900, "flushed": 800, "flush_delay": 0.6}),
        (A, {"rtt": 0.5, "fresh": True}),
        (A, {"server_version": 180002}),
        (B, {"lsn": 700}),
        (B, {"replayed": 700}),
    ],
)
def test_other_positions_and_times_need_no_arbitration(host, told, arbitrations):
    world = settled()
    before = world.topology
    role = HostRole.PRIMARY if host == A else HostRole.STANDBY
    arbitrations.clear()
    world.answer(host, role, 1, **told)
    assert not arbitrations
    assert world.topology.version == before.version + 1
    assert world.host(host).last_seen == world.now
    for name, value in told.items():
        if hasattr(world.host(host), name):
            assert getattr(world.host(host), name) == value


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (A, {"role": HostRole.STANDBY}),
        (A, {"timeline": 2}),
        (A, {"timeline": None}),
        (A, {"read_only": True}),
        (A, {"system_id": OTHER}),
        (A, {"started_at": 5.0}),
        (A, {"address": "10.0.0.9"}),
        (A, {"replayed": 3}),
        (A, {"reduced": "permission denied"}),
        (B, {"role": HostRole.PRIMARY}),
        (B, {"timeline": 2}),
    ],
)
def test_whatever_else_an_answer_brings_is_arbitrated(host, told, arbitrations):
    world = settled()
    arbitrations.clear()
    role = HostRole.PRIMARY if host == A else HostRole.STANDBY
    told = {"role": role, "timeline": 1, **told}
    world.answer(host, **told)
    assert arbitrations


@pytest.mark.parametrize(
    "unsettle",
    [
        lambda world: world.standby(C, 2),
        lambda world: world.primary(C, 0),
        lambda world: world.primary(C, 1),
        lambda world: world.standby(C, system_id=OTHER),
        lambda world: world.standby(C, started_at=float(ord("b"))),
    ],
    ids=["claims", "stale", "rival", "foreign", "alias"],
)
def test_nothing_is_taken_without_an_arbitration_while_time_alone_may_change_something(
    unsettle, arbitrations
):
    world = unsettle(settled())
    arbitrations.clear()
    for _ in range(2):
        world.standby(B)
        assert arbitrations


@pytest.mark.parametrize(
    "lose",
    [
        lambda world: world.refuse(A),
        lambda world: world.timeout(A),
        lambda world: world.reject(A, linked=True),
        lambda world: world.refuse(A).refuse(C),
    ],
    ids=["down", "suspect", "refuses logins", "two down"],
)
def test_answers_of_a_standby_in_an_outage_need_no_arbitration(lose, arbitrations):
    world = lose(settled()).standby(B)
    arbitrations.clear()
    for _ in range(3):
        world.pass_time(20.0).standby(B)
    assert not arbitrations


def test_the_moment_at_which_the_cluster_was_heard_is_kept(arbitrations):
    world = settled()
    arbitrations.clear()
    world.pass_time(100).primary(A).standby(B).standby(C)
    assert not arbitrations
    # Another cluster in its place is not believed before 30 s of silence.
    world.members(HostKey("x", 1), HostKey("y", 1))
    world.primary(HostKey("x", 1), 9, system_id=OTHER).standby(HostKey("y", 1), 9, system_id=OTHER)
    assert world.topology.primary is None


KEYS = (A, B, C)
EVERY = st.sampled_from(KEYS)
HEALTHY = {A: HostRole.PRIMARY, B: HostRole.STANDBY, C: HostRole.STANDBY}


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw what is seen next: most of it changes nothing but positions and times."""
    kind = draw(st.sampled_from(["again"] * 6 + ["round", "told", "failure", "pass", "members", "drain"]))
    host = draw(EVERY)
    match kind:
        case "again":
            return kind, host, draw(st.integers(0, 30)), draw(st.booleans())
        case "told":
            name, value = draw(
                st.sampled_from(
                    [
                        ("role", HostRole.PRIMARY), ("role", HostRole.STANDBY), ("timeline", 2), ("timeline", None),
                        ("system_id", OTHER), ("system_id", None), ("started_at", 1.0), ("started_at", None),
                        ("read_only", True), ("address", "10.0.0.1"), ("replayed", 4), ("reduced", "why"),
                    ]
                )
            )  # fmt: skip
            return kind, host, name, value
        case "failure":
            return kind, host, draw(st.sampled_from(FaultKind)), draw(st.booleans())
        case "pass":
            return kind, draw(st.sampled_from([1.0, 31.0]))
        case "members":
            return kind, tuple(draw(st.lists(EVERY, min_size=1, max_size=3)))
        case _:
            return kind, host


@given(
    history=st.lists(steps(), max_size=40),
    check=st.booleans(),
    pinned=st.none() | st.just(OURS),
    ordered=st.booleans(),
    start=st.sampled_from([1.0, None]),
)
@settings(deadline=None)
def test_it_leads_to_what_the_arbitration_would_lead_to(history, check, pinned, ordered, start):
    now = 1000.0
    topology = initial_topology(KEYS, now, Rules(check, pinned, ordered=ordered))
    last = {
        key: Answer(
            key,
            role,
            now,
            timeline=1,
            system_id=OURS,
            started_at=start and start + ord(key.host),
            address=f"10.0.1.{ord(key.host)}",
        )
        for key, role in HEALTHY.items()
    }
    for kind, *args in [("round", A), ("round", A), *history]:
        now += 0.25
        seen: list[Observation] = []
        match kind, *args:
            case "again", host, lsn, fresh:
                seen = [replace(last[host], sent_at=now, lsn=lsn, flushed=lsn, fresh=fresh, rtt=0.001 * lsn)]
            case "round", _:
                seen = [replace(answer, sent_at=now) for answer in last.values()]
            case "told", host, name, value:
                last[host] = replace(last[host], sent_at=now, **{name: value})
                seen = [last[host]]
            case "failure", host, fault, linked:
                seen = [Failure(host, Fault(fault, reason="told"), now, linked=linked)]
            case "pass", seconds:
                now += seconds
            case "members", hosts:
                seen = [Members(hosts)]
            case "drain", host:
                seen = [Drain(frozenset({host}))]
        for observation in seen:
            topology = twice(topology, observation, now)
