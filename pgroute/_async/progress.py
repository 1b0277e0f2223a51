"""Asks a server how far it is in the write-ahead log, alone or together with a COMMIT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.pq import ExecStatus

from pgroute._async.statements import ask_all, error_of, row
from pgroute.core.sql.answers import Malformed, read_progress
from pgroute.core.sql.statements import OWN_TERMS, RESTRAINED, STANDBY_TIMELINE, qualify

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute.core.model.roles import HostRole

_PROGRESS = qualify(f"""
SELECT r.recovering,
       CASE WHEN r.recovering THEN {STANDBY_TIMELINE} END,
       CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn() END,
       CASE WHEN NOT r.recovering THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) r""")  # noqa: S608  (built from constants)

_COMMIT_AND_PROGRESS = b"COMMIT;" + _PROGRESS


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


async def ask_progress(conn: psycopg.AsyncConnection[Any]) -> Progress | None:
    """Return how far the server is; None if it does not tell, or not to this role.

    Args:
        conn: a connection without a transaction. None is begun.

    Raises:
        psycopg.Error: the connection was lost.
    """
    for terms in (b"", OWN_TERMS):
        *_, result = await ask_all(conn, terms + _PROGRESS)
        if result.status != ExecStatus.FATAL_ERROR:
            return _read(result)
        sqlstate = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode("ascii", "replace")
        if sqlstate not in RESTRAINED:
            break
    if conn.closed:
        raise psycopg.OperationalError("the connection was lost")
    return None


async def commit_with_progress(conn: psycopg.AsyncConnection[Any]) -> Progress | None:
    """Commit, and return how far the server was then, in one round trip; None if it does not tell.

    Args:
        conn: a connection in a transaction.

    Raises:
        psycopg.Error: the server's error to COMMIT, or the connection was lost.
    """
    committed, *others = await ask_all(conn, _COMMIT_AND_PROGRESS)
    if committed.status != ExecStatus.COMMAND_OK:
        raise error_of(conn, committed)
    return _read(others[-1]) if others else None


def _read(result: PGresult) -> Progress | None:
    if result.status != ExecStatus.TUPLES_OK:
        return None
    try:
        return Progress(*read_progress(row([result]) or ()))
    except Malformed:
        return None
