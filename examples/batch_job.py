"""Reprice a million rows, each once, while the primary is killed twice and the job itself once.

`python examples/batch_job.py` does so on a throw-away cluster on this machine. `python examples/batch_job.py DSN`
reprices rows of a table of its own there, and nobody is killed. `--rows N` makes it fewer or more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgroute import Router
from pgroute.batch import BatchJob, BatchProgress, BatchReport, Chunk, Keyset
from pgroute.testing import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = "pgroute example: reprice"
WORKERS = 4


def reprice(conn: psycopg.Connection[Any], chunk: Chunk) -> None:
    """Raise the prices of one chunk; this may be called more than once, and is committed once."""
    statement = "UPDATE pgroute_item SET price = round(price * 1.1, 2), repriced = repriced + 1 WHERE {}"
    conn.execute(sql.SQL(statement).format(chunk.where))


def work(dsn: str, progress: bool | Callable[[BatchProgress], object]) -> BatchReport:
    """Run the job, or the rest of it."""
    with Router(dsn) as router:
        items = Keyset("SELECT id FROM pgroute_item", key="id", fetch=False)
        job = BatchJob(router, JOB, items, chunk_size=1000, workers=WORKERS)
        return job.run(reprice, progress=progress)


class Tenths:
    """Shows progress in lines, one for each tenth of the rows: bars of two processes cannot share a terminal."""

    def __init__(self) -> None:
        self._shown = -1

    def __call__(self, now: BatchProgress) -> None:
        """Print a line after each further tenth."""
        tenth = 10 * now.rows // (now.rows_total or now.rows or 1)
        if tenth > self._shown:
            self._shown = tenth
            print(
                f"          {10 * tenth:3} %, {now.rate:.0f} rows/s, {now.retries} retries, primary {now.primary}",
                flush=True,
            )


def set_up(dsn: str, rows: int) -> None:
    """Create the table, and the tables for batch jobs."""

    def make(conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            "CREATE TABLE pgroute_item (id bigint PRIMARY KEY, price numeric, repriced int DEFAULT 0)"
        )
        conn.execute(
            "INSERT INTO pgroute_item (id, price) SELECT n, n %% 500 + 0.99 FROM generate_series(1, %s) AS n",
            (rows,),
        )

    with Router(dsn) as router:
        router.install()
        router.run(make)


def count(conn: psycopg.Connection[Any]) -> list[tuple[int, int]]:
    """Return the number of rows by how often they were repriced."""
    statement = "SELECT repriced, count(*) FROM pgroute_item GROUP BY repriced ORDER BY repriced"
    return conn.execute(statement).fetchall()


def check(dsn: str, rows: int) -> int:
    """Print the result, and return the exit status."""
    with Router(dsn) as router:
        found = router.run(count, read_only=True)
    for times, number in found:
        print(f"{number} of {rows} rows were repriced {times} time{'' if times == 1 else 's'}")
    return 0 if found == [(1, rows)] else 1


def trouble(cluster: LocalCluster, rows: int) -> None:
    """Kill the primary, the job, and the next primary, and start the job again."""
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.2f} s  {text}", flush=True)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, "--work", cluster.dsn])

    def await_share(job: subprocess.Popen[bytes], share: float) -> None:
        done = (
            "SELECT (SELECT coalesce(sum(rows_done), 0) FROM pgroute.batch_job) +"
            " (SELECT coalesce(sum(row_count), 0) FROM pgroute.batch_chunk WHERE done_at IS NOT NULL)"
        )
        while job.poll() is None and cluster.primary.execute(done)[0][0] < share * rows:
            time.sleep(0.05)

    def crash() -> None:
        old = cluster.primary
        old.kill()
        say(f"the primary, port {old.port}, was killed")
        new = cluster.promote()
        say(f"a standby, port {new.port}, was promoted")

    job = start()
    try:
        await_share(job, 0.2)
        crash()
        await_share(job, 0.5)
        job.kill()
        job.wait()
        say("the job itself was killed (SIGKILL), and is started again")
        job = start()
        await_share(job, 0.75)
        crash()
        if job.wait():
            raise SystemExit(f"the job failed with status {job.returncode}")
        say("the job is done")
    finally:
        job.kill()
        job.wait()


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Reprice a million rows, each once, while the primary is killed twice and the job itself once."
    )
    parser.add_argument("dsn", nargs="?", metavar="DSN")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(work(args.dsn, Tenths()))
        return 0
    if args.dsn:
        set_up(args.dsn, args.rows)
        try:
            print(work(args.dsn, progress=True))
            return check(args.dsn, args.rows)
        finally:
            with Router(args.dsn) as router, router.writer() as conn:
                conn.execute("DROP TABLE pgroute_item")
                conn.execute("DELETE FROM pgroute.batch_job WHERE job = %s", (JOB,))
    with LocalCluster(standbys=3, synchronous=True) as cluster:  # one to take over each time, one to confirm
        set_up(cluster.dsn, args.rows)
        trouble(cluster, args.rows)
        return check(cluster.dsn, args.rows)


if __name__ == "__main__":
    sys.exit(main())
