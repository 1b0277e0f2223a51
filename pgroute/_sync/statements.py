# Generated from pgroute/_async/statements.py by .ci/unasync.py: edit that file, not this one.
"""Runs the router's own statements on a user's connection, whatever its adapters, row factory, cursors and encoding.

They are sent through libpq as simple queries with literal values, and the results are read as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import Escaping, ExecStatus

from pgroute._psycopg.statements import query_steps
from pgroute.runtime.receive_limit import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGresult

    from pgroute.runtime.receive_limit import Allowance

_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

Row = tuple[bytes | None, ...]


def ask(
    conn: psycopg.Connection[Any], statement: bytes, /, **values: str | float | bytes | None
) -> list[PGresult]:
    """Run statements in one round trip and return the result of each. This does not send BEGIN.

    Args:
        conn: the connection, in a transaction unless it is in autocommit mode.
        statement: one or several statements, with ``%(name)s`` as the place of a value, and ``%%`` for a per cent sign
            if there are any values. Names, operators and types must be qualified: the search_path is the user's.
        values: inserted as untyped literals; bytes are inserted as they are, for the name of our schema.

    Raises:
        psycopg.Error: the server's error, as a cursor raises it.
        psycopg.ProgrammingError: the connection is in pipeline mode.
        UnicodeEncodeError: the connection's encoding cannot express a value.
    """
    if conn.pgconn.pipeline_status:
        conn.close()
        raise psycopg.ProgrammingError("the body left its pipeline open: nothing was committed")
    return send(conn, filled(conn, statement, **values))


def send(conn: psycopg.Connection[Any], statement: bytes) -> list[PGresult]:
    """Run statements as `ask` does, on a connection that is certainly not in pipeline mode.

    Raises:
        psycopg.Error: the server's error, as a cursor raises it.
    """
    with conn.lock:
        results: list[PGresult] = conn.wait(query_steps(conn.pgconn, statement))
    return checked(conn, results)


def filled(
    conn: psycopg.Connection[Any], statement: bytes, /, **values: str | float | bytes | None
) -> bytes:
    """Return a statement with its values, as for `ask`.

    Raises:
        UnicodeEncodeError: the connection's encoding cannot express a value.
    """
    if not values:
        return statement
    return statement % {name.encode(): _sql(conn, value) for name, value in values.items()}


def ask_warily(
    conn: psycopg.Connection[Any],
    statement: bytes,
    allowance: Allowance | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> list[PGresult]:
    """Run statements as `ask` does, but limit what an untrusted server may send.

    Args:
        conn: the connection.
        statement: one or several statements.
        allowance: what the server may still send; None: as much as any answer.
        meanwhile: called whenever something has arrived; None: nothing is.

    Raises:
        psycopg.Error: the server's error, or the server sent too much.
    """
    with conn.lock:
        steps: Any = query_steps(conn.pgconn, statement)
        steps = bounded(steps, conn.pgconn.socket, allowance, meanwhile)
        results: list[PGresult] = conn.wait(steps)
    return checked(conn, results)


def ask_all(conn: psycopg.Connection[Any], statement: bytes) -> list[PGresult]:
    """Run statements in one round trip and return the result of each, of a failed one too.

    Raises:
        psycopg.Error: the connection was lost.
    """
    with conn.lock:
        results: list[PGresult] = conn.wait(query_steps(conn.pgconn, statement))
    return results


def checked(conn: psycopg.Connection[Any], results: list[PGresult]) -> list[PGresult]:
    """Return the results of statements.

    Raises:
        psycopg.Error: the server's error, as a cursor raises it.
    """
    for result in results:
        if result.status not in _GOOD:
            raise error_of(conn, result)
    return results


def error_of(conn: psycopg.Connection[Any], result: PGresult) -> psycopg.Error:
    """Return the error that a failed result stands for."""
    if result.status == ExecStatus.FATAL_ERROR:
        return error_from_result(result, encoding=encoding_of(conn))
    return psycopg.OperationalError(f"malformed answer: {ExecStatus(result.status).name}")


def rows(results: list[PGresult]) -> list[Row]:
    """Return the rows of the last statement."""
    result = results[-1]
    columns = range(result.nfields)
    return [tuple([result.get_value(row, column) for column in columns]) for row in range(result.ntuples)]


def row(results: list[PGresult]) -> Row | None:
    """Return the first row of the last statement, None if there is none."""
    result = results[-1]
    return tuple([result.get_value(0, n) for n in range(result.nfields)]) if result.ntuples else None


def text(conn: psycopg.Connection[Any], value: bytes) -> str:
    """Return a value as text. Bytes that are invalid in the connection's encoding survive being sent by `ask`."""
    return value.decode(encoding_of(conn), "surrogateescape")


def encoding_of(conn: psycopg.Connection[Any]) -> str:
    """Return the codec of the connection's client_encoding; UTF-8 for SQL_ASCII, which the server does not convert."""
    encoding = conn.info.encoding
    return "utf-8" if encoding == "ascii" else encoding


def literal(conn: psycopg.Connection[Any], value: str) -> bytes:
    """Return a text as it is written in a statement.

    ASCII is sent as it is: each encoding of PostgreSQL's contains it (docs, 23.3.1), not each codec of Python's.

    Raises:
        UnicodeEncodeError: the connection's encoding cannot express it.
    """
    # Nothing to escape, whatever standard_conforming_strings says.
    if value.isascii() and "'" not in value and "\\" not in value and "\0" not in value:
        return b"'%b'" % value.encode()
    data = value.encode() if value.isascii() else value.encode(encoding_of(conn), "surrogateescape")
    return Escaping(conn.pgconn).escape_literal(data)


def _sql(conn: psycopg.Connection[Any], value: str | float | bytes | None) -> bytes:
    if isinstance(value, str):
        return literal(conn, value)
    if value is None:
        return b"NULL"
    return value if isinstance(value, bytes) else str(value).encode()
