"""Checks that a server which was connected to is the one that the pool was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._async.statements import ask_warily, row
from pgroute.core.sql.answers import Malformed, read_check
from pgroute.core.sql.statements import LACKING, OWN_TERMS, RESTRAINED, WRONG_STATE, qualify

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo

HEAR_WARNINGS = qualify("""
SELECT CASE WHEN pg_catalog.current_setting('client_min_messages') `=` 'error'
            THEN pg_catalog.set_config('client_min_messages', 'warning', false) END;""")
"""Lowers client_min_messages where it hides the warning that no synchronous standby has confirmed a COMMIT."""

_SLOTS = b"pg_catalog.current_setting('max_connections', true)"
_SYSTEM_ID = b"(SELECT system_identifier FROM pg_catalog.pg_control_system())"
_CHECK = b"""
SELECT r.recovering, %s,
       CASE WHEN NOT r.recovering THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
       %s
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) r"""
# Each asks for less, for servers and roles that refuse more; a check need prove no more than the probe could tell.
_CHECKS = (
    HEAR_WARNINGS + _CHECK % (_SYSTEM_ID, _SLOTS),
    HEAR_WARNINGS + b"SELECT pg_catalog.pg_is_in_recovery(), %s, NULL, %s" % (_SYSTEM_ID, _SLOTS),
    HEAR_WARNINGS + b"SELECT pg_catalog.pg_is_in_recovery(), NULL, NULL, %s" % _SLOTS,
    HEAR_WARNINGS,
)
_REFUSED = LACKING | RESTRAINED | {WRONG_STATE}


class WrongServer(psycopg.OperationalError):
    """The server that answered is not the one expected there."""


async def check_server(conn: psycopg.AsyncConnection[Any], host: HostInfo) -> int | None:
    """Compare role, system identifier and timeline with what is known of the host, as far as both are known.

    Returns:
        The server's max_connections; None: it does not tell.

    Raises:
        WrongServer: it is another one, or has another role.
        psycopg.Error: asking failed.
    """
    known = 2 if host.system_id is None else 1 if host.timeline is None else 0
    terms, checks = b"", list(_CHECKS[known:])
    while checks:
        try:
            found = row(await ask_warily(conn, terms + checks[0])) or ()
            break
        except psycopg.Error as exc:
            if conn.closed or exc.sqlstate not in _REFUSED:
                raise
            if exc.sqlstate in RESTRAINED and not terms:
                terms = OWN_TERMS
            else:
                del checks[0]
    else:
        return None  # without the rights to ask: the probe's answer must do
    if len(checks) == 1:
        return None  # it asks for nothing
    try:
        role, system_id, timeline, slots = read_check(found)
    except Malformed as exc:
        raise WrongServer(f"malformed answer: {exc}") from None
    if role is not host.role:
        raise WrongServer(f"{host.key} is a {role.value} now, expected a {host.role and host.role.value}")
    if len(checks) > 2 and system_id != host.system_id:
        told = "tells no system identifier" if system_id is None else "belongs to another cluster now"
        raise WrongServer(f"{host.key} {told} ({system_id}, expected {host.system_id})")
    if timeline is not None and host.timeline is not None and timeline < host.timeline:
        raise WrongServer(f"{host.key} is on timeline {timeline} now, expected {host.timeline} or later")
    return slots
