"""Where to listen and to which channels, which listener gets what, and where a gap begins and ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgroute.core.mailbox import Mailbox
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.notifications import Notification
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology

_MOST_BYTES = 63
"""The longest name that PostgreSQL does not cut (NAMEDATALEN - 1)."""


def check_channels(channels: Iterable[object]) -> tuple[str, ...]:
    """Return the names of channels, each once; ConfigError for what is no name of one."""
    found: dict[str, None] = {}
    accepted = f"expected a name of 1 to {_MOST_BYTES} bytes in UTF-8, without a null character"
    for channel in channels:
        if not isinstance(channel, str) or not channel or "\0" in channel:
            raise ConfigError("channel", channel, accepted)
        try:
            size = len(channel.encode())
        except UnicodeEncodeError:
            raise ConfigError("channel", channel, accepted) from None
        if size > _MOST_BYTES:
            raise ConfigError("channel", channel, accepted)
        found[channel] = None
    if not found:
        raise ConfigError("channels", (), "expected at least one channel")
    return tuple(found)


def listen(channels: Iterable[str]) -> bytes:
    """Return the statements that listen to channels."""
    return b"".join(b"LISTEN %s;" % _quoted(channel) for channel in channels)


def unlisten(channels: Iterable[str]) -> bytes:
    """Return the statements that end that."""
    return b"".join(b"UNLISTEN %s;" % _quoted(channel) for channel in channels)


def _quoted(channel: str) -> bytes:
    return b'"%s"' % channel.replace('"', '""').encode()


def primary_to_listen_at(topology: Topology) -> Candidate | None:
    """Return the primary, if sessions may go there."""
    groups = topology.candidates[SessionAttrs.PRIMARY]
    return groups[0][0] if groups else None


def why_leave(topology: Topology, key: HostKey, generation: int) -> str:
    """Return why a connection to a host of this generation is not to be listened on any more; empty: it is."""
    host = topology.host(key)
    if host is None:
        return f"{key} is not listed any more"
    if host.usable and host.role is HostRole.PRIMARY and host.generation == generation:
        return ""
    if host.usable and host.role is HostRole.PRIMARY:
        return f"{key} was restarted, or is another server now"
    if host.role is HostRole.STANDBY:
        return f"{key} is a standby now"
    return f"{key} is {host.state.value}" + (f": {host.reason}" if host.reason else "")


class Promotions:
    """Since when each host may be the primary, as far as is known here.

    While an old primary still answers, another one may have been promoted, whose notifications are missed. A gap begins
    where that one was a standby for the last time.
    """

    def __init__(self) -> None:
        self._since: dict[HostKey, float] = {}

    def note(self, old: Topology, new: Topology) -> None:
        """Take note of a new snapshot."""
        for host in new.hosts:
            before = old.host(host.key)
            if host.role is HostRole.PRIMARY and (before is None or before.role is not HostRole.PRIMARY):
                known = old.known_standby_at(host.key)
                self._since[host.key] = -math.inf if known is None else known
        if not self._since.keys() <= new.by_key.keys():
            # Where names move, there is no end to the hosts that were listed.
            self._since = {key: since for key, since in self._since.items() if key in new.by_key}

    def since(self, key: HostKey) -> float:
        """Return the monotonic seconds at which a host certainly was not the primary yet; minus infinity: unknown."""
        return self._since.get(key, -math.inf)


class Subscriber(Protocol):
    """A listener.

    Attributes:
        channels: to which it listens.
        mailbox: what waits for it.
    """

    channels: tuple[str, ...]
    mailbox: Mailbox

    def __hash__(self) -> int: ...


S = TypeVar("S", bound="Subscriber")


@dataclass(frozen=True, slots=True)
class Resume:
    """Listen to these channels on a new connection, then call `resumed`."""

    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Join(Generic[S]):
    """Listen to these channels for a new listener, then call `joined`, or `remove` if that is refused."""

    subscriber: S
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """End listening to these channels, then call `dropped`."""

    channels: tuple[str, ...]


class Subscriptions(Generic[S]):
    """The listeners of a router, and the channels to which its one connection listens.

    Its owner calls each method under one lock, and sends the statements outside of it. A listener joins once LISTEN is
    committed for all of its channels. From then on it receives every notification, or a Gap.

    Attributes:
        joining: the listeners that have not joined yet.
    """

    def __init__(self) -> None:
        self.joining: dict[S, None] = {}
        self._members: dict[S, float] = {}
        self._receivers: dict[str, dict[S, None]] = {}
        self._listened: set[str] = set()
        self._unwanted: set[str] = set()
        self._resumed = False
        self._gap: tuple[str, float] | None = None

    @property
    def empty(self) -> bool:
        """Whether there are no listeners."""
        return not self.joining and not self._members

    @property
    def idle(self) -> bool:
        """Whether nothing is kept of any listener."""
        return self.empty and not self._receivers

    @property
    def everyone(self) -> tuple[S, ...]:
        """All listeners."""
        return (*self._members, *self.joining)

    def has_joined(self, subscriber: S) -> bool:
        """Return whether a listener receives notifications."""
        return subscriber in self._members

    def add(self, subscriber: S) -> None:
        """Add a listener, which has not joined yet."""
        self.joining[subscriber] = None

    def remove(self, subscriber: S) -> None:
        """Forget a listener, if it is known."""
        self.joining.pop(subscriber, None)
        self._members.pop(subscriber, None)
        for channel in subscriber.channels:
            receivers = self._receivers.get(channel, {})
            receivers.pop(subscriber, None)
            if not receivers:
                self._receivers.pop(channel, None)
                if channel in self._listened:
                    self._unwanted.add(channel)

    def step(self) -> Resume | Join[S] | Drop | None:
        """Return what to do on the connection; None: nothing, but to read."""
        if not self._resumed:
            return Resume(tuple(self._receivers))
        for subscriber in self.joining:
            return Join(subscriber, tuple(c for c in subscriber.channels if c not in self._listened))
        if self._unwanted:
            return Drop(tuple(self._unwanted))
        return None

    def resumed(self, channels: tuple[str, ...], since: float) -> tuple[S, ...]:
        """Note that a new connection listens, which ends the gap. Return the listeners that were told.

        Args:
            channels: those of `Resume`.
            since: monotonic seconds at which notifications may have been sent there for the first time.
        """
        self._resumed = True
        self._listened.update(channels)
        self._unwanted.update(channel for channel in channels if channel not in self._receivers)
        gap, self._gap = self._gap, None
        if gap is None:
            return ()
        reason, until = gap
        for subscriber, joined_at in self._members.items():
            subscriber.mailbox.add_gap(reason, max(min(until, since), joined_at))
        return tuple(self._members)

    def joined(self, join: Join[S], now: float) -> bool:
        """Note that the connection listens for a new listener. Return whether that is still there.

        Args:
            join: as `step` has returned it.
            now: monotonic seconds at which LISTEN was sent.
        """
        self._listened.update(join.channels)
        subscriber = join.subscriber
        if subscriber not in self.joining:
            self._unwanted.update(c for c in join.channels if c not in self._receivers)
            return False
        for channel in subscriber.channels:
            self._receivers.setdefault(channel, {})[subscriber] = None
            self._unwanted.discard(channel)
        self._members[subscriber] = now
        del self.joining[subscriber]
        return True

    def dropped(self, drop: Drop) -> None:
        """Note that the connection does not listen to these channels any more."""
        self._listened.difference_update(drop.channels)
        self._unwanted.difference_update(drop.channels)

    def lost(self, reason: str, since: float) -> None:
        """Note that the connection was lost: whatever was sent since then may be missing.

        Args:
            reason: why, in words.
            since: monotonic seconds; what was committed before was received.
        """
        self._resumed = False
        self._listened.clear()
        self._unwanted.clear()
        if self._members and self._gap is None:
            self._gap = reason, since
        elif not self._members:
            self._gap = None

    def deliver(self, notification: Notification, since: float) -> tuple[S, ...]:
        """Give a notification, which was committed after *since*, to the listeners of its channel; return them."""
        receivers = tuple(self._receivers.get(notification.channel, ()))
        for subscriber in receivers:
            subscriber.mailbox.put(notification, since)
        return receivers
