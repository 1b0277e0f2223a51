# Generated from pgroute/_async/pool_control.py by .ci/unasync.py: edit that file, not this one.
"""The methods of the router that act on its pools: connections by hand, sizes, replacement, drained hosts, counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal

from psycopg_pool.abc import CT

from pgroute._sync.pool_tasks import fill, set_drained, take_keyed
from pgroute.core.config.checks import check_integer
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pgroute._sync.manager import SessionManager
    from pgroute.core.model.roles import HostKey
    from pgroute.core.model.stats import RouterStats


class PoolControl(Generic[CT]):
    """The part of a router that acts on its pools."""

    _manager: SessionManager[CT]

    @property
    def closed(self) -> bool:
        """Whether no session can be had: not opened yet, closing, closed, or the copy in a forked child."""
        return self._manager.lifecycle.state != "open"

    def getconn(
        self,
        role: Literal["writer", "reader"] | Role,
        *,
        timeout: float | None = None,
        key: Hashable | None = None,
    ) -> CT:
        """Return a connection, which `putconn` must take back; the context managers do both.

        With a *key*, all callers with the same role and key get the same connection, until one of them puts it back. As
        in psycopg2's pools, one `putconn` is enough, however often it was asked for. A connection that was lost stays
        that of its key until it is put back, so that nobody goes on with half a transaction.

        Args:
            role: "writer" or "reader".
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.
            key: names the user of the connection, such as a thread or a request; None: this call alone.

        Raises:
            ConfigError: an argument is invalid.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            AcquireTimeout: another caller with the same key did not get one in time.
            RouterClosed: the router is not open.
        """
        parsed = Role.parse(role)
        if key is None:
            return self._manager.take(parsed, timeout)
        try:
            hash(key)
        except TypeError:
            raise ConfigError("key", key, "expected a hashable value or None") from None
        return take_keyed(self._manager, parsed, timeout, key)

    def putconn(self, conn: CT) -> None:
        """Take back a connection from `getconn`, and roll back a transaction that is still open.

        Its key is free then, whoever asked for it.

        Args:
            conn: the connection, open or closed.

        Raises:
            ValueError: the connection is not from this router, was put back already, or belongs to a session, which
                returns it at its end.
        """
        self._manager.take_back(conn)

    def wait(
        self,
        role: Literal["writer", "reader"] | Role | None = None,
        timeout: float = 30.0,
        *,
        writers: int | None = None,
        readers: int | None = None,
    ) -> None:
        """Wait until a session of this role is available, or so many connections are open.

        With *writers* or *readers*, connections are opened until there are so many in the pools, in use or not: of
        readers evenly over the hosts that come first. A wait that fails does not close the router.

        Args:
            role: "writer" or "reader"; None: "writer", or none if a number is given.
            timeout: seconds for all.
            writers: of connections in the writers' pools; None: any.
            readers: likewise.

        Raises:
            ConfigError: an argument is invalid.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            AcquireTimeout: there are fewer connections after that time.
            RouterClosed: the router is not open.
        """
        for name, count in (("writers", writers), ("readers", readers)):
            if count is not None:
                check_integer(name, count, low=0)
        most = self._manager.pools[Role.WRITER].options.max_size
        if writers is not None and writers > most:
            raise ConfigError("writers", writers, f"expected at most max_size, which is {most}")
        if role is not None or (writers is None and readers is None):
            self.putconn(self.getconn("writer" if role is None else role, timeout=timeout))
        fill(self._manager, {Role.WRITER: writers or 0, Role.READER: readers or 0}, timeout)

    def resize(
        self,
        role: Literal["writer", "reader"] | Role,
        *,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> None:
        """Change the sizes of a role's pools, at each host, while they are in use.

        Connections beyond *max_size* are closed, those in use when they are returned. Callers who wait get the
        connections that a larger *max_size* permits. *max_size_on_primary* goes on to apply.

        Args:
            role: "writer" or "reader".
            min_size: as in PoolOptions; None: as it is.
            max_size: likewise.

        Raises:
            ConfigError: a size is invalid, or neither is given.
            RouterClosed: the router is not open.
        """
        parsed = Role.parse(role)
        self._manager.lifecycle.check_open()
        self._manager.pools[parsed].resize(min_size, max_size)

    def expire(self, role: Literal["writer", "reader"] | Role | None = None) -> None:
        """Replace all connections: no session gets one that was opened before this call.

        Idle connections are closed and as many opened, one after the other. Those in use are replaced when they are
        returned. Use it after a change that only new sessions find, such as ALTER ROLE ... SET.

        Args:
            role: "writer" or "reader"; None: both.

        Raises:
            RouterClosed: the router is not open.
        """
        roles = tuple(Role) if role is None else (Role.parse(role),)
        self._manager.lifecycle.check_open()
        for each in roles:
            self._manager.pools[each].expire()

    def drain(self, host: str | HostKey) -> None:
        """Give a host no new sessions of any role, until `readmit`; it returns when that is so.

        Idle connections to the host are closed, and sessions in flight go on. If it is the primary, writers wait until
        there is another or it is readmitted. The host stays drained while it is down, and if it leaves the list of
        hosts and comes back. Other processes know nothing of it.

        Args:
            host: a HostKey, "host:port", "host" or an address; if the name has several hosts, all of them.

        Raises:
            ConfigError: no such host is listed.
            RouterClosed: the router is not open.
        """
        set_drained(self._manager, host, drained=True)

    def readmit(self, host: str | HostKey) -> None:
        """Give a host that was drained new sessions again. For any other host this does nothing.

        Args:
            host: as in `drain`.

        Raises:
            ConfigError: no such host is listed or drained.
            RouterClosed: the router is not open.
        """
        set_drained(self._manager, host, drained=False)

    def get_stats(self) -> dict[str, dict[str, int]]:
        """Return each role's totals over all hosts, under psycopg_pool's keys, by "writer" and "reader"."""
        return {role.value: dict(pool.stats().totals) for role, pool in self._manager.pools.items()}

    def pop_stats(self) -> dict[str, dict[str, int]]:
        """Return what `get_stats` does, with the counts since the last call of this method.

        `get_stats` and `stats` go on to count from the opening of the router.
        """
        return {role.value: pool.pop_stats() for role, pool in self._manager.pools.items()}

    def stats(self) -> RouterStats:
        """Return the counters by role and host."""
        return self._manager.stats()
