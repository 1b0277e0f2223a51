"""No statement of ours means anything but PostgreSQL's own objects, whatever is created in the schemas on the path.

A schema ahead of pg_catalog holds a clone of every operator, and of each function, type and relation whose name stands
anywhere in the source of the package, with the very signatures that PostgreSQL's own have. The server logs how it has
understood each statement (debug_print_parse), also in branches that are not evaluated; no clone may be found there.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgroute
from pgroute import PoolOptions, Router
from pgroute.batch import BatchJob, Chunk, Keyset
from pgroute.cli import main
from pgroute.core.sql.schema import definition
from pgroute.core.sql.statements import qualify
from pgroute.testing import LocalCluster, Node
from tests.support import dsn_with

pytestmark = pytest.mark.cluster

PACKAGE = Path(pgroute.__file__).parent
# They speak to servers of their own making, with PostgreSQL's default path.
APART = ("testing", "demo")

CLONES = """
DO $do$
DECLARE
    body text := $$BEGIN RAISE LOG 'hijacked: called'; RAISE EXCEPTION 'hijacked'; END$$;
    words text[] := %s;
    it record;
    kind text;
    form text;
BEGIN
    -- What is declared for any type cannot be cloned as such.
    FOR it IN SELECT proname, pg_get_function_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result
                FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p'
                 AND proname = ANY (words) LOOP
        FOREACH kind IN ARRAY CASE WHEN it.args ~ '"any"'
                              THEN ARRAY['text', 'name', 'int', 'bigint', 'bool', 'numeric', 'anyelement']
                              ELSE ARRAY[''] END LOOP
            FOREACH form IN ARRAY CASE WHEN it.args ~ 'VARIADIC "any"'
                                  THEN ARRAY[kind, kind || ',' || kind, 'VARIADIC ' || kind || '[]']
                                  ELSE ARRAY[kind] END LOOP
                BEGIN
                    EXECUTE format('CREATE FUNCTION hostile.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS %%L', it.proname,
                        replace(regexp_replace(it.args, '(VARIADIC )?"any"', form), 'anyelement[]', 'anyarray'),
                        it.result, body);
                EXCEPTION WHEN OTHERS THEN NULL;
                END;
            END LOOP;
        END LOOP;
    END LOOP;
    FOR it IN SELECT o.oid, oprname, oprresult::regtype AS result,
                     nullif(oprleft, 0)::regtype AS lhs, oprright::regtype AS rhs
                FROM pg_operator o WHERE oprnamespace = 'pg_catalog'::regnamespace LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION hostile.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS %%L', 'op_' || it.oid,
                concat_ws(',', it.lhs, it.rhs), it.result, body);
            EXECUTE format('CREATE OPERATOR hostile.%%s (FUNCTION = hostile.%%I, %%s RIGHTARG = %%s)', it.oprname,
                'op_' || it.oid, 'LEFTARG = ' || it.lhs || ',', it.rhs);
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $do$;
"""
# In a schema, or among the temporary objects of a session, which come first.
SHADOWS = """
DO $do$
DECLARE
    words text[] := %s;
    it record;
BEGIN
    FOR it IN SELECT typname AS name FROM pg_type
               WHERE typnamespace = 'pg_catalog'::regnamespace AND typname = ANY (words)
                 AND typtype = 'b' LOOP
        EXECUTE format('CREATE DOMAIN %s.%%I AS pg_catalog.%%I CHECK (VALUE IS NULL)', it.name, it.name);
    END LOOP;
    FOR it IN SELECT relname AS name FROM pg_class
               WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY (words)
                 AND relkind IN ('r', 'v') LOOP
        EXECUTE format('CREATE VIEW %s.%%I AS SELECT 1 AS hijacked', it.name);
    END LOOP;
END $do$;
"""
OF_SCHEMA = """
SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = {0} UNION
SELECT oid FROM pg_catalog.pg_operator WHERE oprnamespace = {0} UNION
SELECT oid FROM pg_catalog.pg_type WHERE typnamespace = {0} UNION
SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = {0}
"""
HOSTILE = OF_SCHEMA.format("'hostile'::regnamespace")
TEMPORARY = OF_SCHEMA.format("pg_my_temp_schema()")
EASY = ["SELECT format('%s', 1)", "SELECT 1 + 1", "SELECT 2 BETWEEN 1 AND 3", "SELECT 2 IN (1, 2)", "SELECT 'a'::name",
        "SELECT FROM pg_class LIMIT 0", "SELECT CASE WHEN true THEN 1 ELSE length('a') END",
        "SELECT * FROM unnest('{1}'::int[])", "SELECT 'a' LIKE 'b'", "SELECT count(1)"]  # fmt: skip

TABLES = """
DROP SCHEMA IF EXISTS pgroute CASCADE;
DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC;
CREATE DOMAIN public.label AS text; CREATE TYPE public.mood AS ENUM ('1', '2', '3', '4', '5');
CREATE TYPE public.own;
CREATE FUNCTION public.own_in(cstring) RETURNS public.own LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION public.own_out(public.own) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE public.own (INPUT = public.own_in, OUTPUT = public.own_out, LIKE = int4);
CREATE FUNCTION public.own_cmp(public.own, public.own) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
{comparisons}
CREATE OPERATOR CLASS public.own_ops DEFAULT FOR TYPE public.own USING btree AS OPERATOR 1 public.<,
    OPERATOR 2 public.<=, OPERATOR 3 public.=, OPERATOR 4 public.>=, OPERATOR 5 public.>,
    FUNCTION 1 public.own_cmp(public.own, public.own);
CREATE TABLE public.item (
    id int, name text, label public.label, labels public.label[], mood public.mood, own public.own
);
INSERT INTO public.item SELECT n, n, n, ARRAY[n::text], n::text::public.mood, n::text::public.own
  FROM generate_series(1, 5) n;
CREATE FUNCTION hostile.own(public.own, public.own) RETURNS bool LANGUAGE plpgsql AS
    $$BEGIN RAISE LOG 'hijacked: called'; RAISE EXCEPTION 'hijacked'; END$$;
CREATE OPERATOR hostile.> (FUNCTION = hostile.own, LEFTARG = public.own, RIGHTARG = public.own);
CREATE OPERATOR hostile.<= (FUNCTION = hostile.own, LEFTARG = public.own, RIGHTARG = public.own);
""".format(comparisons="".join(
    f"CREATE FUNCTION public.own_{name}(public.own, public.own) RETURNS bool LANGUAGE internal IMMUTABLE STRICT"
    f" AS 'int4{name}'; CREATE OPERATOR public.{sign} (FUNCTION = public.own_{name}, LEFTARG = public.own,"
    " RIGHTARG = public.own);"
    for name, sign in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">"))
))  # fmt: skip
OF_AURORA = b"""
SET LOCAL allow_system_table_mods = on;
CREATE FUNCTION pg_catalog.aurora_replica_status() RETURNS TABLE (
    server_id pg_catalog.text, session_id pg_catalog.text, replica_lag_in_msec pg_catalog.float8,
    last_update_timestamp pg_catalog.timestamptz
) LANGUAGE sql AS $$
    VALUES ('a'::pg_catalog.text, 'b'::pg_catalog.text, '1'::pg_catalog.float8, pg_catalog.now())
$$
"""
"""What Aurora has and PostgreSQL has not."""
STATEMENT = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|SHOW|CREATE|GRANT|FETCH|CLOSE|DECLARE|MOVE|SET|DISCARD|DO)\b[^.]"
)


def words() -> str:
    """Return all words of the source as an array's constant."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        found.update(re.findall(r"[a-z_][a-z0-9_]*", path.read_text("utf-8")))
    return "'{" + ",".join(sorted(found)) + "}'"


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of a module."""
    kind = type(value)  # isinstance() would read Django's settings, and there are none
    if issubclass(kind, (tuple, list, set, frozenset)):
        for item in value:
            yield from texts(item)
    elif issubclass(kind, dict):
        yield from texts(tuple(value.values()))
    elif issubclass(kind, bytes):
        yield value.decode("latin-1")
    elif issubclass(kind, str):
        yield value


def statements() -> list[str]:
    """Return what looks like SQL in the package: values of the modules, and constants in functions."""
    values: list[Any] = []
    for module in pkgutil.walk_packages([str(PACKAGE)], "pgroute."):
        if not (set(APART) & set(module.name.split(".")) or module.name.endswith("__main__")):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                values += vars(importlib.import_module(module.name)).values()
    for path in PACKAGE.rglob("*.py"):
        if not set(APART) & set(path.relative_to(PACKAGE).parts):
            tree = ast.parse(path.read_text("utf-8"))
            parts = {
                id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
            }
            values += [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and id(node) not in parts
            ]
    return list(dict.fromkeys(filter(STATEMENT.match, texts(values))))


class Trap:
    """A database whose superuser boss has the clones first on its path; what he runs is understood in the log."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.dsn = dsn_with(cluster.dsn, dbname="to_trap", user="boss")
        self.words = words()
        self._seen = {node.name: 0 for node in cluster.nodes}
        with self.connect("mallory", options="") as conn:
            conn.execute("CREATE SCHEMA hostile; GRANT USAGE ON SCHEMA hostile TO PUBLIC")
            conn.execute(CLONES.replace("%s;", self.words + ";", 1).replace("%%", "%").encode())
            conn.execute(self._shadows("hostile"))
        with self.connect("postgres", options="") as conn:
            self.clones = {oid for (oid,) in conn.execute(HOSTILE.encode())}
        self.temporary: set[int] = set()

    def _shadows(self, schema: str) -> bytes:
        text = SHADOWS.replace("%s;", self.words + ";", 1).replace("%s.", f"{schema}.")
        return text.replace("%%", "%").encode()

    def connect(self, user: str, **options: Any) -> psycopg.Connection[Any]:
        """Connect to the primary."""
        options["application_name"] = "pgroute-testing"
        conninfo = self.cluster.primary.conninfo
        return psycopg.connect(conninfo, dbname="to_trap", user=user, autocommit=True, **options)

    def shadow(self, conn: psycopg.Connection[Any]) -> None:
        """Make temporary clones of types and relations; to configure a connection."""
        cursor = psycopg.Cursor(conn)
        cursor.execute("SET search_path = ''")
        cursor.execute(self._shadows("pg_temp"))
        self.temporary |= {oid for (oid,) in cursor.execute(TEMPORARY.encode())}
        cursor.execute("RESET search_path")
        conn.commit()

    def news(self, node: Node) -> str:
        """Return what a node has logged since the last time."""
        with node.log_path.open("rb") as log:
            log.seek(self._seen[node.name])
            news = log.read()
        self._seen[node.name] += len(news)
        return news.decode("utf-8", "replace")

    def caught(self, *nodes: Node) -> str:
        """Return a clone that was meant by a statement since the last time, "" if none was."""
        for node in nodes or self.cluster.nodes:
            news = self.news(node)
            if "hijacked: called" in news:
                return news[news.index("hijacked: called") :][:2000]
            for tree in re.findall(r"DETAIL: +({QUERY.*?)\n(?=\S)", news, re.DOTALL):
                meant = {int(number) for number in re.findall(r"(?<=\s)\d{5,}(?=[\s)}])", tree)}
                if meant & (self.clones | self.temporary):
                    return f"{meant & (self.clones | self.temporary)} in {tree[:3000]}"
        return ""


@pytest.fixture(scope="module")
def trap(pgroute_shared_cluster: LocalCluster) -> Iterator[Trap]:
    cluster = pgroute_shared_cluster
    execute = cluster.primary.execute
    execute(f"CREATE ROLE mallory LOGIN PASSWORD '{cluster.password}'")
    execute(f"CREATE ROLE boss LOGIN SUPERUSER PASSWORD '{cluster.password}'")
    execute("CREATE DATABASE to_trap")
    execute("GRANT CREATE ON DATABASE to_trap TO mallory")
    for setting in (
        "search_path = hostile, pg_catalog",
        "debug_print_parse = on",
        "debug_pretty_print = off",
    ):
        execute(f"ALTER ROLE boss IN DATABASE to_trap SET {setting}")
    trap = Trap(cluster)
    cluster.catch_up()
    yield trap
    execute("DROP DATABASE to_trap")
    execute("DROP ROLE mallory; DROP ROLE boss")


def test_the_trap_catches_what_is_not_qualified(trap: Trap) -> None:
    with trap.connect("boss") as conn:
        trap.caught()
        for sql in EASY:
            with contextlib.suppress(psycopg.Error):
                conn.execute(sql.encode())
            assert trap.caught(trap.cluster.primary), sql
        trap.shadow(conn)
        trap.caught()
        with contextlib.suppress(psycopg.Error):
            conn.execute("SELECT '1'::oid")
        assert trap.caught(trap.cluster.primary)


def test_every_statement_of_the_package_means_postgresqls_own_objects(trap: Trap) -> None:
    understood, failed = 0, []
    with trap.connect("boss") as conn:
        trap.shadow(conn)
        with conn.transaction(force_rollback=True):
            psycopg.ClientCursor(conn).execute(definition("pgroute").encode())
            psycopg.ClientCursor(conn).execute(OF_AURORA)
            for text in statements():
                statement = re.sub(r"%\(schema\)s|\{schema\}", "pgroute", text)
                statement = re.sub(r"%\(\w+\)s|%s", "NULL", statement).replace("%%", "%")
                trap.caught()
                try:
                    with conn.transaction(force_rollback=True):
                        psycopg.ClientCursor(conn).execute(qualify(statement))
                except (psycopg.errors.SyntaxError, psycopg.errors.UndefinedParameter):
                    continue  # a part of one
                except psycopg.Error as exc:
                    if (exc.sqlstate or "42").startswith("42"):
                        failed.append(f"{exc} in {text}")
                if caught := trap.caught(trap.cluster.primary):
                    failed.append(f"{text} means {caught}")
                understood += 1
    assert failed == []
    assert understood > 40


@pytest.mark.parametrize("temporary", [False, True])
def test_nothing_is_hijacked_in_use(trap: Trap, temporary: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with trap.connect("postgres") as conn:
        conn.execute(TABLES.encode())
    trap.cluster.catch_up()
    trap.caught()
    options = PoolOptions(configure=trap.shadow) if temporary else PoolOptions(reset="discard")
    with Router(trap.dsn, writer=replace(options, max_size=1)) as router:
        router.install()
        for _ in range(2):
            assert router.run(lambda _: {"a": 1}, once="key") == {"a": 1}
        assert router.purge_once_keys(86400) == 0
        with router.reader() as conn:
            psycopg.Cursor(conn).execute("SHOW search_path")

        def fail_at_first(_: psycopg.Connection[Any], chunk: Chunk) -> None:
            if chunk.number == 0:
                raise ValueError

        for name, source in (
            ("items", [1, 2, 3]),
            ("a number", Keyset("SELECT id FROM public.item", "id")),
            ("a text", Keyset("SELECT name FROM public.item", "name")),
            ("both", Keyset("SELECT id, name FROM public.item", ("id", "name"))),
            ("a domain", Keyset("SELECT label FROM public.item", "label")),
            ("an array", Keyset("SELECT labels FROM public.item", "labels")),
            ("a type with operators of its own", Keyset("SELECT own FROM public.item", "own")),
            ("an enum", Keyset("SELECT mood FROM public.item", "mood")),
        ):
            job = BatchJob(router, name, source, chunk_size=2, on_error="reject")
            assert job.run(fail_at_first).rejected == 1
            assert job.run(fail_at_first).finished
    for command in (["install"], ["batch", "list"], ["batch", "show"], ["batch", "reset", "--yes"]):
        arguments = [trap.dsn] if command[-1] in ("install", "list") else [trap.dsn, "items"]
        assert main([*command, *arguments]) in (0, 1), capsys.readouterr()
    assert not trap.caught()


def test_the_tables_use_postgresqls_own_objects_alone(trap: Trap) -> None:
    with trap.connect("boss") as conn, conn.transaction(force_rollback=True):
        psycopg.ClientCursor(conn).execute(definition("made_by_boss").encode())
        depends = psycopg.ClientCursor(conn).execute(
            b"SELECT pg_catalog.count(*) FROM pg_catalog.pg_depend AS d, pg_catalog.pg_class AS c,"
            b" pg_catalog.pg_namespace AS n WHERE c.oid OPERATOR(pg_catalog.=) d.objid"
            b" AND n.oid OPERATOR(pg_catalog.=) c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) 'made_by_boss'"
            b" AND d.refobjid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])",
            ["{" + ",".join(map(str, trap.clones)) + "}"],
        )
        assert depends.fetchone() == (0,)
