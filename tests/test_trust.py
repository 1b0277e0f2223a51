"""Who may own the schema, and what its tables may carry: each way to have code run by whoever uses them is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import ConfigError, Router
from pgroute._sync.statements import ask, rows
from pgroute.core.sql.schema import definition
from pgroute.core.sql.trust import EXAMINE
from pgroute.testing import LocalCluster
from tests.support import dsn_with

pytestmark = pytest.mark.cluster

TABLES = ("once", "batch_job", "batch_chunk", "batch_reject")

ROLES = """
CREATE ROLE base LOGIN; CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN;
CREATE ROLE team; GRANT team TO app;
CREATE ROLE deputy LOGIN IN ROLE app;
CREATE ROLE steward LOGIN IN ROLE base;
CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE maker LOGIN CREATEROLE;
CREATE ROLE proxy LOGIN NOINHERIT; GRANT app TO proxy;
"""
OWNERS = [
    ("postgres", "app", True),
    ("boss", "postgres", True),
    ("base", "app", True),
    ("base", "postgres", True),
    ("pg_database_owner", "app", True),
    ("steward", "app", True),
    ("app", "app", True),
    ("deputy", "app", True),
    ("team", "app", True),
    ("team", "deputy", True),
    ("stranger", "app", False),
    ("stranger", "postgres", False),
    ("stranger", "base", False),
    # A superuser counts as a member of every role.
    ("team", "postgres", False),
    ("app", "postgres", False),
    ("app", "stranger", False),
    ("team", "stranger", False),
    # Whoever makes a role may become it, but has none of its rights.
    ("made", "maker", False),
]

EVIL = """
CREATE FUNCTION evil() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION evil(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION evil_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE OPERATOR === (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text);
CREATE DOMAIN evil_text AS text CHECK (evil(VALUE));
CREATE TYPE evil_enum AS ENUM ('a');
"""
# What is done to a table, and what is told of it.
OBJECTIONS = [
    ("CREATE TRIGGER t BEFORE INSERT ON {} EXECUTE FUNCTION evil_trigger()", "trigger 't'"),
    ("CREATE RULE r AS ON INSERT TO {} DO ALSO SELECT evil()", "rule 'r'"),
    ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", "row security"),
    ("ALTER TABLE {} ADD x boolean DEFAULT evil()", "a default"),
    ("ALTER TABLE {} ADD x text DEFAULT current_setting('search_path')", "a default"),
    ("ALTER TABLE {} ADD x boolean GENERATED ALWAYS AS (evil('a')) STORED", "a default"),
    ("ALTER TABLE {} ADD CONSTRAINT c CHECK (evil())", "a check"),
    ("ALTER TABLE {} ADD CONSTRAINT c CHECK ('a' === 'a'::text)", "a check"),
    ("ALTER TABLE {} ADD CONSTRAINT c CHECK ('a'::text::evil_text IS NOT NULL)", "a check"),
    ("CREATE INDEX i ON {} (evil('a'))", "an index"),
    ("CREATE INDEX i ON {} ((1)) WHERE evil('a')", "an index"),
    ("ALTER TABLE {} ADD x evil_text", "a type"),
    ("ALTER TABLE {} ADD x evil_enum[]", "a type"),
    ("CREATE TABLE child () INHERITS ({})", "inherited"),
    ("CREATE TABLE parent (); ALTER TABLE {} INHERIT parent", "inherits"),
    ("GRANT TRIGGER ON {} TO stranger", "TRIGGER to 'stranger'"),
    ("GRANT REFERENCES ON {} TO PUBLIC", "REFERENCES to 'PUBLIC'"),
    ("GRANT ALL ON {} TO stranger", "to 'stranger'"),
    ("ALTER TABLE {} OWNER TO stranger", "belongs to 'stranger'"),
]
OF_ONE_TABLE = [
    ("CREATE TABLE other (k text REFERENCES pgroute.once ON DELETE CASCADE)", "with the table 'other'"),
    (
        "CREATE TABLE o (k text UNIQUE); ALTER TABLE pgroute.once ADD FOREIGN KEY (key) REFERENCES o (k) NOT VALID",
        "with the table 'o'",
    ),
    (
        "CREATE TYPE kind AS (key text); DROP TABLE pgroute.once; CREATE TABLE pgroute.once OF kind",
        "no plain table",
    ),
    ("GRANT REFERENCES (key) ON pgroute.once TO stranger", "REFERENCES to 'stranger'"),
    (
        "ALTER TABLE pgroute.once RENAME TO o; CREATE VIEW pgroute.once AS SELECT * FROM pgroute.o",
        "no plain table",
    ),
    (
        "ALTER TABLE pgroute.once RENAME TO o; CREATE TABLE pgroute.once (key text) PARTITION BY LIST (key)",
        "no plain table",
    ),
    ("ALTER SCHEMA pgroute OWNER TO stranger", "it belongs to 'stranger'"),
]
# What an operator may well do.
HARMLESS = [
    "ALTER TABLE pgroute.once ADD note text",
    "ALTER TABLE pgroute.once ADD counted bigint DEFAULT 0, ADD CHECK (counted >= 0)",
    "CREATE INDEX ON pgroute.once (at)",
    "ALTER TABLE pgroute.once SET (fillfactor = 70)",
    "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA pgroute TO PUBLIC",
    "GRANT ALL ON ALL TABLES IN SCHEMA pgroute TO base, boss, steward",
    "CREATE PUBLICATION p FOR TABLE pgroute.once",
]


class Place:
    """A database of the role base."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._conninfo = cluster.primary.conninfo
        self.dsn = dsn_with(cluster.dsn, dbname="to_trust")

    def connect(self, user: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """Connect to the primary."""
        options["application_name"] = "pgroute-testing"
        return psycopg.connect(self._conninfo, dbname="to_trust", user=user, autocommit=True, **options)

    def execute(self, sql: str, user: str = "postgres") -> None:
        """Run statements at the primary."""
        with self.connect(user) as conn:
            conn.execute(sql.encode())

    def give(self, owner: str) -> None:
        """Have the schema belong to a role."""
        tables = "".join(f"ALTER TABLE pgroute.{table} OWNER TO {owner};" for table in TABLES)
        self.execute(f"ALTER SCHEMA pgroute OWNER TO {owner}; {tables}")


def objections(conn: psycopg.Connection[Any], owner: str | None = None) -> str:
    """Return what is told of the schema, with all its objections."""
    asked = rows(ask(conn, EXAMINE, name="pgroute", owner=owner))
    assert {table for table, what, _ in asked if what is None} <= {table.encode() for table in TABLES}
    told = [[(value or b"").decode() for value in row] for row in asked if row[1] is not None]
    return "; ".join(f"{table or 'it'} {what} {name!r}" for table, what, name in told)


@pytest.fixture(scope="module")
def place(pgroute_shared_cluster: LocalCluster) -> Iterator[Place]:
    cluster = pgroute_shared_cluster
    execute = cluster.primary.execute
    execute(ROLES.replace(" LOGIN", f" LOGIN PASSWORD '{cluster.password}'"))
    place = Place(cluster)
    execute("CREATE DATABASE to_trust OWNER base")
    place.execute("CREATE ROLE made", "maker")
    cluster.catch_up()
    place.execute(EVIL)
    place.execute(f"{definition()} GRANT USAGE ON SCHEMA pgroute TO PUBLIC", "base")
    yield place
    execute("DROP DATABASE to_trust")
    execute("DROP ROLE proxy, deputy, steward, app, team, stranger, base, boss, made, maker")


@pytest.mark.parametrize(("owner", "user", "trusted"), OWNERS)
def test_the_owner_is_somebody_who_could_act_as_the_user_or_whom_the_database_trusts(
    place: Place, owner: str, user: str, trusted: bool
) -> None:
    place.give(owner)
    try:
        with place.connect(user) as conn:
            told = objections(conn)
            assert (told == "") is trusted
            assert trusted or told.count(f"belongs to {owner!r}") == 5
            assert objections(conn, owner) == ""
    finally:
        place.give("base")


def test_set_role_does_not_shield_a_superuser(place: Place) -> None:
    place.give("app")
    try:
        for user, trusted in (("boss", False), ("deputy", True), ("proxy", True), ("app", True)):
            with place.connect(user, options="-c role=app") as conn:
                assert (objections(conn) == "") is trusted
        with place.connect("proxy") as conn:
            assert "it belongs to 'app'" in objections(conn)
    finally:
        place.give("base")


def test_a_role_that_is_named_may_own_the_schema(place: Place) -> None:
    place.give("stranger")
    try:
        with (
            Router(place.dsn) as router,
            pytest.raises(ConfigError, match="it belongs to 'stranger'; the table"),
        ):
            router.install()
        with Router(place.dsn, schema_owner="stranger") as router:
            router.install()
            assert router.run(lambda _: 1, once="key") == 1
    finally:
        place.give("base")


@pytest.mark.parametrize("table", TABLES)
def test_whatever_could_run_in_a_table_is_found_and_named(place: Place, table: str) -> None:
    cases = [(done.format(f"pgroute.{table}"), told) for done, told in OBJECTIONS]
    with place.connect() as conn:
        assert objections(conn) == ""
        for done, told in cases + (OF_ONE_TABLE if table == "once" else []):
            with conn.transaction(force_rollback=True):
                conn.execute(done.encode())
                assert told in objections(conn), done
        assert objections(conn) == ""


def test_what_runs_nobodys_code_is_let_be(place: Place) -> None:
    with place.connect() as conn, conn.transaction(force_rollback=True):
        for done in HARMLESS:
            conn.execute(done.encode())
        for user in ("postgres", "app"):
            conn.execute(f"SET SESSION AUTHORIZATION {user}".encode())
            assert objections(conn) == ""
