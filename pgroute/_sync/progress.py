# Generated from pgroute/_async/progress.py by .ci/unasync.py: edit that file, not this one.
"""Asks a server how far it is in the write-ahead log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.pq import DiagnosticField, ExecStatus

from pgroute._sync.statements import ask_all, error_of, row
from pgroute.core.model.roles import HostRole
from pgroute.core.sql.answers import Malformed, read_progress
from pgroute.core.sql.statements import OWN_TERMS, RESTRAINED, STANDBY_TIMELINE

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.snapshot import Topology

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
        if host.role is HostRole.PRIMARY:
            self.sql = _OF_PRIMARY
        elif host.timeline is not None and host.timeline == topology.wal.timeline:
            self.sql, self._known = _PROVEN, host.timeline
        else:
            self.sql = _UNPROVEN

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
