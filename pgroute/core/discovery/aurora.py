"""Asks an Aurora instance for the instances of its cluster (Aurora User Guide, aurora_replica_status)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pgroute.core.discovery.report import LONGEST_NAME, MOST_MEMBERS, Malformed, Report, reach
from pgroute.core.model.advice import HostAdvice
from pgroute.core.printable import printable
from pgroute.core.sql.statements import OWN_TERMS, qualify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgroute.core.config.discovery import AuroraDiscovery

# The writer is known by its session. An instance that was deleted stays in the list for a while, with an old time.
STATEMENT = OWN_TERMS + qualify("""
SELECT server_id, session_id `=` 'MASTER_SESSION_ID', replica_lag_in_msec
  FROM pg_catalog.aurora_replica_status()
 WHERE session_id `=` 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL
    OR extract(epoch FROM (pg_catalog.now() `-` last_update_timestamp)) `<=` 300
""")

_COLUMNS = 3


def read_replicas(rows: Sequence[Sequence[bytes | None]], options: AuroraDiscovery, port: int) -> Report:
    """Return the report in the rows of an answer.

    Args:
        rows: those of `STATEMENT`.
        options: say where instances are reached.
        port: that of the host that answered; all instances of a cluster have the same.

    Raises:
        Malformed: they are none that Aurora gives.
    """
    if not rows:
        raise Malformed("it lists no instances")
    if len(rows) > MOST_MEMBERS:
        raise Malformed(f"it lists {len(rows)} instances, more than the {MOST_MEMBERS} accepted")
    members = {}
    for row in rows:
        server, writer, lag = row if len(row) == _COLUMNS else (None, None, None)
        if not server:
            raise Malformed("an instance has no name")
        advice = HostAdvice(
            member=printable(server, LONGEST_NAME),
            role="writer" if writer == b"t" else "reader",
            lag_seconds=None if writer == b"t" else _seconds(lag),
        )
        members[advice.member] = reach(advice, "", port, options.hosts)
    return Report(scope="", members=tuple(members[name] for name in sorted(members)))


def _seconds(text: bytes | None) -> float | None:
    try:
        value = float(text or b"") / 1000
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
