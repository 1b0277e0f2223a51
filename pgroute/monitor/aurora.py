"""Asks Aurora: a statement at one of the hosts, over a connection of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.discovery.aurora import STATEMENT, read_replicas
from pgroute.core.discovery.report import Malformed
from pgroute.core.printable import printable
from pgroute.monitor.dialer import Dialer
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.sources import NoAnswer, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.discovery import AuroraDiscovery
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.dns_watch import Names
    from pgroute.monitor.probe_login import ProbeLogin

_MOST_ASKED = 3
"""Hosts that are asked in turn, at most."""


class AuroraSource:
    """Asks the hosts that serve in turn, first the one that answered last.

    Args:
        options: say where instances are, and how long to wait.
        login: returns how a probe logs in at a host.
        names: look up the names of hosts.
        topology: returns what is known of the hosts.
    """

    def __init__(
        self,
        options: AuroraDiscovery,
        login: Callable[[HostKey], ProbeLogin],
        names: Names,
        topology: Callable[[], Topology],
    ) -> None:
        self._options = options
        self._login = login
        self._names = names
        self._topology = topology
        self._last: HostKey | None = None

    async def ask(self, scope: str) -> Told:
        """As Source; a host tells of its own cluster."""
        del scope
        hosts = [host for host in self._topology().hosts if host.usable]
        hosts.sort(key=lambda host: host.key != self._last)
        errors: list[str] = []
        for host in hosts[:_MOST_ASKED]:
            key = host.key
            try:
                report = read_replicas(await self._rows(key, host.address), self._options, key.port)
            except ProbeFailed as exc:
                errors.append(f"{key}: {exc.fault.reason}")
            except Malformed as exc:
                errors.append(f"{key}: {printable(str(exc))}")
            else:
                self._last = key
                return Told(report, str(key))
        raise NoAnswer("; ".join(errors) or "no host serves that could be asked")

    async def _rows(self, key: HostKey, address: str | None) -> list[list[bytes | None]]:
        timeout = self._options.timeout
        dialer = Dialer(key, self._login(key), self._names)
        dialer.preferred = address  # where the probes reach it
        conn = await dialer.connect(timeout=timeout, on_loss=lambda: None)
        try:
            return await conn.rows(STATEMENT, timeout)
        finally:
            conn.close()
