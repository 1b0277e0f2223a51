# Generated from pgroute/_async/transaction/once.py by .ci/unasync.py: edit that file, not this one.
"""A transaction that is applied once: it first writes a row with its key, by which other attempts recognize it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._sync.schema_check import check_trust, trusted
from pgroute._sync.statements import ask, filled, row, text
from pgroute.core.faults.classify import one_line
from pgroute.core.sql.schema import ONCE
from pgroute.core.transactions.once_keys import (
    CLAIM,
    HEX_RESULT,
    KEEP,
    PLAIN_RESULT,
    REWRITE,
    UNBIND,
    as_json,
    from_json,
    lock_timeout,
    not_json,
)
from pgroute.errors import CommitUnknown, ConfigError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._sync.statements import Row
    from pgroute._sync.transaction.attempt import Transaction

_GRACE = 0.5
"""Seconds by which the server's limit on a wait is shorter than ours: its error says more."""

MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


def missing(parameter: str, value: object, exc: psycopg.Error) -> ConfigError:
    """Return the error for a database without our tables."""
    why = one_line(str(exc))
    return ConfigError(
        parameter, value, f"expected the tables of pgroute here: run `pgroute install DSN` ({why})"
    )


class Found:
    """The result that an earlier transaction with the same key has stored."""

    def __init__(self, result: Any) -> None:
        self.result = result


def claim(transaction: Transaction[Any], key: str) -> Found | None:
    """Write the row of a key. If the row exists, rewrite it and return its result.

    Raises:
        CommitUnknown: another transaction with this key has not ended in time.
        ConfigError: the table is missing or cannot be trusted.
    """
    conn = transaction.checkout.conn
    if not trusted(conn, ONCE):
        _look(transaction, key)
    begun = time.monotonic()
    try:
        with transaction.bounded(grace=_GRACE):
            found = _insert_or_rewrite(transaction, key)
    except MISSING as exc:
        raise missing("once", key, exc) from None
    except UnicodeEncodeError as exc:
        raise ConfigError("once", key, f"expected a key that the connection can send ({exc})") from None
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
        why = (
            ""
            if isinstance(exc, psycopg.errors.LockNotAvailable)
            else f": the wait was ended from outside ({one_line(str(exc))})"
        )
        unknown = CommitUnknown(
            f"another transaction with once={key!r} had not ended after {time.monotonic() - begun:.2f} s, and may be "
            f"committed yet{why}",
            topology=transaction.manager.topology,
        )
        unknown.add_note(advice(key))
        raise unknown from exc
    except psycopg.OperationalError as exc:
        if not conn.broken:
            raise
        raise transaction.checkout.lost_early(exc, "claiming its key") from exc
    if found is None:
        transaction.mark_resolved()
        return None
    if found[0] is None:
        raise psycopg.ProgrammingError(
            f"once={key!r} was committed by a body that ended its transaction itself, so no result is stored"
        )
    return Found(_stored(conn, found[0], key))


def _look(transaction: Transaction[Any], key: str) -> None:
    conn = transaction.checkout.conn
    try:
        with transaction.bounded():
            transaction.ask(b"")  # BEGIN
            check_trust(conn, transaction.manager.config.schema, ONCE)
    except MISSING as exc:
        raise missing("once", key, exc) from None
    except psycopg.OperationalError as exc:
        if not conn.broken:
            raise
        raise transaction.checkout.lost_early(exc, "looking at the schema") from exc


def _insert_or_rewrite(transaction: Transaction[Any], key: str) -> Row | None:
    """Return the existing row, None if one was inserted."""
    conn, schema = transaction.checkout.conn, transaction.manager.config.schema.sql
    while True:
        if (
            row(transaction.ask(CLAIM, schema=schema, key=key, wait=lock_timeout(transaction.left)))
            is not None
        ):
            return None
        statement = REWRITE + _result(conn)
        found = row(ask(conn, statement, schema=schema, key=key, wait=lock_timeout(transaction.left)))
        if found is not None:
            return found
        ask(conn, UNBIND)  # the row was purged in between


def _encodings(conn: psycopg.Connection[Any]) -> tuple[bytes | None, bytes | None]:
    status = conn.pgconn.parameter_status
    return status(b"server_encoding"), status(b"client_encoding")


def _result(conn: psycopg.Connection[Any]) -> bytes:
    """Return an expression for the result that this connection can receive, whatever the encodings."""
    server, client = _encodings(conn)
    return PLAIN_RESULT if client in (b"UTF8", server) or server == b"SQL_ASCII" else HEX_RESULT


def _stored(conn: psycopg.Connection[Any], value: bytes, key: str) -> Any:
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


class Keep:
    """Stores the result in the row of the key, together with COMMIT.

    Args:
        transaction: of the body.
        key: of ``once=``.
        result: of the body.

    Attributes:
        statement: of one result.
        stored: the result as every later call will get it, after the COMMIT.

    Raises:
        TypeError: the result is not JSON.
    """

    def __init__(self, transaction: Transaction[Any], key: str, result: object) -> None:
        self._conn = conn = transaction.checkout.conn
        self._key = key
        self._result = result
        self.stored: Any = None
        stored = as_json(result, key, escape=_encodings(conn)[0] != b"SQL_ASCII")
        schema = transaction.manager.config.schema.sql
        try:
            self.statement = filled(
                conn, KEEP % {b"result": _result(conn)}, schema=schema, key=key, result=stored
            )
        except UnicodeEncodeError as exc:
            raise not_json(result, key, f"the connection cannot send it: {exc}") from exc

    def read(self, result: PGresult) -> None:
        """Take the stored result."""
        found = row([result])
        assert found is not None
        assert found[0] is not None
        self.stored = _stored(self._conn, found[0], self._key)

    def refused(self, failure: psycopg.Error) -> None:
        """Raise what an error means that came from storing the result.

        Raises:
            psycopg.ProgrammingError: the row is gone.
            TypeError: PostgreSQL cannot store the result.
        """
        if isinstance(failure, psycopg.errors.DivisionByZero):
            raise psycopg.ProgrammingError(
                f"the row of once={self._key!r} was deleted by its own transaction"
            ) from failure
        if isinstance(failure, psycopg.DataError):
            # jsonb has no NUL, no lone surrogate, no number out of numeric's range (PostgreSQL docs, 8.14), and only
            # the characters of the database's encoding.
            raise not_json(self._result, self._key, one_line(str(failure))) from failure
