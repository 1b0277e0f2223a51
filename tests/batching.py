"""A database for batch jobs of one test's own, and what is asked about them; also a job to run as a process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from pgroute import Router
from pgroute.batch import BatchJob, Chunk
from pgroute.core.sql.schema import definition
from pgroute.testing import LocalCluster
from tests.support import dsn_with

ROOT = Path(__file__).parents[1]
SERIAL = itertools.count(1)
NAMES: WeakKeyDictionary[LocalCluster, str] = WeakKeyDictionary()
ENDED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
SCHEMAS = r"SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
SEEN = "CREATE TABLE seen (item bigint, chunk bigint)"


class Ground:
    """A database with the schema of pgroute and a table `seen`, in which bodies note the items that they get.

    Attributes:
        dsn: leads to it, at all nodes.
    """

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.dsn = dsn_with(cluster.dsn, dbname=name)

    def connect(self) -> psycopg.Connection:
        """Return a session at the primary, in autocommit."""
        conninfo = f"{self.cluster.primary.conninfo} dbname={self.name}"
        return psycopg.connect(conninfo, autocommit=True, application_name="pgroute-testing")

    def execute(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement at the primary, in autocommit."""
        with self.connect() as conn:
            cursor = conn.execute(sql.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, params: Any = None) -> Any:
        """Return the first value."""
        return self.execute(sql, params)[0][0]

    def seen(self) -> list[int]:
        """Return the items that were noted, in order."""
        return [item for (item,) in self.execute("SELECT item FROM seen ORDER BY item")]

    def rows(self) -> dict[str, int]:
        """Return how many rows each table of pgroute's has."""
        names = ("batch_job", "batch_chunk", "batch_reject")
        return {name: self.value(f"SELECT count(*) FROM pgroute.{name}") for name in names}

    def items(self, count: int) -> None:
        """Make a table `item` of so many rows (id, price), ids from 1."""
        self.execute("CREATE TABLE item (id bigint PRIMARY KEY, price int NOT NULL DEFAULT 0)")
        self.execute(f"INSERT INTO item SELECT generate_series(1, {count})")


@contextmanager
def ground_of(cluster: LocalCluster) -> Iterator[Ground]:
    """Give a database as good as new: the cluster's one for such tests, emptied, for a new one takes a checkpoint."""
    name = NAMES.get(cluster)
    if name is None:
        name = NAMES[cluster] = f"batch_{next(SERIAL)}"
        cluster.primary.execute(f"CREATE DATABASE {name}")
        cluster.catch_up()
    ground = Ground(cluster, name)
    with ground.connect() as conn:
        conn.execute(f"ALTER DATABASE {name} RESET ALL".encode())
    # Anew, with the database's own settings.
    with ground.connect() as conn:
        conn.execute(ENDED, [name])
        for (schema,) in conn.execute(SCHEMAS).fetchall():
            conn.execute(f"DROP SCHEMA {schema} CASCADE".encode())
        conn.execute(
            f"CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC; {definition()}; {SEEN}".encode()
        )
    yield ground


def note(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
    """Note a chunk's items."""
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO seen VALUES (%s, %s)", [(item, chunk.number) for item in chunk.rows])


def start_process(dsn: str, name: str, count: int, size: int, workers: int = 1) -> subprocess.Popen[str]:
    """Run a job over `range(count)` in a process of its own."""
    command = [sys.executable, "-m", "tests.batching", dsn, name, str(count), str(size), str(workers)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main(dsn: str, name: str, count: str, size: str, workers: str) -> None:
    """Run a job whose body notes its items, and print how many chunks were others' work."""
    with Router(dsn) as router:
        job = BatchJob(router, name, range(int(count)), chunk_size=int(size), workers=int(workers))
        print(job.run(note).skipped)


if __name__ == "__main__":
    main(*sys.argv[1:])
