# Generated from pgroute/_async/manager.py by .ci/unasync.py: edit that file, not this one.
"""Acquires sessions for a router and takes them back."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from psycopg_pool.abc import CT

from pgroute._acompat import Watchdog
from pgroute._sync.checkout import Checkout
from pgroute._sync.ending import put_back
from pgroute._sync.keyed import KeyedConnections
from pgroute._sync.lifecycle import Lifecycle
from pgroute._sync.listening.hub import ListeningHub
from pgroute._sync.pool.lease import find_lease, lease_of
from pgroute._sync.pool.role_pool import RolePool
from pgroute._sync.pool.setup import SetupFailed
from pgroute._sync.progress import Question, ask_progress
from pgroute.core.config.options import check_number
from pgroute.core.faults.classify import one_line
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.model.stats import RouterStats
from pgroute.core.routing.acquisition import PATIENCE, Acquisition, GiveUp, Try, first_choice, patience
from pgroute.core.routing.demand import Demand, Proof
from pgroute.core.routing.lending import PoolFull
from pgroute.core.transactions.request import get_request
from pgroute.errors import RouteError
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.runtime.connect_backoff import ConnectBackoff
from pgroute.runtime.credentials import CredentialSource
from pgroute.runtime.event_dispatcher import EventDispatcher
from pgroute.runtime.fork import forked
from pgroute.runtime.meter import BEHIND, MET, Meter
from pgroute.runtime.retry_budget import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._sync.open_state import OpenState
    from pgroute._sync.progress import Progress
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.events import Event
    from pgroute.core.topology.snapshot import Topology
    from pgroute.core.transactions.request import Request
    from pgroute.runtime.causality import CausalReading, Ticket

_FIRST_ASK, _SLOWEST_ASK = 0.001, 0.02
"""Seconds between two questions to a standby that is behind; the pause doubles."""

_LEAST_ANSWER = 0.2
"""Seconds that a standby has for an answer, even with a timeout of 0: the question takes a round trip."""


class SessionManager(Generic[CT]):
    """What is behind a router: the watch on its hosts, the pools of both roles, and the way of a session to a pool.

    Args:
        config: the router's configuration.
        connection_class: of the connections.
        name: the router's, for the names of threads and tasks.
        describe: the router's ``__repr__``, for errors. Its router is kept alive while it is open.

    Attributes:
        config: as given.
        watch: on the hosts.
        pools: by role.
        dispatcher: of events to subscribers.
        listening: the listeners, and the connection that they share.
        lifecycle: opens and closes all of it.
        meter: the counters.
        keyed: the connections of `getconn(key=)`.
        longest_retry: seconds for which a call so far may retry with a key of ``once=``.
        retries: the budget of the retries of transactions.
        request: validates the arguments of a transaction; see `get_request`.
    """

    def __init__(
        self, config: RouterConfig, connection_class: type[CT], *, name: str, describe: Callable[[], str]
    ) -> None:
        self.config = config
        source = None if config.credentials is None else CredentialSource(config.credentials)
        self.watch: ClusterWatch = ClusterWatch(
            config.dsn.hosts,
            config.probe_params,
            config.probe,
            config.rules,
            resolver=config.resolver,
            mode=config.addresses,
            targets=config.targets,
            max_lag=config.max_lag,
            source=source,
        )
        self.meter: Meter = Meter()
        writers = ConnectBackoff()
        readers = writers.sharing_logins() if config.same_login else ConnectBackoff()
        self.pools: dict[Role, RolePool[CT]] = {
            Role.WRITER: RolePool(
                config.writer, connection_class, self.watch, writers, meter=self.meter, source=source
            ),
            Role.READER: RolePool(
                config.reader, connection_class, self.watch, readers, meter=self.meter, source=source
            ),
        }
        self.dispatcher: EventDispatcher = EventDispatcher()
        self.listening: ListeningHub = ListeningHub(
            config, connection_class, self.watch, writers, source, name=name
        )
        self.lifecycle: Lifecycle = Lifecycle(
            self.watch,
            self.pools,
            self.dispatcher,
            self.listening,
            source,
            meter=self.meter,
            name=name,
            describe=describe,
        )
        self.longest_retry: float = 0.0
        self.retries: RetryBudget = RetryBudget()
        self.request: Callable[..., Request] = partial(
            get_request, reader_attrs=config.reader_attrs, reader_read_only=config.reader.read_only
        )
        self._reader_demand = None if config.max_lag is None else Demand(config.max_lag)
        self.keyed: KeyedConnections[CT] = KeyedConnections()
        self._describe = describe
        self._rng = random.Random()

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now."""
        return self.watch.topology

    def stats(self) -> RouterStats:
        """Return the counters by role and host."""
        return RouterStats(
            self.pools[Role.WRITER].stats(),
            self.pools[Role.READER].stats(),
            self.dispatcher.dropped,
            self.meter.counts(self.topology),
            self.watch.sharing,
        )

    def acquire(
        self,
        attrs: SessionAttrs,
        role: Role,
        timeout: float,
        *,
        demand: Demand | None = None,
        causal: CausalReading | None = None,
        attempt: int = 1,
    ) -> Checkout[CT]:
        """Take a connection to a host that has these attributes from the pools of the role.

        Args:
            attrs: which hosts are accepted.
            role: whose pools.
            timeout: seconds to wait for one, from `seconds`; 0: what is ready now.
            demand: what the session demands of the host's data; None: the router's max_lag, for readers.
            causal: gives the demand, and takes note of how far the session came; None: the demand is fixed.
            attempt: of its transaction, from 1; for observers.

        Raises:
            ConfigError: the position is one of another cluster.
            PositionLost: a failover has lost the position.
            NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
            Exception: the error of the user's setup, if the server is not at fault.
            RouterClosed: the router is not open.
            RouteError: it was opened in another event loop.
        """
        router = self.lifecycle.check_open()
        ticket: Ticket | None = None
        if causal is not None:
            demand, ticket = causal.begin()
        elif demand is None and role is Role.READER:
            demand = self._reader_demand
        start, pool, meter = time.monotonic(), self.pools[role], self.meter
        try:
            tried_at = start
            candidate = self._first_host(attrs, pool, demand, start)
            acquisition = None if demand is None else self.acquisition(attrs, role, start, timeout, demand)
            if acquisition is None or candidate is None:
                seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
            else:
                seconds = acquisition.patience(self.topology, candidate, start, pool.load)
            while True:
                failure: Exception | None = None
                if candidate is not None:
                    conn: CT | None = None
                    try:
                        host_pool = pool.ready(candidate) or pool.open(candidate)
                        conn = host_pool.getconn(seconds, start)
                        if self.config.acquired is not None:
                            self.config.acquired(candidate, time.monotonic() - tried_at)
                        if demand is not None and acquisition is not None:
                            self._prove(conn, router, candidate, demand, acquisition)
                        checkout = Checkout(conn, router, ticket)
                        meter.begun(checkout.lease, attrs, role, candidate, since=start, attempt=attempt)
                        return checkout
                    except _ELSEWHERE as exc:
                        failure = exc
                        _give_back(conn, router)
                    except BaseException:
                        _give_back(conn, router)  # interrupted on one of the last lines
                        raise
                if acquisition is None:
                    acquisition = self.acquisition(attrs, role, start, timeout, None)
                if candidate is not None and failure is not None:
                    _count_failure(acquisition, candidate, pool, failure, seconds)
                step = self._next_host(acquisition, router, role)
                candidate, seconds, tried_at = step.candidate, step.timeout, time.monotonic()
        except RouteError as exc:
            meter.refused(role, start, attempt, exc)
            raise

    def _first_host(
        self, attrs: SessionAttrs, pool: RolePool[CT], demand: Demand | None, now: float
    ) -> Candidate | None:
        if pool.aside:
            pool.try_again(self.watch.topology)
        topology, policy = self.watch.topology, self.config.policy
        if demand is not None:
            self.watch.expect_freshness(demand.max_lag)
        elif not pool.aside and (only := topology.only.get(attrs)) is not None:
            return only
        return first_choice(
            topology,
            attrs,
            policy,
            self._rng,
            pool.load,
            demand=demand,
            now=now,
            replayed=self.watch.replayed,
            arrange=pool.arrange,
        )

    def _next_host(self, acquisition: Acquisition, router: OpenState, role: Role) -> Try:
        """Wait until there is a host to try, and return it.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError, PositionLost: there is none in time.
            RouterClosed: the router is not open any more.
        """
        pool, waiting = self.pools[role], self.meter.waiting
        while True:
            self.lifecycle.check_open()
            now = time.monotonic()
            version = router.changes.version
            topology = self.watch.topology
            step = acquisition.step(topology, now, pool.load)
            if isinstance(step, GiveUp):
                raise step.error
            if isinstance(step, Try):
                return step
            if acquisition.is_outdated(topology):
                for key in topology.by_key:
                    self.watch.kick(key)
            waiting[role] += 1
            try:
                router.changes.wait(version, max(0.0, step.until - now))
            finally:
                waiting[role] -= 1

    def acquisition(
        self, attrs: SessionAttrs, role: Role, start: float, timeout: float, demand: Demand | None
    ) -> Acquisition:
        """Return the steps of a caller who began at *start* (monotonic seconds)."""
        return Acquisition(
            attrs,
            self.config.policy,
            self._rng,
            deadline=start + timeout,
            timeout=timeout,
            role=role.value,
            demand=demand,
            replayed=self.watch.replayed,
            arrange=self.pools[role].arrange,
        )

    def listeners_acquisition(self, start: float, timeout: float) -> Acquisition:
        """Return what tells how long a listener waits for the primary, and with which error it gives up."""
        return Acquisition(
            SessionAttrs.PRIMARY,
            self.config.policy,
            self._rng,
            deadline=start + timeout,
            timeout=timeout,
            role="listener",
        )

    def _prove(
        self,
        conn: CT,
        router: OpenState,
        candidate: Candidate,
        demand: Demand,
        acquisition: Acquisition,
    ) -> None:
        """Return if a host satisfies the demand at this moment; ask it if the last probes do not prove it.

        Raises:
            Behind: it does not.
            psycopg.OperationalError: the connection was lost, or it does not answer.
            ConfigError, PositionLost: no host can satisfy the demand.
        """
        now = time.monotonic()  # the wait for the connection may have been long
        demand.check(self.topology)
        proof = demand.proof(self.topology, candidate, now, self.watch.replayed)
        if proof is Proof.PROVEN:
            return
        begun, until, pause = now, acquisition.ask_until(self.topology, now), _FIRST_ASK
        while proof is Proof.ASK:
            topology = self.topology
            host = topology.host(candidate.key)
            if host is None or host.generation != candidate.generation:
                break
            # The rest of the time is for the next host.
            most = max(_LEAST_ANSWER, min(self.config.probe.timeout, acquisition.left(now) / 2))
            told = self._ask(conn, Question(topology, host), most)
            now = time.monotonic()
            if told is None:
                self.watch.kick(candidate.key)  # it may have been promoted
                break
            self.watch.replayed.note(candidate.key, candidate.generation, told.timeline, told.lsn)
            if demand.met_by(self.topology, told.timeline, told.lsn, now):
                self.meter.position_waited(MET, now - begun)
                lease_of(conn).taken_at = now  # the session waited until now
                return
            hopeless = not demand.may_get_there(self.topology, told.timeline, told.lsn)
            if now >= until or hopeless or router.closing:
                break
            time.sleep(min(pause, until - now))
            pause = min(2 * pause, _SLOWEST_ASK)
        self.meter.position_waited(BEHIND, time.monotonic() - begun)
        raise Behind(f"{candidate.key} is not as far as demanded")

    def _ask(self, conn: CT, question: Question, seconds: float) -> Progress | None:
        """Return how far a standby is. If it does not answer in time, as a frozen one, its connection is cut.

        Raises:
            psycopg.OperationalError: the connection was lost or cut.
        """
        lease = lease_of(conn)
        try:
            with Watchdog(seconds, lease.abort):
                return ask_progress(conn, question)
        except psycopg.Error as exc:
            self.watch.kick(lease.pool.key)
            text = f"asking for its position failed: {one_line(str(exc))}"
            raise psycopg.OperationalError(text) from exc

    def seconds(self, timeout: float | None) -> float:
        """Return the timeout of a caller in seconds; None: acquire_timeout.

        Raises:
            ConfigError: it is no number of seconds.
        """
        if timeout is None:
            return self.config.acquire_timeout
        check_number("timeout", timeout)
        return timeout

    def take(self, role: Role, timeout: float | None) -> CT:
        """Take a connection of a role that `take_back` will be given."""
        return (self.acquire(self.attrs_of(role), role, self.seconds(timeout))).conn

    def attrs_of(self, role: Role) -> SessionAttrs:
        """Return which hosts serve a role."""
        return SessionAttrs.READ_WRITE if role is Role.WRITER else self.config.reader_attrs

    def take_back(self, conn: CT) -> None:
        """Release a connection that `getconn` has lent; a transaction still open is rolled back.

        Raises:
            ValueError: it is not a connection taken from this router, or it is a session's, whose end returns it.
        """
        if self.lifecycle.inherited:
            self.lifecycle.check_open()
        router = self.lifecycle.opened
        lease = find_lease(conn)
        if router is None or lease is None or lease.pool.watch is not self.watch or not lease.taken:
            raise ValueError(f"not a connection taken from {self._describe()}: {conn!r}")
        if lease.holder is not None:
            raise ValueError(f"a session has this connection, and returns it at its end: {conn!r}")
        self.keyed.drop(conn)
        put_back(Checkout(conn, router))

    def pause(self, seconds: float) -> None:
        """Wait, unless the router is closed meanwhile."""
        router = self.lifecycle.opened
        until = time.monotonic() + seconds
        while router is not None and not (router.closing or router.inherited):
            version = router.changes.version
            left = until - time.monotonic()
            if left <= 0:
                return
            router.changes.wait(version, left)

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have *fn* called with each event; return a function that unsubscribes it.

        Raises:
            RouterClosed: the router was opened before this process was forked.
            RuntimeError: a thread cannot be started.
        """
        forked.notice()
        if self.lifecycle.inherited:
            self.lifecycle.check_open()
        return self.dispatcher.subscribe(fn)


class Behind(psycopg.OperationalError):
    """A standby was asked, and does not satisfy the demand."""


_ELSEWHERE = (PoolTimeout, PoolClosed, TooManyRequests, psycopg.OperationalError, SetupFailed)
"""Errors of one host, after which another one is tried."""


def _give_back(conn: psycopg.Connection[Any] | None, router: OpenState) -> None:
    if conn is not None:
        Checkout(conn, router).release()


def _count_failure(
    acquisition: Acquisition, candidate: Candidate, pool: RolePool[CT], failure: Exception, waited: float
) -> None:
    if isinstance(failure, SetupFailed):
        failure.failure.add_note(f"setup failed with each connection that was tried, at {candidate.key}")
        raise failure.failure
    if isinstance(failure, (PoolClosed, PoolTimeout)) and not isinstance(failure, PoolFull):
        failure = pool.last_failure(candidate) or failure
    if isinstance(failure, Behind):
        acquisition.behind(candidate)
    elif isinstance(failure, TooManyRequests):
        acquisition.exhausted(candidate, str(failure), refused=True)
    elif isinstance(failure, PoolFull):
        acquisition.exhausted(candidate, str(failure))
    else:
        acquisition.failed(candidate, failure, in_use=pool.load(candidate.key))
        hasty = isinstance(failure, PoolTimeout) and waited < PATIENCE
        if not (hasty or isinstance(failure, PoolClosed)):
            pool.set_aside(candidate)
