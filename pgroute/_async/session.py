"""One session: the context manager around a connection, and its honest end."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import AsyncFace, AsyncWatchdog
from pgroute._async.pool.lease import READ_ONLY_DEFAULT, alive, lease_of, shut
from pgroute._psycopg import has_two_phase
from pgroute.core.faults.classify import one_line, session_fault
from pgroute.core.model.roles import SessionAttrs
from pgroute.errors import CommitUnknown, SessionLost

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager  # async-only

    # sync-only: from contextlib import AbstractContextManager
    from types import TracebackType

    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role

    # sync-only: Block = AbstractContextManager[psycopg.Transaction]
    Block = AbstractAsyncContextManager[psycopg.AsyncTransaction]  # async-only

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

logger = logging.getLogger("pgroute")

_ROLLBACK_TIMEOUT = 5.0

NOTHING_SENT = ""
COMMIT_SENT = "interrupted during COMMIT: it may have been committed"
COMMITTED = "interrupted after COMMIT: the transaction was committed"

IDLE = TransactionStatus.IDLE
ACTIVE = TransactionStatus.ACTIVE
INTRANS = TransactionStatus.INTRANS
INERROR = TransactionStatus.INERROR
UNKNOWN = TransactionStatus.UNKNOWN


class AsyncSession(AsyncFace, Generic[CT]):
    """What `writer()`, `reader()` and `connection()` return; use it once, in a ``with`` statement.

    Raises:
        RuntimeError: on entering, it is in use already.
        ConfigError: on entering, its timeout is no number of seconds.
        RouteError: on entering, the router was opened in another event loop.
        psycopg.ProgrammingError: on leaving, a command was still running, or a two-phase transaction was prepared.
    """

    __slots__ = ("__weakref__", "_attrs", "_conn", "_engine", "_role", "_timeout")

    def __init__(
        self, engine: AsyncSessionManager[CT], attrs: SessionAttrs, role: Role, timeout: float | None
    ) -> None:
        self._engine = engine
        self._attrs = attrs
        self._role = role
        self._timeout = timeout
        self._conn: CT | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # sync-only: use = "with router.writer() as conn"
            use = "async with router.writer() as conn"  # async-only
            raise AttributeError(f"a session is no connection: use `{use}`, and conn.{name} within it")

        # async-only: begin
        def __await__(self) -> Any:
            raise TypeError(
                "a session is not awaited: use `async with router.writer() as conn`, or getconn()"
            )

        # async-only: end

    async def __aenter__(self) -> CT:
        if self._conn is not None:
            raise RuntimeError("this session is in use already; ask the router for another")
        conn: CT | None = None
        try:
            self._conn = conn = await self._engine.acquire(self._attrs, self._role, self._timeout)
            lease = lease_of(conn)
            lease.holder = weakref.ref(self, lease.holder_lost)
            return conn
        except BaseException:
            if conn is not None:
                self._conn = None
                await give_back(self._engine, conn)
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        conn, self._conn = self._conn, None
        assert conn is not None
        if self._engine.inherited:
            # A forked child shares the socket with its parent, whose session goes on: nothing may be sent.
            if exc is None:
                self._engine.check_usable()
            return
        read_write = self._attrs is SessionAttrs.READ_WRITE
        phase = NOTHING_SENT
        try:
            try:
                if exc is not None:
                    await _roll_back(self._engine, conn, exc, read_write=read_write)
                elif (status := conn.pgconn.transaction_status) == INTRANS and alive(conn):
                    phase = COMMIT_SENT
                    try:
                        await conn.commit()
                    except BaseException as failure:
                        if refused(conn, failure):
                            phase = NOTHING_SENT
                        await _commit_failed(self._engine, conn, failure)
                        raise
                    phase = COMMITTED
                else:
                    await _end(self._engine, conn, status=status, read_write=read_write)
                if lease_of(conn).unconfirmed:
                    _tell_unconfirmed(self._engine, conn, exc)
            finally:
                await give_back(self._engine, conn)
        except BaseException as failure:
            note_commit(failure, phase)
            raise


async def give_back(engine: AsyncSessionManager[Any], conn: CT) -> None:
    """Return a connection at the end of its session."""
    try:
        await lease_of(conn).pool.putconn(conn)
    finally:
        if engine.closing:
            engine.changes.notify()


def note_commit(exc: BaseException, phase: str) -> None:
    """Have what interrupted the end of a session tell what became of the transaction."""
    if phase and not isinstance(exc, psycopg.Error) and phase not in getattr(exc, "__notes__", ()):
        exc.add_note(phase)


def refused(conn: psycopg.AsyncConnection[Any], failure: BaseException) -> bool:
    """Return whether the server has answered that it did not commit."""
    return isinstance(failure, psycopg.Error) and not conn.closed


async def _commit_failed(engine: AsyncSessionManager[CT], conn: CT, failure: BaseException) -> None:
    """Raise what a failed COMMIT means; return where the failure itself says it."""
    key = lease_of(conn).pool.key
    if not isinstance(failure, psycopg.Error):
        await shut(conn)
        return
    if not conn.closed:
        return
    may_write = not conn.read_only
    _evidence(engine, conn, failure, committing=may_write)
    if may_write:
        text = f"the connection to {key} was lost during COMMIT: it may have been committed"
        raise CommitUnknown(text, topology=engine.topology) from failure
    raise SessionLost(f"the connection to {key} was lost", topology=engine.topology) from failure


def _lost_early(
    engine: AsyncSessionManager[Any], conn: psycopg.AsyncConnection[Any], exc: psycopg.Error, doing: str
) -> SessionLost:
    """Return what it means that a connection was lost in a statement of the router's own, before COMMIT."""
    key = lease_of(conn).pool.key
    return SessionLost(
        f"the connection to {key} was lost {doing}, nothing was committed: {one_line(str(exc))}",
        topology=engine.topology,
        rerun_safe=True,
    )


def _tell_unconfirmed(engine: AsyncSessionManager[CT], conn: CT, exc: BaseException | None) -> None:
    key = lease_of(conn).pool.key
    if exc is not None:
        exc.add_note(f"{key} committed before that, and no synchronous standby has confirmed it")
        return
    raise CommitUnknown(
        f"{key} committed locally, but no synchronous standby has confirmed it", topology=engine.topology
    )


async def _end(
    engine: AsyncSessionManager[CT], conn: CT, block: Block | None = None, *, status: int, read_write: bool
) -> None:
    """End a session in which there is nothing to commit, or that cannot.

    Args:
        engine: of the router.
        conn: the connection.
        block: the router's transaction().
        status: of the transaction, as it was before the connection was found to be lost: UNKNOWN since.
        read_write: the session was asked for as read-write.
    """
    lease = lease_of(conn)
    if conn.closed and not conn.broken:
        what = (
            "nothing was committed" if block is not None else "what was not committed before is rolled back"
        )
        raise psycopg.ProgrammingError(f"the body closed its connection: {what}")
    if status == INTRANS or (status == UNKNOWN and block is not None):
        await shut(conn)
        engine.watch.kick(lease.pool.key)
        raise SessionLost(
            f"the connection to {lease.pool.key} was lost before COMMIT was sent: nothing of the transaction "
            "was committed",
            topology=engine.topology,
        )
    if status == UNKNOWN:
        await shut(conn)
        engine.watch.kick(lease.pool.key)
        raise SessionLost(
            f"the connection to {lease.pool.key} was lost within the session, and the error was not passed on: "
            "what the body itself committed last may or may not be there, nothing else is",
            topology=engine.topology,
            may_have_committed=not conn.read_only,
        )
    if status == INERROR:
        await _quietly_roll_back(conn, block)
        if read_write and lease.read_only:
            await shut(conn)  # what the body hid may well be that it cannot write here
        raise psycopg.errors.InFailedSqlTransaction(
            "the session ended with its transaction in error: it was rolled back, nothing was committed"
        )
    if status == ACTIVE:
        await shut(conn)
        raise psycopg.ProgrammingError(
            "the session ended while a command was still running: connection closed"
        )
    if has_two_phase(conn):
        await shut(conn)
        raise psycopg.ProgrammingError(
            "the session ended with a two-phase transaction prepared: tpc_commit() or tpc_rollback() it"
        )


async def _roll_back(
    engine: AsyncSessionManager[CT],
    conn: CT,
    exc: BaseException,
    *,
    read_write: bool,
    block: Block | None = None,
) -> None:
    if isinstance(exc, psycopg.Error):
        _evidence(engine, conn, exc, read_write=read_write)
    status = conn.pgconn.transaction_status
    if status in (INTRANS, INERROR):
        await _quietly_roll_back(conn, block, exc)
    elif status == ACTIVE:
        # Waiting for the command's end could take for ever; the server rolls back when the connection goes.
        await shut(conn)
    if (
        read_write
        and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction)
        and conn.pgconn.parameter_status(READ_ONLY_DEFAULT) != b"off"
    ):
        # Its own settings contradict its pool, whatever the host is: the next session would fail likewise.
        await shut(conn)


async def _quietly_roll_back(
    conn: psycopg.AsyncConnection[Any],
    block: Block | None = None,
    exc: BaseException | None = None,
) -> None:
    lease = lease_of(conn)
    interrupted = exc is not None and not isinstance(exc, Exception)
    try:
        # The server rolls back too when the connection goes, so a frozen one need not be waited for.
        async with AsyncWatchdog(lease.patience() if interrupted else _ROLLBACK_TIMEOUT, lease.abort):
            if block is None:
                await conn.rollback()
            else:
                # psycopg refuses a plain rollback() within its transaction().
                exc = psycopg.Rollback() if exc is None else exc
                await block.__aexit__(type(exc), exc, exc.__traceback__)
    except psycopg.Error as exc:
        logger.info("rolling back failed, closing the connection: %s", one_line(str(exc)))
        await shut(conn)
    except BaseException:
        await shut(conn)
        raise


def _evidence(
    engine: AsyncSessionManager[CT],
    conn: CT,
    exc: psycopg.Error,
    *,
    committing: bool = False,
    read_write: bool = False,
) -> None:
    """Have the host probed at once if the error says something of it, and not of one that it was before."""
    pool = lease_of(conn).pool
    fault = session_fault(exc, closed=conn.closed, committing=committing, read_write=read_write)
    host = engine.topology.host(pool.key)
    if fault.host_suspect and host is not None and host.generation == pool.generation:
        engine.watch.kick(pool.key, fresh=fault.fresh)
