# Generated from pgroute/_async/checkout.py by .ci/unasync.py: edit that file, not this one.
"""A connection lent for one session, and the one way back to its pool."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg

from pgroute._acompat import Watchdog
from pgroute._sync.pool.lease import lease_of
from pgroute._sync.progress import PositionNote
from pgroute.core.faults.classify import one_line, session_fault
from pgroute.errors import CommitUnknown, SessionLost

if TYPE_CHECKING:
    from pgroute._sync.open_state import OpenState
    from pgroute._sync.pool.lease import Lease
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.runtime.causality import Ticket

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

# How far COMMIT came. Not an enumeration, whose members cost 0.1 us each time on the way of each session.
NOTHING_SENT, COMMIT_SENT, REFUSED, COMMITTED = "nothing sent", "sent", "refused", "committed"
_NOTES = {
    COMMIT_SENT: "interrupted during COMMIT: it may have been committed",
    COMMITTED: "interrupted after COMMIT: the transaction was committed",
}


class Checkout(Generic[CT]):
    """A connection lent for one session: end the session by `ending`, then release the connection.

    Args:
        conn: a connection just taken from its pool.
        router: the open router.
        ticket: takes note of how far the server was at the end; None: nobody wants to know.

    Attributes:
        conn: as given.
        lease: what the router keeps of the connection.
        note: takes note of how far the server was at the end; None: nobody wants to know.
        phase: how far COMMIT came: NOTHING_SENT, COMMIT_SENT, REFUSED by the server, or COMMITTED.
    """

    __slots__ = ("__weakref__", "_router", "conn", "lease", "note", "phase")

    def __init__(self, conn: CT, router: OpenState, ticket: Ticket | None = None) -> None:
        self.conn: CT = conn
        self.lease: Lease = lease_of(conn)
        self.note: PositionNote | None = None
        if ticket is not None:
            self.note = PositionNote(ticket, self.lease, router.watch)
        self.phase: str = NOTHING_SENT
        self._router = router

    def hold(self) -> CT:
        """Return the connection; from now on the pool takes it back if this object is collected.

        The reference is weak for that. An interrupt between ``__enter__`` and the body leaves nobody to release it.
        """
        self.lease.holder = weakref.ref(self, self.lease.holder_lost)
        return self.conn

    def release(self) -> None:
        """Give the connection back to its pool, which closes it if it must not be used again."""
        try:
            try:
                if self.note is not None:
                    self.note.settle()
            finally:  # an interrupt of the lines above must not keep the connection
                self.lease.pool.putconn(self.conn)
        finally:
            if self._router.closing:
                self._router.changes.notify()

    def settle(self) -> None:
        """Take note of how far the server was, if an interrupt has prevented that."""
        if self.note is not None:
            self.note.settle()

    def forget(self) -> None:
        """Take no note of how far the server was: nobody has seen anything of this session."""
        self.note = None

    @property
    def key(self) -> HostKey:
        """The host."""
        return self.lease.pool.key

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now."""
        return self._router.watch.topology

    @property
    def transaction_ended(self) -> bool:
        """Whether the transaction has ended since `note_begin`, by whatever statement."""
        return self.lease.was_idle

    def note_begin(self) -> None:
        """Record that a transaction has just begun."""
        self.lease.was_idle = False

    def kick(self, *, fresh: bool = False) -> None:
        """Have the host probed at once, on a new connection if *fresh*."""
        self._router.watch.kick(self.key, fresh=fresh)

    def within(self, seconds: float) -> Watchdog:
        """Return a block that cuts the connection after so many seconds."""
        return Watchdog(seconds, self.lease.abort)

    def left_to_parent(self, exc: BaseException | None) -> bool:
        """Return whether this is a forked child, which must send nothing: its parent's session goes on.

        Args:
            exc: the error that ends the session; None: there is none.

        Raises:
            RouterClosed: it is one, and no error tells the caller so.
        """
        if self._router.pid == os.getpid():
            return False
        if exc is None:
            raise self._router.inherited_error()
        return True

    def check_confirmed(self) -> None:
        """Raise CommitUnknown if no synchronous standby has confirmed what was committed."""
        if self.lease.unconfirmed:
            raise self.unconfirmed_error()

    def unconfirmed_error(self) -> CommitUnknown:
        """Return the error for a commit that no synchronous standby has confirmed, and count it."""
        return self.commit_unknown(
            f"{self.key} committed locally, but no synchronous standby has confirmed it"
        )

    def commit_unknown(self, text: str) -> CommitUnknown:
        """Return the error for a COMMIT whose outcome is not known, and count it."""
        self._router.meter.commits_unknown += 1
        error = CommitUnknown(text, topology=self.topology)
        self.note_failure(error)
        return error

    def note_failure(self, exc: BaseException) -> None:
        """Tell the observer of the session, if there is one, which error ends it."""
        if self.lease.observed is not None:
            self.lease.observed.failed(exc)

    def lost_early(self, exc: psycopg.Error, doing: str) -> SessionLost:
        """Return the error for a connection that was lost in a statement of the router's own, before COMMIT."""
        return SessionLost(
            f"the connection to {self.key} was lost {doing}, nothing was committed: {one_line(str(exc))}",
            topology=self.topology,
            rerun_safe=True,
        )

    def report(self, exc: psycopg.Error, *, committing: bool = False, read_write: bool = False) -> None:
        """Have the host probed at once if the error makes it suspect, and not an earlier server there.

        Args:
            exc: the error of a statement.
            committing: it came from the COMMIT of a transaction that may have written.
            read_write: the session was asked for as read-write.
        """
        pool = self.lease.pool
        fault = session_fault(exc, closed=self.conn.closed, committing=committing, read_write=read_write)
        host = self.topology.host(pool.key)
        if fault.host_suspect and host is not None and host.generation == pool.generation:
            self.kick(fresh=fault.fresh)


def note_commit(exc: BaseException, phase: str) -> None:
    """Add a note to an interrupt that tells what became of the transaction."""
    note = _NOTES.get(phase)
    if note and not isinstance(exc, psycopg.Error) and note not in getattr(exc, "__notes__", ()):
        exc.add_note(note)
