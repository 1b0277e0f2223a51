"""A database for batch jobs of one test's own, and what is asked about them; also a job to run as a process."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
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
SETTINGS = (
    "SELECT FROM pg_db_role_setting JOIN pg_database ON setdatabase = pg_database.oid WHERE datname = %s"
)
SCHEMAS = r"SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
SEEN = "CREATE TABLE seen (item bigint, chunk bigint)"
NOTE = "INSERT INTO seen SELECT unnest(%s::bigint[]), %s"


class Ground:
    """A database with the schema of pgroute and a table `seen`, in which bodies note the items that they get.

    Attributes:
        dsn: leads to it, at all nodes.
    """

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.dsn = dsn_with(cluster.dsn, dbname=name)
        self._session: psycopg.Connection | None = None
        self._busy = threading.Lock()

    def connect(self) -> psycopg.Connection:
        """Return a session at the primary, in autocommit."""
        conninfo = f"{self.cluster.primary.conninfo} dbname={self.name}"
        return psycopg.connect(
            conninfo, autocommit=True, application_name="pgroute-testing", prepare_threshold=None
        )

    def execute(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement at the primary, in autocommit.

        One session is kept for it: a login costs more than most statements. While that waits, another serves.
        """
        if not self._busy.acquire(blocking=False):
            with self.connect() as conn:
                return _rows(conn, sql, params)
        try:
            return _rows(self._lasting(), sql, params)
        finally:
            self._busy.release()

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()

    def _lasting(self) -> psycopg.Connection:
        if self._session is not None:
            try:
                self._session.execute("SELECT")
            except psycopg.OperationalError:  # the server was stopped, or a test ended all sessions
                self._session.close()
                self._session = None
        if self._session is None:
            self._session = self.connect()
        return self._session

    def value(self, sql: str, params: Any = None) -> Any:
        """Return the first value."""
        return self.execute(sql, params)[0][0]

    def seen(self) -> list[int]:
        """Return the items that were noted, in order."""
        return [item for (item,) in self.execute("SELECT item FROM seen ORDER BY item")]

    def rows(self) -> dict[str, int]:
        """Return how many rows each table of pgroute's has."""
        names = ("batch_job", "batch_chunk", "batch_reject")
        counts = ", ".join(f"(SELECT count(*) FROM pgroute.{name})" for name in names)
        return dict(zip(names, self.execute(f"SELECT {counts}")[0], strict=True))

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
    if ground.execute(SETTINGS, [name]):
        ground.execute(f"ALTER DATABASE {name} RESET ALL")
        ground.close()
    try:
        ground.execute(ENDED, [name])
        dropped = "".join(f"DROP SCHEMA {schema} CASCADE;" for (schema,) in ground.execute(SCHEMAS))
        made = f"CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC; {definition()}; {SEEN}"
        ground.execute(dropped + made)
        yield ground
    finally:
        ground.close()


def _rows(conn: psycopg.Connection, sql: str, params: Any) -> list[tuple[Any, ...]]:
    cursor = conn.execute(sql.encode(), params)
    return cursor.fetchall() if cursor.description else []


def noted(chunk: Chunk) -> tuple[list[int], int]:
    """Return what `NOTE` needs, in one statement, for the items or the first column of the rows of a chunk."""
    return [row[0] if isinstance(row, tuple) else row for row in chunk.rows], chunk.number


def note(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
    """Note a chunk's items."""
    conn.execute(NOTE, noted(chunk))


def start_process(
    dsn: str, name: str, count: int, size: int, *, workers: int = 1, killed_after: int = 0
) -> subprocess.Popen[str]:
    """Run a job over `range(count)` in a process of its own, which, if so asked, is killed in its course."""
    options = (name, count, size, workers, killed_after)
    command = [sys.executable, "-m", "tests.batching", dsn, *map(str, options)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main(dsn: str, name: str, *numbers: str) -> None:
    """Run a job whose body notes its items, and print how many chunks were others' work."""
    count, size, workers, killed_after = map(int, numbers)
    chunks = itertools.count(1)

    def body(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
        if next(chunks) == killed_after:
            # At any moment of the chunks that the workers have in hand, or of the next ones.
            threading.Timer(random.uniform(0, 0.005), os.kill, (os.getpid(), signal.SIGKILL)).start()
        note(conn, chunk)

    with Router(dsn) as router:
        job = BatchJob(router, name, range(count), chunk_size=size, workers=workers)
        print(job.run(body).skipped)


if __name__ == "__main__":
    main(*sys.argv[1:])
