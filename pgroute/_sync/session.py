# Generated from pgroute/_async/session.py by .ci/unasync.py: edit that file, not this one.
"""One session: the context manager around a connection, and its honest end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import Watchdog
from pgroute._sync.connector import alive
from pgroute.core.faults import session_fault
from pgroute.core.roles import SessionAttrs
from pgroute.errors import CommitUnknown, SessionLost

if TYPE_CHECKING:
    from types import TracebackType

    from pgroute._sync.router import Router
    from pgroute.core.roles import Role

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")

_ROLLBACK_TIMEOUT = 5.0

IDLE = TransactionStatus.IDLE
ACTIVE = TransactionStatus.ACTIVE
INTRANS = TransactionStatus.INTRANS
INERROR = TransactionStatus.INERROR
UNKNOWN = TransactionStatus.UNKNOWN


class Session(Generic[CT]):
    """What `writer()`, `reader()` and `connection()` return; use it once, in a ``with`` statement."""

    __slots__ = ("_attrs", "_conn", "_role", "_router", "_timeout")

    def __init__(
        self, router: Router[CT], attrs: SessionAttrs, role: Role, timeout: float | None
    ) -> None:
        self._router = router
        self._attrs = attrs
        self._role = role
        self._timeout = timeout
        self._conn: CT | None = None

    def __enter__(self) -> CT:
        if self._conn is not None:
            raise RuntimeError("this session is in use already; ask the router for another")
        self._conn = conn = self._router._acquire(self._attrs, self._role, self._timeout)
        return conn

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        conn, self._conn = self._conn, None
        assert conn is not None
        if self._router._inherited:
            # A forked child shares the socket with its parent, whose session goes on: nothing may be sent.
            if exc is None:
                self._router._check_usable()
            return
        pool = conn._pgroute.pool  # type: ignore[attr-defined]
        try:
            if exc is None:
                _commit(self._router, conn)
            else:
                _roll_back(self._router, conn, exc, read_write=self._attrs is SessionAttrs.READ_WRITE)
        finally:
            pool.putconn(conn)
            if self._router._closing:
                self._router._changes.notify()


def _commit(router: Router[CT], conn: CT) -> None:
    lease = conn._pgroute  # type: ignore[attr-defined]
    status = conn.pgconn.transaction_status
    if status == INTRANS and not alive(conn):
        conn.close()
        router._watch.kick(lease.pool.key)
        raise SessionLost(
            f"the connection to {lease.pool.key} was lost before COMMIT was sent: nothing of the transaction "
            "was committed",
            topology=router.topology,
        )
    if status == INTRANS:
        may_write = not conn.read_only
        try:
            conn.commit()
        except psycopg.Error as exc:
            if not conn.closed:
                raise
            _evidence(router, conn, exc, committing=may_write)
            key = lease.pool.key
            if may_write:
                text = f"the connection to {key} was lost during COMMIT: it may have been committed"
                raise CommitUnknown(text, topology=router.topology) from exc
            raise SessionLost(f"the connection to {key} was lost", topology=router.topology) from exc
        except BaseException as exc:
            exc.add_note("interrupted during COMMIT: it may have been committed")
            conn.close()
            raise
    elif status == UNKNOWN:
        conn.close()
        router._watch.kick(lease.pool.key)
        raise SessionLost(
            f"the connection to {lease.pool.key} was lost within the session, and the error was not passed on: "
            "what the body itself committed last may or may not be there, nothing else is",
            topology=router.topology,
            may_have_committed=not conn.read_only,
        )
    elif status == INERROR:
        _quietly_roll_back(conn)
        raise psycopg.errors.InFailedSqlTransaction(
            "the session ended with its transaction in error: it was rolled back, nothing was committed"
        )
    elif status == ACTIVE:
        conn.close()
        raise psycopg.ProgrammingError(
            "the session ended while a command was still running: connection closed"
        )
    elif getattr(conn, "_tpc", None):
        conn.close()
        raise psycopg.ProgrammingError(
            "the session ended with a two-phase transaction prepared: tpc_commit() or tpc_rollback() it"
        )
    if lease.unconfirmed:
        lease.unconfirmed = False
        raise CommitUnknown(
            f"{lease.pool.key} committed locally, but no synchronous standby has confirmed it",
            topology=router.topology,
        )


def _roll_back(router: Router[CT], conn: CT, exc: BaseException, *, read_write: bool) -> None:
    if isinstance(exc, psycopg.Error):
        _evidence(router, conn, exc, read_write=read_write)
    lease = conn._pgroute  # type: ignore[attr-defined]
    if lease.unconfirmed:
        exc.add_note(f"{lease.pool.key} committed before that, and no synchronous standby has confirmed it")
    status = conn.pgconn.transaction_status
    if status in (INTRANS, INERROR):
        _quietly_roll_back(conn)
    elif status == ACTIVE:
        # Waiting for the command's end could take for ever; the server rolls back when the connection goes.
        conn.close()


def _quietly_roll_back(conn: psycopg.Connection[Any]) -> None:
    try:
        # The server rolls back too when the connection goes, so a frozen one need not be waited for.
        with Watchdog(_ROLLBACK_TIMEOUT, conn._pgroute.wire.cut):  # type: ignore[attr-defined]
            conn.rollback()
    except psycopg.Error as exc:
        logger.info("rolling back failed, closing the connection: %s", exc)
        conn.close()
    except BaseException:
        conn.close()
        raise


def _evidence(
    router: Router[CT],
    conn: CT,
    exc: psycopg.Error,
    *,
    committing: bool = False,
    read_write: bool = False,
) -> None:
    """Have the host probed at once if the error says something of it, and not of one that it was before."""
    pool = conn._pgroute.pool  # type: ignore[attr-defined]
    fault = session_fault(exc, closed=conn.closed, committing=committing, read_write=read_write)
    host = router.topology.host(pool.key)
    if fault.host_suspect and host is not None and host.generation == pool.generation:
        router._watch.kick(pool.key, fresh=fault.fresh)
