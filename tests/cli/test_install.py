"""The command that makes the tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from pgroute.testing import LocalCluster
from tests.support import dsn_with

pytestmark = pytest.mark.cluster


def pgroute(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgroute", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def dsn(shared: LocalCluster) -> Iterator[str]:
    """A DSN that leads to a database of this test's own."""
    shared.primary.execute("CREATE DATABASE to_install")
    shared.primary.execute(f"CREATE ROLE nobody_here LOGIN PASSWORD '{shared.password}'")
    shared.catch_up()
    yield dsn_with(shared.dsn, dbname="to_install")
    shared.primary.execute("DROP DATABASE to_install")
    shared.primary.execute("DROP ROLE nobody_here")


def test_it_makes_the_tables_and_tells_the_rights_that_they_need(shared: LocalCluster, dsn: str) -> None:
    for _ in range(2):
        done = pgroute("install", dsn)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"database to_install at 127.0.0.1:{shared.primary.port}" in done.stdout
        assert "GRANT SELECT, INSERT, UPDATE ON pgroute.once TO your_role;" in done.stdout


def test_who_may_not_is_told_by_the_server(dsn: str) -> None:
    done = pgroute("install", dsn_with(dsn, user="nobody_here"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "permission denied for database to_install" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_name_of_a_database_is_shown_and_not_obeyed(shared: LocalCluster) -> None:
    shared.primary.execute('CREATE DATABASE "to \x1b[2J install"')
    try:
        done = pgroute("install", f"{shared.dsn.rpartition('/')[0]}/to%20%1B%5B2J%20install")
        assert (done.returncode, done.stderr) == (0, "")
        assert 'database "to \\x1b[2J install"' in done.stdout
        assert "\x1b" not in done.stdout
    finally:
        shared.primary.execute('DROP DATABASE "to \x1b[2J install"')


def test_without_a_primary_it_says_which_hosts_there_are() -> None:
    done = pgroute("install", "postgresql://app:secret@127.0.0.1:1/shop", "--timeout", "0.5")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_dsn_that_cannot_be_used_is_named() -> None:
    done = pgroute("install", "postgresql://a:0/")
    assert done.returncode == 2
    assert "invalid port" in done.stderr


def test_the_sql_can_be_had_without_a_server(dsn: str) -> None:
    done = pgroute("install", "--sql")
    assert done.returncode == 0
    with psycopg.connect(dsn, target_session_attrs="primary", autocommit=True) as conn:
        conn.execute(done.stdout.replace("your_role", "nobody_here"))
        assert conn.execute("SELECT to_regclass('pgroute.once')::text").fetchone() == ("pgroute.once",)
        conn.execute("DROP OWNED BY nobody_here")
