"""The routers that subscribe to one host, and what they require of its watcher together."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Protocol

from pgroute.core.schedule import Beat, connect_delay, jittered, pace
from pgroute.core.topology.identity import RELEARN_AFTER
from pgroute.core.topology.observations import Answer
from pgroute.core.topology.wire import Need

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


class Others(Protocol):
    """Processes that are told what this one observes."""

    def observe(self, seen: Answer | Failure) -> None:
        """Take an observation."""
        ...

    def note(self, text: str) -> None:
        """Show a remark on the host."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds for a connection attempt or a probe that the least patient one has; infinite if there are none."""
        ...

    def pace(self, now: float) -> float:
        """Return the seconds from one probe to the next for the most eager one; infinite if there are none."""
        ...

    def __len__(self) -> int: ...

    def in_outage(self) -> bool:
        """Whether one of them knows of no primary."""
        ...


class Subscribers:
    """The subscribers to one host: the most eager one sets the pace, the least patient one the timeout.

    Args:
        key: the host.

    Attributes:
        last: the last observation.
        noted: the last remark on the host.
        others: processes that share this watch, None if there are none.
    """

    def __init__(self, key: HostKey) -> None:
        self.last: Answer | Failure | None = None
        self._home: str | None = None
        self._home_at = -math.inf
        self.noted: str = ""
        self.others: Others | None = None
        self._key = key
        self._all: list[Subscriber] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def home(self) -> str | None:
        """The address at which a server of the cluster itself has answered last; None if none has for a while.

        Then the cluster itself would be learned anew, and the address may be somebody else's.
        """
        return self._home if time.monotonic() - self._home_at < RELEARN_AFTER else None

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
        own = min(s.options.timeout for s in self._all)
        return own if self.others is None else min(own, self.others.timeout)

    @property
    def interval(self) -> float:
        """Seconds from one probe to the next while there is no outage."""
        return min(s.interval for s in self._all)

    def need(self, now: float) -> Need:
        """Return what they require of a watch in another process."""
        outages = [outage for s in self._all if (outage := s.topology.outage(now)) is not None]
        return Need(
            self.interval,
            min(s.options.timeout for s in self._all),
            None if not outages else max(0.0, now - min(outages)),
            min(s.slots for s in self._all),
        )

    @property
    def urgent(self) -> bool:
        """Whether one of them needs the next probe at once."""
        return any(self._key in s.topology.urgent for s in self._all)

    def probe_at(self, asked_at: float, now: float) -> float:
        """Return when the next probe is due, in monotonic seconds, if the last one was sent at *asked_at*."""
        if self.urgent:
            return asked_at
        outages = [s.topology.outage(now) for s in self._all]
        processes = None if self.others is None else 1 + len(self.others)
        delay = min(
            pace(s.interval, outage, slots=s.slots, processes=processes)
            for s, outage in zip(self._all, outages, strict=True)
        )
        if self.others is not None:
            delay = min(delay, self.others.pace(now))
            outages.append(0.0 if self.others.in_outage() else None)
        if any(outage is not None for outage in outages):
            return asked_at + jittered(delay, _RNG)
        return _BEAT.next(asked_at, delay, _RNG)

    def connect_delay(self, now: float, *, kicked: bool = False) -> float:
        """Return the seconds from one connection attempt to the next."""
        if self.others is not None and self.others.in_outage():
            # In an outage that is theirs alone they would try more often; in one of all, no more often than this.
            kicked = kicked or all(s.topology.outage(now) is None for s in self._all)
        return min(
            connect_delay(s.topology, self._key, s.options, now, _RNG, kicked=kicked, slots=s.slots)
            for s in self._all
        )

    def observe(self, seen: Answer | Failure) -> None:
        """Tell everybody an observation."""
        self.last = seen
        if isinstance(seen, Answer) and not self.belongs_to_another_cluster(seen):
            self._home, self._home_at = seen.address, seen.sent_at
        for subscriber in tuple(self._all):
            subscriber.observe(seen)
        if self.others is not None:
            self.others.observe(seen)

    def note(self, text: str) -> None:
        """Have everybody show a remark on the host; an empty text removes it."""
        self.noted = text
        for subscriber in tuple(self._all):
            subscriber.note(self._key, text)
        if self.others is not None:
            self.others.note(text)

    def log_error(self, text: str, exc: Exception) -> None:
        """Have one of them log a bug in pgroute: one log entry is enough."""
        for subscriber in self._all[:1]:
            subscriber.log_error(text, exc)

    @property
    def astray(self) -> bool:
        """Whether what has answered last belongs to another cluster."""
        return isinstance(self.last, Answer) and self.belongs_to_another_cluster(self.last)

    def belongs_to_another_cluster(self, answer: Answer) -> bool:
        """Whether a router that tells clusters apart knows another system identifier, or wants one and is told none."""
        return any(
            s.options.check_system_id
            and s.topology.system_id not in (None, answer.system_id)
            and (answer.system_id is not None or s.options.system_id is not None)
            for s in self._all
        )
