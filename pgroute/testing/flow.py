"""One direction of a proxied connection: what it reads, holds back, loses and passes on."""

from __future__ import annotations

import enum
import itertools
import operator
import random
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import ClusterTimeout

if TYPE_CHECKING:
    import socket

Mode = Literal["forward", "deaf", "discard"]
Deed = Literal["reset", "disconnect", "deaf", "discard"]

READ_SIZE = 65536
HOLD = 262144  # bytes that a direction keeps before it stops reading, so that its sender feels the pressure
THROTTLE_STEP = 0.02  # seconds' worth of bytes that a throttled direction reads at once


class End(enum.Enum):
    """How a stream ended."""

    EOF = enum.auto()
    RESET = enum.auto()
    LOST = enum.auto()
    """The receiver is gone: nobody is left to pass bytes to."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one direction suffers from; `delay` and `jitter` in seconds, `rate` in bytes per second."""

    mode: Mode = "forward"
    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None


class Trap:
    """A fault that `FaultProxy.when()` or `FaultProxy.cut_after()` has set and that waits for its moment.

    Attributes:
        hits: how many connections it has hit.
    """

    def __init__(
        self, do: Deed, *, times: int | None, pattern: bytes = b"", count: int = 0, forwards: bool = True
    ) -> None:
        self.do = do
        self.pattern = pattern
        self.count = count
        self.forwards = forwards
        self.hits: int = 0
        self._times = times
        self._under_way = 0
        self._struck = threading.Event()

    def __repr__(self) -> str:
        moment = f"when {self.pattern!r}" if self.pattern else f"after {self.count} bytes"
        return f"<Trap {self.do} {moment}, {self.hits} hits>"

    @property
    def armed(self) -> bool:
        """Whether it still waits for a connection to hit; not after `mend()`."""
        return self._times is None or self.hits + self._under_way < self._times

    @property
    def spent(self) -> bool:
        """Whether it never hits again. One that is merely not armed may miss, and be armed again."""
        return self._times is not None and self.hits >= self._times

    def wait(self, timeout: float = 10.0) -> None:
        """Return when its fault is in force on a connection, or has been.

        Args:
            timeout: seconds.

        Raises:
            ClusterTimeout: nothing has run into it in that time.
        """
        if not self._struck.wait(timeout):
            raise ClusterTimeout(f"nothing ran into {self!r} within {timeout} s")

    def spring(self) -> None:
        """Reserve one of its times: the fault follows when all bytes before it have been passed on."""
        self._under_way += 1

    def miss(self) -> None:
        """Give that time back: the bytes before it never will be passed on."""
        self._under_way -= 1

    def hit(self) -> None:
        """Count a connection."""
        self.hits += 1
        self._under_way -= 1

    def in_force(self) -> None:
        """Let the waiters go on."""
        self._struck.set()

    def disarm(self) -> None:
        """Take it back."""
        self._times = 0


class Watch:
    """How far one direction of one connection has come towards a trap."""

    def __init__(self, trap: Trap) -> None:
        self.trap = trap
        self._passed = 0
        self._tail = b""

    def find(self, chunk: bytes) -> tuple[int, int] | None:
        """Return how many bytes of `chunk` go before the trap springs, and where its cause begins, if at all."""
        if not self.trap.pattern:
            missing = max(0, self.trap.count - self._passed)
            return (missing, missing) if missing <= len(chunk) else None
        start = (self._tail + chunk).find(self.trap.pattern) - len(self._tail)
        if start < -len(self._tail):
            return None
        # The end of the message comes in the same chunk, and without it the receiver would not act.
        return (len(chunk) if self.trap.forwards else max(0, start)), start

    def advance(self, chunk: bytes) -> None:
        """Note that `chunk` has gone by."""
        self._passed += len(chunk)
        seen = self._tail + chunk
        self._tail = seen[max(0, len(seen) - len(self.trap.pattern) + 1) :] if self.trap.pattern else b""


class Flow:
    """Bytes on their way from `source` to `sink`, both of them missing until they are connected.

    The owner calls `read()` and `flush()` when a socket is ready or a time has come, and does what `flush()`
    returns.
    """

    def __init__(self, name: str, totals: dict[str, int], template: Flow | None = None) -> None:
        self.name = name
        self.conditions: Conditions = Conditions() if template is None else template.conditions
        self.source: socket.socket | None = None
        self.sink: socket.socket | None = None
        self.watches: list[Watch] = (
            [] if template is None else [Watch(watch.trap) for watch in template.watches]
        )
        self.blocked = False
        self.done = False
        self.receiver_lost = False
        self._totals = totals
        self._queue: deque[tuple[float, bytes | End | tuple[Trap, ...]]] = deque()
        self._held = 0
        self._ended = False
        self._next_read = 0.0

    def mend(self) -> None:
        """Pass on everything from now, what is held first."""
        self.conditions = Conditions()
        self.watches.clear()
        self._queue = deque((0.0, item) for _, item in self._queue if not isinstance(item, tuple))
        self._next_read = 0.0

    def readable(self, now: float) -> bool:
        """Return whether to read as soon as the source has something."""
        return self._hungry() and now >= self._next_read

    def wakes(self, now: float) -> float | None:
        """Return when the next thing happens without a socket becoming ready, if ever."""
        times = []
        if self._hungry() and now < self._next_read:
            times.append(self._next_read)
        if self._queue and self.conditions.mode != "deaf" and now < self._queue[0][0]:
            times.append(self._queue[0][0])
        return min(times, default=None)

    def read(self, now: float) -> None:
        """Take what the source has, as far as conditions allow."""
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
        """Let the stream end behind what has been read."""
        if not self._ended:
            self._ended = True
            self._queue.append((self._due(now), how))

    def abandon(self) -> None:
        """Drop everything: nobody is there to receive it."""
        self._ended = self.done = True
        for _, item in self._queue:
            if isinstance(item, tuple):
                _miss(item)
        self._queue.clear()
        self._held = 0

    def flush(self, now: float) -> End | tuple[Trap, ...] | None:
        """Pass on what is due and return what the owner has to do before more can be, None for nothing."""
        self.blocked = False
        while self._queue and self.conditions.mode != "deaf":
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
                _miss(item)
            elif not isinstance(item, bytes):
                return item
        return None

    def _hungry(self) -> bool:
        return (
            self.source is not None
            and not self._ended
            and self.conditions.mode != "deaf"
            and self._held < HOLD
        )

    def _passes(self, end: End) -> bool:
        """Whether the end of the stream gets through; a FIN needs somebody to tell."""
        return self.conditions.mode == "forward" and (self.sink is not None or end is End.RESET)

    def _send(self, data: bytes) -> int | None:
        """Send what the sink takes: 0 when it takes nothing now, None when it is gone."""
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
        """When something read now is passed on, if what was read earlier is by then."""
        jitter = self.conditions.jitter
        return now + self.conditions.delay + random.uniform(-jitter, jitter)

    def _take(self, chunk: bytes, due: float) -> None:
        """Queue a chunk, and the traps that it springs at their places; those of one place are hit together."""
        self._held += len(chunk)
        found = [
            (place, watch) for watch in self.watches if watch.trap.armed and (place := watch.find(chunk))
        ]
        found.sort(key=operator.itemgetter(0))
        ends = (nth for nth, (_, watch) in enumerate(found, 1) if watch.trap.do in ("reset", "disconnect"))
        del found[next(ends, len(found)) :]  # behind the end of the connection nothing can be hit
        begin = 0
        for at, group in itertools.groupby(found, key=lambda pair: pair[0][0]):
            if at > begin:
                self._queue.append((due, chunk[begin:at]))
            traps = tuple(watch.trap for _, watch in group)
            for trap in traps:
                trap.spring()
            self._queue.append((due, traps))
            begin = at
        if begin < len(chunk):
            self._queue.append((due, chunk[begin:]))
        sprung = {watch for _, watch in found}
        self.watches = [watch for watch in self.watches if watch not in sprung and not watch.trap.spent]
        for watch in self.watches:
            watch.advance(chunk)


def _miss(traps: tuple[Trap, ...]) -> None:
    for trap in traps:
        trap.miss()
