"""Ends a session: commits or rolls back, and tells what a failure of that means."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import async_shielded
from pgroute._async.checkout import COMMIT_SENT, COMMITTED, REFUSED
from pgroute._async.commit import BY_PSYCOPG, BY_ROUTER
from pgroute._async.pool.cancelling import abandon, stop_statement
from pgroute._async.pool.lease import READ_ONLY_DEFAULT, alive, shut
from pgroute._psycopg.state import has_two_phase
from pgroute.core.faults.classify import one_line
from pgroute.core.faults.read_only_host import note_read_only_host
from pgroute.errors import SessionLost

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._acompat import AsyncWatchdog
    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.commit import Begun

logger = logging.getLogger("pgroute")

_ROLLBACK_TIMEOUT = 5.0

ACTIVE = TransactionStatus.ACTIVE
INTRANS = TransactionStatus.INTRANS
INERROR = TransactionStatus.INERROR
UNKNOWN = TransactionStatus.UNKNOWN


async def end(
    checkout: AsyncCheckout[Any],
    begun: Begun = BY_PSYCOPG,
    *,
    read_write: bool,
    may_write: bool = True,
    last: bytes = b"",
    bound: AsyncWatchdog | None = None,
) -> PGresult | None:
    """Commit. If there is nothing to commit for a reason that the caller must know, raise.

    Args:
        checkout: of the session's connection.
        begun: how its transaction was begun.
        read_write: the session was asked for as read-write.
        may_write: the transaction was not begun as read-only.
        last: a statement to run before COMMIT, in the same round trip. Its result is returned.
        bound: limits the time of the COMMIT; None: nothing does.

    Raises:
        CommitUnknown: the connection was lost during COMMIT, or no synchronous standby has confirmed it.
        SessionLost: the connection was lost before COMMIT.
        psycopg.Error: the server's error, or the body left something that cannot be committed.
    """
    conn, note = checkout.conn, checkout.note
    result: PGresult | None = None
    try:
        # Read before `alive`, which may find that the connection is lost and change it.
        if (status := conn.pgconn.transaction_status) == INTRANS and alive(conn):
            question = None if note is None else note.question()
            checkout.phase = COMMIT_SENT
            try:
                if bound is None:
                    result, told = await begun.commit(conn, last, question)
                else:
                    async with bound:
                        result, told = await begun.commit(conn, last, question)
            except BaseException as failure:
                may_write = may_write and not conn.read_only
                await _commit_failed(checkout, failure, begun, may_write=may_write)
                raise
            checkout.phase = COMMITTED
            if note is not None:
                note.told = told
        else:
            await _end_without_commit(checkout, status, begun, read_write=read_write)
        if note is not None:
            await note.ask(conn, _ROLLBACK_TIMEOUT)
        if checkout.lease.unconfirmed:
            checkout.check_confirmed()
    except BaseException as failure:
        checkout.note_failure(failure)
        raise
    return result


async def roll_back(
    checkout: AsyncCheckout[Any],
    exc: BaseException,
    begun: Begun = BY_PSYCOPG,
    *,
    read_write: bool,
    wanted: bool = False,
) -> None:
    """Roll back after an error of the body, and have the host probed if the error makes it suspect.

    Args:
        checkout: of the session's connection.
        exc: the error. It gets a note if the body committed something that no synchronous standby has confirmed.
        begun: how its transaction was begun.
        read_write: the session was asked for as read-write.
        wanted: the error asks for the rollback, and nothing has failed.
    """
    conn, lease = checkout.conn, checkout.lease
    if not wanted:
        checkout.note_failure(exc)
    if isinstance(exc, psycopg.Error):
        checkout.report(exc, read_write=read_write)
    status = conn.pgconn.transaction_status
    if status in (INTRANS, INERROR):
        await roll_back_quietly(checkout, begun, exc)
    elif status == ACTIVE:
        # Waiting for the command's end could take for ever; the server rolls back when the connection goes.
        await abandon(conn, lease)
    if read_write and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction) and not _takes_writes(conn):
        # Its own settings contradict its pool, whatever the host is: the next session would fail likewise.
        note_read_only_host(exc)
        await shut(conn)
    if checkout.note is not None:
        interrupted = not isinstance(exc, Exception)
        await checkout.note.ask(conn, lease.patience() if interrupted else _ROLLBACK_TIMEOUT)
    if lease.unconfirmed:
        exc.add_note(f"{checkout.key} committed before that, and no synchronous standby has confirmed it")


def _takes_writes(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the server has reported so; poolers may pass nothing on, and PostgreSQL 13 reports nothing."""
    told = conn.pgconn.parameter_status
    return not conn.closed and told(READ_ONLY_DEFAULT) == told(b"in_hot_standby") == b"off"


async def put_back(checkout: AsyncCheckout[Any]) -> None:
    """Release a connection that somebody ends using by hand; a transaction still open is rolled back."""
    conn = checkout.conn
    try:
        status = conn.pgconn.transaction_status
        if status and not conn.closed and alive(conn):
            text = "a connection to %s was put back within a transaction (%s): rolling back"
            logger.warning(text, checkout.key, TransactionStatus(status).name)
        await undo(checkout)
    finally:
        await checkout.release()


async def undo(checkout: AsyncCheckout[Any]) -> None:
    """Roll back what is open, if anything is; another transaction may follow in the same session."""
    conn, note = checkout.conn, checkout.note
    if conn.closed:
        checkout.kick()
        return
    if conn.pgconn.transaction_status:
        if conn.pgconn.transaction_status == ACTIVE:
            # Another task waits for the statement and holds the lock until then, or nobody does any more.
            try:
                await stop_statement(conn, checkout.lease)
            finally:
                checkout.lease.abort()
        await roll_back_quietly(checkout)
    if note is not None:
        await note.ask(conn, _ROLLBACK_TIMEOUT)


async def _commit_failed(
    checkout: AsyncCheckout[Any], failure: BaseException, begun: Begun, *, may_write: bool
) -> None:
    """Raise what a failed COMMIT means; return if the failure itself is to be raised."""
    conn = checkout.conn
    if not isinstance(failure, psycopg.Error):
        await shut(conn)
        return
    if not conn.closed:
        checkout.phase = REFUSED
        if conn.pgconn.transaction_status == INERROR:
            await roll_back_quietly(checkout, begun)  # the statement before it was refused
        elif conn.pgconn.transaction_status:
            await shut(conn)  # the body left a transaction() of its own open
        return
    checkout.report(failure, committing=may_write)
    if may_write:
        text = f"the connection to {checkout.key} was lost during COMMIT: it may have been committed"
        raise checkout.commit_unknown(text) from failure
    raise SessionLost(f"the connection to {checkout.key} was lost", topology=checkout.topology) from failure


async def _end_without_commit(
    checkout: AsyncCheckout[Any], status: int, begun: Begun, *, read_write: bool
) -> None:
    conn = checkout.conn
    if conn.closed and not conn.broken:
        rest = "nothing was committed" if begun.whole else "what was not committed before is rolled back"
        raise psycopg.ProgrammingError(f"the body closed its connection: {rest}")
    if status == INTRANS or (status == UNKNOWN and begun.whole):
        await shut(conn)
        limit = checkout.lease.time_limit
        if not limit:
            checkout.kick()
        raise SessionLost(
            f"the connection to {checkout.key} was lost before COMMIT was sent{limit and f' ({limit})'}: nothing of "
            "the transaction was committed",
            topology=checkout.topology,
        )
    if status == UNKNOWN:
        await shut(conn)
        checkout.kick()
        raise SessionLost(
            f"the connection to {checkout.key} was lost within the session, and the error was not passed on: "
            "what the body itself committed last may or may not be there, nothing else is",
            topology=checkout.topology,
            may_have_committed=not conn.read_only,
        )
    if status == INERROR:
        await roll_back_quietly(checkout, begun)
        if read_write and checkout.lease.read_only:
            await shut(conn)  # the error that the body hid may be that it cannot write here
        raise psycopg.errors.InFailedSqlTransaction(
            "the session ended with its transaction in error: it was rolled back, nothing was committed"
        )
    if status == ACTIVE:
        await abandon(conn, checkout.lease)
        raise psycopg.ProgrammingError(
            "the session ended while a command was still running: connection closed"
        )
    if has_two_phase(conn):
        await shut(conn)
        raise psycopg.ProgrammingError(
            "the session ended with a two-phase transaction prepared: tpc_commit() or tpc_rollback() it"
        )


async def roll_back_quietly(
    checkout: AsyncCheckout[Any], begun: Begun = BY_PSYCOPG, exc: BaseException | None = None
) -> None:
    """Roll back; if that fails, the connection is closed.

    Args:
        checkout: of the session's connection.
        begun: how its transaction was begun.
        exc: the error of the body; None: there is none.
    """
    cause = sys.exception() if exc is None else exc
    interrupted = cause is not None and not isinstance(cause, Exception)
    # The server rolls back too when the connection goes, so a frozen one need not be waited for.
    seconds = checkout.lease.patience() if interrupted else _ROLLBACK_TIMEOUT
    psycopgs = checkout.conn.__class__.rollback is psycopg.AsyncConnection.rollback
    if interrupted and psycopgs and begun in (BY_PSYCOPG, BY_ROUTER):
        await async_shielded(partial(_roll_back, checkout, begun, exc, seconds))
    else:  # what a class of the user's does may belong to this task
        await _roll_back(checkout, begun, exc, seconds)


async def _roll_back(
    checkout: AsyncCheckout[Any], begun: Begun, exc: BaseException | None, seconds: float
) -> None:
    conn = checkout.conn
    try:
        if begun is BY_PSYCOPG and await BY_PSYCOPG.roll_back_within(conn, seconds):
            return
        async with checkout.within(seconds):
            await begun.roll_back(conn, exc)
    except psycopg.Error as failure:
        logger.debug("rolling back failed, closing the connection: %s", one_line(str(failure)))
        await shut(conn)
    except BaseException:
        await shut(conn)
        raise
