# Generated from pgroute/batch/_async/keys.py by .ci/unasync.py: edit that file, not this one.
"""Asks the server for the key columns of a Keyset's query: their types, their operators and their collations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._sync.statements import ask, encoding_of, row, rows, text
from pgroute.batch import keyset_sql
from pgroute.batch.keyset_sql import Key, KeysetSql, quoted
from pgroute.batch.options import check_columns, check_encoding, check_portable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from pgroute.batch.source import Keyset

    Connection = psycopg.Connection[Any]


def find_keys(conn: Connection, keyset: Keyset) -> list[Key]:
    """Return the key columns.

    Raises:
        ConfigError: there are no such columns, or they cannot divide the rows into chunks.
    """
    check_encoding(encoding_of(conn))
    statements = KeysetSql(keyset)
    result = execute(conn, statements.describe())
    names = [text(conn, result.fname(column) or b"") for column in range(result.nfields)]
    check_columns(keyset, names)
    oids = [result.ftype(names.index(name)) for name in keyset.keys]
    ask(conn, keyset_sql.CLEAR_SEARCH_PATH)
    types = rows(ask(conn, keyset_sql.KEY_TYPES, oids=f"{{{','.join(map(str, oids))}}}"))
    ask(conn, keyset_sql.RESTORE_SEARCH_PATH)
    for name, values in zip(keyset.keys, types, strict=True):
        check_portable(keyset, name, text(conn, values[5] or b""))
    collations = _collations(conn, statements, [values[3] != b"0" for values in types])
    keys = []
    for oid, values, collation in zip(oids, types, collations, strict=True):
        kind, schema, name, _, home = (text(conn, value or b"pg_catalog") for value in values[:5])
        keys.append(Key(kind, oid, f"{quoted(schema)}.{quoted(name)}", quoted(home), collation))
    return keys


def _collations(conn: Connection, statements: KeysetSql, collated: Sequence[bool]) -> list[str]:
    """Return the COLLATE clause that each key has in the query, empty where there is none."""
    if not any(collated):
        return ["" for _ in collated]
    result = execute(conn, statements.collations(collated))
    oids = b",".join(value or b"0" for value in row([result]) or ())
    found = rows(ask(conn, keyset_sql.COLLATIONS, oids=f"{{{oids.decode()}}}"))
    return [
        ""
        if schema is None or name is None
        else f" COLLATE {quoted(text(conn, schema))}.{quoted(text(conn, name))}"
        for schema, name in found
    ]


def execute(conn: Connection, query: tuple[str, Any]) -> PGresult:
    """Run a statement that contains the user's query and its parameters; return the raw result."""
    statement, params = query
    cursor = psycopg.Cursor(conn)
    cursor.execute(encode(conn, statement), params, prepare=False)
    assert cursor.pgresult is not None
    return cursor.pgresult


def encode(conn: Connection, statement: str) -> bytes:
    """Return a statement in the connection's encoding; with SQL_ASCII, of bytes that psycopg refuses to encode."""
    return statement.encode(encoding_of(conn), "surrogateescape")
