"""The pools of one role: at most one open for each host, of its current generation; the others drain."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg_pool import PoolClosed

from pgroute._async.pool.host_pool import AsyncHostPool
from pgroute.core.config.options import resized
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.core.model.stats import MEASURES, HostCounts, RoleStats, since, total
from pgroute.core.routing.admission import SOON
from pgroute.core.routing.shares import shares
from pgroute.errors import ConfigError
from pgroute.runtime.connect_backoff import BackedOff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.config.options import PoolOptions
    from pgroute.core.config.role_config import RoleConfig
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Groups, Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource
    from pgroute.runtime.meter import Meter

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")


class AsyncRolePool(Generic[CT]):
    """All pools of one role.

    Args:
        config: how the role connects.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the hosts.
        backoff: what keeps its pools from connecting.
        meter: the router's.
        source: calls the user's credentials function; None: there is none.

    Attributes:
        aside: not empty while connecting to a host fails; see `arrange` and `try_again`.
    """

    def __init__(
        self,
        config: RoleConfig,
        connection_class: type[CT],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        *,
        meter: Meter,
        source: CredentialSource | None = None,
    ) -> None:
        self._config = config
        self._class = connection_class
        self._watch = watch
        self._lock = threading.RLock()  # a signal handler may close the router amid the lines of another call
        self._backoff = backoff
        self._source = source
        self._meter = meter
        self.aside = backoff.aside.hosts
        self._pools: dict[HostKey, AsyncHostPool[CT]] = {}
        self._retired: list[AsyncHostPool[CT]] = []
        self._past: dict[str, int] = {}
        self._past_at: dict[HostKey, HostCounts] = {}
        self._popped: Mapping[str, int] = {}
        self._closed = False

    @property
    def options(self) -> PoolOptions:
        """The options of the role, with the sizes as they are now."""
        return self._config.options

    def resize(self, min_size: object, max_size: object) -> None:
        """Change the sizes of all pools, open or to come; None leaves one as it is.

        Raises:
            ConfigError: a size is not valid.
        """
        with self._lock:
            options = resized(self._config.options, min_size, max_size)
            self._config = config = replace(self._config, options=options)
            pools = tuple(self._pools.values())
        for pool in pools:  # outside: a handler that closes the router has a pool's lock first
            pool.resize(config)

    def expire(self) -> None:
        """Replace all connections: those in use when they come back."""
        with self._lock:
            pools = tuple(self._pools.values())
        for pool in pools:
            pool.expire()

    def load(self, key: HostKey) -> int:
        """Return the sessions in use at a host."""
        pool = self._pools.get(key)
        return pool.in_use if pool else 0

    def ready(self, candidate: Candidate) -> AsyncHostPool[CT] | None:
        """Return the pool to that host if it is open and of that generation."""
        pool = self._pools.get(candidate.key)
        if pool is None or pool.generation != candidate.generation or pool.closed:
            return None
        return pool

    def last_failure(self, candidate: Candidate) -> Exception | None:
        """Return why connecting to a host failed last; None: it has succeeded since, or was not tried.

        A ConfigError is a mistake in the user's configure, for which no host is at fault.
        """
        if (mistake := self._backoff.mistake) is not None:
            return ConfigError(mistake.parameter, mistake.value, mistake.accepted)
        return self._backoff.last_failure(candidate)

    def pool(self, key: HostKey) -> AsyncHostPool[CT] | None:
        """Return the pool now open to a host."""
        return self._pools.get(key)

    def arrange(self, groups: Groups) -> Groups:
        """Return the groups with the hosts at the end to which no connection can be opened, and none is idle."""
        return self._backoff.aside.behind(groups, self._has_idle) if self.aside else groups

    def _has_idle(self, key: HostKey) -> bool:
        pool = self._pools.get(key)
        return pool is not None and pool.idle

    def set_aside(self, candidate: Candidate) -> None:
        """Offer a host after all others until a connection to it has been opened."""
        self._backoff.aside.failed(candidate, time.monotonic())

    async def try_again(self, topology: Topology) -> None:
        """Have connections opened to the hosts that are set aside, where it is time to; nobody waits for them."""
        for host in self._backoff.aside.due(topology.by_key, time.monotonic()):
            with contextlib.suppress(PoolClosed, psycopg.OperationalError):
                (await self.open(host)).try_connection()

    async def open(self, candidate: Candidate | HostInfo) -> AsyncHostPool[CT]:
        """Return the pool to that host, and open it if there is none of this generation.

        Raises:
            PoolClosed: the host no longer has the role in that generation.
            BackedOff: it is too early for another attempt at connecting.
            psycopg.OperationalError: a thread cannot be started.
        """
        before: AsyncHostPool[CT] | None = None
        with self._lock:
            pool = self._pools.get(candidate.key)
            if pool is not None and pool.generation == candidate.generation and not pool.closed:
                return pool
            # The current snapshot: the caller's may be old, if it was delayed.
            host = self._watch.topology.host(candidate.key)
            if self._closed or host is None or not host.usable or host.generation != candidate.generation:
                raise PoolClosed(f"{candidate.key} no longer serves as it did")
            self._backoff.check(host)
            if host.state is HostState.REJECTED and self._config.as_probe:
                raise BackedOff(host.reason)  # it still serves over open connections, but there are none here
            before = pool
            pool = AsyncHostPool(
                self._config,
                host,
                self._class,
                self._watch,
                self._backoff,
                meter=self._meter,
                source=self._source,
            )
            failure: BaseException | None = None
            try:
                if before is not None:
                    self._retired.append(before)
                self._pools[candidate.key] = pool
                pool.open()
                if self._closed:  # by a signal handler, on one of the lines above
                    raise PoolClosed("the router was closed")
            except BaseException as exc:  # noqa: BLE001  (raised below)
                # Interrupted, or no thread could be started; in the first case the worker may run already.
                failure = exc
                self._retired.append(pool)
                self._pools.pop(candidate.key, None)
        if failure is not None or before is not None:
            await self._close_retired()
        late = pool.admission.due > time.monotonic() + SOON
        if failure is None and host.role is HostRole.STANDBY and late:
            # Its turn to connect comes later. Callers go elsewhere meanwhile, if they can.
            pool.try_connection()
            raise BackedOff("connecting waits for its turn, because the host has just come back")
        if isinstance(failure, RuntimeError):
            raise psycopg.OperationalError(
                f"no thread to connect to {candidate.key} with: {failure}"
            ) from failure
        if failure is not None:
            raise failure
        return pool

    async def reconcile(self) -> None:
        """Close the pools to hosts that lost the role, and forget those whose last session has ended."""
        with self._lock:
            topology = self._watch.topology  # in here: a pool may have been opened since an older one
            for pool in tuple(self._pools.values()):
                host = topology.host(pool.key)
                if host is None or not host.usable or host.generation != pool.generation:
                    self._retire(pool)
        self._backoff.retain(topology.by_key)
        await self._close_retired()
        gone = [p for p in tuple(self._retired) if p.gone]  # not under the lock: it may log
        with self._lock:
            for pool in gone:
                if pool in self._retired:  # another thread may reconcile too
                    self._retired.remove(pool)
                    self._count(pool)
            kept = {*topology.by_key, *self._pools, *(p.key for p in self._retired)}
            # Where names move, there is no end to the hosts that were listed.
            if not kept.issuperset(self._past_at):
                self._past_at = {key: counts for key, counts in self._past_at.items() if key in kept}

    def _retire(self, pool: AsyncHostPool[CT]) -> None:
        # A signal handler that closes the router may come in between.
        if pool not in self._retired:
            self._retired.append(pool)
        self._pools.pop(pool.key, None)

    async def _close_retired(self) -> None:
        for pool in tuple(self._retired):
            if not pool.closed:
                await pool.close()

    def abort(self, key: HostKey, address: str | None) -> int:
        """Abort the sessions in flight at a host, whatever their generation; from any thread. Return how many.

        Args:
            key: which host.
            address: its address; sessions at other addresses, to which its name led before, go on.
        """
        return sum(pool.abort() for pool in self._at(key, address))

    def in_use_at(self, key: HostKey, address: str | None) -> int:
        """Return the sessions in flight at a host and address; from any thread."""
        return sum(pool.in_use for pool in self._at(key, address))

    def _at(self, key: HostKey, address: str | None) -> list[AsyncHostPool[CT]]:
        pools = (self._pools.get(key), *self._retired)
        return [p for p in pools if p is not None and p.key == key and p.address == address]

    @property
    def in_use(self) -> int:
        """Sessions in flight."""
        return sum(p.in_use for p in (*self._pools.values(), *self._retired))

    def forget_lost(self) -> None:
        """Forget connections that callers have lost or given up, which counted as in use until now."""
        for pool in (*self._pools.values(), *self._retired):
            pool.forget_lost()

    def _count(self, pool: AsyncHostPool[CT]) -> None:
        counters = {k: v for k, v in pool.stats().items() if k not in MEASURES}
        self._past = total([self._past, counters])
        past = self._past_at.get(pool.key)
        counts = _counts_of(pool)
        self._past_at[pool.key] = counts if past is None else past + counts

    def stats(self) -> RoleStats:
        """Return the counters."""
        pools = dict(self._pools)  # which may change meanwhile
        now = {key: pool.stats() for key, pool in pools.items()}
        past = [{k: v for k, v in p.stats().items() if k not in MEASURES} for p in self._retired]
        empty = dict.fromkeys(MEASURES, 0)
        return RoleStats(
            totals=total([empty, self._past, *past, *now.values()]),
            hosts={
                key: {**stats, "in_use": self.load(key), "generation": pools[key].generation}
                for key, stats in now.items()
            },
        )

    def by_host(self) -> dict[HostKey, HostCounts]:
        """Return the counts of each host, those of its pools that are closed by now too."""
        with self._lock:
            found = dict(self._past_at)
            for pool in (*self._retired, *self._pools.values()):
                counts = _counts_of(pool)
                found[pool.key] = found[pool.key] + counts if pool.key in found else counts
        return found

    def pop_stats(self) -> dict[str, int]:
        """Return the totals, with the counts since the last call."""
        with self._lock:
            totals = self.stats().totals
            before, self._popped = self._popped, totals
        return since(totals, before)

    async def fill(self, group: tuple[Candidate, ...], count: int) -> int:
        """Have *count* connections opened to these hosts, and return how many there are."""
        pools = []
        for candidate in group:
            with contextlib.suppress(PoolClosed, psycopg.OperationalError):
                pools.append(self.ready(candidate) or await self.open(candidate))
        opened = [pool.opened for pool in pools]
        if sum(opened) < count:
            for pool, share in zip(pools, shares(count, [pool.max_size for pool in pools]), strict=True):
                pool.fill(share)
        return sum(opened)

    async def close(self) -> None:
        """Close every pool: waiters are woken, idle connections closed."""
        with self._lock:
            self._closed = True
            for pool in tuple(self._pools.values()):
                self._retire(pool)
        await self._close_retired()

    async def join(self, timeout: float) -> None:
        """Wait for the workers of closed pools to end, for *timeout* seconds in all."""
        until = time.monotonic() + timeout
        for pool in self._retired:
            await pool.join(max(0.01, until - time.monotonic()))

    def abort_all(self) -> int:
        """Abort every session in flight; return how many."""
        return sum(pool.abort() for pool in (*self._pools.values(), *self._retired))


def _counts_of(pool: AsyncHostPool[Any]) -> HostCounts:
    stats = pool.stats()
    sizes = {"in_use": pool.in_use}
    if not pool.closed:
        sizes |= {key: stats[key] for key in MEASURES}
    counters = {key: count for key, count in stats.items() if key not in MEASURES}
    return HostCounts(counters, sizes, pool.counts.used.read(), pool.counts.created.read())
