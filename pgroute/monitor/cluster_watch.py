"""Watches the hosts of one router: turns observations into snapshots, and publishes each."""

from __future__ import annotations

import asyncio
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pgroute.core.abort_policy import release_after, sessions_to_abort, silent_departures
from pgroute.core.config.srv import ANYWHERE
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.freshness import FreshnessNeed
from pgroute.core.model.host import HostState
from pgroute.core.routing.replayed import Replayed
from pgroute.core.schedule import DEFAULT_SLOTS
from pgroute.core.topology.draining import departures
from pgroute.core.topology.observations import (
    Answer,
    Drain,
    Failure,
    ForgetTimeline,
    Members,
    Observation,
    Readmit,
)
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.monitor.late_cancel import deliver
from pgroute.monitor.membership import HostSource, Membership
from pgroute.monitor.stalls import stall_aware_wait
from pgroute.monitor.thread import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from psycopg.pq.abc import PGcancelConn

    from pgroute.core.config.discovery import Discovery
    from pgroute.core.config.dns_names import Mode
    from pgroute.core.config.dsn import Params
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.config.srv import Targets
    from pgroute.core.model.events import Event
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.model.stats import WatchSharing
    from pgroute.core.topology.snapshot import Rules, Topology
    from pgroute.monitor.shared.sharing import AnyWatcher
    from pgroute.runtime.credentials import CredentialSource


class Listener(Protocol):
    """The router behind a watch. Its methods are called in the monitor's thread, and must not block."""

    def on_snapshot(self, old: Topology, new: Topology, events: tuple[Event, ...]) -> None:
        """Take a new snapshot, and the events that lead to it."""
        ...

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the number of sessions in flight at a host and address."""
        ...

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        """Abort the sessions in flight at a host and address."""
        ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute, in another thread: a log handler is the user's code."""
        ...


class ClusterWatch:
    """What one router knows of its hosts.

    Args:
        entries: the hosts of the DSN, in its order.
        params: returns the parameters of a host's probe connection.
        options: the probe options.
        rules: the settings of the arbitration.
        resolver: looks the names up.
        mode: what a name of several addresses stands for.
        targets: which targets of a service are accepted.
        max_lag: the router's, in seconds; None: it has none.
        source: calls the router's credentials function; None: it has none.
        discovery: who is asked which members there are; None: nobody.

    Attributes:
        options: as given.
        topology: the current snapshot; may be read from any thread.
        replayed: what standbys have told in sessions since they were probed.
        slots: max_connections of the servers, as the last one told to which a pool has connected.
    """

    def __init__(
        self,
        entries: tuple[HostKey, ...],
        params: Callable[[HostKey], Params],
        options: ProbeOptions,
        rules: Rules,
        *,
        resolver: ResolverSpec,
        mode: Mode,
        targets: Targets = ANYWHERE,
        max_lag: float | None = None,
        source: CredentialSource | None = None,
        discovery: Discovery | None = None,
    ) -> None:
        self.options = options
        self.topology: Topology = initial_topology(entries, time.monotonic(), rules)
        self._source = HostSource(entries, params, resolver, mode, targets, source, discovery)
        self._rules = rules
        self._listener: Callable[[], Listener | None] = lambda: None
        # One state for each side: the router's threads reach the loop through `_monitor`, from start() to stop();
        # `_membership` belongs to the loop, from begin() to end().
        self._monitor: Monitor | None = None
        self._membership: Membership | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked_at: dict[HostKey, float] = {}
        self._heard_at: dict[HostKey, float] = {}
        self._freshness = FreshnessNeed(max_lag)
        self.replayed: Replayed = Replayed()
        self.slots: int = DEFAULT_SLOTS

    def start(self, listener: Listener) -> None:
        """Start to watch.

        Args:
            listener: held weakly. The monitor's thread must not keep alive a router that nobody closed; once the
                listener is gone, the watch ends by itself.

        Raises:
            RuntimeError: the monitor's thread cannot be started.
        """
        self._listener = weakref.ref(listener)
        self._monitor = Monitor.attach(self)

    def stop(self) -> None:
        """Stop watching; returns when this router's share of the probe connections is closed."""
        if self._monitor is not None:
            self._monitor.detach(self)
            self._monitor = None

    def leave(self) -> None:
        """Stop watching soon; for a router that was not closed and is gone."""
        if self._monitor is not None:
            self._monitor.release(self)

    @property
    def interval(self) -> float:
        """The seconds between two probes, no longer than the smallest max_lag in use permits."""
        return self._freshness.interval(self.options.interval, time.monotonic())

    @property
    def sharing(self) -> dict[HostKey, WatchSharing]:
        """Whether and with whom the watch of each host is shared; empty while nothing is watched; from any thread."""
        membership = self._membership
        return {} if membership is None else membership.sharing

    def expect_freshness(self, max_lag: float | None) -> None:
        """Take note that a session has asked for a max_lag: hosts are probed often enough for it; from any thread."""
        if (
            max_lag is not None
            and self._freshness.use(max_lag, time.monotonic())
            and self._monitor is not None
        ):
            self._monitor.call(self._nudge)

    def kick(self, key: HostKey, *, fresh: bool = False) -> None:
        """Probe a host at once, on a new connection if *fresh*; from any thread."""
        if key in self.topology.by_key:  # a session may end long after its host left
            self._kicked_at[key] = time.monotonic()
        if self._monitor is not None:
            self._monitor.call(self._kick, key, fresh)

    def heard(self, key: HostKey) -> bool:
        """Whether a probe of the host that was sent after the last `kick` has ended."""
        return self._heard_at.get(key, 0.0) >= self._kicked_at.get(key, 0.0)

    def report(self, failure: Failure) -> None:
        """Take a pool's failed connection attempt as evidence; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self._report, failure)

    def note_slots(self, slots: int | None) -> None:
        """Take note of a server's max_connections, if it told; from any thread."""
        if slots is not None:
            self.slots = slots

    def forget_timeline(self) -> None:
        """Accept a lower timeline, for example after restoring a backup; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self.observe, ForgetTimeline())

    def drain(self, hosts: frozenset[HostKey]) -> None:
        """Give hosts no new sessions, whether they are listed or not; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self.observe, Drain(hosts))

    def readmit(self, hosts: frozenset[HostKey]) -> None:
        """Give hosts new sessions again; from any thread."""
        if self._monitor is not None:
            self._monitor.call(self.observe, Readmit(hosts))

    def cancel_late(self, request: PGcancelConn, after: float) -> None:
        """Have a cancel request sent until its server takes it, as long as the router is open; from any thread.

        Args:
            request: not started.
            after: seconds to wait before.
        """
        if self._monitor is not None:
            self._monitor.call(self._cancel_late, request, after)

    # In the monitor's loop.

    def begin(self, monitor: Monitor) -> None:
        """Begin with nothing known, and join the watchers of the hosts."""
        self.topology = initial_topology(self._source.entries, time.monotonic(), self._rules)
        self._membership = Membership(self._source, monitor, self)
        self._membership.follow()

    async def end(self) -> None:
        """Leave the watchers; observations that arrive afterwards count no more."""
        membership, self._membership = self._membership, None
        for task in tuple(self._tasks):
            task.cancel()
        if membership is not None:
            await membership.end()

    def observe(self, seen: Observation) -> None:
        """Apply an observation, publish the snapshot, and do what it calls for."""
        membership = self._membership
        if membership is None:
            return
        if isinstance(seen, Failure):
            membership.doubt(seen.host)
        old = self.topology
        new, events = apply(old, seen, time.monotonic())
        self.topology = new
        if isinstance(seen, Answer | Failure) and seen.host in new.by_key:
            # Set after the topology: a thread that finds the host heard reads the snapshot next.
            self._heard_at[seen.host] = max(seen.sent_at, self._heard_at.get(seen.host, 0.0))
        if new is old:
            self._publish(old, old, ())  # to a listener that may be gone
            return
        if isinstance(seen, Members):
            self.replayed.retain(new.by_key)
            for times in (self._kicked_at, self._heard_at):
                for key in tuple(times):
                    if key not in new.by_key:
                        times.pop(key, None)
        self._publish(old, new, events)
        self._abort(old, new)
        for was in departures(old, new):
            if was.silent_since is None:
                membership.draining.add(was)
        self._reschedule(old, new, membership)
        membership.seen(old, new)

    def _publish(self, old: Topology, new: Topology, events: tuple[Event, ...]) -> None:
        listener = self._listener()
        if listener is None:
            self.leave()
        else:
            listener.on_snapshot(old, new, events)

    def _abort(self, old: Topology, new: Topology) -> None:
        doomed = silent_departures(old, new)
        doomed += sessions_to_abort(new.hosts, new, self.options, time.monotonic())
        for host, reason in doomed:
            self.abort(host.key, host.address, reason)

    def _reschedule(self, old: Topology, new: Topology, membership: Membership) -> None:
        """Probe hosts and look names up sooner where the snapshot calls for it, later where it no longer does."""
        if new.highest_timeline_since != old.highest_timeline_since:
            for host in new.hosts:
                if host.state is HostState.STALE and host.key in new.urgent:
                    self._spawn(self._expect_answer(host, new.highest_timeline_since))
        turned = (new.primary_lost_at is None) != (old.primary_lost_at is None)
        if new.urgent or turned:
            membership.nudge_hosts()
        if turned:
            membership.nudge_names()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expect_answer(self, host: HostInfo, since: float) -> None:
        """Treat a silent old primary as dead without waiting for the probe timeout: sessions may be stuck there.

        If a probe sent after *since* has been answered, the failure is older than that answer, and changes nothing.
        """
        seconds = release_after(host)
        await stall_aware_wait(asyncio.get_running_loop().create_future(), seconds)
        now = self.topology.host(host.key)
        if now is None or now.state is not HostState.STALE:
            return  # it may have missed a probe meanwhile, which counts only once
        reason = f"no answer in {seconds:.2g} s since a higher timeline was seen"
        self.observe(Failure(host.key, Fault(FaultKind.TIMEOUT, host_suspect=True, reason=reason), since))

    def note(self, key: HostKey, text: str) -> None:
        """Show a remark on a host that is up; an empty text removes it."""
        if self._membership is not None:
            self._membership.note(key, text)

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the number of sessions in flight at a host and address."""
        listener = self._listener()
        return 0 if listener is None else listener.sessions_at(key, address)

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        """Abort the sessions in flight at a host and address."""
        listener = self._listener()
        if listener is not None:
            listener.abort(key, address, reason)

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute."""
        listener = self._listener()
        if listener is not None:
            listener.log_error(text, exc)

    def _watcher(self, key: HostKey) -> AnyWatcher | None:
        return None if self._membership is None else self._membership.watcher(key)

    def _nudge(self) -> None:
        if self._membership is not None:
            self._membership.nudge_hosts()

    def _kick(self, key: HostKey, fresh: bool) -> None:
        watcher = self._watcher(key)
        if watcher is not None:
            watcher.kick(fresh=fresh)

    def _cancel_late(self, request: PGcancelConn, after: float) -> None:
        if self._membership is not None:
            self._spawn(deliver(request, after))

    def _report(self, failure: Failure) -> None:
        watcher = self._watcher(failure.host)
        if watcher is None:
            return
        if failure.fault.kind in (FaultKind.REJECTED, FaultKind.BUSY):
            if failure.fault.kind is FaultKind.REJECTED:
                watcher.refused()
            self.observe(replace(failure, linked=watcher.linked))
        else:
            watcher.kick(fresh=True)
