"""Creates the schema if it is missing, and checks that no other role's code can run in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._async.pool.lease import lease_of
from pgroute._async.statements import ask, rows, text
from pgroute.core.sql.schema import LOCK, TABLES, definition
from pgroute.core.sql.trust import EXAMINE, untrusted

if TYPE_CHECKING:
    from pgroute.core.sql.schema import Schema


async def install(conn: psycopg.AsyncConnection[Any], schema: Schema) -> None:
    """Create the missing parts of the schema.

    Raises:
        ConfigError: the existing parts cannot be trusted.
    """
    await ask(conn, LOCK)
    # CREATE SCHEMA IF NOT EXISTS fails without the privilege, even if the schema exists.
    if not await _examine(conn, schema) >= TABLES:
        await ask(conn, definition(schema.name).encode())
        # Another session may have created a part meanwhile.
        await _examine(conn, schema)


def trusted(conn: psycopg.AsyncConnection[Any], tables: frozenset[str]) -> bool:
    """Return whether `check_trust` has found the tables on this connection."""
    return lease_of(conn).trusted >= tables


async def check_trust(conn: psycopg.AsyncConnection[Any], schema: Schema, tables: frozenset[str]) -> None:
    """Check the schema before the first use of its tables on this connection.

    Once is enough: only trusted roles can change what exists. A missing table is an error, because any role might
    create it before it is used.

    Raises:
        ConfigError: another role could make this session run its code.
        psycopg.errors.UndefinedTable: a table is missing.
    """
    if not trusted(conn, tables):
        lease_of(conn).trusted = found = await _examine(conn, schema)
        if missing := sorted(tables - found):
            raise psycopg.errors.UndefinedTable(f"there is no table {missing[0]!r} in {schema.name!r}")


async def _examine(conn: psycopg.AsyncConnection[Any], schema: Schema) -> frozenset[str]:
    """Return the existing tables.

    Raises:
        ConfigError: the schema or a table cannot be trusted.
    """
    found: set[str] = set()
    objections: list[tuple[str, str, str]] = []
    for values in rows(await ask(conn, EXAMINE, name=schema.name, owner=schema.owner)):
        table, what, name = (text(conn, value or b"") for value in values)
        if what:
            objections.append((table, what, name))
        else:
            found.add(table)
    if objections:
        raise untrusted(schema, sorted(objections))
    return frozenset(found)
