"""Every pooled connect goes through here: one host, bounded in time, checked once, its failures told as facts."""

from __future__ import annotations

import asyncio  # async-only
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import AsyncWatchdog, async_stray
from pgroute._async.pool.interrupt import guard, patience
from pgroute._async.pool.login import AsyncLogin
from pgroute._async.statements import ask_warily, row
from pgroute.core.faults.classify import Fault, FaultKind, connect_fault, one_line
from pgroute.core.model.host import HostState
from pgroute.core.printable import printable
from pgroute.core.schedule import CONNECT_GAP, DOUBT, REJECTED_GAP
from pgroute.core.sql.answers import Malformed, read_check
from pgroute.core.sql.statements import LACKING, OWN_TERMS, RESTRAINED, WRONG_STATE, qualify
from pgroute.core.topology.observations import Failure
from pgroute.runtime.abort_handle import AbortHandle, GivenUp, breakable, given_up
from pgroute.runtime.connect_backoff import BackedOff, ConnectBackoff

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from pgroute._async.pool.host_pool import AsyncHostPool
    from pgroute.core.config.router_config import RoleConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.monitor.cluster_watch import ClusterWatch

logger = logging.getLogger("pgroute")

# What a pooled connection must prove before it is handed out: as much as the host's own probe could tell. And where
# client_min_messages would hide the warning that no synchronous standby has confirmed a COMMIT, it is lowered.
_HEAR = qualify("""
SELECT CASE WHEN pg_catalog.current_setting('client_min_messages') `=` 'error'
            THEN pg_catalog.set_config('client_min_messages', 'warning', false) END;""")
_SYSTEM_ID = b"(SELECT system_identifier FROM pg_catalog.pg_control_system())"
_CHECK = b"""
SELECT r.recovering, %s,
       CASE WHEN NOT r.recovering THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) r"""
_CHECKS = (
    _HEAR + _CHECK % _SYSTEM_ID,
    _HEAR + b"SELECT pg_catalog.pg_is_in_recovery(), %s, NULL" % _SYSTEM_ID,
    _HEAR + b"SELECT pg_catalog.pg_is_in_recovery(), NULL, NULL",
    _HEAR,
)
READ_ONLY_DEFAULT = b"default_transaction_read_only"
_CHECK_TIMEOUT = 5.0
_DOUBT_STEP = 0.002
_UNANSWERED = LACKING | RESTRAINED | {WRONG_STATE}

_ENDS = ("57P01", "57P02", "57P03")
"""SQLSTATEs with which a server ends a connection, 57P02 as a mere WARNING (PostgreSQL docs, appendix A)."""

_ATTRIBUTES = (
    "autocommit",
    "read_only",
    "isolation_level",
    "deferrable",
    "row_factory",
    "cursor_factory",
    "prepare_threshold",
    "server_cursor_factory",
)


class AsyncLease:
    """What the router keeps of a pooled connection, as its attribute ``_pgroute``.

    Attributes:
        pool: the host pool it belongs to; set by that pool.
        wire: its socket.
        doomed: the server said that it ends this connection.
        baseline: psycopg attributes that every session finds.
        read_only: what the server should report of default_transaction_read_only.
        unconfirmed: a COMMIT returned without the synchronous standby's acknowledgement.
        taken: a caller has the connection.
        taken_at: monotonic seconds of the checkout.
        trusted: tables of pgroute's that were found to run nobody else's code.
        was_idle: after a statement there was no transaction; whoever wants to know sets it to False before.
        expires_at: monotonic seconds from which on it is not lent any more.
        watch: a weak reference to the connection, by which its loss is noticed.
        holder: a weak reference to the session that has it, which may be lost where its connection is not.
    """

    __slots__ = (
        "_round_trip",
        "baseline",
        "doomed",
        "expires_at",
        "holder",
        "pool",
        "read_only",
        "taken",
        "taken_at",
        "trusted",
        "unconfirmed",
        "was_idle",
        "watch",
        "wire",
    )

    pool: AsyncHostPool[Any]

    def __init__(self, wire: AbortHandle, round_trip: Callable[[], float | None]) -> None:
        self.wire = wire
        self._round_trip = round_trip
        self.doomed = False
        self.baseline: tuple[Any, ...] = ()
        self.read_only = False
        self.unconfirmed = False
        self.taken = False
        self.taken_at = 0.0
        self.trusted: frozenset[str] = frozenset()
        self.was_idle = False
        self.expires_at = math.inf
        self.watch: weakref.ref[psycopg.AsyncConnection[Any]] | None = None
        self.holder: weakref.ref[Any] | None = None

    def forsaken(self, _: object) -> None:
        """Take note that the session was collected which should have returned the connection."""
        self.doomed = True
        self.taken = False
        self.pool._collected(self)

    def patience(self) -> float:
        """Return the seconds that the server has to answer when a statement is interrupted."""
        return patience(self._round_trip())

    def note_baseline(self, conn: psycopg.AsyncConnection[Any], *, read_only: bool) -> None:
        """Remember the attributes as they are now."""
        self.baseline = attributes(conn)
        self.read_only = read_only

    def on_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Take note of a "committed locally" warning and of the connection's announced end, in whatever language."""
        if diagnostic.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True
        if diagnostic.severity_nonlocalized in ("FATAL", "PANIC") or diagnostic.sqlstate in _ENDS:
            self.doomed = True


def alive(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the server is there as far as is known here, without a round trip (about 0.3 us).

    What is waiting in the socket is read, an end raises; then it is parsed, and a FATAL reaches `on_notice`. Unlike
    poll(), neither releases the GIL, which a thread beside busy ones would wait for, for milliseconds.
    """
    pgconn = conn.pgconn
    try:
        pgconn.consume_input()
        while (notify := pgconn.notifies()) is not None:
            if pgconn.notify_handler is not None:
                pgconn.notify_handler(notify)
    except psycopg.Error:
        return False
    return not conn._pgroute.doomed  # type: ignore[attr-defined]


async def shut(conn: psycopg.AsyncConnection[Any]) -> None:
    """Close a connection, also where the close() of the user's class fails, which is no word to our caller."""
    try:
        await conn.close()
    except Exception as exc:  # noqa: BLE001
        logger.warning(
            "%s.close() failed: %s: %s", type(conn).__name__, type(exc).__name__, one_line(str(exc))
        )
    finally:
        conn.pgconn.finish()


def attributes(conn: psycopg.AsyncConnection[Any]) -> tuple[Any, ...]:
    """Return the psycopg attributes that a body may change and the next one must not find."""
    return (
        conn.autocommit,
        conn.read_only,
        conn.isolation_level,
        conn.deferrable,
        conn.row_factory,
        conn.cursor_factory,
        conn.prepare_threshold,
        conn.server_cursor_factory,
    )


def contradicts(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the session is read-only by default where its pool is not, or the reverse, as far as is told.

    The server reports it by itself (PostgreSQL 14 and later, docs 53.2.7), poolers may not pass it on.
    """
    told = conn.pgconn.parameter_status(READ_ONLY_DEFAULT)
    return told is not None and (told == b"on") != conn._pgroute.read_only  # type: ignore[attr-defined]


async def restore(conn: psycopg.AsyncConnection[Any], baseline: tuple[Any, ...]) -> None:
    """Give the attributes back their values; the connection must be idle. psycopg refuses it within a transaction."""
    for name, value in zip(_ATTRIBUTES, baseline, strict=True):
        if getattr(conn, name) is value:
            continue
        setter = getattr(conn, f"set_{name}", None)
        if setter is None:
            setattr(conn, name, value)
        else:
            await setter(value)


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


class WrongServer(psycopg.OperationalError):
    """The server that answered is not the one expected there."""


class ConfigureFailed(psycopg.OperationalError):
    """The user's configure raised: no word about the server."""


class AsyncConnector:
    """Opens the connections of a pool, of the user's class.

    Args:
        plan: how the role connects.
        host: the host as the topology knew it when the pool was made.
        connection_class: psycopg's, or the user's subclass.
        watch: told of failures.
        bars: the role's.
        unwanted: tells that the pool was closed.
    """

    def __init__(
        self,
        plan: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.AsyncConnection[Any]],
        watch: ClusterWatch,
        bars: ConnectBackoff,
        *,
        unwanted: Callable[[], bool],
    ) -> None:
        self._unwanted = unwanted
        self._host = host
        self._class = breakable(connection_class)
        self._wire: AbortHandle | None = None
        self._abandoned = False
        self._watch = watch
        self.bars = bars
        self._configure = plan.options.configure
        self._as_probe = plan.as_probe
        self._read_only = plan.read_only
        self._login = AsyncLogin(plan, host, self._class, bars)
        self._autocommit = bool(plan.arguments.get("autocommit", False))

    async def connect(self) -> Any:
        """Open and check a connection; of the user's class.

        After a failure the next attempts fail likewise, without touching the network, until it is time for another.

        Raises:
            psycopg.Error: it failed.
        """
        sent_at = time.monotonic()
        given_up.set(self._unwanted)
        attempt = object()
        try:
            self.bars.check(self._host)
            await self._doubts_settled(attempt)
            conn = await self._connect()
        except BackedOff as exc:
            failure: psycopg.Error = exc
        except Exception as exc:  # noqa: BLE001  (a user's callback or class may raise anything)
            plain = _plain(exc, self._host)
            fault = connect_fault(plain)  # reads what the server wrote, which is not what is passed on
            failure = _printable(plain)
            if not (isinstance(exc, GivenUp) or self._abandoned):
                self._failed(failure, fault, sent_at)
        except BaseException as exc:  # noqa: BLE001  (raised again)
            # Cancelled: the traceback leads to psycopg's unfinished connection, and would keep its socket open.
            raise exc.with_traceback(None)  # noqa: B904
        else:
            self.bars.connected(self._host)
            return conn
        finally:
            self.bars.tried(self._host, attempt)
        raise failure

    async def _doubts_settled(self, attempt: object) -> None:
        """Leave it to the probe to find out why connections were lost, for a moment: one refused login is enough.

        If the probe is late, one attempt after the other.
        """
        until = time.monotonic() + DOUBT
        while not (
            self._watch.heard(self._host.key)
            or self._unwanted()
            or (time.monotonic() >= until and self.bars.try_alone(self._host, attempt))
        ):
            await asyncio.sleep(_DOUBT_STEP)
            self.bars.check(self._host)
        host = self._watch.topology.host(self._host.key)
        if host is not None and host.state is HostState.REJECTED and self._as_probe:
            raise BackedOff(host.reason)

    def _failed(self, exc: psycopg.Error, fault: Fault, sent_at: float) -> None:
        if isinstance(exc, ConfigureFailed):
            self.bars.put(self._host, exc, CONNECT_GAP)
            return
        rejected = fault.kind is FaultKind.REJECTED
        login = rejected and not self._login.undecided
        self.bars.put(self._host, exc, REJECTED_GAP if rejected else CONNECT_GAP, login=login)
        if isinstance(exc, WrongServer) or (rejected and not self._as_probe):
            # What is refused to this role's user or settings is no word about the host.
            self._watch.kick(self._host.key, fresh=True)
        elif not self._login.undecided:
            self._watch.report(Failure(self._host.key, fault, sent_at))

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        conn = await self._login.open()
        lease = AsyncLease(AbortHandle(conn.fileno()), self._round_trip)
        conn._pgroute = lease  # type: ignore[attr-defined]
        guard(conn, lease, lambda: self._watch.kick(self._host.key))
        self._wire = lease.wire
        try:
            if self._unwanted():
                raise GivenUp("the pool was closed while it connected")
            async with AsyncWatchdog(_CHECK_TIMEOUT, lease.wire.cut):
                await self._check(conn)
            if self._read_only:
                await conn.set_read_only(True)
            await conn.set_autocommit(self._autocommit)
            conn.add_notice_handler(lease.on_notice)
            await self._configured(conn)
            lease.note_baseline(conn, read_only=self._expected_read_only(conn))
        except BaseException:
            await shut(conn)
            raise
        finally:
            self._wire = None
        return conn

    def _round_trip(self) -> float | None:
        host = self._watch.topology.host(self._host.key)
        return None if host is None else host.rtt

    def _expected_read_only(self, conn: psycopg.AsyncConnection[Any]) -> bool:
        """Return whether sessions here are to be read-only by default, as far as the probe can tell for this role."""
        if self._as_probe and not self._read_only:
            return self._host.read_only
        return conn.pgconn.parameter_status(READ_ONLY_DEFAULT) == b"on"

    async def _configured(self, conn: psycopg.AsyncConnection[Any]) -> None:
        if self._configure is None:
            return
        try:
            await self._configure(conn)
        except BaseException as exc:
            if conn.broken or not (isinstance(exc, Exception) or async_stray(exc)):
                raise
            text = f"configure failed: {type(exc).__name__}: {one_line(str(exc))}"
            # An exception of psycopg's holds a PGconn, whose repr shows the password.
            raise ConfigureFailed(text) from (None if isinstance(exc, psycopg.Error) else exc)
        if conn.pgconn.transaction_status:
            raise ConfigureFailed("configure left the connection in a transaction: commit, or roll back")

    async def discard(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Take back all that a session can leave behind at the server, and configure the connection anew."""
        await conn.set_autocommit(True)
        # Private: psycopg takes note of the first DISCARD ALL only, and would go on to use what is gone.
        conn._prepared.clear()
        await ask_warily(conn, b"DISCARD ALL")
        await ask_warily(conn, OWN_TERMS + _HEAR)
        await conn.set_autocommit(self._autocommit)
        await self._configured(conn)

    def give_up(self) -> None:
        """End an attempt under way, whatever it waits for, now that the pool is closed; from any thread."""
        if (wire := self._wire) is not None:
            self._abandoned = True
            wire.cut()

    async def _check(self, conn: psycopg.AsyncConnection[Any]) -> None:
        host = self._host
        known = 2 if host.system_id is None else 1 if host.timeline is None else 0
        terms, checks = b"", list(_CHECKS[known:])
        while checks:
            try:
                found = row(await ask_warily(conn, terms + checks[0])) or ()
                break
            except psycopg.Error as exc:
                if conn.closed or exc.sqlstate not in _UNANSWERED:
                    raise
                if exc.sqlstate in RESTRAINED and not terms:
                    terms = OWN_TERMS
                else:
                    del checks[0]
        else:
            return  # without the rights to ask: the probe's word must do
        if len(checks) == 1:
            return  # it asks for nothing
        try:
            role, system_id, timeline = read_check(found)
        except Malformed as exc:
            raise WrongServer(f"malformed answer: {exc}") from None
        if role is not host.role:
            raise WrongServer(f"{host.key} is a {role.value} now, expected a {host.role and host.role.value}")
        if len(checks) > 2 and system_id != host.system_id:
            told = "tells no system identifier" if system_id is None else "belongs to another cluster now"
            raise WrongServer(f"{host.key} {told} ({system_id}, expected {host.system_id})")
        if timeline is not None and host.timeline is not None and timeline < host.timeline:
            raise WrongServer(f"{host.key} is on timeline {timeline} now, expected {host.timeline} or later")
