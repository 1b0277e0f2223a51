"""Each example runs with one command, on a cluster of its own and on a given DSN."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]


def run(name, *arguments):
    """Run an example and return what it printed."""
    command = [sys.executable, "-W", "error", f"examples/{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def node(pgroute_shared_cluster):
    return pgroute_shared_cluster.nodes[0]


def test_quickstart_starts_its_own_cluster():
    out = run("quickstart.py")
    assert "wrote [('assam',), ('keemun',)] to the primary" in out
    assert re.search(r"read from port \d+, a standby: True", out)
    assert "a reader cannot write: cannot execute CREATE TABLE in a read-only transaction" in out


def test_quickstart_takes_a_dsn_and_leaves_nothing_there(pgroute_shared_cluster, node):
    out = run("quickstart.py", pgroute_shared_cluster.dsn)
    assert f"to the primary, port {node.port}" in out
    assert node.execute("SELECT count(*) FROM pg_tables WHERE tablename IN ('tea', 'never')") == [(0,)]


def test_async_app_loses_its_primary_and_no_order():
    out = run("async_app.py")
    ends = {word: int(count) for word, count in re.findall(r"'(\w+)': (\d+)", out)}
    [found] = map(int, re.findall(r"(\d+) rows found", out))
    assert sum(ends.values()) == 400
    assert 0 <= found - ends["placed"] <= ends.get("unknown", 0)
    assert out.count("primary is ") == 2


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
        assert conn.execute("SELECT count(*) FROM pgroute.batch_job").fetchone() == (0,)
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT FROM pgroute_item")
