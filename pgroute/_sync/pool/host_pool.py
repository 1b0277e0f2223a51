# Generated from pgroute/_async/pool/host_pool.py by .ci/unasync.py: edit that file, not this one.
"""The pool to one host for one role and one generation of the host; once closed, it is never reopened."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from psycopg.pq import TransactionStatus

from pgroute._sync.pool.cancelling import abandon
from pgroute._sync.pool.cleaning import Cleaning
from pgroute._sync.pool.connector import Connector
from pgroute._sync.pool.exchange import Exchange
from pgroute._sync.pool.lease import Lease, alive, lease_of, shut
from pgroute._sync.pool.setup import SETUP_ATTEMPTS, set_up
from pgroute._sync.pool.worker import PoolWorker
from pgroute._psycopg.state import has_unfinished, settings_of
from pgroute.core.model.durations import QUICK
from pgroute.core.routing.lending import Lending
from pgroute.core.routing.pool_counts import PoolCounts

if TYPE_CHECKING:
    import psycopg

    from pgroute._acompat import Waiter
    from pgroute.core.config.options import PoolOptions
    from pgroute.core.config.role_config import RoleConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import Role
    from pgroute.core.routing.admission import Admission
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource
    from pgroute.runtime.meter import Meter

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")

# Looked up on the way of each session, where an attribute of an enumeration costs 0.1 us.
_IDLE, _UNKNOWN = TransactionStatus.IDLE, TransactionStatus.UNKNOWN
_FIT = (_IDLE, _UNKNOWN)


class HostPool(Generic[CT]):
    """The pool to one host for one role, valid for one generation of that host.

    Connections change hands under one lock, in steps that cannot be suspended or cancelled: a connection is idle, with
    one caller, or with the worker that opens and closes connections; a caller who waits is served or told. A connection
    that its caller has lost is noticed when it is collected.

    Args:
        config: how the role connects.
        host: the host as the topology knows it now.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the host.
        backoff: the role's.
        meter: the router's.
        source: calls the user's credentials function; None: there is none.

    Attributes:
        host: as given.
        key: of the host.
        generation: of the host.
        address: of the host, as the topology knew it.
        watch: as given.
        admission: bounds how fast it opens connections.
        counts: what has happened in it.
    """

    def __init__(
        self,
        config: RoleConfig,
        host: HostInfo,
        connection_class: type[CT],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        *,
        meter: Meter,
        source: CredentialSource | None = None,
    ) -> None:
        options = config.options_at(host)
        self.host = host
        self.key = host.key
        self.generation = host.generation
        self.address = host.address
        self.name = f"pgroute-{config.role.value}-{host.key}-{host.generation}"
        self.watch = watch
        self._options = options
        self._setup = options.setup
        # Reentrant: a signal handler may close the router amid the lines of another call.
        self._lock = threading.RLock()
        self.admission: Admission = backoff.admission(host, watch.slots)
        self._lending: Lending[Lease, CT] = Lending(
            min_size=options.min_size,
            max_size=options.max_size,
            max_waiting=options.max_waiting,
            max_idle=options.max_idle,
            max_uses=options.max_uses,
            now=time.monotonic(),
            admission=self.admission,
        )
        self.counts = PoolCounts()
        self._counters, self._used = self.counts.counters, self.counts.used
        self._meter = meter
        self._connector = Connector(
            config, host, connection_class, watch, backoff, pool=self, source=source
        )
        self._cleaning = Cleaning(
            self._connector, host.key, closed=lambda: self.closed, lost=self._note_lost
        )
        self._worker: PoolWorker[CT] = PoolWorker(
            self.name,
            self._lending,
            self._lock,
            self._counters,
            self._connector,
            admission=self.admission,
            max_lifetime=options.max_lifetime,
            close=self.close,
            opened=partial(self._note_opened, config.role),
            ended=self._note_ended,
        )
        self._exchange: Exchange[CT] = Exchange(
            self._lending, self._lock, self._counters, self._worker, _limit(config, options)
        )

    def open(self) -> None:
        """Start the worker; the first connection follows by itself.

        Raises:
            RuntimeError: a thread cannot be started.
        """
        self._worker.start()

    @property
    def closed(self) -> bool:
        """Whether no session can come from here any more."""
        return self._lending.closed

    @property
    def in_use(self) -> int:
        """Sessions in flight."""
        return self._lending.in_use

    @property
    def idle(self) -> bool:
        """Whether a connection is ready to be lent."""
        return bool(self._lending.idle)

    @property
    def opened(self) -> int:
        """The connections that are open, in use or not."""
        return len(self._lending.leases)

    @property
    def max_size(self) -> int:
        """The most connections that it may have."""
        return self._lending.max_size

    def resize(self, config: RoleConfig) -> None:
        """Take over the sizes; connections beyond max_size are closed, those in use when they come back."""
        options = config.options_at(self.host)
        with self._lock:
            self._exchange.limit = _limit(config, options)
            self._lending.resize(options.min_size, options.max_size)
        self._worker.wake()

    def expire(self) -> None:
        """Replace all connections: those in use when they come back."""
        with self._lock:
            self._lending.expire()
        self._worker.wake()

    def fill(self, size: int) -> None:
        """Have connections opened until there are *size*, or max_size."""
        with self._lock:
            self._lending.fill(size)
        self._worker.wake()

    def try_connection(self) -> None:
        """Have one more connection opened, unless the pool is full, to find out whether it can be."""
        with self._lock:
            self._lending.wanted = True
        self._worker.wake()

    def getconn(self, timeout: float, since: float) -> CT:
        """Return a connection whose socket shows no sign of a lost server.

        Args:
            timeout: seconds.
            since: monotonic seconds at which the caller began to wait, here or at another host: its turn in the queue.

        Raises:
            PoolFull: all were in use until then.
            PoolTimeout: none could be opened until then.
            PoolClosed, TooManyRequests: as psycopg_pool.
            SetupFailed: the user's setup failed with several connections.
        """
        until = 0.0
        failures = 0
        self._counters["requests_num"] += 1
        item: tuple[Lease, CT] | None = None
        try:
            while True:
                waiter: Waiter | None = None
                with self._lock:
                    item = self._lending.take()
                    if item is None:
                        waiter = self._exchange.queue(since)
                if waiter is not None:
                    until = until or time.monotonic() + timeout
                    item = self._exchange.wait(waiter, until - time.monotonic())
                assert item is not None
                lease, conn = item
                if self._usable(conn):
                    lease.taken = True
                    lease.loan = {}
                    lease.unconfirmed = False
                    lease.uses += 1
                    if self._setup is None:
                        return conn
                    until = until or time.monotonic() + timeout
                    failure = set_up(self._setup, lease, conn, until - time.monotonic())
                    if failure is None:
                        return conn
                    self._counters["requests_errors"] += 1
                    if lease.doomed:
                        self._note_lost()
                    else:
                        failures += 1
                    if failures >= SETUP_ATTEMPTS or time.monotonic() >= until:
                        raise failure
                until = until or time.monotonic() + timeout
                self._exchange.dispose(lease, conn)
                item = None
        except BaseException:
            # The collector would not find it: a variable of the session before may still refer to it.
            if item is not None:
                self._exchange.take_back(*item)
            raise

    def _usable(self, conn: CT) -> bool:
        """Return whether an idle connection may be lent."""
        status = conn.pgconn.transaction_status
        if status not in _FIT:
            logger.warning(
                "closing a connection of %s that was used after it had been returned: it is in state %s",
                self.name,
                TransactionStatus(status).name,
            )
            return False
        if alive(conn):
            return True
        self._note_lost()  # the server ended it while it was idle
        return False

    def _note_lost(self) -> None:
        self._counters["connections_lost"] += 1
        self.watch.kick(self.key)

    def putconn(self, conn: CT) -> None:
        """Take a connection back and reset it; one that must not be used again is closed."""
        lease = lease_of(conn)
        try:
            self._note_ended(lease)
            if has_unfinished(conn) or conn.pgconn.pipeline_status:
                # The next caller would be in a transaction or pipeline of this one's.
                abandon(conn, lease)
            elif conn.pgconn.transaction_status == _IDLE and (
                self._options.reset is not None or settings_of(conn) != lease.baseline
            ):
                # One that is left in a transaction is closed instead: a reset function might commit it.
                self._cleaning.clean(conn, lease)
        finally:
            self._exchange.take_back(lease, conn)

    def _note_ended(self, lease: Lease) -> None:
        observed, lease.observed = lease.observed, None
        taken_at, lease.taken_at = lease.taken_at, None
        if taken_at is None:
            return  # it was not fit for the session that had asked for it
        used = time.monotonic() - taken_at
        self._counters["usage_ms"] += 1000.0 * used
        if used < QUICK:  # without a call, as in `Meter.begun`
            self._used.quick += 1
            self._used.quick_total += used
        else:
            self._used.add(used)
        if observed is not None:
            observed.ended(used)

    def lease_lost(self, lease: Lease) -> None:
        """Note that a caller has lost its connection; called by the garbage collector, so no lock may be taken."""
        self._worker.lost(lease)

    def forget_lost(self) -> None:
        """Forget connections that callers have lost or given up, which counted as in use until now."""
        if not self._amid_call:
            self._worker.forget_lost()

    def stats(self) -> dict[str, int]:
        """Return the statistics, under the keys of psycopg_pool."""
        return self.counts.stats(self._lending)

    def abort(self) -> int:
        """Shut down the sockets of all sessions in flight, from any thread; return how many were open until now."""
        with self._lock:
            leases = tuple(self._lending.leases)
        return sum(lease.abort() for lease in leases if lease.taken)

    def _note_opened(self, role: Role, seconds: float) -> None:
        self.counts.created.add(seconds)
        if self._meter.observer is not None:
            self._meter.observer.connected(role, self.key, seconds)

    def close(self) -> None:
        """Wake the waiters and close the idle connections; those in use are closed when they are returned."""
        items: list[tuple[Lease, CT]] = []
        try:
            if self._amid_call:
                self._lending.closed = True  # the worker does the rest, as soon as it gets the lock
            else:
                with self._lock:
                    items = self._lending.close()
        finally:
            self._connector.abort()
            self._worker.wake()
        for lease, conn in items:
            lease.connection = None
            shut(conn)

    @property
    def gone(self) -> bool:
        """Whether nothing is left of a closed pool: neither sessions nor its worker."""
        self.forget_lost()
        self._worker.wake()  # the caller of close() may have been interrupted before
        return not self._lending.leases and self._worker.finished

    def join(self, timeout: float) -> None:
        """Wait for the worker of a closed pool to end."""
        self._worker.wake()  # as above
        if not self._amid_call:
            self._worker.join(timeout)

    @property
    def _amid_call(self) -> bool:
        """Whether a signal handler runs here, between two lines of a call that changes the books."""
        # No public method tells it; a canary test watches this one.
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001


def _limit(config: RoleConfig, options: PoolOptions) -> str:
    """Return the name of the option that limits the connections of a pool with these options."""
    return "max_size" if options is config.options else "max_size_on_primary"
