"""The connection on which a router listens: to one host, in one generation of it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import AsyncWatchdog
from pgroute._async.pool.connector import AsyncConnector
from pgroute._async.pool.lease import lease_of, shut
from pgroute._async.statements import ask_warily, row
from pgroute.core.model.notifications import Notification
from pgroute.core.sql.statements import OWN_TERMS
from pgroute.runtime.receive_limit import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq import PGnotify

    from pgroute._async.pool.lease import AsyncLease
    from pgroute.core.config.role_config import RoleConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource

_ANSWER_TIMEOUT = 5.0
_MOST_READS = 100

_WHO = b"SELECT pg_catalog.pg_backend_pid()"
_AS_UTF8 = b"SET client_encoding TO 'UTF8'"
_AS_THEY_ARE = b"SET client_encoding TO 'SQL_ASCII'"
"""For a database in SQL_ASCII: with another encoding the server would check its bytes, and drop what is invalid."""


class Pooled(psycopg.NotSupportedError):
    """A pooler in between lends its server sessions for a transaction only."""


class AsyncListeningLink:
    """One connection, opened as those of the writers' pools are, with an owner that reads it.

    Args:
        config: how writers connect.
        host: the primary as the topology knows it now.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the host.
        backoff: the writers'.
        source: calls the user's credentials function; None: there is none.
        on_notification: called with each.

    Attributes:
        host: as given.
        key: of the host.
        generation: of the host.
        address: of the host, as the topology knew it.
        watch: as given.
        closed: it was told to end.
        reason: why it was told so, in words.
        made_at: monotonic seconds.
        server_pid: the server process that has answered; None: none yet.
        proven_at: monotonic seconds; whatever was committed before was received.
    """

    def __init__(
        self,
        config: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.AsyncConnection[Any]],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        *,
        source: CredentialSource | None,
        on_notification: Callable[[Notification], None],
    ) -> None:
        self.host = host
        self.key = host.key
        self.generation = host.generation
        self.address = host.address
        self.watch = watch
        self.closed = False
        self.reason = ""
        self.made_at = self.proven_at = time.monotonic()
        self._connector = AsyncConnector(
            config, host, connection_class, watch, backoff, pool=self, source=source
        )
        self._made_of = (config, host, connection_class, watch, backoff)
        self._source = source
        self._on_notification = on_notification
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._allowance = Allowance()
        self._asking = False
        self._twin: AsyncListeningLink | None = None
        self.server_pid: bytes | None = None

    async def putconn(self, conn: Any) -> None:
        """Do nothing: the connection is never lent."""

    def lease_lost(self, lease: AsyncLease) -> None:
        """Do nothing, likewise."""

    async def open(self) -> None:
        """Connect, with an encoding that every notification can be sent in.

        Raises:
            psycopg.Error: it failed.
        """
        self._conn = conn = await self._connector.connect()
        conn.pgconn.notify_handler = self._received
        plain = conn.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII"
        await self._ask(_AS_THEY_ARE if plain else _AS_UTF8)

    @property
    def lost(self) -> bool:
        """Whether the connection is at its end."""
        return self.closed or self._conn is None or bool(self._conn.closed)

    async def check_pooler(self) -> None:
        """Find out whether a pooler in between lends the server session to others; to be called after `ask`.

        A pooler names a process of its own making at the login. One that lends sessions for a transaction gives the one
        used last to whoever comes next.

        Raises:
            Pooled: it does.
            psycopg.Error: the connection was lost.
        """
        assert self._conn is not None
        if self.server_pid == b"%d" % self._conn.pgconn.backend_pid:
            return
        self._twin = twin = AsyncListeningLink(
            *self._made_of, source=self._source, on_notification=lambda _: None
        )
        try:
            with contextlib.suppress(psycopg.Error):
                self._check()
                await twin.open()
                await twin.ask()
        finally:
            self._twin = None
            await twin.close()
        if twin.server_pid is not None and twin.server_pid == self.server_pid:
            raise self._pooled()
        await self.ask()

    async def ask(self, statements: bytes = b"") -> None:
        """Run statements in one transaction, and prove that everything was received that was committed before.

        The server tells of all notifications before it is ready for the next statement.

        Args:
            statements: each with a semicolon; none: only for the proof.

        Raises:
            Pooled: another server process has answered than before.
            psycopg.Error: the server's error, or the connection was lost.
        """
        sent_at = time.monotonic()
        found = row(await self._ask(OWN_TERMS + statements + _WHO)) or (None,)
        if self.server_pid is None:
            self.server_pid = found[0]
        elif self.server_pid != found[0]:
            raise self._pooled()
        self.proven_at = sent_at

    def _pooled(self) -> Pooled:
        return Pooled(
            f"{self.key} is a pooler that lends a server session for one transaction: LISTEN needs one for itself "
            "(pool_mode = session)"
        )

    async def _ask(self, statements: bytes) -> Any:
        assert self._conn is not None
        lease = lease_of(self._conn)
        self._asking = True  # first: whoever closes looks at it afterwards
        try:
            self._check()
            async with AsyncWatchdog(_ANSWER_TIMEOUT, lease.abort) as watchdog:

                def meanwhile() -> None:
                    # Before it reads the statement, the server may tell of any number of notifications.
                    if self._take():
                        watchdog.extend()

                results = await ask_warily(self._conn, statements, self._allowance, meanwhile)
            self._take()
            self._allowance.answered(0)
            return results
        finally:
            self._asking = False

    @property
    def fd(self) -> int:
        """The descriptor of its socket."""
        assert self._conn is not None
        return self._conn.pgconn.socket

    def read(self) -> None:
        """Take what has arrived, without waiting.

        Raises:
            psycopg.Error: the connection was lost, or is to be left.
        """
        assert self._conn is not None
        pgconn = self._conn.pgconn
        for _ in range(_MOST_READS):
            self._allowance.count(pgconn.socket)
            pgconn.consume_input()
            if not self._take():
                break
        self._check()

    def _take(self) -> int:
        assert self._conn is not None
        pgconn = self._conn.pgconn
        count = 0
        while (notify := pgconn.notifies()) is not None:
            self._received(notify)
            count += 1
        return count

    def _received(self, notify: PGnotify) -> None:
        self._allowance.answered(len(notify.relname) + len(notify.extra))
        channel, payload = (
            text.decode("utf-8", "surrogateescape") for text in (notify.relname, notify.extra)
        )
        self._on_notification(Notification(channel, payload, notify.be_pid))

    def _check(self) -> None:
        assert self._conn is not None
        if self.closed:
            raise psycopg.OperationalError(self.reason)
        if lease_of(self._conn).doomed:
            raise psycopg.OperationalError("the server has ended the session")

    def leave(self, reason: str) -> None:
        """Have it end, whatever it waits for; from any thread."""
        self.reason = self.reason or reason
        self.closed = True
        self._connector.abort()
        conn = self._conn
        if self._asking and conn is not None:
            lease_of(conn).abort()
        if (twin := self._twin) is not None:
            twin.leave(reason)

    async def close(self) -> None:
        """Close the connection."""
        self.closed = True
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.pgconn.notify_handler = None
            await shut(conn)
