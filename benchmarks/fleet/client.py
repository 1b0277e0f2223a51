"""One process of the fleet: a router's decisions by pgroute/core, with the I/O of the simulated world."""

from __future__ import annotations

import random
from functools import partial

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from benchmarks.fleet.watcher import Watcher
from benchmarks.fleet.world import Signal
from pgroute.core.abort_policy import sessions_to_abort
from pgroute.core.config.options import ProbeOptions
from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole, Role, SessionAttrs
from pgroute.core.routing.acquisition import PATIENCE, Acquisition, GiveUp, Try, patience
from pgroute.core.routing.admission import SOON, Admission, is_fresh
from pgroute.core.routing.balance import parse_policy
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.routing.lending import Close, Connect, Lending, PoolFull, Rest
from pgroute.core.routing.lifetime import lifetime
from pgroute.core.routing.set_aside import SetAside
from pgroute.core.schedule import CONNECT_GAP, DEFAULT_SLOTS, login_spread
from pgroute.core.topology.changes import routes
from pgroute.core.topology.observations import Failure
from pgroute.core.topology.transition import apply
from pgroute.core.transactions.retry import Phase, Raise, RetryState
from pgroute.core.transactions.retry_budget import Usage, costs
from pgroute.errors import CommitUnknown, SessionLost

OPTIONS = ProbeOptions()
CONNECT_TIMEOUT = 5.0
ATTRS = {Role.WRITER: SessionAttrs.READ_WRITE, Role.READER: SessionAttrs.PREFER_STANDBY}


class BackedOff(psycopg.OperationalError):
    """It is too early to connect."""


class Lease:
    """What a pool keeps for each of its connections."""

    def __init__(self, expires_at):
        self.expires_at, self.uses, self.conn = expires_at, 0, None


class Caller(Signal):
    """A caller in the queue of a pool."""

    def __init__(self, until, since):
        super().__init__(until)
        self.item, self.since = None, since


class Budget:
    """The retries of one process, as pgroute/runtime counts them."""

    def __init__(self, now):
        self.begun, self.retries = 0, 0
        self._usage = Usage(now)

    def spend(self, fault, policy, now):
        if not costs(fault):
            return ""
        usage = self._usage.moved(self.begun, now)
        refusal = usage.refusal(policy)
        self._usage = usage if refusal else usage.spent()
        self.retries += not refusal
        return refusal


class Pool:
    """The pool to one host for one role and generation."""

    def __init__(self, client, role, host):
        self.client, self.role, self.host = client, role, host
        self.sim = client.sim
        self.server = client.servers[host.key]
        self.admission = client.admission(role, host)
        settings = client.fleet
        self.lending = Lending(
            min_size=1,
            max_size=settings.max_size,
            max_waiting=0,
            max_idle=600.0,
            now=self.sim.now,
            admission=self.admission if settings.admission else None,
        )
        self.failure = None
        self.tried = []
        self.next_turn = None
        self._busy = False
        self.wake()

    def wake(self):
        self._plan(self.sim.now)

    def _plan(self, when):
        if not self._busy and (self.next_turn is None or when < self.next_turn):
            self.next_turn = when
            self.sim.at(when, self._turn, when)

    def _turn(self, when):
        if self._busy or self.next_turn != when:
            return
        self.next_turn = None
        while True:
            step = self.lending.step(self.sim.now)
            match step:
                case Connect():
                    self._busy = True
                    self._connect()
                    return
                case Close(items):
                    for _, conn in items:
                        conn.close()
                case Rest(seconds):
                    if seconds is not None:
                        self._plan(self.sim.now + seconds)
                    return
                case _:
                    return

    def _connect(self):
        self._begun = self.sim.now
        if self.client.blocked(self.role, self.host):
            self._failed(None)
            return
        self.tried.append(self.sim.now)
        self.server.connect(self.client, CONNECT_TIMEOUT, self._connected)

    def _connected(self, conn, kind):
        if conn is None:
            self._failed(kind)
            return
        # The check of a new connection.
        if conn.server.role is not self.host.role or conn.server.timeline < (self.host.timeline or 0):
            conn.close()
            self._failed(FaultKind.OTHER)
            return
        now = self.sim.now
        self._busy = False
        self.failure = None
        self.client.connected(self.role, self.host, self.server.slots)
        self.admission.opened(now - self._begun, now)
        lease = Lease(now + lifetime(3600.0, self.client.rng))
        if not self.lending.joined((lease, conn)):
            conn.close()
        self.wake()

    def _failed(self, kind):
        now, lending = self.sim.now, self.lending
        self._busy = False
        if kind is not None:
            seconds = CONNECT_GAP
            if kind is FaultKind.BUSY:
                pause = self.admission.refused(now)
                seconds = pause if self.client.fleet.admission else seconds
            self.failure = kind
            self.client.connect_failed(self.role, self.host, kind, self._begun, seconds)
        lending.failed(now)
        if not lending.leases:
            self.close()
        self.wake()

    def close(self):
        for _, conn in self.lending.close():
            conn.close()
        self.wake()

    def getconn(self, timeout, since):
        """Return a lease and its connection; a task."""
        until = self.sim.now + timeout
        while True:
            item = self.lending.take()
            if item is None:
                caller = Caller(max(until, self.sim.now + 0.001), since)
                self.lending.queue(caller)
                if self.lending.needs_connection:
                    self.wake()
                yield caller
                self.lending.leave(caller)
                item = caller.item
                if item is None:
                    if self.lending.closed:
                        raise PoolClosed
                    raise PoolFull if self.lending.in_use >= self.lending.max_size else PoolTimeout
            if not item[1].lost:
                item[0].uses += 1
                item[0].conn = item[1]
                return item
            self._dispose(item)
            self.client.watchers[self.host.key].kick()

    def putconn(self, item):
        lease, conn = item
        lease.conn = None
        if not conn.lost and not conn.closed and self.lending.keeps(lease, self.sim.now):
            self.lending.offer(item)
        else:
            self._dispose(item)

    def _dispose(self, item):
        item[1].close()
        self.lending.remove(item[0])
        self.wake()

    def abort(self):
        for lease in tuple(self.lending.leases):
            if lease.conn is not None:
                lease.conn.lose()


class Client:
    """One process: its topology, watchers, pools and callers.

    Args:
        fleet: the settings, and what is counted.
        number: which one.
        topology: what it knows at the start.
    """

    def __init__(self, fleet, number, topology):
        self.fleet, self.number, self.group = fleet, number, number % 10
        self.sim, self.servers = fleet.sim, fleet.servers
        self.rng = random.Random(fleet.seed * 1_000_003 + number)
        self.topology = topology
        self.slots = DEFAULT_SLOTS
        self.seen = 0
        self.watchers = {key: Watcher(self, server) for key, server in fleet.servers.items()}
        self.pools = {role: {} for role in Role}
        self.aside = {role: SetAside() for role in Role}
        self.budget = Budget(self.sim.now)
        self.policy = RetryPolicy(
            wait=lambda state: self.rng.random() * min(2.0, 0.02 * 2 ** (state.attempt_number - 1)),
            budget=fleet.budget,
            budget_floor=fleet.budget_floor,
        )
        self.served = []
        self.failed = []
        self.busy_since = {}
        self._admissions = {}
        self._blocked = {}
        self._waiting = {}
        self._balance = parse_policy("random")

    # What is known of the hosts.

    def observe(self, seen):
        old, now = self.topology, self.sim.now
        new, _ = apply(old, seen, now)
        if new is old:
            return
        self.topology = new
        for pools in self.pools.values():
            for key, pool in tuple(pools.items()):
                host = new.host(key)
                if not host.usable or host.generation != pool.host.generation:
                    del pools[key]
                    pool.close()
                    self.fleet.retired.append(pool)
        for host, _ in sessions_to_abort(new.hosts, new, OPTIONS, now):
            for pool in self._all_pools(host.key):
                pool.abort()
        if routes(old) != routes(new):
            waiting, self._waiting = self._waiting, {}
            for signal in waiting:
                signal.wake()
        if new.urgent or (new.primary_lost_at is None) != (old.primary_lost_at is None):
            for watcher in self.watchers.values():
                watcher.nudge()

    def _all_pools(self, key):
        current = [p for pools in self.pools.values() for k, p in pools.items() if k == key]
        return current + [p for p in self.fleet.retired if p.client is self and p.host.key == key]

    # What the pools learn of a host.

    def admission(self, role, host):
        generation, admission = self._admissions.get((role, host.key), (-1, None))
        if generation != host.generation:
            now = self.sim.now
            fresh = is_fresh(
                generation=host.generation, returned_at=host.returned_at, since=host.since, now=now
            )
            spread = login_spread(self.slots) if self.fleet.spread is None else self.fleet.spread
            admission = Admission(now, self.rng, spread=spread, fresh=fresh)
            self._admissions[role, host.key] = host.generation, admission
        return admission

    def blocked(self, role, host):
        generation, until = self._blocked.get((role, host.key), (-1, 0.0))
        return generation == host.generation and self.sim.now < until

    def connected(self, role, host, slots):
        self.aside[role].succeeded(host.key)
        self.slots = slots

    def connect_failed(self, role, host, kind, sent_at, seconds):
        self._blocked[role, host.key] = host.generation, self.sim.now + seconds
        watcher = self.watchers[host.key]
        if kind is FaultKind.BUSY:
            fault = Fault(kind, host_suspect=True, reason="too many clients")
            self.observe(Failure(host.key, fault, sent_at, linked=watcher.linked))
        else:
            watcher.kick(fresh=True)

    # The way of a session; tasks.

    def _load(self, role):
        def load(key):
            pool = self.pools[role].get(key)
            return pool.lending.in_use if pool else 0

        return load

    def _open(self, role, candidate):
        pool = self.pools[role].get(candidate.key)
        if pool is not None and pool.host.generation == candidate.generation and not pool.lending.closed:
            return pool
        host = self.topology.host(candidate.key)
        if host is None or not host.usable or host.generation != candidate.generation:
            raise PoolClosed
        if self.blocked(role, host) or host.state is HostState.REJECTED:
            raise BackedOff("too early")
        if pool is not None:
            self.fleet.retired.append(pool)
        self.pools[role][host.key] = pool = Pool(self, role, host)
        turn = self.fleet.admission and pool.admission.due > self.sim.now + SOON
        if host.role is HostRole.STANDBY and turn:
            pool.lending.wanted = True
            raise BackedOff("not its turn")
        return pool

    def _arrange(self, role, groups):
        aside, pools = self.aside[role], self.pools[role]
        if not aside.hosts:
            return groups
        return aside.behind(groups, lambda key: key in pools and bool(pools[key].lending.idle))

    def acquire(self, role, timeout):
        """Return a pool, and a lease with its connection."""
        attrs, start, load = ATTRS[role], self.sim.now, self._load(role)
        aside = self.aside[role]
        if aside.hosts:
            for host in aside.due(self.topology.by_key, start):
                try:
                    pool = self._open(role, host)
                except (PoolClosed, BackedOff):
                    continue
                pool.lending.wanted = True
                pool.wake()
        candidate = first_choice(
            self.topology,
            attrs,
            self._balance,
            self.rng,
            load,
            now=start,
            arrange=partial(self._arrange, role),
        )
        seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
        acquisition = None
        while True:
            failure = None
            if candidate is not None:
                try:
                    pool = self._open(role, candidate)
                    return pool, (yield from pool.getconn(seconds, start))
                except (PoolTimeout, PoolClosed, TooManyRequests, BackedOff) as exc:
                    failure = exc
            if acquisition is None:
                acquisition = Acquisition(
                    attrs,
                    self._balance,
                    self.rng,
                    deadline=start + timeout,
                    timeout=timeout,
                    role=role.value,
                    arrange=partial(self._arrange, role),
                )
            if failure is not None:
                self._count(acquisition, role, candidate, failure, seconds)
            while not isinstance(step := acquisition.step(self.topology, self.sim.now, load), Try):
                if isinstance(step, GiveUp):
                    raise step.error
                signal = Signal(step.until)
                self._waiting[signal] = None
                yield signal
                self._waiting.pop(signal, None)
            candidate, seconds = step.candidate, step.timeout

    def _count(self, acquisition, role, candidate, failure, waited):
        if isinstance(failure, PoolFull):
            acquisition.exhausted(candidate, "full")
            return
        acquisition.failed(candidate, failure, in_use=self._load(role)(candidate.key))
        hasty = isinstance(failure, PoolTimeout) and waited < PATIENCE
        if not (hasty or isinstance(failure, PoolClosed)):
            self.aside[role].failed(candidate, self.sim.now)

    # Transactions; tasks.

    def work(self, role, pause):
        """Run one transaction after the other, with random pauses of that mean."""
        me = self.fleet.serial()
        while True:
            yield self.rng.expovariate(1.0 / pause) if pause else 0.0
            begun = self.busy_since[me] = self.sim.now
            outcome = yield from self.transaction(role)
            del self.busy_since[me]
            (self.served if outcome is None else self.failed).append((begun, self.sim.now, role, outcome))

    def transaction(self, role):
        """Return None, or the error."""
        self.budget.begun += 1
        state = RetryState(
            self.policy, self.sim.now, timeout=None, acquire_timeout=30.0, decidable=False, budget=self.budget
        )
        while True:
            try:
                pool, item = yield from self.acquire(role, state.left(self.sim.now))
            except psycopg.Error as exc:
                return state.without_session(exc, self.sim.now)
            self.fleet.lent(self, role, pool, item[1])
            error, fault, phase = None, None, Phase.BODY
            if not (yield from self._statement(item[1])):
                error, fault = SessionLost("lost"), Fault(FaultKind.LOST, rerun_safe=True)
            elif role is Role.WRITER and item[1].server.role is HostRole.STANDBY:
                error, fault = SessionLost("read-only"), Fault(FaultKind.READ_ONLY, rerun_safe=True)
            elif not (yield from self._statement(item[1])):
                phase, fault = Phase.COMMIT, Fault(FaultKind.LOST, commit_unknown=role is Role.WRITER)
                error = CommitUnknown("lost")
            pool.putconn(item)
            if error is None:
                return None
            if fault.kind is FaultKind.LOST or fault.kind is FaultKind.READ_ONLY:
                self.watchers[pool.host.key].kick(fresh=fault.kind is FaultKind.READ_ONLY)
            step = state.failed(error, fault, phase, self.sim.now)
            if isinstance(step, Raise):
                return state.final(error, self.sim.now)
            yield step.pause

    def _statement(self, conn):
        """Return whether a statement was answered."""
        yield self.sim.latency()
        while not conn.server.reachable(self) and not conn.lost:
            signal = conn.waiting = Signal(None)
            conn.server.stuck(signal)
            yield signal
            conn.waiting = None
        if conn.dead:
            return False
        yield self.fleet.service + self.sim.latency()
        return not conn.lost
