"""A transaction that is applied once: it first writes a row with its key, by which other attempts recognize it."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._async.schema_check import check_trust
from pgroute._async.statements import literal, row, text
from pgroute._psycopg.prepared import Prepared, removes_prepared
from pgroute.core.faults.classify import Fault, FaultKind, one_line
from pgroute.core.sql.schema import ONCE
from pgroute.core.transactions.once_keys import (
    BOUND,
    HEX_RESULT,
    PLAIN_RESULT,
    UNBOUND,
    as_json,
    from_json,
    kept_as_it_is,
    lock_timeout,
    not_json,
    once_statements,
)
from pgroute.errors import CommitUnknown, ConfigError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.statements import Row
    from pgroute._async.transaction.under_way import AsyncUnderWay

logger = logging.getLogger("pgroute")

_GRACE = 0.5
"""Seconds by which the server's limit on a wait is shorter than ours: its error says more."""

_BRIEF = 1.0
"""Seconds for which a wait is not bounded by the server: if this process dies in it, its session goes on waiting."""

_LEAST_LEFT = 3.0
"""Seconds until the deadline: with less, there is no time to cancel a brief wait."""

_CANCELS = psycopg.capabilities.has_cancel_safe()
"""Whether a cancel request has a time limit (libpq 17)."""

_MOST_UNPREPARED = 3
"""How many prepared statements a router misses before it prepares no more: it is behind a pooler, for instance."""

_UNPREPARED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)

MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


def missing(parameter: str, value: object, exc: psycopg.Error) -> ConfigError:
    """Return the error for a database without our tables."""
    why = one_line(str(exc))
    return ConfigError(
        parameter, value, f"expected the tables of pgroute here: run `pgroute install DSN` ({why})"
    )


class Claim:
    """The key of a transaction: its row is written before the body, and gets the result together with COMMIT.

    It does not refer to the transaction, which refers to it: in a circle, a connection that an interrupt left behind
    would not come back before the next garbage collection.

    Args:
        transaction: begun, and nothing sent yet.
        key: of ``once=``.

    Attributes:
        statement: after `keep`, stores the result of the body; of one result.
        stored: the result as every later call will get it; that of the body after the COMMIT.
    """

    __slots__ = (
        "_bounded",
        "_conn",
        "_key",
        "_lease",
        "_manager",
        "_prepared",
        "_result",
        "_statements",
        "_told",
        "_written",
        "statement",
        "stored",
    )

    def __init__(self, transaction: AsyncUnderWay[Any], key: str) -> None:
        checkout = transaction.checkout
        self._conn, self._lease = checkout.conn, checkout.lease
        self._manager = transaction.manager
        self._statements = once_statements(self._manager.config.schema.sql)
        self._key = key
        self._written = b""
        self._bounded = True
        self._prepared = False
        self._result: object = None
        self._told = False
        self.statement: bytes = b""
        self.stored: Any = None

    async def found(self, transaction: AsyncUnderWay[Any]) -> bool:
        """Write the row and return False. If there is one, rewrite it, take the result and return True.

        Args:
            transaction: as given.

        Raises:
            CommitUnknown: another transaction with this key has not ended in time.
            ConfigError: the table is missing or cannot be trusted, or the connection cannot send the key.
            psycopg.ProgrammingError: the row has no result.
            psycopg.DataError: the result cannot be read.
        """
        key = self._key
        if not self._lease.trusted >= ONCE:
            await self._look(transaction)
        begun = time.monotonic()
        try:
            if transaction.timeout is None:
                found = await self._insert_or_rewrite(transaction)
            else:
                async with transaction.bounded(grace=_GRACE):
                    found = await self._insert_or_rewrite(transaction)
        except MISSING as exc:
            raise missing("once", key, exc) from None
        except UnicodeEncodeError as exc:
            raise ConfigError("once", key, f"expected a key that the connection can send ({exc})") from None
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
            raise self._undecided(transaction.checkout, exc, time.monotonic() - begun) from exc
        except psycopg.OperationalError as exc:
            if not self._conn.broken:
                raise
            raise transaction.checkout.lost_early(exc, "claiming its key") from exc
        if found is None:
            transaction.mark_resolved()
            return False
        if found[0] is None:
            raise psycopg.ProgrammingError(
                f"once={key!r} was committed by a body that ended its transaction itself, so no result is stored"
            )
        self.stored = _stored(self._conn, found[0], key)
        return True

    def keep(self, result: object) -> None:
        """Take the result of the body, to be stored by `statement`.

        Raises:
            TypeError: the result is not JSON.
        """
        conn, key = self._conn, self._key
        self._result = result
        self._told = told = not kept_as_it_is(result)
        value = as_json(result, key, escape=conn.pgconn.parameter_status(b"server_encoding") != b"SQL_ASCII")
        try:
            if not key.isascii():
                self._written = literal(conn, key)  # the body may have changed the encoding
            values = {b"key": self._written, b"value": literal(conn, value), b"result": b""}
        except UnicodeEncodeError as exc:
            raise not_json(result, key, f"the connection cannot send it: {exc}") from exc
        if told:
            values[b"result"] = _result(conn)
        statements = self._statements
        if told:
            self.statement = statements.keep_and_tell % values
        elif self._prepared and self._lease.prepared and self._lease.prepared.intact:
            self.statement = statements.prepared_keep % values
        else:
            self.statement = statements.keep % values

    def read(self, result: PGresult) -> None:
        """Take the result of `statement`, after the COMMIT."""
        if not self._told:
            self.stored = self._result
            return
        found = row([result])
        assert found is not None
        assert found[0] is not None
        self.stored = _stored(self._conn, found[0], self._key)

    def refused(self, failure: psycopg.Error) -> Fault | None:
        """Raise or return what an error of `statement` or of COMMIT means; None: nothing else than it says.

        Raises:
            TypeError: PostgreSQL cannot store the result.
        """
        ours = self._prepared and any(name.decode() in str(failure) for name in self._statements.names)
        if ours and isinstance(failure, _UNPREPARED):
            self._note_unprepared(failure)  # the body has removed them, and psycopg does not know
            failure.add_note(
                "the body, or a pooler, has removed what pgroute had prepared; nothing was committed. Allow another "
                "attempt, or set prepare_threshold=None"
            )
            return Fault(FaultKind.OTHER, rerun_safe=True)
        if isinstance(failure, psycopg.DataError):
            # jsonb has no NUL, no lone surrogate, no number out of numeric's range (PostgreSQL docs, 8.14), and only
            # the characters of the database's encoding.
            raise not_json(self._result, self._key, one_line(str(failure))) from failure
        return None

    async def _look(self, transaction: AsyncUnderWay[Any]) -> None:
        conn, schema = self._conn, transaction.manager.config.schema
        try:
            async with contextlib.nullcontext() if transaction.timeout is None else transaction.bounded():
                await check_trust(conn, schema, ONCE, transaction.send)
        except MISSING as exc:
            raise missing("once", self._key, exc) from None
        except psycopg.OperationalError as exc:
            if not conn.broken:
                raise
            raise transaction.checkout.lost_early(exc, "looking at the schema") from exc

    async def _insert_or_rewrite(self, transaction: AsyncUnderWay[Any]) -> Row | None:
        """Return the existing row, None if one was inserted."""
        self._written = literal(self._conn, self._key)
        self._bounded = not (
            _CANCELS and transaction.again and transaction.number == 1 and transaction.left > _LEAST_LEFT
        )
        while True:
            try:
                results = await self._ask(transaction, self._claim(transaction))
            except _UNPREPARED as exc:
                if not self._prepared:
                    raise
                self._note_unprepared(exc)
                transaction.begin_again()
                continue
            if results and self._prepared and not self._lease.prepared:
                self._lease.prepared = Prepared(self._conn)
            if results and results[-1].command_tuples:
                return None
            if results:
                values = {b"key": self._written, b"result": _result(self._conn)}
                results = await self._ask(transaction, self._statements.rewrite % values)
            if results and (found := row(results)) is not None:
                return found
            # It was begun again, or the row was purged in between.

    def _claim(self, transaction: AsyncUnderWay[Any]) -> bytes:
        """Return the statement that claims the key: a prepared one where psycopg would have prepared it by now.

        It takes the server less time. Without a prepare_threshold there is none (psycopg documentation, "Prepared
        statements": it is to be None behind a pooler that does not keep them).
        """
        lease, statements, threshold = self._lease, self._statements, self._conn.prepare_threshold
        values = {b"key": self._written}
        self._prepared = False
        if (
            threshold is None
            or lease.prepared is False
            or self._manager.unprepared >= _MOST_UNPREPARED
            or not transaction.again
        ):
            return statements.claim % values
        if lease.prepared is not None and not lease.prepared.intact:
            lease.prepared, lease.keys = None, 0  # psycopg begins to count anew too
        if lease.keys < threshold or removes_prepared(self._conn):
            lease.keys += 1
            return statements.claim % values
        self._prepared = True
        if lease.prepared is not None:
            return statements.prepared_claim % values
        lease.prepared = False  # until they are there for sure
        return statements.prepare + statements.prepared_claim % values

    def _note_unprepared(self, exc: psycopg.Error) -> None:
        """Do without prepared statements on this connection: a pooler has no place for them, or they were removed."""
        self._prepared = self._lease.prepared = False
        self._manager.unprepared += 1
        where, why = self._lease.pool.key, one_line(str(exc))
        logger.debug("a prepared statement for the keys of once= is gone at %s: %s", where, why)

    async def _ask(self, transaction: AsyncUnderWay[Any], statement: bytes) -> list[PGresult]:
        """Run a statement that waits for another transaction no longer than until the deadline.

        Returns:
            its result as the last one; nothing, if it was not executed and the transaction has begun again.
        """
        if self._bounded:
            bound = BOUND % {b"wait": lock_timeout(transaction.left).encode()}
            return (await transaction.send(bound + statement + UNBOUND))[:-1]
        try:
            results = await transaction.send_briefly(statement, _BRIEF)
        except psycopg.errors.LockNotAvailable:  # by a lock_timeout of the session's own
            results = None
        if results is None:
            self._bounded = True
            transaction.begin_again()
            return []
        return results

    def _undecided(self, checkout: AsyncCheckout[Any], exc: psycopg.Error, waited: float) -> CommitUnknown:
        why = ""
        if not isinstance(exc, psycopg.errors.LockNotAvailable):
            why = f": the wait was ended from outside ({one_line(str(exc))})"
        unknown = checkout.commit_unknown(
            f"another transaction with once={self._key!r} had not ended after {waited:.2f} s, and may be "
            f"committed yet{why}"
        )
        unknown.add_note(advice(self._key))
        return unknown


def _result(conn: psycopg.AsyncConnection[Any]) -> bytes:
    """Return an expression for the result that this connection can receive, whatever the encodings."""
    status = conn.pgconn.parameter_status
    server, client = status(b"server_encoding"), status(b"client_encoding")
    return PLAIN_RESULT if client in (b"UTF8", server) or server == b"SQL_ASCII" else HEX_RESULT


def _stored(conn: psycopg.AsyncConnection[Any], value: bytes, key: str) -> Any:
    """Return a stored result.

    Raises:
        psycopg.DataError: `keep` has not stored it: jsonb allows deeper nesting and longer numbers than Python reads.
    """
    try:
        written = bytes.fromhex(value.decode()).decode() if _result(conn) is HEX_RESULT else text(conn, value)
        return from_json(written)
    except (ValueError, RecursionError) as exc:
        why = f"{type(exc).__name__}: {one_line(str(exc))}"
    raise psycopg.DataError(f"the stored result of once={key!r} cannot be read: {why}")


def advice(key: str) -> str:
    """Return what to do if it is not known whether a transaction was committed."""
    return f"to find out, call again with once={key!r}"
