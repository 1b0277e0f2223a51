"""The watch on an address that a name no longer stands for, for as long as sessions are in flight there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgroute.core.topology.departed import Departed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer, Failure
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.monitor.host_watcher import HostWatcher


class Vigil:
    """Has the sessions at an address aborted by the rules for listed hosts: silent while another serves, or stale.

    Args:
        cluster: the watch of the router whose sessions they are.
        was: the host as it was when it left, or when its name moved away.
    """

    def __init__(self, cluster: ClusterWatch, was: HostInfo) -> None:
        self.watcher: HostWatcher | None = None
        self._cluster = cluster
        self._server = Departed.start(was)

    @property
    def place(self) -> HostKey:
        """What is watched."""
        return self._server.place

    @property
    def topology(self) -> Topology:
        """The router's."""
        return self._cluster.topology

    @property
    def options(self) -> ProbeOptions:
        """The router's."""
        return self._cluster.options

    def restart(self, was: HostInfo) -> None:
        """Begin anew: the name led there again meanwhile, perhaps to another server."""
        self._server = Departed.start(was)

    def observe(self, seen: Answer | Failure) -> None:
        """Take an observation; called in the monitor's loop."""
        if self.watcher is None:  # what was known before
            return
        key, address = self._server.was.key, self._server.was.address
        host = self.topology.host(key)
        if (host is not None and host.address == address) or not self._cluster.sessions_at(key, address):
            self._cluster.end_vigil(self)
            return
        now = time.monotonic()
        self._server = self._server.observe(seen, now)
        why = self._server.hopeless(self.topology, self.options, now)
        if why:
            self._cluster.abort(key, address, why)
            self._cluster.end_vigil(self)

    def note(self, key: HostKey, text: str) -> None:
        """Nothing: the host is not listed."""

    @property
    def complain(self) -> Callable[[str, BaseException | None], None]:
        """Has a fault of ours logged, by the router."""
        return self._cluster.complain
