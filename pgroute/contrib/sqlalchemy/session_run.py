"""One call of `run_in_session`: the loop of its attempts, for threads and for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from pgroute._async.transaction import body as async_body
from pgroute._async.transaction import loop as async_loop
from pgroute._async.transaction import once as async_once
from pgroute._async.transaction.attempt import AsyncTransaction
from pgroute._sync.checkout import note_commit
from pgroute._sync.transaction import body as sync_body
from pgroute._sync.transaction import loop as sync_loop
from pgroute._sync.transaction import once as sync_once
from pgroute._sync.transaction.attempt import Transaction
from pgroute._sync.transaction.runner import note_limit
from pgroute.contrib.sqlalchemy.attempt import Again, AttemptLent
from pgroute.contrib.sqlalchemy.engines import dialect_of
from pgroute.contrib.sqlalchemy.makers import SessionMaker
from pgroute.contrib.sqlalchemy.routes import ATTEMPT, CAUSAL, OwnCausal, Route
from pgroute.contrib.sqlalchemy.run_settings import with_settings
from pgroute.core.config.retry_policy import check_policy
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import Role
from pgroute.core.transactions.once_keys import check_key
from pgroute.core.transactions.retry import Raise, Retry
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from pgroute import RetryPolicy

_INERROR = TransactionStatus.INERROR


@dataclass(frozen=True, slots=True)
class Face:
    """The parts of a run that differ between threads and asyncio."""

    transaction: type[Any]
    body: Any
    loop: Any
    once: Any
    wait: Callable[[Any], Any]

    def bind(self, engine: Engine) -> Any:
        """Return an engine as a session of this face takes it."""
        return AsyncEngine(engine) if self is ASYNC else engine


SYNC = Face(Transaction, sync_body, sync_loop, sync_once, lambda result: result)
ASYNC = Face(AsyncTransaction, async_body, async_loop, async_once, await_only)


class SessionRun:
    """One call of `run_in_session`; for asyncio, in a greenlet of SQLAlchemy's.

    Args:
        face: threads or asyncio.
        maker: of the sessions; see `SessionMaker`.
        fn: the body.
        args: its further arguments.
        role: as in `run_in_session`.
        timeout: likewise.
        retry: likewise.
        key: of ``once=``.
        kind: isolation, read_only and deferrable.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(  # noqa: PLR0917
        self,
        face: Face,
        maker: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        role: object,
        timeout: float | None,
        retry: RetryPolicy | None,
        once: str | bool | None,
        kind: dict[str, Any],
    ) -> None:
        self._face = face
        self._fn = fn
        self._args = args
        face.body.check_function("fn", fn)
        check_policy(retry)
        self._retry, self._timeout = retry, timeout
        self._key = check_key(once)
        self._role = Role.parse(role)
        self._maker = SessionMaker(maker, asynchronous=face is ASYNC)
        self._engine = self._maker.engine
        kind, self._settled = with_settings(self._engine, kind)
        if self._key is not None and (self._role is Role.READER or kind["read_only"]):
            raise ConfigError("once", once, "expected None for a transaction that cannot write")
        self._independent = self._key is not None and once is not True
        self._kind = kind

    def run(self) -> Any:
        """Run the transaction until it is committed or has failed for good; return the result."""
        try:
            return self._run()
        except psycopg.Error as exc:
            if isinstance(exc, ConfigError):
                raise
            error = exc
        hide = self._engine.hide_parameters
        raise DBAPIError.instance(
            None, None, error, psycopg.Error, hide_parameters=hide, connection_invalidated=True
        ) from error

    def _run(self) -> Any:
        face = self._face
        dialect = dialect_of(self._engine)
        held = dialect.hold(self._engine)
        manager = held.manager
        causal = Route(causal=self._causal()).reading(self._role, held)
        request = manager.request(
            self._role,
            timeout=self._timeout,
            decidable=self._key is not None,
            independent=self._independent,
            **self._kind,
        )
        if self._key is not None and (self._retry is not None or self._timeout is not None):
            note_limit(manager, self._retry, self._timeout)
        state = face.loop.begin_attempts(manager, request, self._retry, self._timeout)
        transaction = face.transaction(manager, request, state, self._key, causal)
        try:
            while True:
                transaction.keep = True
                try:
                    step, value = self._attempt(transaction, dialect, request.read_write)
                finally:
                    if transaction.kept is not None:
                        face.wait(transaction.kept.release())
                if step is None:
                    return value.stored if isinstance(value, face.once.Claim) else value
                face.wait(face.loop.pause(manager, state, step))
                transaction = face.transaction(manager, request, state, self._key, causal)
        except BaseException as exc:
            note_commit(exc, transaction.phase)
            if self._key is not None and (exc is state.unknown or not isinstance(exc, Exception)):
                exc.add_note(sync_once.advice(self._key))
            raise

    def _causal(self) -> Any:
        """Return what the sessions of the maker are ordered behind; None: nothing."""
        given = self._maker.options
        if given.get("causal") is not None:
            return given["causal"]
        if given.get("after") is not None:
            return OwnCausal(given["after"])
        return self._engine.get_execution_options().get(CAUSAL)

    def _attempt(self, transaction: Any, dialect: Any, read_write: bool) -> tuple[Retry | None, Any]:
        """Make one attempt; return when another follows, None if none does, and the result."""
        wait = self._face.wait
        claim: Any = None
        conn: Any = None
        try:
            conn = wait(transaction.begin())
            if isinstance(conn, Retry):
                return conn, None
            if self._key is not None:
                claim = self._face.once.Claim(transaction, self._key)
                if wait(claim.found(transaction)):
                    return wait(transaction.commit()), claim
            lent = AttemptLent(
                conn,
                transaction,
                role=self._role,
                read_write=read_write,
                adapters=dialect._psycopg_adapters_map,  # noqa: SLF001  (SQLAlchemy's)
                wait=wait,
                settled=self._settled,
            )
            try:
                value = self._body(transaction, lent, claim)
            finally:
                lent.close()
            if not transaction.open:
                return None, value
            if lent.rolled_back and conn.pgconn.transaction_status != _INERROR:
                wait(transaction.fail(psycopg.Rollback()))
                return None, value
            return wait(transaction.commit()), value
        except Again as again:
            return again.step, None
        except BaseException as exc:
            if not transaction.open:
                raise
            step = wait(transaction.fail(_cause(exc, conn)))
            if isinstance(step, Raise):
                raise
            return step, None

    def _body(self, transaction: Any, lent: AttemptLent, claim: Any) -> Any:
        """Call the function in a session, which commits the attempt; return its result."""
        face = self._face
        bind = self._engine.execution_options(**{ATTEMPT: lent})
        session = self._maker.session(bind, face.bind(bind))
        sync_session = getattr(session, "sync_session", session)
        with self._maker.current(session), sync_session, sync_session.begin():
            lent.in_body = True
            try:
                value = face.wait(face.body.call(self._fn, session, *self._args))
                sync_session.flush()
            finally:
                lent.in_body = False
            if claim is not None and not lent.rolled_back:
                claim.keep(value)
                transaction.final = value = claim
        return value


def _cause(exc: BaseException, conn: Any) -> BaseException:
    """Return the driver's error in one of SQLAlchemy's; any other as it is.

    SQLAlchemy refuses to go on with a connection that was lost: the function has hidden the error that told so.
    """
    if isinstance(exc, PendingRollbackError) and conn is not None and conn.broken:
        return psycopg.OperationalError("the connection was lost").with_traceback(exc.__traceback__)
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
