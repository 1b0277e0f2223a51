"""What the adviser of one router changes: hosts that join beside those of the DSN, and advice on all of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgroute.core.config.discovery import AuroraDiscovery
from pgroute.core.discovery.follow import Followed, follow
from pgroute.core.discovery.timing import next_turn
from pgroute.monitor.aurora import AuroraSource
from pgroute.monitor.newcomers import Newcomers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.config.discovery import Discovery
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.srv import Targets
    from pgroute.core.discovery.report import Member
    from pgroute.core.discovery.timing import Heard
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Advised, Listing
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.advisers import Adviser
    from pgroute.monitor.dns_watch import Names, Reader
    from pgroute.monitor.probe_login import ProbeLogin
    from pgroute.monitor.thread import Monitor


class AdvisedHosts:
    """The part of a router's membership that comes from an adviser. Used in the monitor's loop only.

    Args:
        discovery: whom to ask.
        resolver: looks up the names of the API.
        targets: at which names members are accepted.
        login: returns how a probe logs in at a host.
        monitor: has the advisers of the process.
        names: look up the names of members.
        reader: the router, as the reader of names.
        topology: returns what is known of the hosts.
        on_change: called when `members` would return something else.
    """

    def __init__(
        self,
        *,
        discovery: Discovery,
        resolver: ResolverSpec,
        targets: Targets,
        login: Callable[[HostKey], ProbeLogin],
        monitor: Monitor,
        names: Names,
        reader: Reader,
        topology: Callable[[], Topology],
        on_change: Callable[[], None],
    ) -> None:
        self._options = discovery
        self._targets = targets
        self._monitor = monitor
        self._reader = reader
        self._topology = topology
        self._on_change = on_change
        self._followed = Followed()
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._ended = False
        self._newcomers = Newcomers(
            login=login,
            names=names,
            reader=reader,
            topology=topology,
            on_proof=self.refresh,
        )
        self._adviser: Adviser = monitor.advisers.join(
            discovery, resolver, self, lambda options: AuroraSource(options, login, names, topology)
        )

    async def end(self) -> None:
        """Ask nobody any more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        await self._newcomers.end()
        await self._monitor.advisers.leave(self._adviser, self)

    def heard(self, heard: Heard) -> None:
        """Take what the adviser said."""
        del heard  # the adviser keeps it
        self.refresh()

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute."""
        self._reader.log_error(text, exc)

    @property
    def keys(self) -> tuple[HostKey, ...]:
        """The hosts that have joined."""
        return tuple(self._followed.joined)

    def refresh(self) -> None:
        """Have the members worked out again, soon: not within an observation."""
        if not self._soon and not self._ended:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = False
        if not self._ended:
            self._on_change()

    def members(self, listed: Mapping[HostKey, Listing]) -> tuple[Mapping[HostKey, Listing], Advised]:
        """Return the hosts that join those of the DSN now, and what is said of all.

        Args:
            listed: the hosts of the DSN and its names.
        """
        self._newcomers.review()
        now = time.monotonic()
        heard, before = self._adviser.last, self._followed.joined
        self._followed = followed = follow(
            heard,
            self._options,
            listed=listed,
            before=before,
            topology=self._topology(),
            proofs=self._newcomers.proofs,
            refusal=self._refusal,
            now=now,
        )
        self._newcomers.follow(followed.tried, followed.named)
        turn = next_turn(heard, self._options, now)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if turn is None else self._wake(turn - now)
        assert followed.advised is not None
        return followed.joined, followed.advised

    def _wake(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.refresh)

    def _refusal(self, member: Member) -> str:
        """Return why a member may not join: its name would be verified by TLS, and nobody vouches for it."""
        assert member.key is not None
        if self._adviser.last.source.startswith("https:") or isinstance(self._options, AuroraDiscovery):
            return ""  # TLS vouches for who told it, or the user's own pattern for where it is
        return self._targets.refusal_of_member(member.key.host)
