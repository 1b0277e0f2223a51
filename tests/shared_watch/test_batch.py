"""What can wait a moment before other processes are told, and what cannot."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.wire import Ask, Need
from pgroute.monitor.shared.audience import Audience, _Guest
from pgroute.monitor.shared.batch import Batch
from pgroute.monitor.shared.times import patience

KEY = HostKey("db1", 5432)
SEEN = Answer(KEY, HostRole.STANDBY, 1.0)


async def test_functions_are_called_together_and_once() -> None:
    batch, called, done = Batch(), list[str](), asyncio.Event()

    def later() -> None:
        called.append("later")
        done.set()

    def first() -> None:
        called.append("first")
        asyncio.get_running_loop().call_soon(later)

    def second() -> None:
        called.append("second")

    for _ in range(2):
        batch.add(first)
        batch.add(second)
        batch.add(first)
        await done.wait()
        done.clear()
    assert called == ["first", "second", "later"] * 2


class Lead:
    closed = False


class Watcher:
    linked = True

    def ask(self, since: float, *, fresh: bool) -> None:
        pass


class Guest:
    """A process that is told, and what of."""

    def __init__(self, interval: float = 1.0, outage_since: float | None = None) -> None:
        self.need = Need(interval, 1.0, outage_since)
        self.told = 0
        self.told_at = 0.0
        self.is_due = True

    def due(self, _: float) -> bool:
        return self.is_due

    def send(self, _: object) -> None:
        pass

    def send_encoded(self, _: bytes) -> None:
        self.told += 1


class Never(Batch):
    """A moment that does not pass."""

    def add(self, tell: object) -> None:
        pass


def audience_of(*guests: Guest) -> Audience:
    audience = Audience.__new__(Audience)
    audience._loop = asyncio.get_running_loop()
    audience._guests = {*guests}  # type: ignore[arg-type]
    audience._lead, audience._watcher, audience._batch = Lead(), Watcher(), Never()  # type: ignore[assignment]
    audience._told_linked, audience._last, audience._held, audience._asked = True, None, None, None
    return audience


FAILURE = Failure(KEY, Fault(FaultKind.REFUSED, host_suspect=True, reason="refused"), 2.0)


@pytest.mark.parametrize(
    ("guest", "seen", "at_once"),
    [
        (Guest(), replace(SEEN, lsn=7, sent_at=2.0), False),
        (Guest(), replace(SEEN, role=HostRole.PRIMARY, sent_at=2.0), True),
        (Guest(), replace(SEEN, timeline=3, sent_at=2.0), True),
        (Guest(), replace(SEEN, read_only=True, sent_at=2.0), True),
        (Guest(), FAILURE, True),
        (Guest(), replace(SEEN, lsn=7, sent_at=2.0, fresh=True), True),
        (Guest(outage_since=1.0), replace(SEEN, lsn=7, sent_at=2.0), True),
    ],
    ids=["position", "role", "timeline", "read-only", "failure", "new connection", "outage"],
)
async def test_only_positions_that_nobody_waits_for_can_wait(
    guest: Guest, seen: Answer | Failure, at_once: bool
) -> None:
    audience = audience_of(guest)
    audience.observe(SEEN)
    assert guest.told == 1, "the first one is news"
    audience.observe(seen)
    assert guest.told == 1 + at_once


async def test_a_process_that_can_open_no_connection_lets_another_one_lead() -> None:
    guest = Guest()
    audience = audience_of(guest)
    audience.over = asyncio.get_running_loop().create_future()
    audience.observe(Failure(KEY, Fault(FaultKind.SHORTAGE, reason="no descriptor is left"), 2.0))
    assert audience.over.done()
    assert guest.told == 0


async def test_an_answer_that_was_asked_for_does_not_wait() -> None:
    guest = Guest()
    audience = audience_of(guest)
    audience.observe(SEEN)
    audience.observe(replace(SEEN, lsn=7, sent_at=2.0))
    guest.is_due = False
    audience.ask(guest, Ask(3.5))  # type: ignore[arg-type]
    assert guest.told == 2, "what was held back may be what was asked for"
    audience.observe(replace(SEEN, lsn=8, sent_at=3.0))
    audience.observe(replace(SEEN, lsn=8, sent_at=4.0))
    assert guest.told == 4, "the first one was sent too early for what was asked"
    audience.observe(replace(SEEN, lsn=9, sent_at=5.0))
    assert guest.told == 4, "nobody has asked again"


async def test_nobody_is_told_of_positions_more_often_than_it_would_ask() -> None:
    eager, leisurely = Guest(0.01), Guest()
    leisurely.is_due = False
    audience = audience_of(eager, leisurely)
    audience.observe(SEEN)
    audience.observe(replace(SEEN, lsn=7, sent_at=2.0))
    audience._tell_held()
    assert (eager.told, leisurely.told) == (2, 1)
    audience.observe(FAILURE)
    assert (eager.told, leisurely.told) == (3, 2)


async def test_in_an_outage_nobody_is_told_of_positions_more_often_than_it_would_ask_itself() -> None:
    eager, leisurely = Guest(outage_since=1.0), Guest(outage_since=1.0)
    leisurely.is_due = False
    audience = audience_of(eager, leisurely)
    audience.observe(SEEN)
    for sent_at in (2.0, 3.0):
        audience.observe(replace(SEEN, lsn=7, sent_at=sent_at))
    assert (eager.told, leisurely.told) == (3, 1)
    audience.observe(replace(SEEN, role=HostRole.PRIMARY, sent_at=4.0))
    assert (eager.told, leisurely.told) == (4, 2)


@pytest.mark.parametrize(("outage", "pause"), [(0.0, 0.02), (20.0, 0.2), (3600.0, 0.5)])
def test_in_an_outage_a_process_is_due_when_it_would_ask_itself(outage: float, pause: float) -> None:
    guest = SimpleNamespace(need=Need(1.0, 1.0, time.monotonic() - outage), told_at=100.0)
    assert not _Guest.due(guest, 100.0 + 0.9 * pause)  # type: ignore[arg-type]
    assert _Guest.due(guest, 100.0 + 1.1 * pause)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [0.1, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.5, 0.6, 0.72, 0.8, 0.9, 1.0])
def test_nobody_is_told_too_seldom_beside_a_more_eager_process(interval: float, share: float) -> None:
    """Each answer comes as late as it may, and some are just not due."""
    guest = SimpleNamespace(need=Need(interval, 1.0), told_at=-math.inf)
    step, longest, now = 1.1 * share * min(interval, 1.0), 0.0, 0.0
    for _ in range(1000):
        now += step
        if _Guest.due(guest, now):  # type: ignore[arg-type]
            longest = max(longest, now - guest.told_at) if guest.told_at > 0.0 else longest
            guest.told_at = now
    assert 0.0 < longest < patience(interval) - 0.2
