# Generated from pgroute/_async/manager.py by .ci/unasync.py: edit that file, not this one.
"""Acquires sessions for a router and takes them back."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from psycopg_pool.abc import CT

from pgroute._sync.checkout import Checkout
from pgroute._sync.lifecycle import Lifecycle
from pgroute._sync.pool.lease import find_lease
from pgroute._sync.pool.role_pool import RolePool
from pgroute.core.config.options import check_number
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.model.stats import RouterStats
from pgroute.core.routing.acquisition import Acquisition, GiveUp, Try, first_choice, patience
from pgroute.core.routing.lending import PoolFull
from pgroute.core.transactions.request import get_request
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.runtime.connect_backoff import ConnectBackoff
from pgroute.runtime.event_dispatcher import EventDispatcher
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.events import Event
    from pgroute.core.topology.snapshot import Topology
    from pgroute.core.transactions.request import Request


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
        lifecycle: opens and closes all of it.
    """

    def __init__(
        self, config: RouterConfig, connection_class: type[CT], *, name: str, describe: Callable[[], str]
    ) -> None:
        self.config = config
        self.watch = ClusterWatch(
            config.dsn.hosts,
            config.probe_params,
            config.probe,
            config.rules,
            resolver=config.resolver,
            mode=config.addresses,
            targets=config.targets,
        )
        writers = ConnectBackoff()
        readers = writers.sharing_logins() if config.same_login else ConnectBackoff()
        self.pools = {
            Role.WRITER: RolePool(config.writer, connection_class, self.watch, writers),
            Role.READER: RolePool(config.reader, connection_class, self.watch, readers),
        }
        self.dispatcher = EventDispatcher()
        self.lifecycle = Lifecycle(self.watch, self.pools, self.dispatcher, name=name, describe=describe)
        self._describe = describe
        self._rng = random.Random()

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now."""
        return self.watch.topology

    def stats(self) -> RouterStats:
        """Return the counters by role and host."""
        return RouterStats(
            self.pools[Role.WRITER].stats(), self.pools[Role.READER].stats(), self.dispatcher.dropped
        )

    def acquire(self, attrs: SessionAttrs, role: Role, timeout: float | None) -> Checkout[CT]:
        """Take a connection to a host that has these attributes from the pools of the role.

        Args:
            attrs: which hosts are accepted.
            role: whose pools.
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            ConfigError: the timeout is no number of seconds.
            NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
            RouterClosed: the router is not open.
            RouteError: it was opened in another event loop.
        """
        router = self.lifecycle.check_open()
        if timeout is None:
            timeout = self.config.acquire_timeout
        else:
            check_number("timeout", timeout)
        start = time.monotonic()
        policy = self.config.policy
        pool = self.pools[role]
        acquisition: Acquisition | None = None
        topology = self.watch.topology
        candidate = topology.only.get(attrs) or first_choice(topology, attrs, policy, self._rng, pool.load)
        seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
        while True:
            failure: Exception | None = None
            if candidate is not None:
                conn: CT | None = None
                try:
                    host_pool = pool.ready(candidate) or pool.open(candidate)
                    conn = host_pool.getconn(seconds, start)
                    return Checkout(conn, router)
                except (PoolTimeout, PoolClosed, TooManyRequests, psycopg.OperationalError) as exc:
                    failure = exc
                except BaseException:
                    if conn is not None:  # interrupted on the last line
                        Checkout(conn, router).release()
                    raise
            if acquisition is None:
                acquisition = Acquisition(
                    attrs, policy, self._rng, deadline=start + timeout, timeout=timeout, role=role.value
                )
            if candidate is not None and failure is not None:
                _count_failure(acquisition, candidate, pool, failure)
            candidate = None
            while candidate is None:
                self.lifecycle.check_open()
                now = time.monotonic()
                version = router.changes.version
                topology = self.watch.topology
                step = acquisition.step(topology, now, pool.load)
                if isinstance(step, GiveUp):
                    raise step.error
                if isinstance(step, Try):
                    candidate, seconds = step.candidate, step.timeout
                else:
                    router.changes.wait(version, max(0.0, step.until - now))

    def request(self, role: object, **options: Any) -> Request:
        """Validate what a transaction is asked for with; see `get_request`.

        Raises:
            ConfigError: a value is not usable.
        """
        return get_request(
            role,
            reader_attrs=self.config.reader_attrs,
            reader_read_only=self.config.reader.read_only,
            **options,
        )

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
        Checkout(conn, router).put_back()

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


def _count_failure(
    acquisition: Acquisition, candidate: Candidate, pool: RolePool[CT], failure: Exception
) -> None:
    if isinstance(failure, (PoolClosed, PoolTimeout)) and not isinstance(failure, PoolFull):
        failure = pool.last_failure(candidate) or failure
    if isinstance(failure, TooManyRequests):
        acquisition.exhausted(candidate, str(failure), refused=True)
    elif isinstance(failure, PoolFull):
        acquisition.exhausted(candidate, str(failure))
    else:
        acquisition.failed(candidate, failure, in_use=pool.load(candidate.key))
