"""A connection of a router's, for as long as a thread of Django's has it."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._sync.checkout import Checkout
from pgroute._sync.ending import end, roll_back_quietly
from pgroute._sync.pool.lease import READ_ONLY_DEFAULT, alive, shut
from pgroute._sync.router import manager_of
from pgroute.core.config.demand_options import DEFAULT_WAIT
from pgroute.core.model.roles import Role
from pgroute.errors import SessionLost
from pgroute.runtime.causality import CausalReading

if TYPE_CHECKING:
    from pgroute._sync.open_state import OpenState
    from pgroute._sync.router import Router
    from pgroute.errors import CommitUnknown
    from pgroute.runtime.causality import Causality, Ticket

_PATIENCE = 5.0
"""Seconds that a server has for what is asked at the end."""

IDLE, ACTIVE, INTRANS, INERROR = (
    TransactionStatus.IDLE,
    TransactionStatus.ACTIVE,
    TransactionStatus.INTRANS,
    TransactionStatus.INERROR,
)


class Loan(Checkout[Any]):
    """A connection lent until Django closes it, for any number of transactions.

    Args:
        conn: a connection just taken from its pool.
        router: the open router.
        role: whose pool.
        ticket: takes note of how far the server was at the end; None: nobody wants to know.

    Attributes:
        role: as given.
        refused: the server does not write, where a writer was asked for.
    """

    __slots__ = ("_cursors", "refused", "role")

    def __init__(self, conn: Any, router: OpenState, role: Role, ticket: Ticket | None) -> None:
        super().__init__(conn, router, ticket)
        self.role: Role = role
        self.refused: bool = False
        # Not a WeakSet: its methods cost a tenth of a request's small statement.
        self._cursors: set[weakref.ref[psycopg.Cursor[Any]]] = set()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, whose parent has the connection."""
        return self._router.pid != os.getpid()

    def take_unconfirmed(self) -> CommitUnknown:
        """Return the error for a statement whose commit is not confirmed; it is told once."""
        self.lease.unconfirmed = False
        return self.unconfirmed_error()

    @property
    def quiet(self) -> bool:
        """Whether there was no statement outside of a transaction since the last commit."""
        return not self.lease.was_idle

    @property
    def usable(self) -> bool:
        """Whether the connection would take a statement, as far as is known here, without a round trip."""
        return not self.lost and self.conn.pgconn.transaction_status != INERROR and alive(self.conn)

    @property
    def lost(self) -> bool:
        """Whether the connection is closed, or its server refuses what it is for; an error has told so."""
        return self.refused or self.conn.closed

    @property
    def being_read(self) -> bool:
        """Whether a cursor is open."""
        return any(not cursor.closed for cursor in self._open_cursors())

    def watch(self, cursor: psycopg.Cursor[Any]) -> None:
        """End this cursor with the loan: the connection is somebody else's then."""
        self._cursors.add(weakref.ref(cursor, self._cursors.discard))

    def _open_cursors(self) -> list[psycopg.Cursor[Any]]:
        return [cursor for known in [*self._cursors] if (cursor := known()) is not None]

    def note_error(self, exc: psycopg.Error) -> None:
        """Have the host probed if an error makes it suspect."""
        read_write = self.role is Role.WRITER
        self.report(exc, read_write=read_write)
        if (
            read_write
            and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction)
            and self.conn.pgconn.parameter_status(READ_ONLY_DEFAULT) != b"off"
        ):
            self.refused = True

    def set_autocommit(self, autocommit: bool) -> None:
        """Turn autocommit on or off; psycopg sends nothing for it, but it passes where statements are noted."""
        quiet = self.quiet
        self.conn.autocommit = autocommit
        if quiet:
            self.note_begin()

    def commit(self) -> None:
        """Commit; the loan goes on.

        Raises:
            CommitUnknown: the connection was lost during COMMIT, or no synchronous standby has confirmed it.
            SessionLost: it was lost before COMMIT.
            RouterClosed: the process was forked meanwhile.
            psycopg.Error: the server's error.
        """
        self.left_to_parent(None)
        if self.conn.closed:
            self.kick()
            raise SessionLost(
                f"the connection to {self.key} was lost before COMMIT was sent: nothing of the transaction was "
                "committed",
                topology=self.topology,
            )
        if self.conn.pgconn.transaction_status != INTRANS:
            self.conn.commit()
            return
        self._forget_position()
        try:
            end(self, read_write=self.role is Role.WRITER)
            self.note_begin()
        finally:
            self.lease.unconfirmed = False

    def roll_back_transaction(self) -> None:
        """Roll back; the loan goes on.

        Raises:
            RouterClosed: the process was forked meanwhile.
            psycopg.Error: it failed.
        """
        self.left_to_parent(None)
        self.conn.rollback()

    def give_back(self) -> None:
        """Give the connection back to its pool, which closes it if it must not be used again.

        What is not committed is rolled back, and server-side cursors are closed.
        """
        if self.inherited:
            return
        conn = self.conn
        try:
            status = conn.pgconn.transaction_status
            if conn.closed:
                self.kick()
            elif self.refused or status == ACTIVE:
                shut(conn)
            else:
                if self._cursors:
                    self._close_cursors()
                if conn.pgconn.transaction_status in (INTRANS, INERROR):
                    roll_back_quietly(self)
            if self.note is not None:
                if not self.quiet:
                    self._forget_position()
                self.note.ask(conn, _PATIENCE)
        finally:
            self.release()

    def _forget_position(self) -> None:
        if self.note is not None:
            self.note.told = None

    def _close_cursors(self) -> None:
        failed = self.conn.pgconn.transaction_status == INERROR
        for cursor in self._open_cursors():
            if isinstance(cursor, psycopg.ServerCursor) and failed:
                roll_back_quietly(self)  # it ends a cursor WITH HOLD of this transaction too
                failed = False
            try:
                cursor.close()
            except psycopg.Error:
                shut(self.conn)


def lend(router: Router[Any], role: Role, causality: Causality | None, *, note: bool = True) -> Loan:
    """Take a connection of a role from its pool.

    Args:
        router: an open router.
        role: of the session.
        causality: what it must see; None: anything.
        note: take note there of how far it came.

    Raises:
        ConfigError: the position is one of another cluster.
        PositionLost: a failover has lost the position.
        NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
        RouterClosed: the router is not open.
    """
    manager = manager_of(router)
    demand = ticket = None
    if causality is not None:
        reading = CausalReading(causality, role, max_lag=manager.config.max_lag, wait=DEFAULT_WAIT)
        demand, ticket = reading.begin()
    opened = manager.lifecycle.check_open()
    taken = manager.acquire(manager.attrs_of(role), role, manager.config.acquire_timeout, demand=demand)
    return Loan(taken.conn, opened, role, ticket if note else None)
