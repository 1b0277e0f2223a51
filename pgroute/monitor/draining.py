"""Watches the addresses that names have left, for as long as sessions are in flight there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from pgroute.core.abort_policy import sessions_to_abort
from pgroute.core.schedule import DEFAULT_SLOTS
from pgroute.core.topology.draining import DrainingHost
from pgroute.monitor.subscribers import RouterView

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer, Failure
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.shared.sharing import AnyWatcher
    from pgroute.monitor.subscribers import Subscriber


class Sessions(RouterView, Protocol):
    """A router and its sessions in flight. Its methods are called in the monitor's loop."""

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the number of sessions in flight at a host and address."""
        ...

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        """Abort the sessions in flight at a host and address."""
        ...


class DrainingHosts:
    """The draining hosts of one router. Used in the monitor's loop only.

    Args:
        sessions: of the router.
        join: subscribes to a host.
        leave: unsubscribes.
    """

    def __init__(
        self,
        sessions: Sessions,
        join: Callable[[HostKey, Subscriber], AnyWatcher],
        leave: Callable[[AnyWatcher, Subscriber], None],
    ) -> None:
        self._sessions = sessions
        self._join = join
        self._leave = leave
        self._watched: dict[HostKey, tuple[_Address, AnyWatcher]] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, was: HostInfo) -> None:
        """Watch an address that a name has left, if sessions are in flight there."""
        if not self._sessions.sessions_at(was.key, was.address):
            return
        host = DrainingHost.start(was, time.monotonic())
        if host.key in self._watched:
            # The name led there again meanwhile, perhaps to another server.
            self._watched[host.key][0].host = host
            return
        address = _Address(self._sessions, self._judge)
        watcher = self._join(host.key, address)
        address.host = host
        self._watched[host.key] = address, watcher

    def end(self) -> None:
        """Stop watching."""
        for key in tuple(self._watched):
            self._end(key)

    def _end(self, key: HostKey) -> None:
        address, watcher = self._watched.pop(key)
        address.host = None  # it unsubscribes in a task, and may observe more until then
        self._leave(watcher, address)

    def _judge(self, host: DrainingHost, now: float) -> None:
        """Abort the sessions if the policy says so; stop watching once none is left or the name leads there again."""
        sessions, key, address = self._sessions, host.was.key, host.was.address
        listed = sessions.topology.host(key)
        if (listed is not None and listed.address == address) or not sessions.sessions_at(key, address):
            self._end(host.key)
            return
        for _, reason in sessions_to_abort([host.info], sessions.topology, sessions.options, now):
            sessions.abort(key, address, reason)
            self._end(host.key)


class _Address:
    """Subscribes to the watcher of one draining host."""

    def __init__(self, sessions: Sessions, judge: Callable[[DrainingHost, float], None]) -> None:
        self.host: DrainingHost | None = None
        self.log_error = sessions.log_error
        self._sessions = sessions
        self._judge = judge

    @property
    def topology(self) -> Topology:
        return self._sessions.topology

    @property
    def options(self) -> ProbeOptions:
        return self._sessions.options

    @property
    def interval(self) -> float:
        return self._sessions.options.interval

    @property
    def slots(self) -> int:
        """The max_connections of the servers; one address is watched, for as long as its sessions last."""
        return DEFAULT_SLOTS

    def observe(self, seen: Answer | Failure) -> None:
        if self.host is not None:
            now = time.monotonic()
            self.host = self.host.observe(seen, now)
            self._judge(self.host, now)

    def note(self, key: HostKey, text: str) -> None:
        """Show nothing: the host is not listed."""
