"""What a router under test meets in a history: hosts, the watch on them, connecting; and what is found wrong."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.core.abort_policy import sessions_to_abort
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.routing.replayed import Replayed
from pgroute.core.schedule import CONNECT_GAP, DEFAULT_SLOTS
from pgroute.core.topology.observations import Answer, Failure, Observation
from pgroute.core.topology.transition import apply, initial_topology
from tests.interleavings.faces import blocking
from tests.interleavings.servers import (
    AbortHandle,
    Connection,
    Server,
    SyncConnection,
    SyncTransaction,
    Transaction,
)

if TYPE_CHECKING:
    from tests.interleavings.faces import Face

_MOST_NOTES = 20_000
_CONNECT_TIMEOUT = 5.0
_PROBE_GAP = 0.3


class Violation(Exception):
    """An invariant does not hold."""


class World:
    """The servers of one history, its journal, and what was found.

    Attributes:
        journal: (seconds, who, what).
        found: (kind, words) of what is wrong.
        committed: what a server has told to be committed.
        careless: clients may throw connections away, or use what does.
    """

    face: Face

    def __init__(self, rng: Random, hosts: int) -> None:
        self.rng = rng
        self.journal: list[tuple[float, str, str]] = []
        self.found: list[tuple[str, str]] = []
        self.committed: set[str] = set()
        self.careless = False
        self.pools: list[Any] = []
        self.watch: Watch | None = None
        self._mixed: dict[int, float] = {}
        self._most: dict[int, int] = {}
        keys = [HostKey("abc"[i], 5432) for i in range(hosts)]
        self.servers = {
            key: Server(key, HostRole.STANDBY if i else HostRole.PRIMARY) for i, key in enumerate(keys)
        }

    @property
    def transaction_class(self) -> Any:
        return Transaction if self.face.prefix else SyncTransaction

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def note(self, text: str) -> None:
        if len(self.journal) < _MOST_NOTES:
            self.journal.append((self.face.now(), self.face.actor(), text))

    def violation(self, kind: str, text: str) -> None:
        self.note(f"VIOLATION: {kind}: {text}")
        self.found.append((kind, text))

    async def nap(self) -> None:
        """Let some time pass, none for the most part."""
        kind = self.rng.random()
        if kind < 0.6:
            await self.face.sleep(0)
        else:
            await self.face.sleep(self.rng.random() * (0.005 if kind < 0.95 else 0.05))

    def used(self, conn: Connection, what: str) -> None:
        """Take note of a statement: nobody but its holder may use a connection that has one."""
        actor = self.face.actor()
        self.note(f"{conn.name}: {what}")
        if conn.holder and conn.holder != actor:
            self.violation("shared connection", f"{actor} uses {conn.name} ({what}), which {conn.holder} has")

    @property
    def primary(self) -> Server | None:
        """The server that is the primary, and can serve."""
        for server in self.servers.values():
            if server.role is HostRole.PRIMARY and server.up and not server.frozen:
                return server
        return None

    def check_books(self) -> None:
        """Look at the books of every pool; called between any two steps of a history."""
        for pool in self.pools:
            lending = getattr(pool, "_lending", None)
            if lending is None:
                continue
            lock = pool._lock  # threading's has no `locked` before Python 3.14; in a loop it is this thread's
            if getattr(lock, "locked", lock._is_owned)():
                continue
            if lending.closed:
                if lending.waiting or lending.idle:
                    self._broken_books(pool, "a closed pool has waiters or idle connections")
            elif lending.idle and lending.waiting:
                since = self._mixed.setdefault(id(pool), self.face.now())
                if self.face.now() - since > 0.05:
                    self._broken_books(pool, "connections are idle while somebody waits")
                continue
            self._mixed.pop(id(pool), None)
            # A pool that was made smaller loses what is above its new size when it comes back, and opens no more.
            before = self._most.get(id(pool), 0)
            self._most[id(pool)] = most = max(lending.max_size, min(before, len(lending.leases)))
            if len(lending.leases) > max(most, before) or lending.in_use < 0:
                self._broken_books(pool, "more connections than max_size, or more idle ones than there are")

    def _broken_books(self, pool: Any, why: str) -> None:
        lending = pool._lending
        self.violation(
            "books",
            f"{pool.name}: {why}: {len(lending.leases)} connections, {len(lending.idle)} idle, "
            f"{len(lending.waiting)} waiting",
        )
        self.pools.remove(pool)  # told once

    def stand_ins(self) -> dict[tuple[str, str], object]:
        """Return what stands in the modules of the face."""
        face, world = self.face, self
        package, prefix = face.package, face.prefix
        connector = Connector if prefix else SyncConnector
        real = getattr(face.modules.host_pool, f"{prefix}HostPool")

        class HostPool(real):  # type: ignore[valid-type,misc]
            """As it is, and known to the history."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                world.pools.append(self)

            def lease_lost(self, lease: Any) -> None:
                if not (world.careless or self.closed):
                    world.violation(
                        "lost connection", f"{self.name}: a connection was collected, and not returned"
                    )
                super().lease_lost(lease)

        def watch(*args: Any, **kwargs: Any) -> Watch:
            world.watch = Watch(world, *args, **kwargs)
            return world.watch

        return {
            (f"{package}.manager", "ClusterWatch"): watch,
            (f"{package}.pool.host_pool", f"{prefix}Connector"): lambda *a, **k: connector(world, *a, **k),
            (f"{package}.pool.role_pool", f"{prefix}HostPool"): HostPool,
        }


class Watch:
    """As ClusterWatch, on servers in memory."""

    def __init__(self, world: World, entries: Any, params: Any, options: Any, rules: Any, **_: Any) -> None:
        self.options = options
        self.topology = initial_topology(entries, world.face.now(), rules)
        self.replayed = Replayed()
        self.slots = DEFAULT_SLOTS
        self._listener: Any = None
        self._world = world
        self._stopped = False
        self._kicked: Any = None

    def start(self, listener: Any) -> None:
        self._listener = listener
        self._kicked = self._world.face.event()
        self._world.face.spawn(self._work, "monitor")

    def stop(self) -> None:
        self._stopped = True
        if self._kicked is not None:
            self._kicked.set()

    def leave(self) -> None:
        self._stopped = True

    def kick(self, key: HostKey, *, fresh: bool = False) -> None:
        if self._kicked is not None:
            self._kicked.set()

    def heard(self, key: HostKey) -> bool:
        return True

    def note_slots(self, slots: int | None) -> None:
        pass

    def report(self, failure: Failure) -> None:
        self.kick(failure.host)

    async def _work(self) -> None:
        world = self._world
        while not self._stopped:
            servers = list(world.servers.values())
            world.rng.shuffle(servers)
            for server in servers:
                self._observe(self._look(server))
                await world.face.sleep(0.001 * world.rng.random())
            await world.face.wait(self._kicked, _PROBE_GAP)
            self._kicked.clear()

    def _look(self, server: Server) -> Observation:
        now = self._world.face.now()
        if not server.up or server.frozen:
            kind = FaultKind.TIMEOUT if server.frozen else FaultKind.REFUSED
            return Failure(server.key, Fault(kind, host_suspect=True, reason=kind.value), now)
        return Answer(
            server.key,
            server.role,
            sent_at=now,
            timeline=server.timeline,
            system_id=7001,
            started_at=float(server.boot),
            address=f"{server.key.host}.test",
            rtt=0.001,
            fresh=True,
        )

    def _observe(self, seen: Observation) -> None:
        old = self.topology
        new, events = apply(old, seen, self._world.face.now())
        self.topology = new
        for event in events:
            self._world.note(event.text)
        if new is not old and not self._stopped:
            now = self._world.face.now()
            self._listener.on_snapshot(old, new, events)
            for host, reason in sessions_to_abort(new.hosts, new, self.options, now):
                self._listener.abort(host.key, host.address, reason)


class Connector:
    """As AsyncConnector, to servers in memory."""

    def __init__(  # noqa: PLR0917  (as the original)
        self,
        world: World,
        plan: Any,
        host: Any,
        connection_class: type,
        watch: Watch,
        backoff: Any,
        *,
        pool: Any,
        source: Any,
    ) -> None:
        self._backoff = backoff
        self._world = world
        self._read_only = bool(plan.read_only)
        self._host = host
        self._watch = watch
        self._pool = pool
        self._reset = plan.options.reset
        self._stirred: Any = None
        self._aborted = False

    def abort(self) -> None:
        self._aborted = True
        if self._stirred is not None:
            self._stirred.set()

    async def reset(self, conn: Any) -> None:
        if self._reset == "discard":
            await self._world.nap()
        elif self._reset is not None:
            await self._world.face.call(self._reset, conn)
        if conn.pgconn.transaction_status:
            raise psycopg.ProgrammingError("reset left a transaction open")

    async def connect(self, *_: Any, **__: Any) -> Any:
        self._backoff.check(self._host)
        try:
            conn = await self._connect()
        except psycopg.OperationalError as exc:
            self._world.note(f"connecting to {self._host.key.host} failed: {exc}")
            if not (self._aborted or self._pool.closed):
                self._backoff.record_failure(self._host, exc, CONNECT_GAP)
                self._watch.kick(self._host.key)
            raise
        self._backoff.record_success(self._host)
        self._world.note(f"{conn.name} is open")
        return conn

    async def _connect(self) -> Any:
        world, face = self._world, self._world.face
        server = world.servers[self._host.key]
        self._stirred = face.event()
        until = face.now() + _CONNECT_TIMEOUT
        if server.slow > 0.01 or world.chance(0.5):
            await face.wait(self._stirred, server.slow * world.rng.random())
        else:
            await face.sleep(0)
        while server.frozen and not self._aborted and face.now() < until:
            await face.wait(self._stirred, 0.5)
        if self._aborted or self._pool.closed:
            raise psycopg.OperationalError("the pool was closed while it connected")
        if server.frozen or not server.up or world.chance(server.failing):
            raise psycopg.OperationalError("connection refused")
        if server.role is not self._host.role:
            raise psycopg.OperationalError(f"it is a {server.role.value} now")
        conn = (Connection if face.prefix else SyncConnection)(world, server, read_only=self._read_only)
        conn.pgroute_lease = self._lease(conn)
        return conn

    def _lease(self, conn: Any) -> Any:
        modules: SimpleNamespace = self._world.face.modules
        cls = getattr(modules.lease, f"{self._world.face.prefix}Lease")
        lease = cls(self._pool, AbortHandle(conn), lambda: None)
        lease.note_baseline(conn, read_only=self._read_only)
        return lease


SyncConnector = blocking(Connector, ("connect", "reset"))
