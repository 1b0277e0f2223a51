"""Addresses that a name has left, without a server."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from pgroute import ProbeOptions
from pgroute.core.config.dsn import Params
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostInfo
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.snapshot import Rules, Topology
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.monitor.subscribers import Subscriber
from pgroute.monitor.thread import Monitor

KEY = HostKey("db.test", 5432)
PLACE = HostKey("db.test", 5432, "10.0.0.1")


class Sessions:
    """A router that has a session in flight everywhere, and notes why it aborts some."""

    def __init__(self) -> None:
        self.aborted: list[str] = []

    def on_snapshot(self, old: Topology, new: Topology, events: tuple[Any, ...]) -> None:
        """Nobody waits."""

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        return 1

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        assert (key, address) == (KEY, "10.0.0.1")
        self.aborted.append(reason)

    def log_error(self, text: str, exc: BaseException | None) -> None:
        raise AssertionError(text)


class Hosts:
    """As Monitor: knows no names, and hands observations to those who joined."""

    def __init__(self) -> None:
        self.joined: dict[HostKey, Subscriber] = {}
        self.left: list[object] = []

    def names(self, _: object) -> Any:
        async def leave(*_: object) -> None:
            """Nobody watches."""

        return SimpleNamespace(
            found=lambda _: None,
            join=lambda *_: None,
            hurry=lambda *_: None,
            leave=leave,
            nudge=lambda _: None,
        )

    def join(self, key: HostKey, _params: object, _names: object, subscriber: Subscriber, **_: object) -> Any:
        self.joined[key] = subscriber
        return SimpleNamespace(nudge=lambda: None)

    async def leave(self, _watcher: object, subscriber: Subscriber) -> None:
        self.left.append(subscriber)

    def forget(self, _: object) -> None:
        """Nothing is kept."""


async def test_a_server_that_a_name_led_to_meanwhile_is_not_taken_for_the_one_before() -> None:
    def told(key: HostKey, address: str, timeline: int, started_at: float) -> Answer:
        now = time.monotonic()
        return Answer(key, HostRole.PRIMARY, now, timeline=timeline, started_at=started_at, address=address)

    def seen() -> HostInfo:
        host = watch.topology.host(KEY)
        assert host is not None
        return host

    watch = ClusterWatch(
        (KEY,), lambda _: Params({}), ProbeOptions(), Rules(), resolver="system", mode="one-host"
    )
    sessions, hosts = Sessions(), Hosts()
    watch._listener = lambda: sessions
    watch.begin(cast("Monitor", hosts))
    assert watch._membership is not None
    draining = watch._membership.draining
    for started_at in (1.0, 2.0):
        watch.observe(told(KEY, "10.0.0.1", 1, started_at))
        draining.add(seen())
    watch.observe(told(KEY, "10.0.0.2", 2, 3.0))
    assert len(draining) == 1
    address = hosts.joined[PLACE]
    address.observe(told(PLACE, "10.0.0.1", 1, 2.0))
    assert not sessions.aborted
    address.observe(told(PLACE, "10.0.0.1", 1, 1.0))
    assert [why.split(" has ")[0] for why in sessions.aborted] == [
        "the server that was db.test:5432 (10.0.0.1)"
    ]
    assert not draining
    address.observe(told(PLACE, "10.0.0.1", 1, 1.0))  # it leaves in a task, and may be told more until then
    assert len(sessions.aborted) == 1
    await watch.end()
    assert sorted(hosts.left, key=id) == sorted([address, watch], key=id)


async def test_what_was_seen_at_an_address_before_its_name_left_does_not_count() -> None:
    class Seen(Hosts):
        def join(
            self, key: HostKey, _params: object, _names: object, subscriber: Subscriber, **rest: object
        ) -> Any:
            watcher = super().join(key, _params, _names, subscriber, **rest)
            if key == PLACE:
                subscriber.observe(Failure(PLACE, Fault(FaultKind.TIMEOUT), 0.0))
            return watcher

    watch = ClusterWatch(
        (KEY,), lambda _: Params({}), ProbeOptions(), Rules(), resolver="system", mode="one-host"
    )
    sessions, hosts = Sessions(), Seen()
    watch._listener = lambda: sessions
    watch.begin(cast("Monitor", hosts))
    assert watch._membership is not None
    for timeline, address in ((1, "10.0.0.1"), (2, "10.0.0.2")):
        watch.observe(
            Answer(KEY, HostRole.PRIMARY, 0.0, timeline=timeline, started_at=1.0 * timeline, address=address)
        )
    assert len(watch._membership.draining) == 1
    assert not sessions.aborted
    await watch.end()
