# Generated from pgroute/_async/checkout.py by .ci/unasync.py: edit that file, not this one.
"""A connection lent for one session: how the session ends, and the one way back to the pool."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import Watchdog
from pgroute._sync.commit import commit
from pgroute._sync.pool.lease import READ_ONLY_DEFAULT, alive, lease_of, shut
from pgroute._sync.progress import Question, ask_progress
from pgroute._sync.statements import ask
from pgroute._psycopg import has_open_block, has_two_phase, is_only_block, leave_block
from pgroute.core.faults.classify import one_line, session_fault
from pgroute.core.model.roles import HostRole
from pgroute.errors import CommitUnknown, SessionLost

if TYPE_CHECKING:

    from contextlib import AbstractContextManager
    from psycopg.pq.abc import PGresult

    from pgroute._sync.open_state import OpenState
    from pgroute._sync.pool.lease import Lease
    from pgroute._sync.progress import Progress
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.runtime.causality import Ticket

    Block = AbstractContextManager[psycopg.Transaction]
    Bound = Watchdog | contextlib.nullcontext[None]

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")

_ROLLBACK_TIMEOUT = 5.0

# How far COMMIT came. Not an enumeration, whose members cost 0.1 us each time on the way of each session.
NOTHING_SENT, COMMIT_SENT, REFUSED, COMMITTED = "nothing sent", "sent", "refused", "committed"
_NOTES = {
    COMMIT_SENT: "interrupted during COMMIT: it may have been committed",
    COMMITTED: "interrupted after COMMIT: the transaction was committed",
}

ACTIVE = TransactionStatus.ACTIVE
INTRANS = TransactionStatus.INTRANS
INERROR = TransactionStatus.INERROR
UNKNOWN = TransactionStatus.UNKNOWN

UNBOUNDED: Bound = contextlib.nullcontext()


class Checkout(Generic[CT]):
    """A connection lent for one session: end the session, or roll it back, then release the connection.

    Args:
        conn: a connection just taken from its pool.
        router: the open router.
        ticket: takes note of how far the server was at the end; None: nobody wants to know.

    Attributes:
        conn: as given.
        phase: how far COMMIT came: NOTHING_SENT, COMMIT_SENT, REFUSED by the server, or COMMITTED.
    """

    __slots__ = ("__weakref__", "_lease", "_progress", "_router", "_ticket", "conn", "phase")

    def __init__(self, conn: CT, router: OpenState, ticket: Ticket | None = None) -> None:
        self.conn = conn
        self._ticket = ticket
        self._progress: Progress | None = None
        self.phase = NOTHING_SENT
        self._router = router
        self._lease: Lease = lease_of(conn)

    def hold(self) -> CT:
        """Return the connection; from now on the pool takes it back if this object is collected.

        The reference is weak for that. An interrupt between ``__enter__`` and the body leaves nobody to release it.
        """
        self._lease.holder = weakref.ref(self, self._lease.holder_lost)
        return self.conn

    def release(self) -> None:
        """Give the connection back to its pool, which closes it if it must not be used again."""
        try:
            try:
                self.settle()
            finally:  # an interrupt of the line above must not keep the connection
                self._lease.pool.putconn(self.conn)
        finally:
            if self._router.closing:
                self._router.changes.notify()

    def settle(self) -> None:
        """Take note of how far the server was; once more after an interrupt, which may have come in between."""
        if self._ticket is not None:
            topology, server = self.topology, self._lease.pool.host
            ours = server.system_id in (None, topology.system_id)  # another cluster may have taken its place
            told = self._progress if ours else None
            if told is not None and told.role is HostRole.STANDBY:
                pool = self._lease.pool
                self._router.watch.replayed.note(pool.key, pool.generation, told.timeline, told.lsn)
            self._ticket.settle(told, topology)
            self._ticket = None

    def forget(self) -> None:
        """Take no note of how far the server was: nobody has seen anything of this session."""
        self._ticket = None

    def put_back(self) -> None:
        """Release the connection; a transaction still open is rolled back."""
        try:
            if self.conn.closed:
                self.kick()
            elif self.conn.pgconn.transaction_status:
                self._roll_back_quietly()
        finally:
            self.release()

    @property
    def key(self) -> HostKey:
        """The host."""
        return self._lease.pool.key

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now."""
        return self._router.watch.topology

    @property
    def transaction_ended(self) -> bool:
        """Whether the transaction has ended since `note_begin`, by whatever statement."""
        return self._lease.was_idle

    def note_begin(self) -> None:
        """Record that a transaction has just begun."""
        self._lease.was_idle = False

    def kick(self, *, fresh: bool = False) -> None:
        """Have the host probed at once, on a new connection if *fresh*."""
        self._router.watch.kick(self.key, fresh=fresh)

    def within(self, seconds: float) -> Watchdog:
        """Return a block that cuts the connection after so many seconds."""
        return Watchdog(seconds, self._lease.abort)

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

    def end(
        self,
        *,
        read_write: bool,
        own: bool = False,
        block: Block | None = None,
        may_write: bool = True,
        last: bytes = b"",
        bound: Bound = UNBOUNDED,
    ) -> PGresult | None:
        """Commit. If there is nothing to commit for a reason that the caller must know, raise.

        Args:
            read_write: the session was asked for as read-write.
            own: the transaction was begun by the router, and entered by `enter_block`.
            block: the transaction() of a class of the user's, whose exit commits; None: there is none.
            may_write: the transaction was not begun as read-only.
            last: a statement to run before COMMIT, in the same round trip. Its result is returned.
            bound: limits the time of the COMMIT.

        Raises:
            CommitUnknown: the connection was lost during COMMIT, or no synchronous standby has confirmed it.
            SessionLost: the connection was lost before COMMIT.
            psycopg.Error: the server's error, or the body left something that cannot be committed.
        """
        conn, result = self.conn, None
        # Read before `alive`, which may find that the connection is lost and change it.
        if (status := conn.pgconn.transaction_status) == INTRANS and alive(conn):
            question = self._question()
            self.phase = COMMIT_SENT
            try:
                if block is not None:
                    with bound:
                        result = (ask(conn, last))[-1] if last else None
                        block.__exit__(None, None, None)
                elif own:
                    with bound:
                        result = self._commit_own(last, question)
                elif question is not None and self._plain():
                    self._progress = (commit(conn, question=question)).progress
                else:
                    conn.commit()
            except BaseException as failure:
                may_write = may_write and not conn.read_only
                self._commit_failed(failure, own=own, block=block, may_write=may_write)
                raise
            self.phase = COMMITTED
        else:
            self._end_without_commit(status, own=own, block=block, read_write=read_write)
        if self._ticket is not None:
            self._ask_progress(_ROLLBACK_TIMEOUT)
        self.check_confirmed()
        return result

    def check_confirmed(self) -> None:
        """Raise CommitUnknown if no synchronous standby has confirmed what was committed."""
        if self._lease.unconfirmed:
            raise CommitUnknown(
                f"{self.key} committed locally, but no synchronous standby has confirmed it",
                topology=self.topology,
            )

    def _commit_own(self, last: bytes, question: Question | None) -> PGresult | None:
        conn = self.conn
        if not is_only_block(conn):
            raise psycopg.ProgrammingError(
                "the body left a transaction() of its own open: nothing was committed"
            )
        done = commit(conn, last=last, question=question)
        leave_block(conn)
        self._progress = done.progress
        return done.last

    def _plain(self) -> bool:
        """Return whether our COMMIT does what the connection's commit() would; that may refuse, or be the user's."""
        conn = self.conn
        theirs = type(conn).commit is not psycopg.Connection.commit
        return not (theirs or has_two_phase(conn) or conn.pgconn.pipeline_status or has_open_block(conn))

    def _question(self) -> Question | None:
        """Return the question how far the server is, None if nobody asks. It is as when the connection was made.

        Its host may have been given up meanwhile, for a new primary: what is committed here then must be told as lost.
        """
        if self._ticket is None:
            return None
        topology, pool = self.topology, self._lease.pool
        host = topology.host(pool.key)
        return Question(topology, pool.host if host is None or host.generation != pool.generation else host)

    def _ask_progress(self, seconds: float) -> None:
        """Ask how far the server is, if that did not come with a COMMIT; it has so many seconds to answer."""
        conn = self.conn
        if self._progress is not None:
            return
        if conn.closed or conn.pgconn.transaction_status or conn.pgconn.pipeline_status:
            return
        if (question := self._question()) is None:
            return
        try:
            with self.within(seconds):
                self._progress = ask_progress(conn, question)
        except psycopg.Error as failure:
            logger.info("the position of %s is not known: %s", self.key, one_line(str(failure)))
        except BaseException:
            shut(conn)
            raise

    def _commit_failed(
        self, failure: BaseException, *, own: bool, block: Block | None, may_write: bool
    ) -> None:
        """Raise what a failed COMMIT means; return if the failure itself is to be raised."""
        conn = self.conn
        if not isinstance(failure, psycopg.Error):
            shut(conn)
            return
        if not conn.closed:
            self.phase = REFUSED
            if conn.pgconn.transaction_status == INERROR:
                self._roll_back_quietly(own=own, block=block)  # the statement before it was refused
            elif conn.pgconn.transaction_status:
                shut(conn)  # the body left a transaction() of its own open
            elif own:
                leave_block(conn)
            return
        self._report(failure, committing=may_write)
        if may_write:
            text = f"the connection to {self.key} was lost during COMMIT: it may have been committed"
            raise CommitUnknown(text, topology=self.topology) from failure
        raise SessionLost(f"the connection to {self.key} was lost", topology=self.topology) from failure

    def _end_without_commit(
        self, status: int, *, own: bool, block: Block | None, read_write: bool
    ) -> None:
        conn, whole = self.conn, own or block is not None
        if conn.closed and not conn.broken:
            rest = "nothing was committed" if whole else "what was not committed before is rolled back"
            raise psycopg.ProgrammingError(f"the body closed its connection: {rest}")
        if status == INTRANS or (status == UNKNOWN and whole):
            shut(conn)
            self.kick()
            raise SessionLost(
                f"the connection to {self.key} was lost before COMMIT was sent: nothing of the transaction "
                "was committed",
                topology=self.topology,
            )
        if status == UNKNOWN:
            shut(conn)
            self.kick()
            raise SessionLost(
                f"the connection to {self.key} was lost within the session, and the error was not passed on: "
                "what the body itself committed last may or may not be there, nothing else is",
                topology=self.topology,
                may_have_committed=not conn.read_only,
            )
        if status == INERROR:
            self._roll_back_quietly(own=own, block=block)
            if read_write and self._lease.read_only:
                shut(conn)  # the error that the body hid may be that it cannot write here
            raise psycopg.errors.InFailedSqlTransaction(
                "the session ended with its transaction in error: it was rolled back, nothing was committed"
            )
        if status == ACTIVE:
            shut(conn)
            raise psycopg.ProgrammingError(
                "the session ended while a command was still running: connection closed"
            )
        if has_two_phase(conn):
            shut(conn)
            raise psycopg.ProgrammingError(
                "the session ended with a two-phase transaction prepared: tpc_commit() or tpc_rollback() it"
            )

    def roll_back(
        self, exc: BaseException, *, read_write: bool, own: bool = False, block: Block | None = None
    ) -> None:
        """Roll back after an error of the body, and have the host probed if the error makes it suspect.

        Args:
            exc: the error. It gets a note if the body committed something that no synchronous standby has confirmed.
            read_write: the session was asked for as read-write.
            own: the transaction was begun by the router, and entered by `enter_block`.
            block: the transaction() of a class of the user's; None: there is none.
        """
        conn = self.conn
        if isinstance(exc, psycopg.Error):
            self._report(exc, read_write=read_write)
        status = conn.pgconn.transaction_status
        if status in (INTRANS, INERROR):
            self._roll_back_quietly(exc, own=own, block=block)
        elif status == ACTIVE:
            # Waiting for the command's end could take for ever; the server rolls back when the connection goes.
            shut(conn)
        if (
            read_write
            and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction)
            and conn.pgconn.parameter_status(READ_ONLY_DEFAULT) != b"off"
        ):
            # Its own settings contradict its pool, whatever the host is: the next session would fail likewise.
            shut(conn)
        if self._ticket is not None:
            interrupted = not isinstance(exc, Exception)
            self._ask_progress(self._lease.patience() if interrupted else _ROLLBACK_TIMEOUT)
        if self._lease.unconfirmed:
            exc.add_note(f"{self.key} committed before that, and no synchronous standby has confirmed it")

    def _roll_back_quietly(
        self, exc: BaseException | None = None, *, own: bool = False, block: Block | None = None
    ) -> None:
        conn = self.conn
        interrupted = exc is not None and not isinstance(exc, Exception)
        if own and is_only_block(conn):
            # psycopg refuses rollback() within a transaction(). One of the body's that was not left may come back: then
            # this fails, and the connection is closed.
            leave_block(conn)
        try:
            # The server rolls back too when the connection goes, so a frozen one need not be waited for.
            with self.within(self._lease.patience() if interrupted else _ROLLBACK_TIMEOUT):
                if block is None:
                    conn.rollback()
                else:
                    exc = psycopg.Rollback() if exc is None else exc
                    block.__exit__(type(exc), exc, exc.__traceback__)
        except psycopg.Error as failure:
            logger.info("rolling back failed, closing the connection: %s", one_line(str(failure)))
            shut(conn)
        except BaseException:
            shut(conn)
            raise

    def lost_early(self, exc: psycopg.Error, doing: str) -> SessionLost:
        """Return the error for a connection that was lost in a statement of the router's own, before COMMIT."""
        return SessionLost(
            f"the connection to {self.key} was lost {doing}, nothing was committed: {one_line(str(exc))}",
            topology=self.topology,
            rerun_safe=True,
        )

    def _report(self, exc: psycopg.Error, *, committing: bool = False, read_write: bool = False) -> None:
        """Have the host probed at once if the error makes it suspect, and not an earlier server there."""
        pool = self._lease.pool
        fault = session_fault(exc, closed=self.conn.closed, committing=committing, read_write=read_write)
        host = self.topology.host(pool.key)
        if fault.host_suspect and host is not None and host.generation == pool.generation:
            self.kick(fresh=fault.fresh)


def note_commit(exc: BaseException, phase: str) -> None:
    """Add a note to an interrupt that tells what became of the transaction."""
    note = _NOTES.get(phase)
    if note and not isinstance(exc, psycopg.Error) and note not in getattr(exc, "__notes__", ()):
        exc.add_note(note)
