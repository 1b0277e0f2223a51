# Generated from pgroute/_async/manager.py by .ci/unasync.py: edit that file, not this one.
"""What is behind a router: all that it opens and closes, and how a session comes to a connection and back."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from psycopg_pool.abc import CT

from pgroute._sync.acquiring import Acquiring
from pgroute._sync.checkout import Checkout
from pgroute._sync.ending import put_back
from pgroute._sync.keyed import KeyedConnections
from pgroute._sync.lifecycle import Lifecycle
from pgroute._sync.listening import Listening
from pgroute._sync.pool.lease import find_lease
from pgroute._sync.pool.role_pool import RolePool
from pgroute.core.config.checks import check_number
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.model.stats import RouterStats
from pgroute.core.transactions.request import Requests
from pgroute.errors import holds_password
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.runtime.connect_backoff import ConnectBackoff
from pgroute.runtime.event_dispatcher import EventDispatcher
from pgroute.runtime.fork import forked
from pgroute.runtime.meter import Meter
from pgroute.runtime.retry_budget import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.events import Event
    from pgroute.core.topology.snapshot import Topology
    from pgroute.runtime.credentials import CredentialSource


class SessionManager(Acquiring[CT]):
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
        unprepared: how often a prepared statement for such a key was gone; inf if DISCARD ALL ends each session.
        retries: the budget of the retries of transactions.
        request: validates the arguments of a transaction.
    """

    def __init__(
        self, config: RouterConfig, connection_class: type[CT], *, name: str, describe: Callable[[], str]
    ) -> None:
        source = _source_of(config)
        watch = ClusterWatch(
            config.dsn.hosts,
            config.probe_params,
            config.probe,
            config.rules,
            resolver=config.resolver,
            mode=config.addresses,
            targets=config.targets,
            max_lag=config.max_lag,
            source=source,
            discovery=config.discovery,
        )
        meter = Meter()
        writers = ConnectBackoff()
        readers = writers.sharing_logins() if config.same_login else ConnectBackoff()
        pools: dict[Role, RolePool[CT]] = {
            each.role: RolePool(each, connection_class, watch, backoff, meter=meter, source=source)
            for each, backoff in ((config.writer, writers), (config.reader, readers))
        }
        self.dispatcher: EventDispatcher = EventDispatcher()
        self.listening: Listening = Listening(
            config, connection_class, watch, writers, source, name=name
        )
        lifecycle = Lifecycle(
            watch, pools, self.dispatcher, self.listening, source, meter=meter, name=name, describe=describe
        )
        super().__init__(config, watch, pools, lifecycle, meter)
        self.longest_retry: float = 0.0
        self.unprepared: float = math.inf if isinstance(config.writer.options.reset, str) else 0
        self.retries: RetryBudget = RetryBudget()
        self.request: Requests = Requests(
            reader_attrs=config.reader_attrs, reader_read_only=config.reader.read_only
        )
        self.keyed: KeyedConnections[CT] = KeyedConnections()
        self._describe = describe

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
            self.topology.adviser,
            self.watch.sharing,
        )

    def seconds(self, timeout: float | None) -> float:
        """Return the timeout of a caller in seconds; None: acquire_timeout.

        Raises:
            ConfigError: it is no number of seconds.
        """
        if timeout is None:
            return self.config.acquire_timeout
        check_number("timeout", timeout)
        return timeout

    def attrs_of(self, role: Role) -> SessionAttrs:
        """Return which hosts serve a role."""
        return SessionAttrs.READ_WRITE if role is Role.WRITER else self.config.reader_attrs

    def take(self, role: Role, timeout: float | None) -> CT:
        """Take a connection of a role that `take_back` will be given."""
        return (self.acquire(self.attrs_of(role), role, self.seconds(timeout))).conn

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
            shown = "***" if holds_password(conn) else repr(conn)
            raise ValueError(f"not a connection taken from {self._describe()}: {shown}")
        if lease.holder is not None:
            raise ValueError(f"a session has this connection, and returns it at its end: {conn!r}")
        loan, mine = lease.loan, object()
        try:
            if loan.setdefault("by", mine) is not mine:
                raise ValueError(f"another caller is putting this connection back: {conn!r}")
            self.keyed.drop(conn)
            put_back(Checkout(conn, router))
        except BaseException:
            if loan.get("by") is mine:
                del loan["by"]
            raise

    def pause(self, seconds: float) -> None:
        """Wait, unless the router is closed meanwhile."""
        router = self.lifecycle.opened
        until = time.monotonic() + seconds
        while router is not None:
            version = router.changes.version  # first: a close after this line ends the wait below
            left = until - time.monotonic()
            if router.closing or router.inherited or left <= 0:
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


def _source_of(config: RouterConfig) -> CredentialSource | None:
    """Return what calls the user's credentials function, if there is one."""
    if config.credentials is None:
        return None
    with forked.importing:
        from pgroute.runtime.credentials import CredentialSource

    return CredentialSource(config.credentials)
