# Generated from pgroute/_async/routing.py by .ci/unasync.py: edit that file, not this one.
"""The methods of the router that give sessions: `writer`, `reader`, `causal`, `connection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from psycopg_pool.abc import CT

from pgroute._sync.causal import Causal
from pgroute._sync.session import Session
from pgroute.core.config.demand_options import DEFAULT_WAIT, make_demand
from pgroute.core.model.position import parse_position
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.routing.demand import check_cluster

if TYPE_CHECKING:
    from pgroute._sync.manager import SessionManager
    from pgroute.core.model.position import Position
    from pgroute.core.routing.demand import Demand


class Routing(Generic[CT]):
    """The part of a router that gives sessions."""

    _manager: SessionManager[CT]

    def writer(self, timeout: float | None = None) -> Session[CT]:
        """Return a context manager that yields a connection to the primary, for a read-write transaction.

        The end commits, or rolls back if the body raised an error.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, there was no session in time.
            RouterClosed: on entering, the router is not open.
            SessionLost, CommitUnknown: on leaving, the connection was lost before or during COMMIT.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        return Session(self._manager, SessionAttrs.READ_WRITE, Role.WRITER, timeout)

    def reader(
        self,
        timeout: float | None = None,
        *,
        max_lag: float | None = None,
        after: Position | str | None = None,
        wait: float = DEFAULT_WAIT,
    ) -> Session[CT]:
        """Return a context manager that yields a read-only connection, to a standby if there is one.

        The router's reader_attrs say which hosts are accepted. ``PoolOptions(read_only=False)`` lets readers write.

        With *max_lag* or *after*, only a host that is proven to satisfy it is taken. The primary always does. A standby
        does if the last probes prove it, or its own answer when it is asked. With reader_attrs="standby", there may be
        no such host.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.
            max_lag: seconds that a standby may miss at most, at least 0.1; None: the router's.
            after: a Position, or its text, that a standby must have replayed; None: any.
            wait: seconds to wait for a standby to get there, at most half of the time left; then the primary is taken.

        Raises:
            ConfigError: an argument is invalid; on entering, the position is one of another cluster.
            PositionLost: on entering, a failover has lost the position.
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, there was no session in time.
            RouterClosed: on entering, the router is not open.
            SessionLost: on leaving, the connection was lost; CommitUnknown where readers may write.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        config = self._manager.config
        demand: Demand | None = None
        if max_lag is not None or after is not None or wait is not DEFAULT_WAIT:
            demand = make_demand(config.max_lag, max_lag=max_lag, after=after, wait=wait)
        return Session(self._manager, config.reader_attrs, Role.READER, timeout, demand=demand)

    def causal(self, after: Position | str | None = None) -> Causal[CT]:
        """Return an object whose sessions see what its sessions before have written and read.

        Make one for each user or request; it holds no connection. It may be used by several threads and tasks.

        Args:
            after: where to begin, a Position or its text, such as the last position of the same user; None: anywhere.

        Raises:
            ConfigError: the position cannot be read, or is one of another cluster. While no host was heard from, the
                latter is raised on entering its first session.
        """
        position = None if after is None else parse_position(after, "after")
        if position is not None:
            check_cluster(position, self._manager.topology.system_id)
        return Causal(self._manager, position)

    def connection(
        self, target_session_attrs: str | None = None, timeout: float | None = None
    ) -> Session[CT]:
        """Return a context manager that yields a connection to a host that has these session attributes.

        "any", "read-write" and "primary" use the writers' pools, the others the readers' and the router's max_lag.

        Args:
            target_session_attrs: "any", "read-write", "primary", "read-only", "standby" or "prefer-standby"; None: the
                DSN's, "any" if it has none.
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.

        Raises:
            ConfigError: the attributes are not one of the six.
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, there was no session in time.
            RouterClosed: on entering, the router is not open.
            SessionLost, CommitUnknown: on leaving, the connection was lost before or during COMMIT.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        attrs = self._manager.config.default_attrs
        if target_session_attrs is not None:
            attrs = SessionAttrs.parse(target_session_attrs)
        return Session(self._manager, attrs, attrs.pool, timeout)
