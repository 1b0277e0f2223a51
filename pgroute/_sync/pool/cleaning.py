# Generated from pgroute/_async/pool/cleaning.py by .ci/unasync.py: edit that file, not this one.
"""Resets a connection that comes back in another state than it was lent in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pgroute._sync.pool.lease import alive, restore, shut
from pgroute.core.faults.classify import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from pgroute._sync.pool.connector import Connector
    from pgroute._sync.pool.lease import Lease
    from pgroute.core.model.roles import HostKey

logger = logging.getLogger("pgroute")


class Cleaning:
    """Resets the connections of one pool; one that cannot be reset is closed.

    Args:
        connector: resets them as the user says.
        key: of the host.
        closed: returns whether the pool is closed, so that there is no next session.
        lost: told of a connection that the server has ended.
    """

    __slots__ = ("_closed", "_connector", "_key", "_lost")

    def __init__(
        self,
        connector: Connector,
        key: HostKey,
        *,
        closed: Callable[[], bool],
        lost: Callable[[], None],
    ) -> None:
        self._connector = connector
        self._key = key
        self._closed = closed
        self._lost = lost

    def clean(self, conn: psycopg.Connection[Any], lease: Lease) -> None:
        """Reset a connection outside of transactions, or close it."""
        try:
            restore(conn, lease.baseline)
            if not self._closed():
                self._connector.reset(conn)
        except BaseException as exc:
            lost = conn.broken or not alive(conn)
            shut(conn)
            if not isinstance(exc, Exception):
                raise
            if lost:
                self._lost()
            else:
                why = one_line(str(exc))
                logger.warning("closing a connection to %s that could not be reset: %s", self._key, why)
