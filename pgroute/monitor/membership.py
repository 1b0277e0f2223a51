"""Which hosts a DSN stands for now: asks for its names, and watches the hosts that they lead to."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
from pgroute.core.topology.observations import Failure, Members
from pgroute.monitor import draining
from pgroute.monitor.draining import DrainingHosts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pgroute.core.config.discovery import Discovery
    from pgroute.core.config.dns_names import Mode, Question
    from pgroute.core.config.dsn import Params
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.config.srv import Targets
    from pgroute.core.model.roles import HostKey
    from pgroute.core.model.stats import WatchSharing
    from pgroute.core.topology.observations import Observation
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.advised import AdvisedHosts
    from pgroute.monitor.shared.sharing import AnyWatcher
    from pgroute.monitor.subscribers import Subscriber
    from pgroute.monitor.thread import Monitor
    from pgroute.runtime.credentials import CredentialSource


class HostSource(NamedTuple):
    """Where the hosts of a router come from.

    Attributes:
        entries: the hosts of the DSN, in its order.
        params: returns the parameters of a host's probe connection.
        resolver: looks the names up.
        mode: what a name of several addresses stands for.
        targets: which targets of a service are accepted.
        credentials: calls the credentials function of the router; None: it has none.
        discovery: who is asked which members there are; None: nobody.
    """

    entries: tuple[HostKey, ...]
    params: Callable[[HostKey], Params]
    resolver: ResolverSpec
    mode: Mode
    targets: Targets = ANYWHERE
    credentials: CredentialSource | None = None
    discovery: Discovery | None = None


class Owner(draining.Sessions, Protocol):
    """The watch of one router, which subscribes to each host."""

    def observe(self, seen: Observation) -> None:
        """Take an observation."""
        ...

    def note(self, key: HostKey, text: str) -> None:
        """Show a remark on a host that is up; an empty text removes it."""
        ...


class Membership:
    """The hosts of one router and their watchers, from its start to its end. Used in the monitor's loop only.

    Args:
        source: where the hosts come from.
        monitor: shares the watchers between the routers of the process.
        owner: subscribes to the hosts, and observes which there are.

    Attributes:
        draining: the addresses that names have left.
    """

    def __init__(self, source: HostSource, monitor: Monitor, owner: Owner) -> None:
        self.draining: DrainingHosts = DrainingHosts(owner, self._join, self._leave)
        self._source = source
        self._monitor = monitor
        self._owner = owner
        self._names = monitor.names(source.resolver)
        self._questions: tuple[Question, ...] = ()
        self._watchers: dict[HostKey, AnyWatcher] = {}
        self._notes: dict[HostKey, str] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._ended = False
        self._advised = None if source.discovery is None else self._advised_by(source.discovery)

    async def end(self) -> None:
        """Leave all hosts and names; returns when the connections that no other router needs are closed."""
        self._ended = True
        if self._advised is not None:
            await self._advised.end()
        watchers, self._watchers = self._watchers, {}
        asked, self._questions = self._questions, ()
        for watcher in watchers.values():
            await self._monitor.leave(watcher, self._owner)
        self.draining.end()
        for question in asked:
            await self._names.leave(question, self)
        if self._leaving:
            await asyncio.wait(self._leaving)
        self._monitor.forget(self._names)

    def watcher(self, key: HostKey) -> AnyWatcher | None:
        """Return the watcher of a host, None if it is not listed."""
        return self._watchers.get(key)

    @property
    def sharing(self) -> dict[HostKey, WatchSharing]:
        """Whether and with whom each host's watch is shared; may be read from any thread."""
        return {key: watcher.sharing for key, watcher in tuple(self._watchers.items())}

    def nudge_hosts(self) -> None:
        """Work out again when each host is probed next."""
        for watcher in self._watchers.values():
            watcher.nudge()

    def nudge_names(self) -> None:
        """Work out again when each name is looked up next."""
        for question in self._questions:
            self._names.nudge(question)

    def note(self, key: HostKey, text: str) -> None:
        """Show a remark on a host that is up; an empty text removes it."""
        if not self._ended and self._notes.get(key, "") != text:
            self._notes[key] = text
            self.follow()

    def seen(self, old: Topology, new: Topology) -> None:
        """Work the members out again if what decides about those of the adviser has changed."""
        if self._advised is not None and _places(old) != _places(new):
            self._advised.refresh()

    def doubt(self, key: HostKey) -> None:
        """Look up again the names by which an unreachable host is listed."""
        host = self._owner.topology.host(key)
        if host is None:
            return
        gap = doubt_gap(0.0 if host.usable else time.monotonic() - host.since)
        for question in self._questions:
            if question.name == key.host or host.origin.endswith(f" {question.name}"):
                self._names.hurry(question, gap)

    def follow(self) -> None:
        """Ask for the names that the entries lead to, and watch the hosts that these stand for now."""
        dropped = self._ask()
        listed, errors = members(
            self._source.entries, self._source.mode, self._names.found, self._source.targets
        )
        listings = {m.key: m.listing for m in listed}
        advised = None
        if self._advised is not None:
            joined, advised = self._advised.members(listings)
            listings |= joined
            dropped += self._ask()
        listings = {
            key: replace(listing, note=listing.note or self._notes.get(key, ""))
            for key, listing in listings.items()
        }
        self._owner.observe(Members(tuple(listings), listings))
        if advised is not None:
            self._owner.observe(advised)
        for key in [key for key in self._watchers if key not in listings]:
            self._notes.pop(key, None)
            self._leave(self._watchers.pop(key), self._owner)
        for question in dropped:  # after the hosts, which need its answer
            self._finish(self._names.leave(question, self))
        entries = {m.key for m in listed}
        for key in listings:
            if key in self._watchers or (key in entries and stands_for_others(key, self._source.mode)):
                continue
            self._watchers[key] = self._join(key, self._owner)
        for key, reason in errors.items():
            fault = Fault(FaultKind.UNRESOLVED, host_suspect=True, reason=reason)
            self._owner.observe(Failure(key, fault, time.monotonic()))

    def _ask(self) -> list[Question]:
        """Ask for the names that the entries lead to, and return those that they led to before."""
        dropped: list[Question] = []
        found, targets = self._names.found, self._source.targets
        entries = (
            self._source.entries if self._advised is None else (*self._source.entries, *self._advised.keys)
        )
        # In rounds: the targets of a service are names themselves, which may be known already.
        while (wanted := questions(entries, found, targets)) != self._questions:
            before, self._questions = self._questions, wanted
            for question in wanted:
                if question not in before:
                    self._names.join(question, self)
            dropped += [question for question in before if question not in wanted]
        return dropped

    # As the reader of its names.

    @property
    def options(self) -> ProbeOptions:
        """The router's probe options."""
        return self._owner.options

    def renamed(self, question: Question) -> None:
        """Take note that a name stands for something else now."""
        if self._ended:
            return
        self.follow()
        for key, watcher in self._watchers.items():
            if key.host == question.name and is_name(key):
                watcher.renamed()

    def name_gap(self) -> float | None:
        """Return the seconds between two lookups of a name during an outage, None while there is none."""
        outage = self._owner.topology.outage(time.monotonic())
        return None if outage is None else outage_gap(outage)

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute."""
        self._owner.log_error(text, exc)

    def _advised_by(self, discovery: Discovery) -> AdvisedHosts:
        # Only then: it takes what few routers need.
        from pgroute.monitor.advised import AdvisedHosts
        from pgroute.monitor.probe_login import ProbeLogin

        source = self._source
        return AdvisedHosts(
            discovery=discovery,
            resolver=source.resolver,
            targets=source.targets,
            login=lambda key: ProbeLogin(key, source.params(key), source.credentials),
            monitor=self._monitor,
            names=self._names,
            reader=self,
            topology=lambda: self._owner.topology,
            on_change=self.follow,
        )

    def _join(self, key: HostKey, subscriber: Subscriber) -> AnyWatcher:
        params = self._source.params(key)
        return self._monitor.join(
            key, params, self._names, subscriber,
            resolver=self._source.resolver, options=self._owner.options, source=self._source.credentials,
        )  # fmt: skip

    def _leave(self, watcher: AnyWatcher, subscriber: Subscriber) -> None:
        self._finish(self._monitor.leave(watcher, subscriber))

    def _finish(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Leave a host or a name in a task; `end` waits for it."""
        task = asyncio.get_running_loop().create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _places(topology: Topology) -> object:
    """Return where the hosts are, and which of them serve."""
    return topology.primary and topology.primary.key, [
        (h.key, h.address, h.state, h.usable) for h in topology.hosts
    ]
