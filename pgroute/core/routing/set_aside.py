"""The hosts that are offered only after all others, because no connection to them can be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Groups

RETRY_GAP = 0.2
"""Seconds between two attempts to have a connection opened in the background. The pools may make them rarer."""


class SetAside:
    """The hosts at which a role failed to connect, until it succeeds; from any thread.

    The probes may still find such a host in order: they may log in as another user, and over a connection that is open.
    The connection that ends this is opened in the background, so no caller waits for it.

    Attributes:
        hosts: those hosts, each with its generation and the monotonic seconds of the next attempt. It stays the same
            object: while it is empty, there is nothing else to look at.
    """

    def __init__(self) -> None:
        self.hosts: dict[HostKey, tuple[int, float]] = {}

    def failed(self, candidate: Candidate, now: float) -> None:
        """Set a host aside.

        Args:
            candidate: the host.
            now: monotonic seconds.
        """
        self.hosts[candidate.key] = (candidate.generation, now + RETRY_GAP)

    def succeeded(self, key: HostKey) -> None:
        """Offer a host as before."""
        self.hosts.pop(key, None)

    def retain(self, listed: Container[HostKey]) -> None:
        """Forget all other hosts."""
        for key in tuple(self.hosts):
            if key not in listed:
                self.succeeded(key)

    def due(self, known: Mapping[HostKey, HostInfo], now: float) -> list[HostInfo]:
        """Return the hosts that are to be tried now. Forget those that are of another generation meanwhile.

        Args:
            known: the hosts of the topology.
            now: monotonic seconds.
        """
        found = []
        for key, (generation, next_at) in tuple(self.hosts.items()):
            host = known.get(key)
            if host is None or host.generation != generation or not host.usable:
                self.succeeded(key)
            elif now >= next_at:
                self.hosts[key] = (generation, now + RETRY_GAP)
                found.append(host)
        return found

    def behind(self, groups: Groups, idle: Callable[[HostKey], bool]) -> Groups:
        """Return the groups with the hosts that are set aside at the end. If all are, nothing changes.

        Args:
            groups: of equally good hosts, the best first.
            idle: tells whether there is an idle connection to a host, with which it serves like any other.
        """
        aside = {
            c.key
            for group in groups
            for c in group
            if self.hosts.get(c.key, (-1, 0.0))[0] == c.generation and not idle(c.key)
        }
        if not aside:
            return groups
        front = _only(groups, lambda key: key not in aside)
        return (*front, *_only(groups, aside.__contains__)) if front else groups


def _only(groups: Groups, wanted: Callable[[HostKey], bool]) -> Groups:
    kept = (tuple(c for c in group if wanted(c.key)) for group in groups)
    return tuple(group for group in kept if group)
