"""The watch on an address that a name no longer stands for, for as long as sessions are in flight there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgroute.core.hosts import Answer, Facts, Failure, HostState, observe
from pgroute.core.pace import overdue
from pgroute.core.roles import HostRole

if TYPE_CHECKING:
    from pgroute.core.hosts import HostInfo
    from pgroute.core.options import ProbeOptions
    from pgroute.core.roles import HostKey
    from pgroute.core.topology import Topology
    from pgroute.monitor.cluster import ClusterWatch
    from pgroute.monitor.watcher import HostWatcher


class Vigil:
    """Has the sessions at an address aborted by the rules for listed hosts: silent while another serves, or stale.

    Args:
        cluster: the watch of the router whose sessions they are.
        was: the host as it was when it left, or when its name moved away.
    """

    def __init__(self, cluster: ClusterWatch, was: HostInfo) -> None:
        self.was = was
        self.place: HostKey = was.key._replace(hostaddr=was.address)
        self.watcher: HostWatcher | None = None
        self._cluster = cluster
        self._facts = Facts(self.place, HostState.UP)

    @property
    def topology(self) -> Topology:
        """The router's."""
        return self._cluster.topology

    @property
    def options(self) -> ProbeOptions:
        """The router's."""
        return self._cluster.options

    def observe(self, seen: Answer | Failure) -> None:
        """Take an observation; called in the monitor's loop."""
        if self.watcher is None:  # what was known before
            return
        key, address = self.was.key, self.was.address
        now = self.topology.host(key)
        if (now is not None and now.address == address) or not self._cluster.sessions_at(key, address):
            self._cluster.end_vigil(self)
            return
        self._facts = observe(self._facts, seen, time.monotonic())
        why = self._why()
        if why:
            self._cluster.abort(key, address, f"{self.place} {why}")
            self._cluster.end_vigil(self)

    def _why(self) -> str:
        """Return why the sessions should be aborted now, empty if they should not."""
        silent_since = self._facts.silent_since
        if silent_since is not None:
            return overdue(self.was, silent_since, self.topology, self.options, time.monotonic())
        primary, answer = self.topology.primary, self._facts.answer
        if not self.options.abort_stale or primary is None or answer is None:
            return ""
        theirs, ours = answer.timeline, primary.timeline
        if answer.role is HostRole.PRIMARY and theirs is not None and ours is not None and theirs < ours:
            return f"is a stale primary and {primary.key} is the primary"
        return ""

    def note(self, key: HostKey, text: str) -> None:
        """Nothing: the host is not listed."""
