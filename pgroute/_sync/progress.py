# Generated from pgroute/_async/progress.py by .ci/unasync.py: edit that file, not this one.
"""Asks a server how far it is in the write-ahead log, and notes that for causal objects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from pgroute._acompat import Watchdog
from pgroute._sync.pool.lease import shut
from pgroute._sync.statements import ask_all, error_of, row
from pgroute.core.faults.classify import one_line
from pgroute.core.model.roles import HostRole
from pgroute.core.sql.answers import Malformed, read_progress
from pgroute.core.sql.statements import OWN_TERMS, RESTRAINED, STANDBY_TIMELINE

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._sync.pool.lease import Lease
    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.causality import Ticket

logger = logging.getLogger("pgroute")

# A statement for both roles would take the server three times as long. One that is sent to the other role fails, or
# tells it.
_INSERTED = "pg_catalog.pg_current_wal_insert_lsn()"
_OF_PRIMARY = f"SELECT 'f', NULL, {_INSERTED}, pg_catalog.pg_walfile_name({_INSERTED})".encode()
_OF_STANDBY = "SELECT pg_catalog.pg_is_in_recovery(), {timeline}, pg_catalog.pg_last_wal_replay_lsn(), NULL"
_UNPROVEN = _OF_STANDBY.format(timeline=STANDBY_TIMELINE).encode()
# Reading the control file takes as long as the rest, and tells nothing new of a standby that is known to follow. The
# function behind pg_stat_wal_receiver is planned in half the time.
_RECEIVED = "(pg_catalog.pg_stat_get_wal_receiver()).received_tli"
_PROVEN = _OF_STANDBY.format(timeline=_RECEIVED).encode()


class Progress(NamedTuple):
    """How far a server is.

    Attributes:
        role: primary or standby.
        timeline: of a primary the one it writes, of a standby a lower bound; None if not told.
        lsn: inserted by a primary, replayed by a standby; None if not told.
    """

    role: HostRole
    timeline: int | None
    lsn: int | None


class Question:
    """The statement that asks a host how far it is; a standby is not asked for a timeline that the snapshot tells.

    Args:
        topology: the snapshot.
        host: one of its hosts.
    """

    __slots__ = ("_known", "_role", "sql")

    def __init__(self, topology: Topology, host: HostInfo) -> None:
        self._role = host.role
        self._known: int | None = None
        self.sql: bytes = _UNPROVEN
        if host.role is HostRole.PRIMARY:
            self.sql = _OF_PRIMARY
        elif host.timeline is not None and host.timeline == topology.wal.timeline:
            self.sql, self._known = _PROVEN, host.timeline

    def read(self, result: PGresult) -> Progress | None:
        """Return what an answer tells; None: nothing, or the host has another role than it had."""
        if result.status != ExecStatus.TUPLES_OK:
            return None
        try:
            role, timeline, lsn = read_progress(row([result]) or ())
        except Malformed:
            return None
        if role is not self._role:
            return None
        if self._known is not None:
            timeline = self._known if timeline is None else max(self._known, timeline)
        return Progress(role, timeline, lsn)


def ask_progress(conn: psycopg.Connection[Any], question: Question) -> Progress | None:
    """Return how far the server is; None if it does not tell, or not to this role.

    Args:
        conn: a connection without a transaction. None is begun.
        question: of its host.

    Raises:
        psycopg.Error: the connection was lost.
    """
    for terms in (b"", OWN_TERMS):
        *_, result = ask_all(conn, terms + question.sql)
        sqlstate = result.error_field(DiagnosticField.SQLSTATE) or b""
        if sqlstate.decode("ascii", "replace") not in RESTRAINED:
            break
    if conn.closed:
        raise error_of(conn, result)
    return question.read(result)


class PositionNote:
    """Notes how far the server was at the end of a session.

    Args:
        ticket: of the causal object.
        lease: of the session's connection.
        watch: on the hosts.

    Attributes:
        told: what the server said; None: nothing yet.
    """

    __slots__ = ("_lease", "_ticket", "_watch", "told")

    def __init__(self, ticket: Ticket, lease: Lease, watch: ClusterWatch) -> None:
        self._ticket: Ticket | None = ticket
        self._lease = lease
        self._watch = watch
        self.told: Progress | None = None

    def question(self) -> Question:
        """Return the question for the host as it was when the connection was made.

        The host may have been given up since, for a new primary: what is committed here must then be told as lost.
        """
        topology, pool = self._watch.topology, self._lease.pool
        host = topology.host(pool.key)
        return Question(topology, pool.host if host is None or host.generation != pool.generation else host)

    def ask(self, conn: psycopg.Connection[Any], seconds: float) -> None:
        """Ask how far the server is, if that did not come with a COMMIT; it has so many seconds to answer."""
        if self.told is not None or self._ticket is None:
            return
        if conn.closed or conn.pgconn.transaction_status or conn.pgconn.pipeline_status:
            return
        try:
            with Watchdog(seconds, self._lease.abort):
                self.told = ask_progress(conn, self.question())
        except psycopg.Error as failure:
            why = one_line(str(failure))
            logger.debug("the position of %s is not known: %s", self._lease.pool.key, why)
        except BaseException:
            shut(conn)
            raise

    def settle(self) -> None:
        """Tell the causal object, once. After an interrupt this is called again, because it may have come before."""
        if self._ticket is None:
            return
        topology, pool = self._watch.topology, self._lease.pool
        ours = pool.host.system_id in (None, topology.system_id)  # another cluster may have taken its place
        told = self.told if ours else None
        if told is not None and told.role is HostRole.STANDBY:
            self._watch.replayed.note(pool.key, pool.generation, told.timeline, told.lsn)
        self._ticket.settle(told, topology)
        self._ticket = None
