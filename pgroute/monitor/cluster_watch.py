"""The watch of one router: it feeds the observations of its hosts to the topology and publishes each snapshot."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgroute.core.config.dns_names import (
    doubt_gap,
    is_name,
    members,
    outage_gap,
    questions,
    stands_for_others,
)
from pgroute.core.config.srv import ANYWHERE
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.schedule import parted, release_after
from pgroute.core.topology.observations import Answer, Failure, ForgetTimeline, Members, Observation
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.monitor.patience import patient
from pgroute.monitor.thread import Monitor
from pgroute.monitor.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pgroute.core.config.dns_names import Mode, Question
    from pgroute.core.config.dsn import Params
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.config.router_config import ResolverSpec
    from pgroute.core.config.srv import Targets
    from pgroute.core.model.events import Event
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Rules, Topology
    from pgroute.monitor.dns_watch import Names
    from pgroute.monitor.host_watcher import HostWatcher


class ClusterWatch:
    """What one router knows of its hosts.

    `topology` may be read from any thread. The listeners are called in the monitor's thread with the snapshots before
    and after and what changed, and must not block: they wake waiters and fill queues. So are `sessions_at`, which tells
    how many sessions are in flight at a host and address, `abort`, which cuts them for a reason, and `complain`, which
    has a fault of ours logged: a log handler is the user's code.

    Args:
        entries: of the DSN, in its order.
        params: gives the parameters of a host's probe connection.
        options: the probe options.
        rules: what the arbitration depends on.
        resolver: what names are looked up with.
        mode: what a name of several addresses is.
        targets: which of a service are accepted.
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
    ) -> None:
        self.options = options
        self.topology = initial_topology(entries, time.monotonic(), rules)
        self.listeners: list[Callable[[Topology, Topology, tuple[Event, ...]], None]] = []
        self.sessions_at: Callable[[HostKey, str | None], int] = lambda *_: 0
        self.abort: Callable[[HostKey, str | None, str], object] = lambda *_: None
        self.complain: Callable[[str, BaseException | None], None] = lambda *_: None
        self._entries = entries
        self._params = params
        self._resolver = resolver
        self._mode = mode
        self._targets = targets
        self._names: Names
        self._home: Monitor
        self._questions: tuple[Question, ...] = ()
        self._watchers: dict[HostKey, HostWatcher] = {}
        self._monitor: Monitor | None = None
        self._vigils: dict[HostKey, Vigil] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._parting: set[asyncio.Task[None]] = set()
        self._notes: dict[HostKey, str] = {}
        self._begun = False
        self._ended = False
        self._kicked_at: dict[HostKey, float] = {}
        self._heard_at: dict[HostKey, float] = {}

    def start(self) -> None:
        """Begin to watch.

        Raises:
            RuntimeError: the monitor's thread cannot be started.
        """
        self._monitor = Monitor.attach(self)

    def stop(self) -> None:
        """Stop watching; returns when this router's share of the probe connections is closed."""
        if self._monitor is not None:
            self._monitor.detach(self)
            self._monitor = None

    def leave(self) -> None:
        """Stop watching soon; for a router that is gone without a close."""
        if self._monitor is not None:
            self._monitor.release(self)

    def kick(self, key: HostKey, *, fresh: bool = False) -> None:
        """Have a host probed at once, on a new connection if *fresh*; from any thread."""
        if key in self.topology.by_key:  # a session may end long after its host left
            self._kicked_at[key] = time.monotonic()
        if self._monitor is not None:
            self._monitor.call(self._kick, key, fresh)

    def heard(self, key: HostKey) -> bool:
        """Whether a host was asked, and the outcome is known, since somebody found reason to doubt it."""
        return self._heard_at.get(key, 0.0) >= self._kicked_at.get(key, 0.0)

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
        self._begun = True
        self._ended = False
        self._home = monitor
        self._names = monitor.names(self._resolver)
        self.topology = initial_topology(self._entries, now, self.topology._rules)
        self._follow_names()

    async def end(self, monitor: Monitor) -> None:
        """Leave the watchers; in the loop."""
        if not self._begun:
            return
        watchers, self._watchers = self._watchers, {}
        asked, self._questions = self._questions, ()
        self._ended = True
        for task in tuple(self._tasks):
            task.cancel()
        for watcher in watchers.values():
            await monitor.leave(watcher, self)
        for vigil in tuple(self._vigils.values()):
            self.end_vigil(vigil)
        for question in asked:
            await self._names.leave(question, self)
        if self._parting:
            await asyncio.wait(self._parting)
        monitor.forget(self._names)

    def end_vigil(self, vigil: Vigil) -> None:
        """Watch an address that a name no longer stands for no more; in the loop."""
        if self._vigils.pop(vigil.place, None) is not None and vigil.watcher is not None:
            self._part(self._home.leave(vigil.watcher, vigil))

    def _keep_vigil(self, was: HostInfo) -> None:
        vigil = Vigil(self, was)
        if vigil.place in self._vigils:
            self._vigils[vigil.place].restart(was)
            return
        self._vigils[vigil.place] = vigil
        vigil.watcher = self._home.join(vigil.place, self._params(vigil.place), self._names, vigil)

    def renamed(self, question: Question) -> None:
        """Take note that a name stands for something else now; in the loop."""
        if self._ended:
            return
        self._follow_names()
        for key, watcher in self._watchers.items():
            if key.host == question.name and is_name(key):
                watcher.renamed()

    def note(self, key: HostKey, text: str) -> None:
        """Show a word about a host that is up; empty: no more."""
        if not self._ended and self._notes.get(key, "") != text:
            self._notes[key] = text
            self._follow_names()

    def name_gap(self) -> float | None:
        """Return the seconds between two lookups of a name while there is an outage, None while there is none."""
        outage = self.topology.outage(time.monotonic())
        return None if outage is None else outage_gap(outage)

    def _doubt_names(self, key: HostKey) -> None:
        """Have the names asked again by which a host is listed that could not be reached."""
        host = self.topology.by_key.get(key)
        if host is None:
            return
        gap = doubt_gap(0.0 if host.usable else time.monotonic() - host.since)
        for question in self._questions:
            if question.name == key.host or host.origin.endswith(f" {question.name}"):
                self._names.hurry(question, gap)

    def _follow_names(self) -> None:
        """Ask for what the entries stand for, and watch the hosts that they stand for now."""
        unwanted: list[Question] = []
        # The targets of a service are names themselves, which may be known already.
        found, targets = self._names.found, self._targets
        while (wanted := questions(self._entries, found, targets)) != self._questions:
            before, self._questions = self._questions, wanted
            for question in wanted:
                if question not in before:
                    self._names.join(question, self)
            unwanted += [question for question in before if question not in wanted]
        listed, errors = members(self._entries, self._mode, found, targets)
        listings = {
            m.key: replace(m.listing, note=m.listing.note or self._notes.get(m.key, "")) for m in listed
        }
        self.observe(Members(tuple(listings), listings))
        for key in tuple(self._watchers):
            if key not in self.topology.by_key:
                self._heard_at.pop(key, None)
                self._kicked_at.pop(key, None)
                self._notes.pop(key, None)
                self._part(self._home.leave(self._watchers.pop(key), self))
        for question in unwanted:  # after the hosts, which ask for it
            self._part(self._names.leave(question, self))
        for key in self.topology.by_key:
            if key not in self._watchers and not stands_for_others(key, self._mode):
                self._watchers[key] = self._home.join(key, self._params(key), self._names, self)
        for key, reason in errors.items():
            fault = Fault(FaultKind.UNRESOLVED, host_suspect=True, reason=reason)
            self.observe(Failure(key, fault, time.monotonic()))

    def observe(self, seen: Observation) -> None:
        """Apply an observation, publish the snapshot, tell the listeners; in the loop."""
        if isinstance(seen, Failure):
            self._doubt_names(seen.host)
        old = self.topology
        new, events = apply(old, seen, time.monotonic())
        self.topology = new
        if isinstance(seen, Answer | Failure) and seen.host in new.by_key:
            # After the topology, which says what was heard.
            self._heard_at[seen.host] = max(seen.sent_at, self._heard_at.get(seen.host, 0.0))
        if new is old:
            return
        for listener in self.listeners:
            listener(old, new, events)
        for was in parted(old, new):
            if was.silent_since is None and self.sessions_at(was.key, was.address) and not self._ended:
                self._keep_vigil(was)
        if new.highest_timeline_since != old.highest_timeline_since:
            for host in new.hosts:
                if host.state is HostState.STALE and host.key in new.urgent:
                    self._spawn(self._await_word(host, new.highest_timeline_since))
        turned = (new.primary_lost_at is None) != (old.primary_lost_at is None)
        if new.urgent or turned:
            for watcher in self._watchers.values():
                watcher.nudge()
        if turned:
            for question in self._questions:
                self._names.nudge(question)

    async def _await_word(self, host: HostInfo, since: float) -> None:
        """Hold an old primary that stays silent for dead long before a probe times out: its sessions may be stuck.

        If what it was asked since then has been answered, this observation comes too late to count.
        """
        seconds = release_after(host)
        await patient(asyncio.get_running_loop().create_future(), seconds)
        now = self.topology.host(host.key)
        if now is None or now.state is not HostState.STALE:
            return  # it may have missed a probe meanwhile, and this is not another
        reason = f"no answer in {seconds:.2g} s since a higher timeline was seen"
        self.observe(Failure(host.key, Fault(FaultKind.TIMEOUT, host_suspect=True, reason=reason), since))

    def _part(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Leave a host or a name; the end waits for that."""
        task = asyncio.get_running_loop().create_task(leaving)
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
            self.observe(replace(failure, linked=watcher.linked))
        else:
            watcher.kick(fresh=True)
