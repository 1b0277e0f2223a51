"""Each example runs with one command, on a cluster of its own and on a given DSN."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import psycopg
import pytest

from tests.examples.application import ROOT, leftovers


def start(*command, env=None):
    """Run Python with these arguments to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def run(name, *arguments):
    """Run an example and return what it printed."""
    done = start(f"examples/{name}", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def node(pgroute_shared_cluster):
    return pgroute_shared_cluster.nodes[0]


def test_quickstart_starts_its_own_cluster_and_survives_its_primary():
    done = start("examples/quickstart.py")
    assert (done.returncode, done.stderr) == (0, "")
    [old] = re.findall(r"wrote \[\('assam',\), \('keemun',\)\] to the primary, port (\d+)", done.stdout)
    assert re.search(r"read from port \d+, a standby: True", done.stdout)
    assert "a reader cannot write: cannot execute CREATE TABLE in a read-only transaction" in done.stdout
    assert "the primary was killed, a standby was promoted" in done.stdout
    [new] = re.findall(r"run\(\) wrote to the primary, port (\d+)", done.stdout)
    assert re.search(rf"^127.0.0.1:{old} +primary +down ", done.stdout, re.MULTILINE)
    assert re.search(rf"^127.0.0.1:{new} +primary +up ", done.stdout, re.MULTILINE)


def test_quickstart_takes_a_dsn_and_leaves_nothing_there(pgroute_shared_cluster, node):
    out = run("quickstart.py", pgroute_shared_cluster.dsn)
    assert out.count(f"to the primary, port {node.port}") == 2
    assert "killed" not in out
    assert node.execute("SELECT count(*) FROM pg_tables WHERE tablename IN ('tea', 'never')") == [(0,)]


def test_quickstart_tells_without_a_traceback_that_no_host_answers():
    done = start("examples/quickstart.py", "postgresql://app:geheim@127.0.0.1:1/shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"127\.0\.0\.1:1: down for [\d.]+ s, never answered: Connection refused", done.stderr)
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


def test_async_app_loses_its_primary_and_no_order():
    done = start("examples/async_app.py")
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    ends = {word: int(count) for word, count in re.findall(r"'(\w+)': (\d+)", out)}
    [found] = map(int, re.findall(r"(\d+) rows found", out))
    assert sum(ends.values()) == 400
    assert 0 <= found - ends["placed"] <= ends.get("unknown", 0)
    assert out.count("primary is ") == 2


def test_copy_csv_loses_its_primary_and_no_row():
    done = start("examples/copy_csv.py", "--rows", "30000")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the primary was killed, a standby was promoted" in done.stdout
    assert "attempt 2: " in done.stdout
    assert "copied 30000 rows in, once" in done.stdout
    assert "copied 30000 rows out; the files hold the same: True" in done.stdout


def test_copy_csv_takes_a_dsn_and_leaves_nothing_there(pgroute_shared_cluster, node):
    out = run("copy_csv.py", pgroute_shared_cluster.dsn, "--rows", "100")
    assert "copied 100 rows out; the files hold the same: True" in out
    assert "killed" not in out
    assert node.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'pgroute_copied'") == [(0,)]


def test_async_app_takes_a_dsn_and_leaves_nothing_there(pgroute_shared_cluster, node):
    out = run("async_app.py", pgroute_shared_cluster.dsn)
    assert "{'placed': 400}, 400 rows found" in out
    with psycopg.connect(node.conninfo) as conn, pytest.raises(psycopg.errors.UndefinedTable):
        conn.execute("SELECT FROM pgroute_orders")


def test_batch_job_reprices_each_row_once_through_two_crashes_and_its_own_death():
    out = run("batch_job.py", "--rows", "60000")
    assert out.count("was promoted") == 2
    assert "the job itself was killed" in out
    assert out.endswith("60000 of 60000 rows were repriced 1 time\n")


def test_batch_job_takes_a_dsn_and_leaves_nothing_there(pgroute_shared_cluster, node):
    out = run("batch_job.py", pgroute_shared_cluster.dsn, "--rows", "5000")
    assert out.endswith("5000 of 5000 rows were repriced 1 time\n")
    with psycopg.connect(node.conninfo) as conn:
        assert conn.execute("SELECT job FROM pgroute.batch_job WHERE job LIKE 'pgroute %'").fetchall() == []
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT FROM pgroute_item")


def test_the_tests_of_an_application_pass_and_leave_nothing_behind(temporary):
    # Not as a worker of the run that runs this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = start(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_failover.py"),
        env={**environment, "TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert leftovers(temporary) == []


HELP_WITHOUT_DOCSTRINGS = """
import contextlib, io, sys
from pathlib import Path

for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    sys.path.insert(0, str(Path(path).parent))
    help = io.StringIO()
    try:
        with contextlib.redirect_stdout(help):
            code = compile(Path(path).read_text(), path, "exec", optimize=2)
            exec(code, {"__name__": "__main__", "__file__": path, "__doc__": None})
    except SystemExit as exc:
        print(path, exc.code, help.getvalue().startswith("usage: "))
    except Exception as exc:
        print(path, repr(exc))
"""


def test_the_examples_do_without_their_docstrings():
    """As under PYTHONOPTIMIZE=2, but the libraries that they import are not compiled again."""
    with_help = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "examples").rglob("*.py"))
        if "ArgumentParser(" in path.read_text("utf-8")
    ]
    assert len(with_help) >= 7
    done = subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT_DOCSTRINGS, *with_help],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.splitlines() == [f"{path} 0 True" for path in with_help], done.stderr
