"""Opens the connections of a pool: one host, bounded in time, checked once; reports failures as facts."""

from __future__ import annotations

import asyncio  # async-only
import logging
import time
from typing import TYPE_CHECKING, Any, cast

import psycopg

from pgroute._acompat import AsyncWatchdog, async_stray
from pgroute._async.pool.callback import call_back
from pgroute._async.pool.interrupt import guard
from pgroute._async.pool.lease import READ_ONLY_DEFAULT, AsyncLease, attach, shut
from pgroute._async.pool.login import AsyncLogin, NoCredentials
from pgroute._async.pool.server_check import HEAR_WARNINGS, WrongServer, check_server
from pgroute._async.statements import ask_warily
from pgroute._psycopg.login import ConnectAborted, unwanted, watched_class
from pgroute._psycopg.pooled import mark_pooled
from pgroute._psycopg.state import forget_prepared
from pgroute.core.faults.classify import Fault, FaultKind, connect_fault, one_line
from pgroute.core.model.host import HostState
from pgroute.core.printable import printable
from pgroute.core.schedule import CONNECT_GAP, CREDENTIALS_GAP, DOUBT, REJECTED_GAP
from pgroute.core.sql.statements import OWN_TERMS
from pgroute.core.topology.observations import Failure
from pgroute.runtime.abort_handle import AbortHandle
from pgroute.runtime.connect_backoff import BackedOff, ConnectBackoff

if TYPE_CHECKING:
    from pgroute._async.pool.lease import LeasingPool
    from pgroute.core.config.role_config import RoleConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.credentials import CredentialSource

logger = logging.getLogger("pgroute")

_CHECK_TIMEOUT = 5.0
_PROBE_STEP = 0.002
_GRACE = 0.2


class ConfigureFailed(psycopg.OperationalError):
    """The user's configure raised or took too long, which says nothing about the server."""


class AsyncConnector:
    """Opens and prepares the connections of a pool, of the user's class.

    Args:
        config: how the role connects.
        host: the host as the topology knew it when the pool was made.
        connection_class: psycopg's, or the user's subclass.
        watch: told of failures.
        backoff: the role's.
        pool: the pool that the connections belong to; no attempt goes on when it is closed.
        source: calls the user's credentials function; None: there is none.
    """

    def __init__(
        self,
        config: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.AsyncConnection[Any]],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        *,
        pool: LeasingPool,
        source: CredentialSource | None,
    ) -> None:
        self._pool = pool
        self._host = host
        self._connecting: AsyncLease | None = None
        self._aborted = False
        self._watch = watch
        self._backoff = backoff
        self._admission = backoff.admission(host, watch.slots)
        self._configure = config.options.configure
        self._reset = config.options.reset
        self._role = config.role.value
        self._as_probe = config.as_probe
        self._read_only = config.read_only
        watched: Any = watched_class(cast("Any", connection_class))
        self._login = AsyncLogin(config, host, watched, backoff, source)
        self._autocommit = bool(config.arguments.get("autocommit", False))

    async def connect(self) -> Any:
        """Open and check a connection; of the user's class.

        After a failure the next attempts fail likewise, without touching the network, until it is time for another.

        Raises:
            psycopg.Error: it failed.
        """
        sent_at = time.monotonic()
        unwanted.set(lambda: self._pool.closed)
        attempt = object()
        try:
            self._backoff.check(self._host)
            await self._await_probe(attempt)
            conn = await self._connect()
        except BackedOff as exc:
            failure: psycopg.Error = exc
        except Exception as exc:  # noqa: BLE001  (a user's callback or class may raise anything)
            plain = _plain(exc, self._host)
            fault = connect_fault(plain)  # reads what the server wrote, which is not what is passed on
            failure = _printable(plain)
            if not (isinstance(exc, ConnectAborted) or self._aborted):
                self._failed(failure, fault, sent_at)
        except BaseException as exc:  # noqa: BLE001  (raised again)
            # Cancelled: the traceback leads to psycopg's unfinished connection, and would keep its socket open.
            raise exc.with_traceback(None)  # noqa: B904
        else:
            self._backoff.record_success(self._host)
            return conn
        finally:
            self._backoff.end_trial(self._host, attempt)
        raise failure

    async def _await_probe(self, attempt: object) -> None:
        """After connections were lost, wait a moment for the probe to find out why: one refused login is enough.

        If the probe is late, the attempts of all pools to the host follow one after the other.
        """
        until = time.monotonic() + DOUBT
        while not (
            self._watch.heard(self._host.key)
            or self._pool.closed
            or (time.monotonic() >= until and self._backoff.begin_trial(self._host, attempt))
        ):
            await asyncio.sleep(_PROBE_STEP)
            self._backoff.check(self._host)
        host = self._watch.topology.host(self._host.key)
        if host is not None and host.state is HostState.REJECTED and self._as_probe:
            raise BackedOff(host.reason)

    def _failed(self, exc: psycopg.Error, fault: Fault, sent_at: float) -> None:
        if isinstance(exc, ConfigureFailed):
            self._backoff.record_failure(self._host, exc, CONNECT_GAP)
            self._tell(exc)
            return
        if isinstance(exc, NoCredentials):
            self._backoff.record_failure(self._host, exc, CREDENTIALS_GAP)
            self._tell(exc)
            return
        rejected = fault.kind is FaultKind.REJECTED
        seconds = REJECTED_GAP if rejected else CONNECT_GAP
        if fault.kind is FaultKind.BUSY:
            seconds = self._admission.refused(time.monotonic())
        login = rejected and not self._login.undecided
        self._backoff.record_failure(self._host, exc, seconds, login=login)
        if isinstance(exc, WrongServer) or (rejected and not self._as_probe):
            # A refusal of this role's user or settings says nothing about the host.
            self._watch.kick(self._host.key, fresh=True)
            if login:
                self._tell(exc)
        elif not self._login.undecided:
            self._watch.report(Failure(self._host.key, fault, sent_at))

    def _tell(self, exc: psycopg.Error) -> None:
        """Log what the topology does not show, because it is no fault of the host's."""
        host = self._watch.topology.host(self._host.key)
        rejected = host is not None and host.state is HostState.REJECTED  # which is an event
        if not rejected and self._backoff.tell(self._host):
            why = one_line(str(exc))
            logger.warning("a %s connection to %s cannot be opened: %s", self._role, self._host.key, why)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        conn = await self._login.open()
        lease = AsyncLease(self._pool, AbortHandle(conn.fileno()), self._round_trip)
        attach(conn, lease)
        mark_pooled(conn)
        guard(conn, lease, lambda: self._watch.kick(self._host.key))
        self._connecting = lease
        try:
            if self._pool.closed:
                raise ConnectAborted("the pool was closed while it connected")
            async with AsyncWatchdog(_CHECK_TIMEOUT, lease.abort):
                self._watch.note_slots(await check_server(conn, self._host))
            if self._read_only:
                await conn.set_read_only(True)
            await conn.set_autocommit(self._autocommit)
            conn.add_notice_handler(lease.on_notice)
            await self._configured_in_time(conn, lease)
            lease.note_baseline(conn, read_only=self._expected_read_only(conn))
        except BaseException:
            await shut(conn)
            raise
        finally:
            self._connecting = None
        return conn

    def _round_trip(self) -> float | None:
        host = self._watch.topology.host(self._host.key)
        return None if host is None else host.rtt

    def _expected_read_only(self, conn: psycopg.AsyncConnection[Any]) -> bool:
        """Return whether sessions here are to be read-only by default, as far as the probe can tell for this role."""
        if self._as_probe and not self._read_only:
            return self._host.read_only
        return conn.pgconn.parameter_status(READ_ONLY_DEFAULT) == b"on"

    async def _configured_in_time(self, conn: psycopg.AsyncConnection[Any], lease: AsyncLease) -> None:
        """Configure a new connection within connect_timeout: meanwhile the pool opens no other one."""
        seconds, late = self._login.seconds, False

        def end() -> None:
            nonlocal late
            late = True
            lease.abort()

        try:
            async with AsyncWatchdog(seconds, end):
                # sync-only: self._configured(conn)
                # It may wait for something else than this connection.
                async with asyncio.timeout(seconds + _GRACE):  # async-only
                    await self._configured(conn)  # async-only
        except Exception:
            if not late:
                raise
        if late:
            raise ConfigureFailed(f"configure took longer than {seconds:g} s (connect_timeout)")

    async def _configured(self, conn: psycopg.AsyncConnection[Any]) -> None:
        if self._configure is None:
            return
        try:
            mistake = await call_back("configure", self._configure, conn)
            if mistake is not None:
                self._backoff.mistake = mistake
                raise mistake
        except BaseException as exc:
            if conn.broken or not (isinstance(exc, Exception) or async_stray(exc)):
                raise
            text = f"configure failed: {type(exc).__name__}: {one_line(str(exc))}"
            # An exception of psycopg's holds a PGconn, whose repr shows the password.
            raise ConfigureFailed(text) from (None if isinstance(exc, psycopg.Error) else exc)
        if conn.pgconn.transaction_status:
            raise ConfigureFailed("configure left the connection in a transaction: commit, or roll back")

    async def reset(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Reset a returned connection as PoolOptions(reset=) says.

        Raises:
            Exception: as the user's function, psycopg or the user's configure.
        """
        if isinstance(self._reset, str):
            await self._discard(conn)
        elif self._reset is not None:
            mistake = await call_back("reset", self._reset, conn)
            if mistake is not None:
                raise mistake
        if conn.pgconn.transaction_status:
            raise psycopg.ProgrammingError("reset left a transaction open")

    async def _discard(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Undo all that a session can leave behind at the server, and configure the connection anew."""
        await conn.set_autocommit(True)
        forget_prepared(conn)
        await ask_warily(conn, b"DISCARD ALL")
        await ask_warily(conn, OWN_TERMS + HEAR_WARNINGS)
        await conn.set_autocommit(self._autocommit)
        await self._configured(conn)

    def abort(self) -> None:
        """End an attempt under way, whatever it waits for, now that the pool is closed; from any thread."""
        if (lease := self._connecting) is not None:
            self._aborted = True
            lease.abort()


def _plain(exc: Exception, host: HostInfo) -> psycopg.Error:
    """Return the failure without what psycopg's exceptions hold: a PGconn, whose repr shows the password."""
    if isinstance(exc, ConfigureFailed):
        return exc
    if not isinstance(exc, psycopg.Error):
        return psycopg.OperationalError(f"opening a session at {host.key}: {type(exc).__name__}: {exc}")
    try:
        return type(exc)(str(exc))
    except TypeError:
        return psycopg.OperationalError(str(exc))


def _printable(exc: psycopg.Error) -> psycopg.Error:
    """Return the failure with a text that fits into a line of a log: what we raise and show, whoever wrote it."""
    if isinstance(exc, ConfigureFailed):
        return exc
    return type(exc)(printable(str(exc)))
