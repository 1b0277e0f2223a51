# Generated from tests/aio/test_install.py by .ci/unasync.py: edit that file, not this one.
"""The schema of pgroute: made once, by whoever may, and used with no more rights than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import Router, ConfigError, RetryPolicy
from pgroute.batch import BatchJob
from pgroute.core.sql.schema import definition, rights
from pgroute.testing import LocalCluster
from tests.support import Background

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

TABLES = (
    "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class"
    " WHERE relnamespace = to_regnamespace('pgroute') AND relkind = 'r'"
)
ALL = "batch_chunk batch_job batch_reject once"


@pytest.fixture
def database(shared: LocalCluster) -> Iterator[str]:
    """The name of a database of this test's own."""
    shared.primary.execute("CREATE DATABASE of_this_test")
    shared.catch_up()
    yield "of_this_test"
    shared.primary.execute("DROP DATABASE of_this_test")


@pytest.fixture
def role(shared: LocalCluster) -> Iterator[str]:
    """The name of a role of this test's own without any rights."""
    shared.primary.execute(f"CREATE ROLE of_this_test LOGIN PASSWORD '{shared.password}'")
    shared.catch_up()
    yield "of_this_test"
    shared.primary.execute("DROP ROLE of_this_test")


def ask(conn: Connection, sql: str) -> Any:
    row = (conn.execute(sql)).fetchone()
    assert row is not None
    return row[0]


def test_installing_twice_and_at_once_is_harmless(shared: LocalCluster, database: str) -> None:
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        assert router.run(ask, TABLES) is None
        with Background() as background:
            for handle in [background.start(router.install) for _ in range(4)]:
                handle.result()
        assert router.run(ask, TABLES) == ALL
        router.run(ask, "SELECT 7", once="kept")
        router.install()
        assert router.run(ask, "SELECT 8", once="kept") == 7


COLLATIONS = (
    "SELECT string_agg(DISTINCT collname, ' ') FROM pg_attribute JOIN pg_collation ON attcollation = pg_collation.oid"
    " WHERE attrelid = ANY ('{pgroute.once,pgroute.batch_job,pgroute.batch_chunk,pgroute.batch_reject}'::regclass[])"
    " AND attname = ANY ('{key,job}')"
)


def test_no_index_depends_on_the_order_of_a_language(shared: LocalCluster, database: str) -> None:
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        router.install()
        assert router.run(ask, COLLATIONS) == "C"


def test_tables_that_sort_by_a_language_serve_as_they_are(shared: LocalCluster, database: str) -> None:
    made = definition().replace(' COLLATE pg_catalog."C"', "")
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        router.run(execute, made)
        router.install()
        assert router.run(ask, COLLATIONS) == "default"
        job = BatchJob(router, "job", [1, 2], chunk_size=1, on_error="reject")
        assert (job.run(refuse)).rejected == 2
        for table in ("batch_job", "batch_chunk", "batch_reject"):
            router.run(execute, f'ALTER TABLE pgroute.{table} ALTER job TYPE text COLLATE "C"')
        router.run(execute, 'ALTER TABLE pgroute.once ALTER key TYPE text COLLATE "C"')
        assert router.run(ask, COLLATIONS) == "C"
        assert (job.run(refuse)).skipped == 2
        assert (BatchJob(router, "other", [1]).run(nothing)).rows == 1


def test_without_the_tables_nothing_is_done_and_the_error_says_what_to_do(
    shared: LocalCluster, database: str
) -> None:
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        with pytest.raises(ConfigError, match="pgroute install"):
            router.run(ask, "CREATE TABLE made () RETURNING 1", once="key")
        with pytest.raises(ConfigError, match="pgroute install"):
            router.purge_once_keys(86400)
        assert router.run(ask, "SELECT to_regclass('made')") is None


def test_the_rights_that_are_told_are_enough_and_none_too_many(
    shared: LocalCluster, database: str, role: str
) -> None:
    options = {"dbname": database, "user": role}
    with Router(shared.dsn, kwargs={"dbname": database}) as owner:
        with Router(shared.dsn, kwargs=options) as plain:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain.install()
        owner.install()
        grants = [line for line in rights(role).splitlines() if line.startswith("GRANT")]
        with Router(shared.dsn, kwargs=options) as plain:
            for left_out in range(2):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    plain.run(ask, "SELECT 1", once="key")
                owner.run(execute, grants[left_out])
            plain.install()
            assert plain.run(ask, "SELECT 1", once="key") == 1
            assert plain.run(ask, "SELECT 2", once="key") == 1
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain.purge_once_keys(86400)
            owner.run(execute, grants[-1])
            assert plain.purge_once_keys(86400) == 0
            job = BatchJob(plain, "job", [1, 2], chunk_size=1, on_error="reject")
            for left_out in range(2, 5):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    job.run(refuse)
                owner.run(execute, grants[left_out])
            assert (job.run(refuse)).rejected == 2
        owner.run(execute, f"DROP OWNED BY {role}")


def refuse(_: Connection, __: Any) -> None:
    raise ValueError


def nothing(_: Connection, __: Any) -> None:
    """Do nothing."""


def execute(conn: Connection, sql: str) -> None:
    conn.execute(sql)


def test_old_keys_can_be_forgotten_and_young_ones_cannot(shared: LocalCluster, database: str) -> None:
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        router.install()
        assert router.run(ask, "SELECT 1", once="old") == 1
        assert router.run(ask, "SELECT 1", once="young") == 1
        router.run(execute, "UPDATE pgroute.once SET at = at - interval '1 hour' WHERE key = 'old'")
        with pytest.raises(ConfigError, match="at least 30 seconds"):
            router.purge_once_keys(29)
        assert router.purge_once_keys(1800) == 1
        assert router.run(ask, "SELECT 2", once="old") == 2
        assert router.run(ask, "SELECT 2", once="young") == 1


def test_the_longest_time_that_a_call_may_try_bounds_what_is_forgotten(
    shared: LocalCluster, database: str
) -> None:
    with Router(shared.dsn, kwargs={"dbname": database}) as router:
        router.install()
        assert router.purge_once_keys(30) == 0
        router.run(ask, "SELECT 1", once="a", timeout=60)
        with pytest.raises(ConfigError, match="at least 60 seconds"):
            router.purge_once_keys(30)
        endless = RetryPolicy(stop=tenacity.stop_never)
        router.run(ask, "SELECT 1", once="a", retry=endless)
        with pytest.raises(ConfigError, match="at least 86400 seconds"):
            router.purge_once_keys(60)
        assert router.purge_once_keys(86400) == 0
