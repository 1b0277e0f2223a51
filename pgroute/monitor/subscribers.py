"""The routers that subscribe to one host, and what they require of its watcher together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from pgroute.core.schedule import Beat, connect_delay, probe_delay, steady
from pgroute.core.topology.observations import Answer

if TYPE_CHECKING:
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Failure
    from pgroute.core.topology.snapshot import Topology

_RNG = random.Random()
_BEAT = Beat()


class RouterView(Protocol):
    """A router as the monitor's loop sees it."""

    @property
    def topology(self) -> Topology:
        """The router's snapshot."""
        ...

    @property
    def options(self) -> ProbeOptions:
        """The router's probe options."""
        ...

    @property
    def interval(self) -> float:
        """Seconds from one probe to the next on an open connection, while there is no outage."""
        ...

    @property
    def slots(self) -> int:
        """The max_connections of the servers."""
        ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute, in another thread: a log handler is the user's code, which must not run here."""
        ...


class Subscriber(RouterView, Protocol):
    """One router's interest in a host. Its snapshot and options set the pace of the probes."""

    def observe(self, seen: Answer | Failure) -> None:
        """Take an observation."""
        ...

    def note(self, key: HostKey, text: str) -> None:
        """Show a remark on a host that is up; an empty text removes it."""
        ...


class Subscribers:
    """The subscribers to one host: the most eager one sets the pace, the least patient one the timeout.

    Args:
        key: the host.

    Attributes:
        last: the last observation.
    """

    def __init__(self, key: HostKey) -> None:
        self.last: Answer | Failure | None = None
        self._key = key
        self._all: list[Subscriber] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber, which is told the last observation at once."""
        self._all.append(subscriber)
        if self.last is not None:
            subscriber.observe(self.last)

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        self._all.remove(subscriber)

    @property
    def timeout(self) -> float:
        """Seconds for a connection attempt or a probe."""
        return min(s.options.timeout for s in self._all)

    def probe_at(self, asked_at: float, now: float) -> float:
        """Return when the next probe is due, in monotonic seconds, if the last one was sent at *asked_at*."""
        return min(
            _BEAT.next(asked_at, s.interval, _RNG)
            if steady(s.topology, self._key, now)
            else asked_at + probe_delay(s.topology, self._key, s.interval, now, _RNG, slots=s.slots)
            for s in self._all
        )

    def connect_delay(self, now: float, *, kicked: bool = False) -> float:
        """Return the seconds from one connection attempt to the next."""
        return min(
            connect_delay(s.topology, self._key, s.options, now, _RNG, kicked=kicked, slots=s.slots)
            for s in self._all
        )

    def observe(self, seen: Answer | Failure) -> None:
        """Tell everybody an observation."""
        self.last = seen
        for subscriber in tuple(self._all):
            subscriber.observe(seen)

    def note(self, text: str) -> None:
        """Have everybody show a remark on the host; an empty text removes it."""
        for subscriber in tuple(self._all):
            subscriber.note(self._key, text)

    def log_error(self, text: str, exc: Exception) -> None:
        """Have one of them log a bug in pgroute: one log entry is enough."""
        for subscriber in self._all[:1]:
            subscriber.log_error(text, exc)

    def belongs_to_another_cluster(self, answer: Answer) -> bool:
        """Whether the system identifier differs from the one of the last answer."""
        known = self.last.system_id if isinstance(self.last, Answer) else None
        return None not in (known, answer.system_id) and known != answer.system_id
