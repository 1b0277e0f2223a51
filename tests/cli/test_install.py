"""The command that makes the tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from pgroute.cli import main
from pgroute.testing import LocalCluster
from tests.support import dsn_with

pytestmark = pytest.mark.cluster


def pgroute(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgroute", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which is quicker."""
    status = main(arguments)
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


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
        done = pgroute("install", dsn_with(shared.dsn, dbname="to \x1b[2J install"))
        assert (done.returncode, done.stderr) == (0, "")
        assert 'database "to \\x1b[2J install"' in done.stdout
        assert "\x1b" not in done.stdout
    finally:
        shared.primary.execute('DROP DATABASE "to \x1b[2J install"')


def test_an_application_has_a_schema_of_its_own(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, "install", dsn, "--schema", "Shop's %s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The schema Shop's %s exists" in done.stdout
    assert 'GRANT SELECT, INSERT, UPDATE ON U&"Shop\'s \\+000025s".once TO your_role;' in done.stdout
    with psycopg.connect(dsn, target_session_attrs="primary", autocommit=True) as conn:
        # What it says is what there is.
        rights = done.stdout.partition("\n\n")[2].replace("your_role", "nobody_here")
        conn.execute(f"{rights}; DROP OWNED BY nobody_here".encode())
    for name in ("pg_temp", "", "x" * 64):
        done = here(capsys, "install", dsn, "--schema", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"invalid schema {name!r}" in done.stderr


def test_a_schema_of_somebody_else_is_refused_unless_he_is_named(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(dsn, target_session_attrs="primary", autocommit=True) as conn:
        conn.execute("CREATE SCHEMA pgroute AUTHORIZATION nobody_here")
        done = here(capsys, "install", dsn)
        assert (done.returncode, done.stdout) == (2, "")
        assert "it belongs to 'nobody_here'" in done.stderr
        assert "Traceback" not in done.stderr
        assert here(capsys, "install", dsn, "--schema-owner", "nobody_here").returncode == 0
        assert here(capsys, "batch", "list", dsn, "--schema-owner", "nobody_here").stdout == "no jobs\n"
        refused = here(capsys, "batch", "list", dsn)
        assert refused.returncode == 2
        assert "it belongs to 'nobody_here'" in refused.stderr
        conn.execute("DROP SCHEMA pgroute CASCADE")


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
        # A schema that is there is not taken for one's own.
        with pytest.raises(psycopg.errors.DuplicateSchema):
            conn.execute(done.stdout.replace("your_role", "nobody_here"))
        conn.execute("DROP OWNED BY nobody_here")
