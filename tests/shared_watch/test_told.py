"""What a process makes of the observations of one that leads, and of the next one that does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from pgroute import Event, HostState, ProbeOptions
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.identity import RELEARN_AFTER
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.snapshot import Rules
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.core.topology.wire import Beat, Note, Welcome, encode
from pgroute.monitor.shared.told import Told
from pgroute.monitor.subscribers import Subscribers

KEY, WATCH = HostKey("db1", 5432), "watch"
TIMEOUT = Fault(FaultKind.TIMEOUT, host_suspect=True, reason="no answer in 1 s")


class Follower:
    """A process with one router, told of one host; `taken` counts what it took from the process that leads now."""

    options = ProbeOptions()
    interval = 1.0
    slots = 100

    def __init__(self) -> None:
        self.topology = initial_topology((KEY,), time.monotonic(), Rules())
        self.events: list[Event] = []
        self.taken = 0
        self.noted = asyncio.Event()
        self._subscribers = Subscribers(KEY)
        self._subscribers.join(self)

    def observe(self, seen: Answer | Failure) -> None:
        self.topology, events = apply(self.topology, seen, time.monotonic())
        self.events += events

    def note(self, key: HostKey, text: str) -> None:
        if text:
            self.noted.set()

    def log_error(self, text: str, exc: BaseException | None) -> None:
        raise AssertionError(text) from exc

    def state(self) -> HostState:
        return self.topology.hosts[0].state

    @contextlib.asynccontextmanager
    async def led(self, *sent: Answer | Failure) -> AsyncIterator[Told]:
        """Have a process lead that tells these; when it is entered, all of them have been read."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.taken = 0
        self.noted.clear()
        with theirs:
            told = Told(
                KEY, WATCH, ours, self._subscribers,
                on_welcome=lambda: None, on_seen=self._seen, resolved=lambda: True, fresh=False,
            )  # fmt: skip
            try:
                for message in (Welcome(WATCH), Beat(linked=True), *sent, Note("the end")):
                    theirs.send(encode(message))
                await asyncio.wait_for(self.noted.wait(), 10.0)
                assert not told.ended.done()
                yield told
            finally:
                told.close()

    def _seen(self) -> None:
        self.taken += 1


def answered(ago: float) -> Answer:
    return Answer(KEY, HostRole.PRIMARY, time.monotonic() - ago)


async def test_what_one_process_tells_is_taken_in_the_order_in_which_it_comes() -> None:
    follower = Follower()
    late = answered(1.0)
    slow = Failure(KEY, TIMEOUT, late.sent_at + 1e-5)  # of the same probe, whose answer comes later
    async with follower.led(answered(2.0), slow, late):
        assert follower.taken == 3
        assert follower.state() is HostState.UP
    newer = answered(0.5)
    silent = Failure(KEY, TIMEOUT, newer.sent_at + 2e-5)
    async with follower.led(newer, silent, replace(silent, sent_at=newer.sent_at + 1e-5)):
        assert follower.taken == 3
        assert follower.state() is HostState.DOWN, "two attempts have failed"


async def test_what_the_next_process_has_seen_before_is_no_news() -> None:
    follower = Follower()
    earlier = answered(1.0)
    async with follower.led(answered(2.0), Failure(KEY, TIMEOUT, time.monotonic() - 0.5)):
        assert follower.state() is HostState.SUSPECT
    async with follower.led(earlier, replace(earlier, role=HostRole.STANDBY)):
        assert follower.taken == 0
        assert follower.state() is HostState.SUSPECT
    async with follower.led(earlier, answered(0.0), replace(earlier, role=HostRole.STANDBY)):
        assert follower.taken == 2, "in its order, from the first one on that is news"


async def test_one_failure_that_two_processes_tell_is_one() -> None:
    follower = Follower()
    failure = Failure(KEY, TIMEOUT, time.monotonic() - 0.5)
    async with follower.led(answered(1.0), failure):
        assert follower.state() is HostState.SUSPECT
    async with follower.led(failure):
        assert follower.taken == 0
        assert follower.state() is HostState.SUSPECT
        assert follower.topology.primary is not None
    async with follower.led(replace(failure, sent_at=time.monotonic())):
        assert follower.state() is HostState.DOWN


def test_an_address_that_has_not_answered_for_long_is_not_gone_back_to() -> None:
    subscribers = Subscribers(KEY)
    seen = Answer(KEY, HostRole.PRIMARY, time.monotonic(), address="127.0.0.7")
    subscribers.observe(seen)
    assert subscribers.home == "127.0.0.7"
    subscribers.observe(replace(seen, sent_at=time.monotonic() - RELEARN_AFTER - 1.0))
    assert subscribers.home is None
