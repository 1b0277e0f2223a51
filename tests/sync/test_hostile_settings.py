# Generated from tests/aio/test_hostile_settings.py by .ci/unasync.py: edit that file, not this one.
"""Whatever a role, a database, the environment or the program's adapters set, routing and exactly-once stay right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper

from pgroute import Router, CommitUnknown, HostState, PoolOptions
from pgroute.batch import BatchJob, Chunk, Keyset
from pgroute.core.model.roles import HostRole
from pgroute.testing import LocalCluster, Node
from tests.sync.counting import waiting
from tests.sync.replicas import OFTEN
from tests.sync.workload import key, primary, state
from tests.support import Background, call, eventually, dsn_with

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SETTINGS = (
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "hostile, pg_catalog"),
    ("search_path", "hostile"),
    ("search_path", "''"),
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("client_encoding", "EUC_JP"),
    ("datestyle", "German"),
    ("datestyle", "SQL, DMY"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Asia/Tokyo"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("client_min_messages", "error"),
    ("client_min_messages", "debug5"),
    ("statement_timeout", "2s"),
    ("lock_timeout", "50ms"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("standard_conforming_strings", "off"),
    ("escape_string_warning", "off"),
    ("backslash_quote", "off"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("row_security", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_nestloop", "off"),
    ("jit_above_cost", "0"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("lc_numeric", "C"),
    ("work_mem", "64kB"),
    ("from_collapse_limit", "1"),
    ("session_replication_role", "replica"),
    ("synchronous_commit", "off"),
    ("role", "other"),
    ("check_function_bodies", "off"),
    ("password_encryption", "md5"),
)
FEW = tuple(s for s in SETTINGS if s[0] in ("search_path", "client_encoding", "client_min_messages"))
DATABASES = {
    "postgres": SETTINGS,
    "ascii": FEW,
    # Between these two PostgreSQL has no conversion.
    "latin": tuple(setting for setting in FEW if setting != ("client_encoding", "EUC_JP")),
}

# Each would mislead whoever calls it without its schema, and so would the operators.
CLONES = """
CREATE SCHEMA hostile; GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT NOT pg_catalog.pg_is_in_recovery()';
CREATE FUNCTION hostile.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE sql AS $$SELECT '000000090000000000000001'$$;
CREATE FUNCTION hostile.pg_current_wal_lsn() RETURNS pg_lsn LANGUAGE sql AS $$SELECT '0/0'::pg_lsn$$;
CREATE FUNCTION hostile.pg_current_wal_insert_lsn() RETURNS pg_lsn LANGUAGE sql AS $$SELECT '0/0'::pg_lsn$$;
CREATE FUNCTION hostile.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE sql AS $$SELECT '0/0'::pg_lsn$$;
CREATE FUNCTION hostile.pg_control_checkpoint(OUT timeline_id int) LANGUAGE sql AS 'SELECT 9';
CREATE FUNCTION hostile.pg_control_recovery(OUT min_recovery_end_timeline int) LANGUAGE sql AS 'SELECT 9';
CREATE VIEW hostile.pg_stat_wal_receiver AS SELECT 9 AS received_tli;
CREATE FUNCTION hostile.pg_stat_get_wal_receiver(OUT received_tli int) LANGUAGE sql AS 'SELECT 9';
CREATE FUNCTION hostile.pg_last_wal_replay_lsn() RETURNS pg_lsn LANGUAGE sql AS $$SELECT '0/0'::pg_lsn$$;
CREATE FUNCTION hostile.pg_control_system(OUT system_identifier bigint) LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION hostile.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$;
CREATE FUNCTION hostile.substr(text, int, int) RETURNS text LANGUAGE sql AS $$SELECT '00000009'$$;
CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'nonsense'$$;
CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$;
CREATE FUNCTION hostile.hashtext(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'hashtext'; END $$;
CREATE FUNCTION hostile.to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass';
CREATE FUNCTION hostile.format_type(oid, int) RETURNS text LANGUAGE sql AS $$SELECT 'nonsense'$$;
CREATE FUNCTION hostile.never(anyelement, anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.never(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR hostile.= (FUNCTION = hostile.never, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR hostile.= (FUNCTION = hostile.never, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR hostile.< (FUNCTION = hostile.never, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR hostile.<= (FUNCTION = hostile.never, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR hostile.> (FUNCTION = hostile.never, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR hostile.< (FUNCTION = hostile.never, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE DOMAIN hostile.jsonb AS pg_catalog.jsonb CHECK (VALUE IS NULL);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (VALUE IS NULL);
CREATE TABLE hostile.pg_db_role_setting (setdatabase oid, setrole oid, setconfig int);
"""
TABLES = """
CREATE TABLE public.written (number bigint, who pg_catalog.text); GRANT ALL ON public.written TO PUBLIC;
INSERT INTO public.written SELECT n, 'source' FROM pg_catalog.generate_series(1, 25) n;
"""
RIGHTS = """
GRANT USAGE ON SCHEMA pgroute TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgroute TO PUBLIC;
"""


ROLES = """
CREATE ROLE other;
CREATE ROLE installer LOGIN SUPERUSER PASSWORD '{password}';
ALTER ROLE installer SET search_path = hostile, pg_catalog;
"""


def _role_with(number: int, name: str, value: str) -> str:
    given = value if name == "search_path" else f"'{value}'"
    return (
        f"CREATE ROLE {role(number)} LOGIN IN ROLE other PASSWORD '{{password}}'; "
        f"ALTER ROLE {role(number)} SET {name} = {given};"
    )


def role(number: int) -> str:
    """Return the name of the role that has a setting."""
    return f"role_{number}"


def dsn(cluster: LocalCluster, user: str, database: str = "postgres") -> str:
    """Return a DSN for a role and a database."""
    return dsn_with(cluster.dsn, user=user, dbname=database)


@pytest.fixture(scope="module")
def hostile() -> Iterator[LocalCluster]:
    """Give a primary and a standby with a role for each setting, and databases of three encodings."""
    settings = {"max_connections": "400"}
    with LocalCluster(1, settings=settings) as cluster:
        execute = cluster.primary.execute
        roles = ROLES + "".join(_role_with(number, *setting) for number, setting in enumerate(SETTINGS))
        execute(roles.replace("{password}", cluster.password))
        for name, encoding in (("ascii", "SQL_ASCII"), ("latin", "LATIN1")):
            execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        for name in DATABASES:
            with psycopg.connect(cluster.primary.conninfo, dbname=name, autocommit=True) as conn:
                conn.execute(TABLES)
                conn.execute(CLONES)
        cluster.catch_up()
        yield cluster


@pytest.fixture
def installed(hostile: LocalCluster) -> LocalCluster:
    """Give that cluster with the tables of pgroute, made by a role whose search_path is hostile."""
    for name in DATABASES:
        with Router(dsn(hostile, "installer", name)) as router:
            router.install()
            router.run(_grant)
    call(hostile.catch_up)
    return hostile


def _grant(conn: psycopg.Connection[Any]) -> None:
    psycopg.Cursor(conn).execute(RIGHTS)


class Body:
    """Writes a row, and returns what is not ASCII."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.runs = 0

    def __call__(self, conn: psycopg.Connection[Any]) -> dict[str, Any]:
        self.runs += 1
        psycopg.Cursor(conn).execute(
            f"INSERT INTO public.written VALUES (0, '{self.who}')".encode()
        )
        return {"Straße": [1, 2.5, None, "ü"]}


def check_routing(router: Router[Any], cluster: LocalCluster) -> None:
    """Fail unless both roles lead where they should, and everything is known of the hosts."""
    first, second = cluster.nodes
    with router.writer(5.0) as conn:
        assert conn.info.port == first.port
    with router.reader(5.0) as conn:
        assert conn.info.port == second.port
    eventually(lambda: all(host.timeline for host in router.topology.hosts))
    assert [host.role for host in router.topology.hosts] == [HostRole.PRIMARY, HostRole.STANDBY]
    one, other = router.topology.hosts
    assert one.system_id == other.system_id is not None
    assert None not in (one.started_at, other.started_at)
    assert one.started_at != other.started_at
    assert [host.reason for host in router.topology.hosts] == ["", ""]


def check_once(router: Router[Any], once: str) -> None:
    """Fail unless a body is applied once, its result kept as it is, and nothing that is young purged."""
    body = Body(once)
    for _ in range(2):
        assert router.run(body, once=once) == {"Straße": [1, 2.5, None, "ü"]}
    assert body.runs == 1
    assert router.purge_once_keys(100_000) == 0


@pytest.mark.parametrize("database", DATABASES)
def test_every_setting_is_routed_right_and_applied_once(installed: LocalCluster, database: str) -> None:
    for number, setting in enumerate(SETTINGS):
        if setting not in DATABASES[database]:
            continue
        try:
            with Router(dsn(installed, role(number), database)) as router:
                check_routing(router, installed)
                check_once(router, f"clé {number}")
        except BaseException as exc:
            exc.add_note(f"with {setting}")
            raise


@pytest.mark.parametrize("database", DATABASES)
def test_every_setting_reads_what_it_has_written(hostile: LocalCluster, database: str) -> None:
    for number, setting in enumerate(SETTINGS):
        if setting in DATABASES[database]:
            try:
                with Router(dsn(hostile, role(number), database), probe=OFTEN) as router:
                    check_reads(router, hostile)
            except BaseException as exc:
                exc.add_note(f"with {setting}")
                raise


def check_reads(router: Router[Any], cluster: LocalCluster) -> None:
    """Fail unless the standby, held to what was written and to an age, serves and is known to have it."""
    first, second = cluster.nodes
    eventually(lambda: all(host.lsn for host in router.topology.hosts))
    causal = router.causal()
    causal.run(Body("causal"))
    written = causal.position
    with causal.writer(5.0) as conn:
        assert conn.info.port == first.port
        psycopg.Cursor(conn).execute("INSERT INTO public.written VALUES (2, 'causal')")
    assert written is not None
    assert causal.position is not None
    assert (written.timeline, causal.position.timeline) == (1, 1)
    assert written.lsn < causal.position.lsn
    for reader in (
        causal.reader(5.0, wait=5.0),
        router.reader(5.0, after=causal.position, wait=5.0),
        router.reader(5.0, max_lag=2.0),
    ):
        with reader as conn:
            assert conn.info.port == second.port


def test_the_environments_options_are_routed_right(
    installed: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PGOPTIONS", "-c default_transaction_isolation=serializable -c search_path=hostile,pg_catalog"
    )
    for name, value in (("PGDATESTYLE", "German"), ("PGTZ", "Asia/Tokyo"), ("PGCLIENTENCODING", "LATIN1")):
        monkeypatch.setenv(name, value)
    with Router(installed.dsn) as router:
        check_routing(router, installed)
        check_once(router, "environment")


class AsText(Loader):
    """Numbers as text, for JavaScript."""

    def load(self, data: Any) -> str:
        return bytes(data).decode()


class AsWord(Loader):
    """Truth as words."""

    def load(self, data: Any) -> str:
        return "yes" if bytes(data) == b"t" else "no"


class Loud(Loader):
    """Text in capitals."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


class LoudDumper(StrDumper):
    """Text is sent in capitals."""

    def dump(self, obj: str) -> bytes:
        return obj.upper().encode()


class Unusable(psycopg.Cursor[Any]):
    """A cursor that nothing of the router's may go through."""

    def execute(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the router has used a cursor of the user's")


def adapted() -> AdaptersMap:
    """Return adapters that no statement of the router's could live with."""
    adapters = AdaptersMap(psycopg.adapters)
    for name in ("int2", "int4", "int8", "numeric", "timestamptz"):
        adapters.register_loader(name, AsText)
    adapters.register_loader("bool", AsWord)
    for name in ("text", "varchar", "json", "jsonb"):
        adapters.register_loader(name, Loud)
    adapters.register_dumper(str, LoudDumper)
    adapters.register_dumper(int, LoudDumper)
    return adapters


@pytest.mark.parametrize("database", DATABASES)
def test_the_programs_adapters_rows_and_cursors_play_no_part(
    installed: LocalCluster, database: str
) -> None:
    seen: list[Any] = []

    def note(_: psycopg.Connection[Any], chunk: Chunk) -> None:
        seen.extend(chunk.rows)

    kwargs: dict[str, Any] = {
        "context": adapted(),
        "row_factory": dict_row,
        "cursor_factory": Unusable,
    }
    with Router(dsn(installed, "installer", database), kwargs=kwargs) as router:
        check_routing(router, installed)
        check_once(router, f"adapted é {database}")
        source = Keyset(
            "SELECT number FROM public.written WHERE who OPERATOR(pg_catalog.=) 'source'", key="number"
        )
        for given, name in ((source, "keys é"), (range(25), "items é")):
            report = BatchJob(router, name, given, chunk_size=10).run(note)
            assert (report.rows, report.chunks, report.finished) == (25, 3, True)
    assert [row["number"] for row in seen[:25]] == [str(n) for n in range(1, 26)]
    assert seen[25:] == list(range(25))


def test_text_keys_of_a_database_without_an_encoding_are_cut_and_read(installed: LocalCluster) -> None:
    names = ["Ä", "Ö", "a%b", "it's", "Ü\\"]

    def note(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
        where = chunk.where
        assert where is not None
        cursor = psycopg.Cursor(conn)
        cursor.execute(psycopg.sql.SQL("UPDATE public.named SET done = true WHERE {}").format(where))

    conninfo = f"{installed.primary.conninfo} dbname=ascii"
    with psycopg.Connection.connect(conninfo, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.named (name text PRIMARY KEY, done boolean DEFAULT false)")
        for name in names:
            conn.execute("INSERT INTO public.named VALUES (%s)", [name])
        with Router(dsn(installed, "postgres", "ascii")) as router:
            job = BatchJob(router, "names", Keyset("SELECT name FROM named", key="name"), chunk_size=2)
            assert (job.run(note)).rows == len(names)
        cursor = conn.execute("SELECT count(*) FROM named WHERE done")
        assert cursor.fetchone() == (len(names),)
        conn.execute("DROP TABLE named")


def test_a_result_that_the_database_cannot_hold_is_refused_in_words(installed: LocalCluster) -> None:
    def body(_: psycopg.Connection[Any]) -> str:
        return "日本"

    for database in ("postgres", "ascii"):
        with Router(dsn(installed, "postgres", database)) as router:
            assert router.run(body, once="wide") == "日本"
    with Router(dsn(installed, "postgres", "latin")) as router:
        with pytest.raises(TypeError, match="cannot be stored as PostgreSQL's JSON"):
            router.run(body, once="wide")
    for encoding in ("LATIN1", "SQL_ASCII"):
        kwargs = {"client_encoding": encoding}
        with Router(dsn(installed, "postgres"), kwargs=kwargs) as router:
            assert router.run(body, once="wide") == "日本"
            assert router.run(body, once=encoding) == "日本"


def test_an_unconfirmed_commit_is_told_in_any_encoding(synchronous_pair: LocalCluster) -> None:
    node, standby = synchronous_pair.nodes
    known = [name for (name,) in node.execute("SELECT datname FROM pg_database")]
    if "unconfirmed" not in known:
        node.execute("CREATE DATABASE unconfirmed ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    target = dsn(synchronous_pair, "postgres", "unconfirmed")
    options = PoolOptions(settings={"client_min_messages": "error"})
    with Router(target, writer=options) as router, Background() as background:
        with router.writer(5.0) as conn:
            conn.execute("CREATE TABLE IF NOT EXISTS written (number int)")
        standby.freeze()
        try:
            task = background.start(router.run, _write)
            [(pid, _)] = eventually(lambda: waiting(node, "SyncRep"))
            node.execute("SELECT pg_cancel_backend(%s)", [pid])
            with pytest.raises(CommitUnknown, match="no synchronous standby has confirmed"):
                task.result()
        finally:
            standby.thaw()


def _write(conn: psycopg.Connection[Any]) -> None:
    conn.execute("INSERT INTO written VALUES (1)")


def test_a_probe_waits_for_nobody_under_deferrable_defaults(shared: LocalCluster, table: str) -> None:
    node = shared.primary
    node.execute(f"CREATE ROLE reports_{table} LOGIN PASSWORD '{shared.password}'")
    for default in ("isolation = serializable", "read_only = on", "deferrable = on"):
        node.execute(f"ALTER ROLE reports_{table} SET default_transaction_{default}")
    try:
        with psycopg.connect(node.conninfo) as other:
            other.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            other.execute(f"INSERT INTO {table} VALUES (1)")
            with Router(dsn_with(shared.dsn, user=f"reports_{table}")) as router:
                eventually(lambda: state(router, node) is HostState.UP)
    finally:
        node.execute(f"DROP ROLE reports_{table}")


def _where(conn: psycopg.Connection[Any]) -> int:
    psycopg.Cursor(conn).execute("INSERT INTO public.written VALUES (1, 'after')")
    return conn.info.port


def _settled(router: Router[Any], old: Node) -> None:
    eventually(lambda: state(router, old) is HostState.STALE)


@pytest.mark.long
def test_every_setting_survives_a_failover_and_an_old_primary_that_comes_back(
    installed: LocalCluster,
) -> None:
    old, _ = installed.nodes
    routers = {}
    try:
        for number, setting in enumerate(SETTINGS):
            routers[setting] = Router(dsn(installed, role(number)), probe=OFTEN)
            routers[setting].open()
        for router in routers.values():
            router.wait()
        old.kill()
        new = call(installed.promote)
        for setting, router in routers.items():
            assert router.run(_where) == new.port, setting
        old.start()
        for setting, router in routers.items():
            _settled(router, old)
            assert primary(router) == key(new), setting
            assert router.topology.highest_timeline == 2, setting
            assert router.run(_where) == new.port, setting
    finally:
        for router in routers.values():
            router.close()
    call(old.rejoin, new)
