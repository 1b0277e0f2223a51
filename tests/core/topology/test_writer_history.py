"""How long there was no host to write to, and how often writers moved."""

from __future__ import annotations

import pytest

from pgroute.core.topology.writer_history import WriterHistory
from tests.core.world import A, B, C, World


class Told(World):
    """A world whose snapshots are all told to a history."""

    history = WriterHistory()

    def see(self, seen):
        super().see(seen)
        self.history = self.history.after(self.topology)
        return self

    @property
    def outage(self) -> float:
        return self.history.current_outage(self.topology, self.now)


def test_a_first_primary_is_no_failover_and_no_outage() -> None:
    world = Told().settled()
    assert (world.history.failovers, world.history.outages, world.history.seconds) == (0, 0, 0.0)
    assert world.history.last == A
    assert world.outage == 0.0


def test_a_failover_takes_as_long_as_nobody_can_write() -> None:
    world = Told().settled().refuse(A)
    lost_at = world.now
    world.pass_time(3.0)
    assert world.outage == pytest.approx(3.0)
    world.primary(B, 2)
    assert world.history.failovers == world.history.outages == 1
    assert world.history.outage == world.history.seconds == pytest.approx(world.now - lost_at)
    assert world.outage == 0.0


def test_a_primary_that_comes_back_is_an_outage_and_no_failover() -> None:
    world = Told().settled().refuse(A).pass_time(2.0).primary(A)
    assert (world.history.failovers, world.history.outages) == (0, 1)
    assert world.history.seconds == pytest.approx(2.01)


def test_outages_add_up() -> None:
    world = Told().settled().refuse(A).pass_time(2.0).primary(A).refuse(A).pass_time(3.0).primary(B, 2)
    assert (world.history.failovers, world.history.outages) == (1, 2)
    assert world.history.seconds == pytest.approx(5.02)
    assert world.history.outage == pytest.approx(3.01)


def test_a_switchover_that_leaves_no_gap_takes_no_time() -> None:
    world = Told().settled().primary(B, 2)
    assert (world.history.failovers, world.history.outages, world.history.outage) == (1, 0, 0.0)


def test_a_read_only_primary_cannot_be_written_to() -> None:
    world = Told().settled().primary(A, read_only=True).pass_time(1.0)
    assert world.outage == pytest.approx(1.0)


def test_standbys_alone_are_an_outage_for_a_minute() -> None:
    world = Told(A, B).standby(A).standby(B)
    world.pass_time(30.0)
    assert world.outage == pytest.approx(30.02)
    world.pass_time(60.0).standby(A).standby(B)
    assert world.outage == 0.0


def test_a_cluster_of_standbys_that_is_promoted_later_was_in_no_outage() -> None:
    world = Told(A, B).standby(A).standby(B)
    world.pass_time(3600.0).standby(A).standby(B).primary(A, 2)
    assert (world.history.failovers, world.history.outages, world.history.seconds) == (0, 0, 0.0)
    world.refuse(A).pass_time(2.0)
    assert world.outage == pytest.approx(2.0)


def test_a_standby_that_fails_where_all_are_standbys_is_no_outage_of_the_writers() -> None:
    world = Told(A, B).standby(A).standby(B)
    world.pass_time(3600.0).standby(A).standby(B).refuse(B)
    assert world.outage == 0.0
    world.standby(B).primary(A, 2)
    assert (world.history.outages, world.history.seconds) == (0, 0.0)


def test_nothing_is_known_before_each_host_was_checked() -> None:
    world = Told().standby(B).standby(C).pass_time(5.0)
    assert world.outage == 0.0
    assert world.history.lost_at is None
    world.refuse(A)
    assert world.outage > 5.0


def test_a_router_that_begins_in_an_outage_counts_it_when_it_is_over() -> None:
    world = Told().refuse(A).standby(B).standby(C).pass_time(4.0).primary(B, 2)
    assert (world.history.failovers, world.history.outages) == (0, 1)
    assert world.history.seconds > 4.0


def test_a_snapshot_that_changes_nothing_costs_nothing() -> None:
    world = Told().settled()
    before = world.history
    assert world.standby(C).history is before
    world.refuse(A)
    before = world.history
    assert world.standby(C).history is before
