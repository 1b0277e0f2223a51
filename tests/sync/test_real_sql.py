# Generated from tests/aio/test_real_sql.py by .ci/unasync.py: edit that file, not this one.
"""SQL as programs write it goes through every kind of session unread: indented, commented, quoted, very long."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgroute import Router
from pgroute.batch import BatchJob, Chunk
from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

INDENTED = """
                        select count(*)
                          from pg_class
                         where relname = 'pg_class'
                    """
COMMENTED = """
    -- COMMIT; this is no end of it
    /* nor /* is */ ROLLBACK */
    SELECT 1  -- END
    /* ABORT */
"""
QUOTED = """
    DO $outer$
    BEGIN
        EXECUTE $inner$ SELECT 'COMMIT; it''s quoted' $inner$;
    END
    $outer$
"""
FUNCTION = """
    CREATE OR REPLACE FUNCTION pg_temp.twice(number int) RETURNS int
    LANGUAGE plpgsql AS $body$
        BEGIN
            -- COMMIT
            RETURN 2 * number;
        END;
    $body$
"""
LONG = "SELECT 1 WHERE 1 IN (\n" + ",\n".join(["    1"] * 150_000) + "\n)"
BLANK = "\n" + " " * 1_000_000 + "SELECT 1"
COMMENTS = "/* a */ -- b\n" * 80_000 + "SELECT 1"
SQLALCHEMY = (
    (
        "SELECT pg_class.relname, pg_class.relkind \nFROM pg_class \nWHERE pg_class.relname = %(relname_1)s "
        "AND pg_class.relkind IN (%(relkind_1_1)s, %(relkind_1_2)s) \n LIMIT %(param_1)s"
    ),
    {"relname_1": "pg_class", "relkind_1_1": "r", "relkind_1_2": "v", "param_1": 1},
)
DJANGO = (
    (
        'SELECT "pg_class"."relname", COUNT("pg_class"."oid") AS "n" FROM "pg_class" WHERE ("pg_class"."relname" '
        'LIKE %s AND NOT ("pg_class"."relkind" IN (%s, %s))) GROUP BY "pg_class"."relname" '
        'HAVING COUNT("pg_class"."oid") > %s '
        'ORDER BY "pg_class"."relname" ASC LIMIT 21'
    ),
    ["pg\\_c%", "i", "t", 0],
)
COMPOSED = sql.SQL("\n    SELECT {}\n    FROM {}\n").format(
    sql.Literal("COMMIT; --"), sql.Identifier("pg_class")
)

STATEMENTS: dict[str, tuple[Any, Any]] = {
    "indented": (INDENTED, None),
    "commented": (COMMENTED, None),
    "dollar-quoted": (QUOTED, None),
    "a function": (FUNCTION, None),
    "a megabyte of values": (LONG, None),
    "a megabyte of blanks": (BLANK, None),
    "a megabyte of comments": (COMMENTS, None),
    "bytes": (INDENTED.encode(), None),
    "SQLAlchemy's savepoint": ("SAVEPOINT sa_savepoint_1", None),
    "SQLAlchemy's query": SQLALCHEMY,
    "SQLAlchemy's return to it": ("ROLLBACK TO SAVEPOINT sa_savepoint_1", None),
    "SQLAlchemy's release": ("RELEASE SAVEPOINT sa_savepoint_1", None),
    "Django's savepoint": ('SAVEPOINT "s140_x1"', None),
    "Django's query": DJANGO,
    "Django's release": ('RELEASE SAVEPOINT "s140_x1"', None),
    "composed": (COMPOSED, None),
}


def everything(conn: Connection, table: str) -> None:
    """Execute each of the statements, and pgbench's own, which write."""
    for query, params in STATEMENTS.values():
        conn.execute(query, params)
    conn.execute(f"\n\t\tINSERT INTO {table}\n\t\tSELECT coalesce(max(number), 0) + 1 FROM {table};\n")
    conn.execute(f"UPDATE {table} SET number = number + %s WHERE number = %s;".encode(), (0, 1))


def count(router: Router[Any], table: str) -> int:
    with router.writer() as conn:
        cursor = conn.execute(f"SELECT count(*) FROM {table}")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def test_sql_as_programs_write_it_goes_through_unread(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:
        router.install()
        with router.writer() as conn:
            everything(conn, table)
        assert count(router, table) == 1

        router.run(everything, table)
        assert count(router, table) == 2

        router.run(everything, table, once=f"real SQL {table}")
        router.run(everything, table, once=f"real SQL {table}")
        assert count(router, table) == 3

        for attempt in router.attempts():
            with attempt as conn:
                everything(conn, table)
        assert count(router, table) == 4

        def chunk_of(conn: Connection, chunk: Chunk) -> None:
            everything(conn, table)

        BatchJob(router, f"real SQL {table}", range(2), chunk_size=1).run(chunk_of)
        assert count(router, table) == 6
