"""One direction of a proxied connection: reads bytes, holds them back, discards them or passes them on."""

from __future__ import annotations

import enum
import itertools
import operator
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .selector_thread import READ_SIZE
from .trigger import TriggerSearch

if TYPE_CHECKING:
    import socket

    from .trigger import Trigger

Mode = Literal["forward", "blackhole", "discard"]

HOLD = 262144  # bytes held before a direction stops reading, so that its sender feels back pressure
THROTTLE_STEP = 0.02  # seconds of throughput that a throttled direction reads at once


class End(enum.Enum):
    """How a stream ended."""

    EOF = enum.auto()
    RESET = enum.auto()
    LOST = enum.auto()
    """The receiver is gone."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The faults of one direction; `delay` and `jitter` in seconds, `rate` in bytes per second."""

    mode: Mode = "forward"
    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None


class Flow:
    """Bytes on their way from `source` to `sink`, which are None until they are connected.

    The owner calls `read()` and `flush()` when a socket is ready or a timer fires, and carries out the step that
    `flush()` returns.
    """

    def __init__(self, name: str, totals: dict[str, int], template: Flow | None = None) -> None:
        self.name = name
        self.conditions: Conditions = Conditions() if template is None else template.conditions
        self.source: socket.socket | None = None
        self.sink: socket.socket | None = None
        self.searches: list[TriggerSearch] = (
            [] if template is None else [TriggerSearch(search.trigger) for search in template.searches]
        )
        self.blocked: bool = False
        self.done: bool = False
        self.receiver_lost = False
        self._totals = totals
        self._queue: deque[tuple[float, bytes | End | tuple[Trigger, ...]]] = deque()
        self._held = 0
        self._ended = False
        self._next_read = 0.0

    def clear_faults(self) -> None:
        """Pass everything on from now, held bytes first."""
        self.conditions = Conditions()
        self.searches.clear()
        self._queue = deque((0.0, item) for _, item in self._queue if not isinstance(item, tuple))
        self._next_read = 0.0

    def readable(self, now: float) -> bool:
        """Return whether to read as soon as the source has bytes."""
        return self._wants_bytes() and now >= self._next_read

    def next_wakeup(self, now: float) -> float | None:
        """Return when the next step is due without a socket becoming ready; None if there is none."""
        times = []
        if self._wants_bytes() and now < self._next_read:
            times.append(self._next_read)
        if self._queue and self.conditions.mode != "blackhole" and now < self._queue[0][0]:
            times.append(self._queue[0][0])
        return min(times, default=None)

    def read(self, now: float) -> None:
        """Read from the source, as far as the conditions allow."""
        if not self.readable(now) or self.source is None:
            return
        rate = self.conditions.rate if self.conditions.mode == "forward" else None
        size = READ_SIZE if rate is None else max(1, min(READ_SIZE, int(rate * THROTTLE_STEP)))
        try:
            chunk = self.source.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self.end(End.RESET, now)
            return
        if not chunk:
            self.end(End.RESET if self.receiver_lost else End.EOF, now)
            return
        if rate is not None:
            self._next_read = max(now, self._next_read) + len(chunk) / rate
        if self.conditions.mode == "forward":
            self._take(chunk, self._due(now))

    def end(self, how: End, now: float) -> None:
        """End the stream after the bytes already read."""
        if not self._ended:
            self._ended = True
            self._queue.append((self._due(now), how))

    def abandon(self) -> None:
        """Drop everything that is queued: there is no receiver."""
        self._ended = self.done = True
        for _, item in self._queue:
            if isinstance(item, tuple):
                _give_back(item)
        self._queue.clear()
        self._held = 0

    def flush(self, now: float) -> End | tuple[Trigger, ...] | None:
        """Pass on the bytes that are due; return the step that the owner must take first, None when there is none."""
        self.blocked = False
        while self._queue and self.conditions.mode != "blackhole":
            due, item = self._queue[0]
            if due > now and self.conditions.mode == "forward":
                break
            if isinstance(item, bytes):
                sent = len(item) if self.conditions.mode == "discard" else self._send(item)
                if sent is None:
                    return End.LOST
                if not sent:
                    break
                self._held -= sent
                if sent < len(item):
                    self._queue[0] = (due, item[sent:])
                    continue
            elif isinstance(item, End) and not self._passes(item):
                break
            self._queue.popleft()
            if isinstance(item, tuple) and self.conditions.mode == "discard":
                _give_back(item)
            elif not isinstance(item, bytes):
                return item
        return None

    def _wants_bytes(self) -> bool:
        return (
            self.source is not None
            and not self._ended
            and self.conditions.mode != "blackhole"
            and self._held < HOLD
        )

    def _passes(self, end: End) -> bool:
        """Whether the end of the stream gets through; a FIN needs a connected sink."""
        return self.conditions.mode == "forward" and (self.sink is not None or end is End.RESET)

    def _send(self, data: bytes) -> int | None:
        """Return how many bytes the sink took: 0 when it takes none now, None when it is gone."""
        if self.sink is None:
            return 0
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            self.blocked = True
            return 0
        except OSError:
            return None
        self._totals[self.name] += sent
        return sent

    def _due(self, now: float) -> float:
        """The time at which bytes read now are passed on, if earlier bytes have been by then."""
        jitter = self.conditions.jitter
        return now + self.conditions.delay + random.uniform(-jitter, jitter)

    def _take(self, chunk: bytes, due: float) -> None:
        """Queue a chunk, with the triggers that it sets off at their places; those at one place hit together."""
        self._held += len(chunk)
        found = [
            (place, search)
            for search in self.searches
            if search.trigger.armed and (place := search.find(chunk))
        ]
        found.sort(key=operator.itemgetter(0))
        ends = (
            nth
            for nth, (_, search) in enumerate(found, 1)
            if search.trigger.action in ("reset", "disconnect")
        )
        del found[next(ends, len(found)) :]  # after the end of the connection nothing can be hit
        begin = 0
        for at, group in itertools.groupby(found, key=lambda pair: pair[0][0]):
            if at > begin:
                self._queue.append((due, chunk[begin:at]))
            triggers = tuple(search.trigger for _, search in group)
            for trigger in triggers:
                trigger.reserve()
            self._queue.append((due, triggers))
            begin = at
        if begin < len(chunk):
            self._queue.append((due, chunk[begin:]))
        done = {search for _, search in found}
        self.searches = [
            search for search in self.searches if search not in done and not search.trigger.spent
        ]
        for search in self.searches:
            search.advance(chunk)


def _give_back(triggers: tuple[Trigger, ...]) -> None:
    for trigger in triggers:
        trigger.give_back()
