# Generated from pgroute/_async/pool/lease.py by .ci/unasync.py: edit that file, not this one.
"""What the router keeps of a pooled connection, and the looks at one that need no round trip."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

import psycopg

from pgroute._psycopg.state import noted_settings, restore_settings
from pgroute.core.faults.classify import TIME_LIMITS, one_line
from pgroute.core.transactions.begin import begin_statement

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from pgroute._psycopg.prepared import Prepared
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.abort_handle import AbortHandle
    from pgroute.runtime.meter import Observed

logger = logging.getLogger("pgroute")

READ_ONLY_DEFAULT = b"default_transaction_read_only"

_ENDS = ("57P01", "57P02", "57P03")
"""SQLSTATEs with which a server ends a connection, 57P02 as a mere WARNING (PostgreSQL docs, appendix A)."""

_LEAST_PATIENCE, _MOST_PATIENCE = 0.2, 2.0
_ROUND_TRIPS = 6
"""Of a cancel request: TCP, TLS, the request, the statement's error."""

_SETTINGS = (
    "autocommit",
    "read_only",
    "isolation_level",
    "deferrable",
    "row_factory",
    "cursor_factory",
    "prepare_threshold",
    "server_cursor_factory",
)


class LeasingPool(Protocol):
    """The pool that a lease belongs to.

    Attributes:
        key: of its host.
        generation: of that host.
        address: of that host, when the pool was made.
        host: that host, when the pool was made.
        watch: of its router.
    """

    key: HostKey
    generation: int
    address: str | None
    host: HostInfo
    watch: ClusterWatch

    @property
    def closed(self) -> bool:
        """Whether the pool is closed."""
        ...

    def putconn(self, conn: Any) -> None:
        """Take a connection back."""
        ...

    def lease_lost(self, lease: Lease) -> None:
        """Note that a connection was lost by its caller; called by the garbage collector: no lock may be taken."""
        ...


class Lease:
    """What the router keeps of a pooled connection, for as long as that exists.

    Args:
        pool: the pool that the connection belongs to.
        handle: its socket.
        round_trip: returns the seconds of a round trip to the host; None: not known.

    Attributes:
        pool: as given.
        abort: shuts the socket down, from any thread; returns whether it was still open.
        doomed: the server announced the end of this connection, its session was lost, or it was cut off.
        baseline: psycopg attributes that every session finds.
        begin: BEGIN for these, and b"" if the session may have found others.
        read_only: what the server should report of default_transaction_read_only.
        unconfirmed: a COMMIT returned without the synchronous standby's acknowledgement.
        taken: a caller has the connection.
        taken_at: monotonic seconds at which a session got it; None: no session has it.
        loan: of this checkout; whoever puts the connection back enters itself first, which of several only one can.
        uses: the sessions that had the connection.
        trusted: tables of pgroute's that were found to run nobody else's code.
        time_limit: the setting with which the server has ended the connection; empty: it has not, or not so.
        was_idle: after a statement there was no transaction; set to False before, to learn that.
        expires_at: monotonic seconds from which on it is not lent any more.
        connection: a weak reference to the connection, by which its loss is noticed.
        keys: how many keys of ``once=`` were claimed on it without prepared statements.
        prepared: the statements that were prepared for them; None: there are none; False: nor are there to be any.
        holder: a weak reference to the session that has it, which may be lost while its connection is not.
        observed: told of the end of the session that has it; None: nobody observes it.
        noticed: called with the server's notices, while the session has it; None: nothing is.
        given_up: the session has given the connection up, to be closed by the pool's worker.
    """

    __slots__ = (
        "_round_trip",
        "abort",
        "baseline",
        "begin",
        "connection",
        "doomed",
        "expires_at",
        "given_up",
        "holder",
        "keys",
        "loan",
        "noticed",
        "observed",
        "pool",
        "prepared",
        "read_only",
        "taken",
        "taken_at",
        "time_limit",
        "trusted",
        "unconfirmed",
        "uses",
        "was_idle",
    )

    def __init__(
        self, pool: LeasingPool, handle: AbortHandle, round_trip: Callable[[], float | None]
    ) -> None:
        self.pool: LeasingPool = pool
        self.abort: Callable[[], bool] = handle.abort
        self._round_trip = round_trip
        self.doomed: bool = False
        self.baseline: tuple[Any, ...] = ()
        self.begin: bytes = b""
        self.read_only: bool = False
        self.unconfirmed: bool = False
        self.taken: bool = False
        self.taken_at: float | None = None
        self.loan: dict[str, object] = {}
        self.uses: int = 0
        self.trusted: frozenset[str] = frozenset()
        self.time_limit: str = ""
        self.was_idle: bool = False
        self.expires_at: float = math.inf
        self.connection: weakref.ref[psycopg.Connection[Any]] | None = None
        self.holder: weakref.ref[Any] | None = None
        self.keys: int = 0
        self.prepared: Prepared | Literal[False] | None = None
        self.observed: Observed | None = None
        self.noticed: Callable[[psycopg.errors.Diagnostic], object] | None = None
        self.given_up: bool = False

    def holder_lost(self, _: object) -> None:
        """Note that the session which should have returned the connection was collected."""
        self.doomed = True
        self.taken = False
        self.pool.lease_lost(self)

    def patience(self) -> float:
        """Return the seconds that the server has to answer a cancel request."""
        return min(_MOST_PATIENCE, _LEAST_PATIENCE + _ROUND_TRIPS * (self._round_trip() or 0.0))

    def note_baseline(self, conn: psycopg.Connection[Any], *, read_only: bool) -> None:
        """Remember the attributes as they are now."""
        self.baseline = noted_settings(conn)
        self.begin = begin_statement(conn.isolation_level, conn.read_only, conn.deferrable)
        self.read_only = read_only

    def on_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Note a "committed locally" warning, or the announced end of the connection, in whatever language."""
        if diagnostic.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True
        if diagnostic.severity_nonlocalized in ("FATAL", "PANIC") or diagnostic.sqlstate in _ENDS:
            self.doomed = True
            self.time_limit = TIME_LIMITS.get(diagnostic.sqlstate or "", "")
        if self.noticed is not None:
            self.noticed(diagnostic)


def attach(conn: psycopg.Connection[Any], lease: Lease) -> None:
    """Give a connection its lease."""
    conn.pgroute_lease = lease  # type: ignore[attr-defined]


def lease_of(conn: psycopg.Connection[Any]) -> Lease:
    """Return the lease of a connection of a pool's.

    Raises:
        AttributeError: it is not one.
    """
    return conn.pgroute_lease  # type: ignore[attr-defined,no-any-return]


def find_lease(conn: object) -> Lease | None:
    """Return the lease of a connection; None: it is none of a pool's."""
    return getattr(conn, "pgroute_lease", None)


def alive(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the server is there as far as is known here, without a round trip (about 0.3 us).

    Whatever waits in the socket is read and parsed: its end raises, and a FATAL reaches `on_notice`. Unlike poll(),
    neither releases the GIL, for which a thread beside busy ones would wait for milliseconds.
    """
    pgconn = conn.pgconn
    try:
        pgconn.consume_input()
        while (notify := pgconn.notifies()) is not None:
            if pgconn.notify_handler is not None:
                pgconn.notify_handler(notify)
    except psycopg.Error:
        return False
    return not conn.pgroute_lease.doomed  # type: ignore[attr-defined]


def shut(conn: psycopg.Connection[Any]) -> None:
    """Close a connection, also if the close() of the user's class fails, which is only logged."""
    try:
        conn.close()
    except Exception as exc:  # noqa: BLE001
        logger.warning(
            "%s.close() failed: %s: %s", conn.__class__.__name__, type(exc).__name__, one_line(str(exc))
        )
    finally:
        conn.pgconn.finish()


def restore(conn: psycopg.Connection[Any], baseline: tuple[Any, ...]) -> None:
    """Give the attributes back their values; the connection must be idle. psycopg refuses it within a transaction."""
    if restore_settings(conn, baseline):
        return
    for name, value in zip(_SETTINGS, baseline, strict=False):  # without what is restored now
        if getattr(conn, name) is value:
            continue
        setter = getattr(conn, f"set_{name}", None)
        if setter is None:
            setattr(conn, name, value)
        else:
            setter(value)


def contradicts(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the session is read-only by default where its pool is not, or the reverse, as far as is known.

    The server reports it by itself (PostgreSQL 14 and later, docs 53.2.7), poolers may not pass it on.
    """
    told = conn.pgconn.parameter_status(READ_ONLY_DEFAULT)
    return told is not None and (told == b"on") != conn.pgroute_lease.read_only  # type: ignore[attr-defined]
