"""A fleet of simulated clients before a cluster of simulated servers, what is counted, and what must always hold."""

from __future__ import annotations

import itertools

from benchmarks.fleet.client import Client
from benchmarks.fleet.world import START, SYSTEM_ID, Connection, Server, Sim
from pgroute.core.model.roles import HostKey, HostRole, Role
from pgroute.core.topology.observations import Answer
from pgroute.core.topology.transition import apply, initial_topology


class Violation(AssertionError):
    """An invariant does not hold."""


class Fleet:
    """The clients and their servers; the settings are those of a sweep, with the defaults of pgroute.

    Args:
        seed: of all that is random.
        clients: processes, each with a router.
        hosts: servers, the first one is the primary.
        slots: max_connections of each.
        capacity: logins a second that each can take.
        callers: tasks of each client that run one write transaction after the other.
        readers: tasks of each client that read.
        pause: seconds between two transactions, on average.
        max_size: connections of each pool.
        admission: connections at a new host are limited by core/routing/admission.py.
        spread: seconds of the first login's jitter; None: core/schedule.py decides.
        paced: probes of large fleets are rarer, as core/schedule.py decides.
        service: seconds of a statement.
        budget, budget_floor: of RetryPolicy.
    """

    def __init__(
        self,
        seed,
        *,
        clients,
        hosts=3,
        slots=None,
        capacity=8000.0,
        callers=1,
        readers=0,
        pause=1.0,
        max_size=10,
        admission=True,
        spread=None,
        paced=True,
        service=0.001,
        budget=0.2,
        budget_floor=10.0,
    ):
        self.seed, self.sim = seed, Sim(seed)
        self.admission, self.spread, self.paced = admission, spread, paced
        self.max_size, self.budget, self.budget_floor = max_size, budget, budget_floor
        self.retired = []
        self.lendings = 0
        self.service = service
        slots = max(100, round(2.5 * clients)) if slots is None else slots
        keys = [HostKey(f"db{number}", 5432 + number) for number in range(hosts)]
        roles = [HostRole.PRIMARY] + [HostRole.STANDBY] * (hosts - 1)
        self.servers = {
            key: Server(self.sim, key, role, slots=slots, capacity=capacity)
            for key, role in zip(keys, roles, strict=True)
        }
        self._numbers = itertools.count()
        topology = self._settled(keys)
        self.clients = [Client(self, number, topology) for number in range(clients)]
        for client in self.clients:
            client.slots = slots
            asked_at = self.sim.now - self.sim.rng.random()
            for key, watcher in client.watchers.items():
                watcher.adopt(Connection(self.servers[key], client), asked_at)
            for role, count in ((Role.WRITER, callers), (Role.READER, readers)):
                for _ in range(count):
                    self.sim.spawn(client.work(role, pause))

    def _settled(self, keys):
        """Return what a client knows of a healthy cluster: all share one snapshot, which never changes."""
        topology = initial_topology(tuple(keys), START)
        for _ in range(2):
            for key, server in self.servers.items():
                answer = Answer(
                    key,
                    server.role,
                    sent_at=START - 1.0,
                    timeline=1,
                    system_id=SYSTEM_ID,
                    started_at=1.0 + 1000.0 * key.port,
                    rtt=0.001,
                    fresh=True,
                )
                topology, _ = apply(topology, answer, START - 0.5)
        return topology

    def serial(self):
        return next(self._numbers)

    @property
    def pools(self):
        return [p for c in self.clients for pools in c.pools.values() for p in pools.values()]

    def primary(self):
        """Return the primary on the highest timeline, None if it is down."""
        found = [s for s in self.servers.values() if s.up and not s.starting and s.role is HostRole.PRIMARY]
        return max(found, key=lambda s: s.timeline, default=None)

    # Invariants.

    def lent(self, client, role, pool, conn):
        """A session begins."""
        self.lendings += 1
        server = conn.server
        if role is Role.WRITER and server.role is HostRole.PRIMARY and server.timeline < client.seen:
            raise Violation(f"a write to {server.key} on timeline {server.timeline}, {client.seen} was seen")
        host = client.topology.host(pool.host.key)
        if host is None or host.generation != pool.host.generation or not host.usable:
            raise Violation(f"client {client.number} uses a pool of {pool.host.key} that was given up")

    def check(self):
        """Nobody waits for something that will not come."""
        for pool in self.pools:
            books = pool.lending
            if not books.waiting or pool.next_turn is not None or pool._busy:
                continue
            if books.closed or (books.in_use < books.max_size and books.needs_connection):
                raise Violation(f"callers wait at {pool.host.key}, and nothing will wake them")
            if books.idle and not any(waiter.item for waiter in books.waiting):
                raise Violation(f"callers wait at {pool.host.key} beside an idle connection")

    def check_attempts(self):
        """The attempts of each process are bounded."""
        for client in self.clients:
            for watcher in client.watchers.values():
                if close := [b - a for a, b in itertools.pairwise(watcher.tried) if b - a < 0.199]:
                    raise Violation(f"probes connected twice within {min(close):.3f} s")
            passed = self.sim.now - START
            allowed = self.budget * client.budget.begun + self.budget_floor * (10.0 + passed)
            if client.budget.retries > allowed + 1e-6:
                raise Violation(f"{client.budget.retries} retries, {allowed:.0f} are allowed")

    def check_served(self, since):
        """Everybody has been served since then, and nobody has waited from before until now."""
        for client in self.clients:
            if not any(ended >= since for _, ended, _, _ in client.served):
                raise Violation(f"client {client.number} was not served since {since - START:.2f}")
            for begun in client.busy_since.values():
                if begun < since:
                    raise Violation(f"client {client.number} waits since {begun - START:.2f}")
