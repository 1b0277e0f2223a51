"""The simulated world: a clock with events, and servers that take logins, answer probes and commit transactions."""

from __future__ import annotations

import collections
import heapq
import itertools
import random

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.roles import HostRole

START = 1000.0
LATENCY = 0.0005
"""Seconds of the network, one way."""
SYSTEM_ID = 7001


class Sim:
    """The clock, its events, and the tasks: generators that yield seconds to sleep, or a Signal to wait for."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.now = START
        self.events = 0
        self._heap = []
        self._order = itertools.count()

    def at(self, when, fn, *args):
        heapq.heappush(self._heap, (when, next(self._order), fn, args))

    def after(self, seconds, fn, *args):
        self.at(self.now + seconds, fn, *args)

    def latency(self):
        return LATENCY * (0.5 + self.rng.random())

    def run(self, until):
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, fn, args = heapq.heappop(heap)
            self.events += 1
            fn(*args)
        self.now = until

    def spawn(self, task):
        self.after(0.0, self._step, task)

    def _step(self, task):
        try:
            awaited = next(task)
        except StopIteration:
            return
        if isinstance(awaited, Signal):
            awaited.start(self, task)
        else:
            self.after(awaited, self._step, task)


class Signal:
    """Wakes one task: by `wake`, or at a time."""

    def __init__(self, until):
        self.until = until
        self.fired = False
        self._sim = self._task = None

    def start(self, sim, task):
        if self.fired:
            sim.after(0.0, sim._step, task)
            return
        self._sim, self._task = sim, task
        if self.until is not None:
            sim.at(max(sim.now, self.until), self.wake)

    def wake(self):
        if not self.fired:
            self.fired = True
            if self._task is not None:
                self._sim.after(0.0, self._sim._step, self._task)


class Connection:
    """A connection of a client to one run of a server."""

    __slots__ = ("answered", "client", "closed", "lost", "on_lost", "run", "server", "waiting")

    def __init__(self, server, client):
        self.server, self.client, self.run = server, client, server.run
        self.lost = self.closed = self.answered = False
        self.on_lost = self.waiting = None
        server.connections[self] = None

    @property
    def dead(self):
        """Whether the server's side of it is gone, which the client may not know yet."""
        return self.closed or self.lost or self.run != self.server.run or not self.server.up

    def close(self):
        self.closed = True
        self.server.connections.pop(self, None)

    def lose(self):
        """The client learns that it has ended."""
        if not (self.closed or self.lost):
            self.lost = True
            self.server.connections.pop(self, None)
            if self.waiting is not None:
                self.waiting.wake()
            if self.on_lost is not None:
                self.on_lost()


class Server:
    """One PostgreSQL server: it takes `capacity` logins a second, one after the other, and has `slots` connections."""

    def __init__(self, sim, key, role, *, slots, capacity):
        self.sim, self.key, self.role = sim, key, role
        self.slots, self.capacity = slots, capacity
        self.timeline, self.run = 1, 1
        self.up, self.starting, self.frozen = True, False, False
        self.cut = set()
        self.connections = {}  # in order: a set would depend on addresses
        self.attempts = collections.Counter()
        self.refused = collections.Counter()
        self.probes = collections.Counter()
        self._free_at = START
        self._logging_in = 0
        self._stuck = []

    def reachable(self, client):
        return not self.frozen and client.group not in self.cut

    # Faults.

    def crash(self):
        """All connections end; clients that can be reached are told by their kernels."""
        if not self.up:
            return
        self.up, self.starting = False, False
        self._logging_in = 0
        for conn in self.connections:
            if self.reachable(conn.client):
                self.sim.after(self.sim.latency(), conn.lose)
        self.connections = {c: None for c in self.connections if not self.reachable(c.client)}

    def start(self, role, timeline, *, seconds=0.0):
        """Start again, after that many seconds of refusing everybody."""
        self.run += 1
        self.role, self.timeline = role, timeline
        self.up, self.starting = True, seconds > 0.0
        self._free_at = self.sim.now
        if seconds:
            self.sim.after(seconds, self._ready, self.run)

    def _ready(self, run):
        if run == self.run:
            self.starting = False

    def promote(self, timeline):
        self.role, self.timeline = HostRole.PRIMARY, timeline

    def heal(self):
        """Answer again, also what came in while frozen or cut off."""
        self.frozen, self.cut = False, set()
        stuck, self._stuck = self._stuck, []
        for signal in stuck:
            signal.wake()
        for conn in tuple(self.connections):
            if conn.dead:
                self.sim.after(self.sim.latency(), conn.lose)

    def stuck(self, signal):
        self._stuck.append(signal)

    # Connecting. `done` gets the connection or None, and the kind of the fault.

    def connect(self, client, timeout, done):
        self.sim.after(self.sim.latency(), self._arrive, client, self.sim.now + timeout, done)

    def _arrive(self, client, deadline, done):
        now = self.sim.now
        self.attempts[int(now * 100)] += self.up and self.reachable(client)
        if not self.reachable(client):
            self.sim.at(deadline, done, None, FaultKind.TIMEOUT)
        elif not self.up:
            self.sim.after(self.sim.latency(), done, None, FaultKind.REFUSED)
        elif self.starting:
            self.sim.after(self.sim.latency(), done, None, FaultKind.STARTING)
        elif len(self.connections) + self._logging_in >= self.slots:
            self.refused[int(now * 100)] += 1
            self.sim.after(self.sim.latency(), done, None, FaultKind.BUSY)
        else:
            self._logging_in += 1
            self._free_at = max(now, self._free_at) + 1.0 / self.capacity
            self.sim.at(self._free_at + 0.005, self._logged_in, client, self.run, deadline, done)

    def _logged_in(self, client, run, deadline, done):
        if run != self.run or not self.up:
            done(None, FaultKind.REFUSED)
            return
        self._logging_in -= 1
        if not self.reachable(client) or self.sim.now > deadline:
            self.sim.at(max(self.sim.now, deadline), done, None, FaultKind.TIMEOUT)
        else:
            done(Connection(self, client), None)

    @property
    def backlog(self):
        """Seconds of logins that wait for their turn."""
        return max(0.0, self._free_at - self.sim.now)


def rates(counts, begin, end, width=0.1):
    """Return how much was counted per second, in steps of *width* seconds from *begin* on."""
    steps = [0.0] * max(1, round((end - begin) / width))
    for hundredth, count in counts.items():
        index = int((hundredth / 100 - begin + 1e-9) / width)
        if 0 <= index < len(steps):
            steps[index] += count / width
    return steps
