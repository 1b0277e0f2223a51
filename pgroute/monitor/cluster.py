"""The watch of one router: it feeds the observations of its hosts to the topology and publishes each snapshot."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgroute.core.events import Event, EventKind
from pgroute.core.faults import FaultKind
from pgroute.core.hosts import Failure, ForgetTimeline, Observation
from pgroute.core.pace import release_after
from pgroute.core.topology import Rules, Topology, apply
from pgroute.monitor.thread import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.options import ProbeOptions
    from pgroute.core.roles import HostKey
    from pgroute.monitor.watcher import HostWatcher


class ClusterWatch:
    """What one router knows of its hosts.

    `topology` may be read from any thread. The listeners are called in the monitor's thread with the snapshots before
    and after and what changed, and must not block: they wake waiters and fill queues.

    Args:
        hosts: in the order of the DSN, each with the parameters of its probe connection.
        options: the probe options.
        rules: what the arbitration depends on.
    """

    def __init__(
        self, hosts: Mapping[HostKey, Mapping[str, str]], options: ProbeOptions, rules: Rules
    ) -> None:
        self.options = options
        self.topology = Topology.start(tuple(hosts), time.monotonic(), rules)
        self.listeners: list[Callable[[Topology, Topology, tuple[Event, ...]], None]] = []
        self._hosts = hosts
        self._watchers: dict[HostKey, HostWatcher] = {}
        self._monitor: Monitor | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._monitor = Monitor.attach(self)

    def stop(self) -> None:
        """Stop watching; returns when this router's share of the probe connections is closed."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.detach(self)

    def kick(self, key: HostKey, *, fresh: bool = False) -> None:
        """Have a host probed at once, on a new connection if *fresh*; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self._kick, key, fresh)

    def report(self, failure: Failure) -> None:
        """Take a pool's failed connection attempt as evidence; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self._report, failure)

    def forget_timeline(self) -> None:
        """Let the operator's word replace the highest timeline seen; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self.observe, ForgetTimeline())

    def begin(self, monitor: Monitor) -> None:
        """Join the watchers of the hosts; in the loop."""
        now = time.monotonic()
        self.topology = Topology.start(tuple(self._hosts), now, self.topology._rules)
        for key, params in self._hosts.items():
            self._watchers[key] = monitor.join(key, params, self)

    async def end(self, monitor: Monitor) -> None:
        """Leave the watchers; in the loop."""
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers.values():
            await monitor.leave(watcher, self)

    def observe(self, seen: Observation) -> None:
        """Apply an observation, publish the snapshot, tell the listeners; in the loop."""
        old = self.topology
        new, events = apply(old, seen, time.monotonic())
        if new is old:
            return
        self.topology = new
        for listener in self.listeners:
            listener(old, new, events)
        if any(event.kind is EventKind.PRIMARY_CHANGED for event in events):
            # By then an old primary has answered, or its sessions are beyond hope.
            longest = max(release_after(host) for host in new.hosts)
            asyncio.get_running_loop().call_later(longest, self._look_again)
        if new.urgent or (new.primary_lost_at is None) != (old.primary_lost_at is None):
            for watcher in self._watchers.values():
                watcher.nudge()

    def _look_again(self) -> None:
        for listener in self.listeners:
            listener(self.topology, self.topology, ())

    def _kick(self, key: HostKey, fresh: bool) -> None:
        watcher = self._watchers.get(key)
        if watcher is not None:
            watcher.kick(fresh=fresh)

    def _report(self, failure: Failure) -> None:
        watcher = self._watchers.get(failure.host)
        if watcher is None:
            return
        if failure.fault.kind in (FaultKind.REJECTED, FaultKind.BUSY):
            if failure.fault.kind is FaultKind.REJECTED:
                watcher.refused()
            self.observe(failure)
        else:
            watcher.kick(fresh=True)
