# Generated from pgroute/_async/acquiring.py by .ci/unasync.py: edit that file, not this one.
"""Acquires sessions: which host, how long to wait there, what its error means, and where to try next."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from psycopg_pool.abc import CT

from pgroute._sync.checkout import Checkout
from pgroute._sync.pool.setup import SetupFailed
from pgroute._sync.proving import Prover, Behind
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.routing.acquisition import PATIENCE, Acquisition, GiveUp, Try, patience
from pgroute.core.routing.demand import Demand
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.routing.lending import PoolFull
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pgroute._sync.lifecycle import Lifecycle
    from pgroute._sync.open_state import OpenState
    from pgroute._sync.pool.role_pool import RolePool
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.candidate import Candidate
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.causality import CausalReading, Ticket
    from pgroute.runtime.meter import Meter


class Acquiring(Generic[CT]):
    """The way of a session to a connection.

    Args:
        config: the router's configuration.
        watch: on the hosts.
        pools: by role.
        lifecycle: tells whether the router is open.
        meter: counts sessions.
    """

    def __init__(
        self,
        config: RouterConfig,
        watch: ClusterWatch,
        pools: dict[Role, RolePool[CT]],
        lifecycle: Lifecycle,
        meter: Meter,
    ) -> None:
        self.config = config
        self.watch: ClusterWatch = watch
        self.pools: dict[Role, RolePool[CT]] = pools
        self.lifecycle: Lifecycle = lifecycle
        self.meter: Meter = meter
        self._prover = Prover(watch, meter, config.probe.timeout)
        self._reader_demand = None if config.max_lag is None else Demand(config.max_lag)
        self._rng = random.Random()

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
            ConfigError: the position is one of another cluster; configure, setup or the balance cannot be used.
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
        checkout: Checkout[CT] | None = None
        try:
            tried_at = start
            candidate = self._first_host(attrs, pool, demand, start)
            acquisition = None if demand is None else self.acquisition(attrs, role, start, timeout, demand)
            if acquisition is None or candidate is None:
                seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
            else:
                seconds = acquisition.patience(self.watch.topology, candidate, start, pool.load)
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
                            self._prover.prove(conn, router, candidate, demand, acquisition)
                        if router.closing:  # meanwhile, and nobody may be left to abort the session
                            self.lifecycle.check_open()
                        checkout = Checkout(conn, router, ticket)
                        meter.begun(checkout.lease, attrs, role, candidate, since=start, attempt=attempt)
                        return checkout
                    except _ELSEWHERE as exc:
                        failure = exc
                        _give_back(conn, router, exc)
                        conn = None  # another caller may have it now
                    except BaseException as exc:
                        _give_back(conn, router, exc)  # interrupted on one of the last lines
                        raise
                if acquisition is None:
                    acquisition = self.acquisition(attrs, role, start, timeout, None)
                if candidate is not None and failure is not None:
                    _note_failure(acquisition, candidate, pool, failure, seconds)
                step = self._next_host(acquisition, router, role)
                candidate, seconds, tried_at = step.candidate, step.timeout, time.monotonic()
        except BaseException as exc:
            self._note_refused(checkout, role, start, attempt, exc)
            raise

    def _note_refused(
        self,
        checkout: Checkout[CT] | None,
        role: Role,
        since: float,
        attempt: int,
        exc: BaseException,
    ) -> None:
        if checkout is None:  # otherwise it is counted as a session
            self.meter.refused(role, since, attempt, exc)

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
            version = router.changes.version  # first: a close after this line ends the wait below
            self.lifecycle.check_open()
            now = time.monotonic()
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


_ELSEWHERE = (PoolTimeout, PoolClosed, TooManyRequests, psycopg.OperationalError, SetupFailed)
"""Errors of one host, after which another one is tried."""


def _give_back(
    conn: psycopg.Connection[Any] | None, router: OpenState, exc: BaseException
) -> None:
    if conn is not None:
        checkout: Checkout[Any] = Checkout(conn, router)
        checkout.note_failure(exc)
        checkout.release()


def _note_failure(
    acquisition: Acquisition, candidate: Candidate, pool: RolePool[CT], failure: Exception, waited: float
) -> None:
    """Tell an acquisition and the pools of a role how a host has failed, after *waited* seconds there at most.

    Raises:
        Exception: the error of the user's setup.
        ConfigError: configure is a function of the other face.
    """
    if isinstance(failure, SetupFailed):
        failure.failure.add_note(f"setup failed with each connection that was tried, at {candidate.key}")
        raise failure.failure
    if isinstance(failure, (PoolClosed, PoolTimeout)) and not isinstance(failure, PoolFull):
        failure = pool.last_failure(candidate) or failure
    if isinstance(failure, ConfigError):
        raise failure
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
