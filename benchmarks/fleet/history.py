"""A short history of random faults, made from a seed, in which everything that must hold is checked."""

from __future__ import annotations

import random

from benchmarks.fleet.fleet import Fleet, Violation
from benchmarks.fleet.world import START
from pgroute.core.model.roles import HostRole

FAULTY = 3.0
"""Seconds in which faults happen."""
HEALED = 8.0
"""Seconds from the last fault on; everybody must be served in the last three. A login may hang for five."""
STEP = 0.05


class History:
    """One history; `run` returns its fleet, or raises Violation."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.fleet = Fleet(
            seed,
            clients=self.rng.choice((1, 1, 2)),
            hosts=self.rng.choice((2, 2, 3)),
            slots=self.rng.choice((4, 100, 1000, 10_000)),
            callers=self.rng.choice((1, 3)),
            readers=self.rng.choice((0, 1)),
            pause=0.2,
            service=self.rng.choice((0.001, 0.15)),
            max_size=self.rng.choice((1, 2, 4)),
            capacity=self.rng.choice((20.0, 1000.0)),
            budget=self.rng.choice((0.0, 0.2)),
            budget_floor=self.rng.choice((0.0, 0.1, 10.0)),
        )
        self.sim = self.fleet.sim
        self.servers = list(self.fleet.servers.values())
        self.timeline = 1
        self.told = []
        at = START
        while (at := at + self.rng.expovariate(2.5)) < START + FAULTY:
            self.sim.at(at, self._fault)
        self.sim.at(START + FAULTY, self._heal)

    def run(self):
        healed = START + FAULTY
        try:
            end = healed + HEALED
            while self.sim.now < end:
                self.sim.run(self.sim.now + STEP)
                self.fleet.check()
            self.fleet.check_attempts()
            self.fleet.check_served(end - 3.0)
        except Violation as exc:
            exc.add_note("\n".join(self.told))
            raise
        return self.fleet

    def _fault(self):
        server = self.rng.choice(self.servers)
        stops = [self._crash, self._restart, self._freeze, self._cut, self._fill]
        fault = self.rng.choice([*stops, self._promote, self._mend, self._rejoin])
        self.told.append(f"{self.sim.now - START:.3f}: {fault.__name__[1:]} {server.key}")
        fault(server)

    def _crash(self, server):
        server.crash()

    def _restart(self, server):
        server.crash()
        server.start(server.role, server.timeline, seconds=self.rng.random())

    def _promote(self, server):
        """The old primary goes on, unless it is crashed too: a stale one, or a split brain."""
        if server.up and server.role is HostRole.STANDBY:
            self.timeline += self.rng.random() < 0.9
            server.promote(self.timeline)

    def _rejoin(self, server):
        server.crash()
        server.start(HostRole.STANDBY, self.timeline, seconds=0.1 * self.rng.random())

    def _freeze(self, server):
        server.frozen = True

    def _cut(self, server):
        server.cut = {client.group for client in self.fleet.clients if self.rng.random() < 0.7}

    def _mend(self, server):
        server.heal()

    def _fill(self, server):
        server.slots = max(1, len(server.connections) - 1)

    def _heal(self):
        """One primary on a timeline above all; all others follow it."""
        first, *others = self.rng.sample(self.servers, len(self.servers))
        self.told.append(f"{self.sim.now - START:.3f}: heal, {first.key} is the primary")
        self.timeline += 1
        for server in others:
            if server.role is HostRole.PRIMARY or not server.up:
                server.crash()
                server.start(HostRole.STANDBY, self.timeline, seconds=0.1)
            server.timeline = self.timeline
        if not first.up:
            first.start(HostRole.STANDBY, self.timeline, seconds=0.1)
        first.promote(self.timeline)
        for server in self.servers:
            server.slots = 100
            server.heal()
