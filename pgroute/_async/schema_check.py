"""The schema as a connection finds it: created where it is missing, used only if nobody else's code can run in it."""

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
    """Create what is missing of the schema.

    Raises:
        ConfigError: what is there is not to be trusted.
    """
    await ask(conn, LOCK)
    # Without the right to create one, an existing schema would be refused too.
    if not await _examine(conn, schema) >= TABLES:
        await ask(conn, definition(schema.name).encode())
        # Somebody may have come first with a part of it.
        await _examine(conn, schema)


def trusted(conn: psycopg.AsyncConnection[Any], tables: frozenset[str]) -> bool:
    """Return whether `check_trust` has found the tables on this connection."""
    return lease_of(conn).trusted >= tables


async def check_trust(conn: psycopg.AsyncConnection[Any], schema: Schema, tables: frozenset[str]) -> None:
    """Look at the schema before the first use of its tables on this connection.

    What can be changed later can be changed by those alone who are trusted. What is missing can be made by anybody
    until it is used, so it is not.

    Raises:
        ConfigError: others could have code run by this session.
        psycopg.errors.UndefinedTable: a table is missing.
    """
    if not trusted(conn, tables):
        lease_of(conn).trusted = found = await _examine(conn, schema)
        if missing := sorted(tables - found):
            raise psycopg.errors.UndefinedTable(f"there is no table {missing[0]!r} in {schema.name!r}")


async def _examine(conn: psycopg.AsyncConnection[Any], schema: Schema) -> frozenset[str]:
    """Return which tables are there.

    Raises:
        ConfigError: the schema, or one of them, is not to be trusted.
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
