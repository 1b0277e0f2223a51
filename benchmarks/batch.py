"""Batch jobs against a bare psycopg loop with the same chunks, on one primary, in interleaved rounds.

    python benchmarks/batch.py [--rounds 20] [--rows 100000] [--chunk 1000] [--json FILE]

The bare loop has one connection and no router: it reads keys page by page and commits each chunk. The job has one
worker. The ratio is the time of the loop over that of the job in the same round, planning and end included: 1.00 is no
overhead. Both send the same statements for the work itself, which psycopg prepares, but for `chunk.where`: there the
body has the bounds in the text of its statement, so each one is parsed and planned anew.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import psycopg
from psycopg import sql
from versions import finish

import pgroute
from pgroute.batch import BatchJob, Keyset
from pgroute.testing import LocalCluster

RAISE = "UPDATE item SET price = price + 1 WHERE id > %s AND id <= %s"
PAGE = "SELECT max(id) FROM (SELECT id FROM item WHERE id > %s ORDER BY id LIMIT %s) AS page"
ROWS = "SELECT id, price FROM item WHERE id > %s ORDER BY id LIMIT %s"
ONE = "UPDATE item SET price = %s WHERE id = %s"


def bare(conninfo, kind, chunk):
    with psycopg.connect(conninfo) as conn:
        last = 0
        while True:
            with conn.transaction():
                if kind != "row by row":
                    (upto,) = conn.execute(PAGE, (last, chunk)).fetchone()
                    if upto is None:
                        return
                    conn.execute(RAISE, (last, upto))
                    last = upto
                else:
                    rows = conn.execute(ROWS, (last, chunk)).fetchall()
                    if not rows:
                        return
                    conn.cursor().executemany(ONE, [(price + 1, key) for key, price in rows])
                    last = rows[-1][0]


def raise_on_the_server(conn, chunk):
    conn.execute(RAISE, (chunk.after or 0, chunk.upto))


def raise_where(conn, chunk):
    conn.execute(sql.SQL("UPDATE item SET price = price + 1 WHERE {}").format(chunk.where))


def raise_row_by_row(conn, chunk):
    conn.cursor().executemany(ONE, [(price + 1, key) for key, price in chunk.rows])


BODIES = {"on the server": raise_on_the_server, "chunk.where": raise_where, "row by row": raise_row_by_row}


def job(router, kind, chunk, serial):
    source = Keyset("SELECT id, price FROM item", key="id", fetch=kind == "row by row")
    BatchJob(router, f"{kind} {serial}", source, chunk_size=chunk).run(BODIES[kind])


def fill(primary, rows):
    """Create the table again: dead rows of one run would slow down the next."""
    primary.execute("DROP TABLE IF EXISTS item")
    primary.execute("CREATE TABLE item (id int PRIMARY KEY, price int) WITH (fillfactor = 45)")
    primary.execute("INSERT INTO item SELECT n, 1 FROM generate_series(1, %s) AS n", (rows,))
    primary.execute("VACUUM ANALYZE item")
    primary.execute("CHECKPOINT")


def timed(fn, *args):
    start = time.perf_counter()
    fn(*args)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of rounds for each row (default 20)")
    parser.add_argument("--rows", type=int, default=100_000, help="of the table (default 100000)")
    parser.add_argument("--chunk", type=int, default=1000, help="rows in a chunk (default 1000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    rows = []
    print(f"{'work':<14} {'job':>12} {'bare loop':>12} {'ratio':>6}  quartiles")
    with LocalCluster(standbys=0) as cluster, pgroute.Router(cluster.dsn) as router:
        router.install()
        primary = cluster.primary
        for kind in BODIES:
            rounds = []
            for serial in range(-1, args.rounds):
                took = {}
                for name in ("job", "bare") if serial % 2 else ("bare", "job"):
                    fill(primary, args.rows)
                    if name == "job":
                        took[name] = timed(job, router, kind, args.chunk, serial)
                    else:
                        took[name] = timed(bare, primary.conninfo, kind, args.chunk)
                rounds.append(took)
            del rounds[0]
            ratios = [took["bare"] / took["job"] for took in rounds]
            quartiles = statistics.quantiles(ratios, n=4)
            row = {
                "work": kind,
                "job_rows_per_second": args.rows / statistics.median(took["job"] for took in rounds),
                "bare_rows_per_second": args.rows / statistics.median(took["bare"] for took in rounds),
                "ratio_median": statistics.median(ratios),
                "ratio_quartiles": [quartiles[0], quartiles[2]],
            }
            rows.append(row)
            print(
                f"{kind:<14} {row['job_rows_per_second']:>9.0f} /s {row['bare_rows_per_second']:>9.0f} /s "
                f"{row['ratio_median']:>6.3f}  {quartiles[0]:.3f} to {quartiles[2]:.3f}",
                flush=True,
            )
        finish(args, rows, cluster)


if __name__ == "__main__":
    main()
