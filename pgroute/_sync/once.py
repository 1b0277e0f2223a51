# Generated from pgroute/_async/once.py by .ci/unasync.py: edit that file, not this one.
"""A transaction that is applied once: the row that it writes first, by which another attempt knows it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from pgroute.core.once import CLAIM, KEEP, REWRITE, UNBIND, as_json, from_json, lock_timeout, not_json
from pgroute.errors import CommitUnknown, ConfigError

if TYPE_CHECKING:
    from pgroute._sync.transaction import Attempt

MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


def missing(parameter: str, value: object, exc: psycopg.Error) -> ConfigError:
    """Return the error for a database without our tables."""
    why = str(exc).split("\n", 1)[0]
    return ConfigError(
        parameter, value, f"expected the tables of pgroute here: run `pgroute install DSN` ({why})"
    )


class Found:
    """The result that a transaction with the same key has stored."""

    def __init__(self, text: str) -> None:
        self.result = from_json(text)


def claim(attempt: Attempt[Any], conn: psycopg.Connection[Any], key: str) -> Found | None:
    """Write the row of a key; return what is found if it is there already, having rewritten it.

    Raises:
        CommitUnknown: another transaction with this key has not ended in time.
        ConfigError: there is no table for it.
    """
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    try:
        while True:
            seconds = attempt.left
            cursor.execute(CLAIM, {"key": key, "wait": lock_timeout(seconds)})
            if cursor.rowcount:
                attempt.decided()
                return None
            cursor.execute(REWRITE, {"key": key, "wait": lock_timeout(attempt.left)})
            row = cursor.fetchone()
            if row is not None:
                break
            cursor.execute(UNBIND)  # it was purged in between
    except MISSING as exc:
        raise missing("once", key, exc) from None
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
        raise CommitUnknown(
            f"another transaction with once={key!r} has not ended within {seconds:.2f} s: it may be committed yet",
            topology=attempt._router.topology,
        ) from exc
    if row[0] is None:
        raise psycopg.ProgrammingError(
            f"once={key!r} was committed by a body that ended its transaction by itself: it left no result"
        )
    return Found(row[0])


def keep(conn: psycopg.Connection[Any], key: str, result: object) -> Any:
    """Store the result of a key in its row, and return it as every later call will get it.

    Raises:
        TypeError: it is not JSON.
    """
    text = as_json(result, key)
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    try:
        cursor.execute(KEEP, (text, key))
    except psycopg.DataError as exc:
        # jsonb has no NUL, no lone surrogate, and no number out of numeric's range (PostgreSQL docs, 8.14).
        raise not_json(result, key, str(exc).split("\n", 1)[0]) from exc
    row = cursor.fetchone()
    if row is None:
        raise psycopg.ProgrammingError(f"the row of once={key!r} was deleted by its own transaction")
    return from_json(row[0])
