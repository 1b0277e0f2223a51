"""The scenarios of a fleet, and the figures of each."""

from __future__ import annotations

import statistics

from benchmarks.fleet.fleet import Fleet
from benchmarks.fleet.world import START, rates
from pgroute.core.model.roles import HostRole, Role

BEFORE = 2.0
"""Seconds of steady work before the fault."""
OUTAGE = 4.0
"""Seconds from a crash to the promotion."""


class Scenario:
    """One run: subclasses say what happens. `moment` is when the fleet may come to `target`.

    Args:
        seed: of all that is random.
        settings: of the Fleet.
    """

    title = ""
    after = 6.0
    role = Role.WRITER

    def __init__(self, seed, **settings):
        self.fleet = Fleet(seed, **{**self.settings(), **settings})
        self.sim = self.fleet.sim
        self.servers = list(self.fleet.servers.values())
        self.moment = START + BEFORE
        self.target = self.servers[0]
        self.plan()

    @staticmethod
    def settings():
        return {}

    def plan(self):
        raise NotImplementedError

    def run(self):
        """Return the figures."""
        end = self.moment + self.after
        while self.sim.now < end:
            self.sim.run(self.sim.now + 0.25)
            self.fleet.check()
        self.fleet.check_attempts()
        return self.figures()

    def figures(self):
        fleet, moment = self.fleet, self.moment
        waits = []
        for client in fleet.clients:
            first = min(
                (
                    (end, begun)
                    for begun, end, role, _ in client.served
                    if end >= moment and role is self.role
                ),
                default=None,
            )
            if first is not None:
                waits.append(first[0] - max(first[1], moment))
            elif client.busy_since:
                waits.append(self.after)  # the others have made no call
        waits.sort()
        logins = rates(self.target.attempts, moment, moment + self.after)
        probes = [
            rate
            for server in self.servers
            for rate in rates(server.probes, moment - 1.0, moment + self.after)
        ]
        steady = [rates(s.probes, START, START + BEFORE, BEFORE)[0] for s in self.servers]
        ended = [client.failed for client in fleet.clients]
        return {
            "scenario": type(self).__name__.lower(),
            "clients": len(fleet.clients),
            "slots": self.target.slots,
            "capacity": self.target.capacity,
            "served_50": statistics.median(waits),
            "served_99": waits[min(len(waits) - 1, int(0.99 * len(waits)))],
            "served_last": waits[-1],
            "logins_peak": max(logins),
            "logins": sum(self.target.attempts[k] for k in self.target.attempts if k >= moment * 100),
            "refused": sum(self.target.refused.values()),
            "probes_steady": max(steady) / len(fleet.clients),
            "probes_peak": max(probes),
            "retries": sum(client.budget.retries for client in fleet.clients),
            "errors": sum(map(len, ended)),
            "curve": [
                sum(wait <= step / 20 for wait in waits) / len(waits) for step in range(int(self.after * 20))
            ],
            "logins_curve": logins,
            "probes_curve": rates(self.servers[1].probes, START, moment + self.after),
        }


class Crash(Scenario):
    """The primary crashes, and a standby is promoted four seconds later."""

    title = "Crash"

    def plan(self):
        self.moment += OUTAGE
        self.target = self.servers[1]
        self.sim.at(START + BEFORE, self.servers[0].crash)
        self.sim.at(self.moment, self.target.promote, 2)


class Switchover(Scenario):
    """The primary is stopped, a standby promoted after half a second, and the old one comes back as a standby."""

    title = "Switchover"

    def plan(self):
        old, self.target, *others = self.servers
        self.moment += 0.5
        self.sim.at(START + BEFORE, old.crash)
        self.sim.at(self.moment, self.target.promote, 2)
        for server in others:
            self.sim.at(self.moment, setattr, server, "timeline", 2)
        self.sim.at(self.moment + 1.0, old.start, HostRole.STANDBY, 2)


class Flapping(Scenario):
    """A standby goes away and comes back four times; the fleet reads."""

    title = "Flapping standby"
    role = Role.READER
    after = 14.0

    @staticmethod
    def settings():
        return {"callers": 0, "readers": 1}

    def plan(self):
        self.target = self.servers[1]
        for turn in range(4):
            self.sim.at(self.moment + 3 * turn, self.target.crash)
            self.sim.at(self.moment + 3 * turn + 1, self.target.start, HostRole.STANDBY, 1)


class Partition(Scenario):
    """Half of the fleet loses the primary, which a standby replaces; then the network heals."""

    title = "Partition"

    def plan(self):
        old, self.target, *_ = self.servers
        self.sim.at(self.moment, setattr, old, "cut", {0, 1, 2, 3, 4})
        self.moment += OUTAGE
        self.sim.at(self.moment, self.target.promote, 2)
        self.sim.at(self.moment + 3.0, old.crash)
        self.sim.at(self.moment + 3.1, old.heal)
        self.sim.at(self.moment + 3.2, old.start, HostRole.STANDBY, 2)


class Return(Scenario):
    """The only primary comes back after twenty seconds: the fleet has lost its probes and its sessions."""

    title = "Thundering return"
    after = 10.0

    @staticmethod
    def settings():
        return {"hosts": 2}

    def plan(self):
        self.sim.at(self.moment, self.target.crash)
        self.moment += 20.0
        self.sim.at(self.moment, self.target.start, HostRole.PRIMARY, 1)


class Full(Crash):
    """As a crash, but the new primary has connections for half of the fleet, which shares them."""

    title = "Too few connections"

    def plan(self):
        super().plan()
        self.target.slots = len(self.fleet.clients) + len(self.fleet.clients) // 2


SCENARIOS = {cls.__name__.lower(): cls for cls in (Crash, Switchover, Flapping, Partition, Return, Full)}
