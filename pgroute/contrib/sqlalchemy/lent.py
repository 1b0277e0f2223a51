"""A connection that the router has lent to an engine: how its transactions end, and the way back."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgroute._psycopg.adapters import put_on, swap_adapters
from pgroute.core.faults.classify import one_line
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.errors import RouteError, SessionLost

if TYPE_CHECKING:
    from pgroute.contrib.sqlalchemy.owner import Held

logger: logging.Logger = logging.getLogger("pgroute")
notices: logging.Logger = logging.getLogger("sqlalchemy.dialects.postgresql")

INTRANS = TransactionStatus.INTRANS
READ_WRITE = SessionAttrs.READ_WRITE


class _Collecting:
    """Knows which thread is within the garbage collector, where no lock may be taken.

    Attributes:
        thread: its identifier; None: none is.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: object) -> None:
        self.thread = threading.get_ident() if phase == "start" else None


collecting: _Collecting = _Collecting()


def log_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
    """Log a notice of the server where SQLAlchemy's dialects do."""
    notices.info("%s: %s", diagnostic.severity, diagnostic.message_primary)


class Dress:
    """What an engine adds to a connection for as long as it has it.

    Args:
        conn: the connection.
        adapters: those of the engine.
    """

    __slots__ = ("_before", "_conn")

    def __init__(self, conn: Any, adapters: Any) -> None:
        self._conn = conn
        self._before = put_on(conn, adapters)
        conn.row_factory = tuple_row  # its pool sets it back
        conn.pgroute_lease.noticed = log_notice

    def off(self) -> None:
        """Take it away again."""
        swap_adapters(self._conn, self._before)
        self._conn.pgroute_lease.noticed = None


class Lent:
    """A connection for one session of an engine, which may hold several transactions.

    Args:
        checkout: of the connection.
        held: the router.
        role: of the session.
        attrs: the hosts that it accepts.
        dialect: of the engine.

    Attributes:
        role: as given.
    """

    __slots__ = ("_checkout", "_dress", "_ending", "_held", "_read_write", "_wait", "role")

    def __init__(self, checkout: Any, held: Held, role: Role, attrs: SessionAttrs, dialect: Any) -> None:
        self._checkout = checkout
        self._ending = dialect.ending
        self._held = held
        self.role: Role = role
        self._read_write = attrs is READ_WRITE
        self._wait = dialect.wait
        self._dress = Dress(checkout.hold(), dialect._psycopg_adapters_map)  # noqa: SLF001  (SQLAlchemy's)

    @property
    def _ours(self) -> bool:
        """Whether this process has opened the connection, and may speak."""
        return self._held.pid == os.getpid()

    @property
    def _may_wait(self) -> bool:
        """Whether this process has opened the connection, and may take a lock now."""
        return self._ours and not self._collected

    @property
    def _collected(self) -> bool:
        """Whether the garbage collector has found it."""
        return collecting.thread == threading.get_ident()

    def initialized(self) -> None:
        """Do nothing: the transaction in which SQLAlchemy has asked is to be rolled back."""

    def settles(self, setting: str, value: object) -> bool:
        """Return whether a setting need not be set, here because the connection has gone and took it along."""
        return bool(self._checkout.conn.closed)

    @property
    def _only_reads(self) -> bool:
        return self.role is Role.READER and bool(self._checkout.conn.read_only)

    def commit(self) -> None:
        """Commit.

        Raises:
            CommitUnknown: the connection was lost during COMMIT, or no synchronous standby has confirmed it.
            SessionLost: the connection was lost before COMMIT.
            RouterClosed: this is a forked child, and the connection is the parent's.
            psycopg.Error: the server's error.
        """
        checkout = self._checkout
        if checkout.left_to_parent(None):
            return
        if checkout.note is not None:
            self._forget_position()
        try:
            self._wait(self._ending.end(checkout, read_write=self._read_write))
            checkout.lease.was_idle = False
        except SessionLost as exc:
            if not self._only_reads:
                raise
            # Nothing is lost with it. In a session that has written elsewhere, the error would say that nothing was
            # committed.
            logger.debug("a reader's transaction ended with its connection: %s", one_line(str(exc)))

    def rollback(self) -> bool:
        """Roll back; a connection that cannot is closed. Returns whether there was nothing to roll back.

        The server rolls back when a connection goes, so unlike psycopg's this is bounded in time and raises nothing.
        """
        checkout = self._checkout
        status = checkout.conn.pgconn.transaction_status
        note = checkout.note
        if not self._may_wait:
            return False
        if not (status or note):
            return True
        if note is not None and status == INTRANS and self._only_reads:
            # COMMIT does the same to a transaction that only reads, and the position comes with its answer.
            self.commit()
            return False
        if note is not None:
            self._forget_position()
        self._wait(self._ending.undo(checkout))
        checkout.lease.was_idle = False
        return not status

    def _forget_position(self) -> None:
        """Have the server asked again how far it is, if there was a statement since."""
        checkout = self._checkout
        note = checkout.note
        if note is not None and (checkout.transaction_ended or checkout.conn.pgconn.transaction_status):
            note.told = None

    def close(self) -> None:
        """Give the connection back."""
        if not self._may_wait:
            self.lose()
            return
        checkout = self._checkout
        self._dress.off()
        try:
            try:
                if checkout.note or checkout.conn.pgconn.transaction_status:
                    self._forget_position()
                    self._wait(self._ending.undo(checkout))
            finally:
                self._wait(checkout.release())
        finally:
            if self._held.retired:
                self._held.finish(self._wait)

    def terminate(self) -> None:
        """Close the connection."""
        if self._may_wait:
            self._checkout.conn.pgconn.finish()
        self.close()

    def lose(self) -> None:
        """Close the connection where nothing may be waited for, and no lock taken; the pool's worker takes note."""
        if self._ours:
            checkout = self._checkout
            checkout.forget()
            checkout.conn.pgconn.finish()
            checkout.lease.given_up = not self._collected
            checkout.lease.holder_lost(None)
            if self._held.retired:
                self._held.finish_elsewhere()

    def abandon(self) -> None:
        """Close the connection as `lose` does, if an interrupt has kept it from being given back."""
        holder = self._checkout.lease.holder
        if holder is not None and holder() is self._checkout:
            self.lose()

    def detach(self) -> None:
        """Have the connection closed at the end, because its user keeps what it sets."""
        self._checkout.lease.expires_at = -math.inf

    def failed(self, exc: psycopg.Error) -> bool:
        """Have the host probed if an error makes it suspect; return whether the session is over."""
        conn = self._checkout.conn
        if isinstance(exc, RouteError):
            return True
        if not self._ours:
            return False
        self._checkout.report(exc, read_write=self._read_write)
        return bool(conn.closed) or self.demoted(exc)

    def demoted(self, exc: BaseException | None) -> bool:
        """Return whether an error says that the host of a writer does not take writes."""
        return (
            self._read_write
            and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction)
            and not self._checkout.conn.read_only
        )
