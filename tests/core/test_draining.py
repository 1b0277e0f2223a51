"""Draining hosts, whose address their name has left: who answers there, and when their sessions are aborted."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute.core.abort_policy import sessions_to_abort
from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.draining import DrainingHost
from pgroute.core.topology.observations import Answer, Failure
from tests.core.world import OTHER, OURS, A, B, World

WAS, NOW = "10.0.0.1", "10.0.0.2"
STRICT = ProbeOptions(abort_stale=True)


class Left:
    """A standby of a cluster, or with *primary* its primary, whose name led from WAS to NOW."""

    def __init__(self, *, primary: bool = False, timeline: int = 1, **told: Any) -> None:
        self.world = World(A, B) if not primary else World(A)
        self.role = HostRole.PRIMARY if primary else HostRole.STANDBY
        tell = self.world.primary if primary else self.world.standby
        tell(A, address=WAS, **told)
        if not primary:
            self.world.primary(B)
        was = self.world.host(A)
        tell(A, timeline, address=NOW, started_at=9.0)
        self.server = DrainingHost.start(was, self.world.now)
        self.told = {"system_id": OURS, "started_at": float(ord("a"))} | told

    def answer(self, role: HostRole | None = None, timeline: int | None = 1, **told: Any) -> Left:
        """Have a server answer there, the one that was there unless told otherwise."""
        self.world.pass_time(0.01)
        told = {"sent_at": self.world.now - 0.005, **self.told, **told}
        return self.see(Answer(self.server.key, role or self.role, timeline=timeline, **told))

    def fail(self, kind: FaultKind) -> Left:
        self.world.pass_time(0.01)
        return self.see(Failure(self.server.key, Fault(kind, reason=kind.value), self.world.now - 0.005))

    def see(self, seen: Answer | Failure) -> Left:
        self.server = self.server.observe(seen, self.world.now)
        return self

    def why(self, *, after: float = 0.0, options: ProbeOptions | None = None) -> str:
        told = sessions_to_abort(
            [self.server.info], self.world.topology, options or ProbeOptions(), self.world.now + after
        )
        assert all(host == self.server.info for host, _ in told)
        return "".join(reason for _, reason in told)


OTHERS = [{"system_id": OTHER, "started_at": 7.0}, {"started_at": 7.0}, {"system_id": OTHER}]


def test_a_server_that_answers_keeps_its_sessions():
    assert Left().why(after=3600) == ""
    assert Left().answer().answer().why(after=3600) == ""
    assert Left(primary=True, timeline=2).answer().why(after=3600) == ""


def test_a_silent_one_is_given_up_as_a_listed_one_is():
    left = Left().answer().fail(FaultKind.TIMEOUT)
    assert left.why(after=9) == ""
    assert left.why(after=10) == "a:5432 (10.0.0.1) has not answered for 10.0 s and a:5432 serves"
    assert left.answer().why(after=3600) == ""
    assert Left(primary=True, timeline=2).fail(FaultKind.TIMEOUT).why()
    assert not Left(primary=True).fail(FaultKind.TIMEOUT).why()


@pytest.mark.parametrize("told", OTHERS, ids=["cluster", "node, or restarted", "identifier alone"])
def test_one_whose_address_is_anothers_is_given_up_as_a_silent_one(told):
    left = Left().answer(**told)
    assert left.why(after=9) == ""
    assert left.why(after=10) == (
        "the server that was a:5432 (10.0.0.1) has not answered for 10.0 s and a:5432 serves"
    )
    assert left.why(after=3600, options=ProbeOptions(abort_after=None)) == ""


def test_an_old_primary_whose_address_is_anothers_is_given_up_at_once():
    assert Left(primary=True, timeline=2).answer(started_at=7.0).why()
    assert not Left(primary=True).answer(started_at=7.0).why(), "not on a higher timeline"


def test_it_is_silent_since_it_was_first_missed():
    left = Left().fail(FaultKind.TIMEOUT)
    left.world.pass_time(6.0)
    left.answer(started_at=7.0)
    assert left.why(after=3) == ""
    assert left.why(after=5)


def test_what_was_sent_before_says_nothing():
    left = Left(primary=True, timeline=2)
    sent_at = left.world.now - 0.02  # before the name was seen to lead elsewhere
    fault = Fault(FaultKind.TIMEOUT, host_suspect=True, reason="told late by another process")
    assert not left.see(Failure(left.server.key, fault, sent_at)).why(after=3600)
    assert left.fail(FaultKind.TIMEOUT).why()


@pytest.mark.parametrize("kind", [FaultKind.BUSY, FaultKind.STARTING, FaultKind.REJECTED])
def test_a_refusal_by_the_other_is_not_its_word(kind):
    assert Left().answer(started_at=7.0).fail(kind).why(after=10)
    assert not Left().fail(FaultKind.TIMEOUT).fail(kind).why(after=3600), "nobody else is known to be there"


def test_one_that_is_found_there_again_keeps_its_sessions():
    left = Left().answer(started_at=7.0).answer()
    assert left.why(after=3600) == ""
    assert left.fail(FaultKind.BUSY).why(after=3600) == ""


def test_what_one_of_the_two_does_not_tell_is_not_compared():
    assert not Left().answer(system_id=None).why(after=3600)
    assert not Left().answer(started_at=None).why(after=3600)
    assert not Left().answer(system_id=None, started_at=None).why(after=3600)
    assert not Left(system_id=None).answer(system_id=OTHER).why(after=3600)
    assert not Left(started_at=None).answer(started_at=7.0).why(after=3600)
    assert Left(started_at=None).answer(system_id=OTHER, started_at=7.0).why(after=3600)
    assert Left().answer(system_id=None, started_at=7.0).why(after=3600)


def test_one_that_was_promoted_is_the_same():
    assert Left().answer(HostRole.PRIMARY, 2).why(after=3600) == ""


def test_a_stale_primary_is_given_up_where_that_is_asked_for():
    left = Left(primary=True, timeline=2).answer()
    assert left.why(options=STRICT) == "a:5432 (10.0.0.1) is a stale primary and a:5432 is the primary"
    assert Left(primary=True, timeline=2).answer(timeline=2).why(options=STRICT) == ""
    assert Left(primary=True, timeline=2).answer(timeline=None).why(options=STRICT) == ""
    assert Left(primary=True, timeline=2).answer(HostRole.STANDBY).why(options=STRICT) == ""
    assert Left(primary=True, timeline=2).why(options=STRICT) == "", "it has not answered since"


def test_it_goes_by_its_name_and_address():
    assert Left().server.key == HostKey("a", 5432, WAS)


def test_it_is_draining_and_of_no_use():
    info = Left().answer().server.info
    assert (info.state, info.usable) == (HostState.DRAINING, False)
