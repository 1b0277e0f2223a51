"""The state of a causal object: which position its sessions must not fall behind, and when that is in doubt."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute._sync.progress import PositionNote, Progress
from pgroute.core.model.position import Position
from pgroute.core.model.roles import HostRole, Role
from pgroute.core.routing.demand import Demand
from pgroute.errors import PositionLost
from pgroute.runtime.causality import Causality, CausalReading
from tests.core.world import OTHER, OURS, A, B, C, World

PRIMARY, STANDBY = HostRole.PRIMARY, HostRole.STANDBY


class Told:
    def __init__(self, role: HostRole, lsn: int | None, timeline: int | None = 1) -> None:
        self.role, self.lsn, self.timeline = role, lsn, timeline


def at(lsn: int, timeline: int = 1) -> Position:
    return Position(OURS, timeline, lsn)


@pytest.fixture
def world() -> World:
    return World(A, B, C).primary(A, lsn=100).standby(B, lsn=100).standby(C, lsn=100)


def session(causality: Causality, world: World, told: Told | None, role: Role = Role.READER) -> Demand | None:
    """Begin a session and end it; return what it demanded."""
    demand, ticket = CausalReading(causality, role, max_lag=None, wait=0.1).begin()
    ticket.settle(told, world.topology)
    return demand


def next_demand(causality: Causality, role: Role = Role.READER) -> Demand | None:
    return CausalReading(causality, role, max_lag=None, wait=0.1).begin()[0]


def test_first_session_demands_nothing_unless_it_is_told_to(world):
    assert next_demand(Causality(None)) is None
    assert next_demand(Causality(at(7))) == Demand(after=at(7), wait=0.1)
    reading = CausalReading(Causality(None), Role.READER, max_lag=2.0, wait=0.1)
    assert reading.begin()[0] == Demand(2.0, wait=0.1)


def test_sessions_follow_those_before(world):
    causality = Causality(None)
    session(causality, world, Told(PRIMARY, 60), Role.WRITER)
    assert session(causality, world, Told(STANDBY, 80)) == Demand(after=at(60), wait=0.1)
    assert session(causality, world, Told(STANDBY, 70)) == Demand(after=at(80), wait=0.1)
    assert causality.position == at(80), "the position never goes back"
    assert next_demand(causality, Role.WRITER) == Demand(after=at(80), wait=0.1)


@pytest.mark.parametrize(
    "told", [None, Told(PRIMARY, None), Told(PRIMARY, 5, None), Told(STANDBY, 100, None)]
)
def test_after_an_unknown_position_only_the_primary_will_do_until_it_tells(world, told):
    causality = Causality(at(50))
    session(causality, world, told, Role.WRITER)
    assert next_demand(causality) == Demand(after=at(50), wait=0.1, primary=True)
    assert next_demand(causality, Role.WRITER) == Demand(after=at(50), wait=0.1), "it goes there in any case"
    session(causality, world, Told(PRIMARY, 90))
    assert next_demand(causality) == Demand(after=at(90), wait=0.1)


def test_standby_settles_no_doubt(world):
    causality = Causality(None)
    reading = CausalReading(causality, Role.READER, max_lag=None, wait=0.1)
    _, before = reading.begin()
    session(causality, world, None, Role.WRITER)
    before.settle(Told(STANDBY, 90), world.topology)
    assert next_demand(causality) == Demand(after=at(90), wait=0.1, primary=True)


def test_session_on_the_primary_settles_only_what_was_before_it_began(world):
    causality = Causality(None)
    _, ticket = CausalReading(causality, Role.WRITER, max_lag=None, wait=0.1).begin()
    session(causality, world, None, Role.WRITER)
    ticket.settle(Told(PRIMARY, 90), world.topology)
    assert next_demand(causality) == Demand(after=at(90), wait=0.1, primary=True)


def test_standby_that_is_not_proven_to_follow_tells_no_position(world):
    world.refuse(A).primary(B, 2, lsn=200, replayed=100)
    causality = Causality(None)
    session(causality, world, Told(STANDBY, 101, 1))
    assert causality.position is None
    assert next_demand(causality) == Demand(wait=0.1, primary=True)
    session(causality, world, Told(STANDBY, 100, 1))
    assert causality.position == at(100)


@pytest.mark.parametrize(("kept", "position"), [(100, at(150, 2)), (99, at(100, 1))])
def test_position_that_was_lost_is_kept_for_the_next_session_to_find(world, kept, position):
    causality = Causality(at(100))
    world.refuse(A).primary(B, 2, lsn=200, replayed=kept)
    session(causality, world, Told(PRIMARY, 150, 2))
    assert causality.position == position


def test_late_end_of_a_session_on_the_old_primary_is_found_lost(world):
    causality = Causality(None)
    _, ticket = CausalReading(causality, Role.WRITER, max_lag=None, wait=0.1).begin()
    world.refuse(A).primary(B, 2, lsn=200, replayed=90)
    session(causality, world, Told(PRIMARY, 150, 2), Role.WRITER)
    ticket.settle(Told(PRIMARY, 95, 1), world.topology)
    assert causality.position == at(95, 1)


@given(st.lists(st.integers(0, 100), min_size=1))
def test_position_is_the_highest_of_all_in_any_order(lsns):
    world = World(A).primary(A, lsn=100)
    causality = Causality(None)
    for lsn in lsns:
        session(causality, world, Told(PRIMARY, lsn), Role.WRITER)
    assert causality.position == at(max(lsns))


def test_threads_share_it(world):
    causality = Causality(None)
    lsns = itertools.count()

    def work() -> None:
        for _ in range(500):
            session(causality, world, Told(PRIMARY, next(lsns)), Role.WRITER)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert causality.position == at(1999)


@pytest.mark.parametrize("kept", [90, 100])
def test_session_on_a_timeline_that_no_probe_has_seen_hides_no_loss(world, kept):
    causality = Causality(at(100))
    session(causality, world, Told(PRIMARY, 150, 2), Role.WRITER)
    assert next_demand(causality) == Demand(after=at(100), wait=0.1, primary=True)
    demand = next_demand(causality, Role.WRITER)
    world.refuse(A).primary(B, 2, lsn=200, replayed=kept)
    assert demand is not None
    if kept < 100:
        with pytest.raises(PositionLost):
            demand.check(world.topology)
    else:
        demand.check(world.topology)
        session(causality, world, Told(PRIMARY, 210, 2), Role.WRITER)
        assert next_demand(causality) == Demand(after=at(210, 2), wait=0.1)


@pytest.mark.parametrize(
    ("system_id", "position"),
    [(OURS, at(70)), (None, at(70)), (OTHER, None)],
    ids=["ours", "unknown", "other"],
)
def test_position_told_by_a_server_of_another_cluster_is_not_taken_for_one_of_ours(
    world, system_id, position
):
    causality = Causality(None)
    _, ticket = CausalReading(causality, Role.WRITER, max_lag=None, wait=0.1).begin()
    lease = SimpleNamespace(pool=SimpleNamespace(host=SimpleNamespace(system_id=system_id)))
    note = PositionNote(ticket, cast("Any", lease), cast("Any", world))
    note.told = Progress(PRIMARY, 1, 70)
    note.settle()
    note.settle()
    assert causality.position == position
