"""Forgotten waiters: failovers under load, and how long each writer waits after the promotion can be seen.

    python benchmarks/waiters.py [--failovers 1000] [--processes 4] [--json FILE]

In each process five threads and five tasks write all the time, each face through a pool of two connections, or of ten
in the next cluster. The primary is killed, a standby is promoted 0.05 to 0.4 s later, and so on along the standbys. A
writer that has no session on the new primary within a second of the promotion counts as forgotten.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import random
import statistics
import threading
import time
from pathlib import Path

import psycopg
from versions import finish

import pgroute
from pgroute.testing import LocalCluster

WRITERS = 5
STANDBYS = 3
LATE = 1.0
PATIENCE = 40.0
"""Seconds: a forgotten one comes back after acquire_timeout."""
POOLS = (pgroute.PoolOptions(max_size=2), pgroute.PoolOptions())
"""In turn: a queue at any moment, and one only while connections are being opened."""


class Record:
    """When a writer last had a session, by the port of its host."""

    def __init__(self):
        self.seen = {}
        self.errors = 0

    def note(self, conn):
        self.seen.setdefault(conn.info.port, time.monotonic())


def write(router, stop, record):
    while not stop.is_set():
        try:
            with router.writer() as conn:
                record.note(conn)
                conn.execute("INSERT INTO written DEFAULT VALUES")
        except psycopg.Error:
            record.errors += 1


async def write_async(router, stop, record):
    while not stop.is_set():
        try:
            async with router.writer() as conn:
                record.note(conn)
                await conn.execute("INSERT INTO written DEFAULT VALUES")
        except psycopg.Error:
            record.errors += 1


async def write_all_async(dsn, options, stop, records):
    async with pgroute.AsyncRouter(dsn, writer=options) as router:
        await asyncio.gather(*(write_async(router, stop, record) for record in records))


def run_async(dsn, options, stop, records):
    asyncio.run(write_all_async(dsn, options, stop, records))


def promote(node):
    """Promote a standby and return when it was seen to accept writes."""
    with psycopg.connect(node.conninfo, autocommit=True) as conn:
        conn.execute("SELECT pg_promote(false)")
        while conn.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
            time.sleep(0.001)
        return time.monotonic()


def wait_for(records, port):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not all(port in record.seen for record in records):
        time.sleep(0.01)


def received(node):
    return int(node.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0][0])


def fail_over(cluster, records, rng):
    """Kill the primary, promote the standby that is furthest, and return the waits of all writers by face.

    None: the standby ended as it was promoted.
    """
    old = cluster.primary
    old.kill()
    *others, new = sorted(cluster.standbys, key=received)
    time.sleep(rng.uniform(0.05, 0.4))
    try:
        seen_at = promote(new)
    except psycopg.OperationalError:
        print(f"{new} ended as it was promoted:\n{new.log()[-800:]}", flush=True)
        return None
    everybody = [record for face in records.values() for record in face]
    wait_for(everybody, new.port)
    for other in others:
        other.follow(new)
    given_up = time.monotonic()
    return {
        face: [max(0.0, r.seen.get(new.port, given_up) - seen_at) for r in found]
        for face, found in records.items()
    }


def work(arguments):
    """Go through a share of the failovers; return each one's waits."""
    seed, count = arguments
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    options = POOLS[seed % 2]
    waits = []
    while len(waits) < count:
        with LocalCluster(standbys=STANDBYS) as cluster:
            cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY)")
            cluster.catch_up()
            stop = threading.Event()
            records = {face: [Record() for _ in range(WRITERS)] for face in ("sync", "async")}
            with pgroute.Router(cluster.dsn, writer=options) as router:
                threads = [threading.Thread(target=write, args=(router, stop, r)) for r in records["sync"]]
                threads.append(
                    threading.Thread(target=run_async, args=(cluster.dsn, options, stop, records["async"]))
                )
                for thread in threads:
                    thread.start()
                try:
                    wait_for([r for face in records.values() for r in face], cluster.primary.port)
                    for _ in range(min(STANDBYS, count - len(waits))):
                        found = fail_over(cluster, records, rng)
                        if found is None:
                            break  # a standby that ended as it was promoted: another cluster
                        waits.append(found)
                finally:
                    stop.set()
                    for thread in threads:
                        thread.join()
    return waits


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--failovers", type=int, default=1000, help="of each face (default 1000)")
    parser.add_argument("--processes", type=int, default=4, help="side by side (default 4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    begun = time.monotonic()
    chunks = [STANDBYS] * -(-args.failovers // STANDBYS)
    waits = []
    jobs = [(args.seed + number, size) for number, size in enumerate(chunks)]
    with multiprocessing.get_context("fork").Pool(args.processes) as pool:
        for done in pool.imap_unordered(work, jobs):
            waits += done
            late = sum(wait > LATE for found in done for face in found.values() for wait in face)
            if late or len(waits) % 60 < 3:
                taken = time.monotonic() - begun
                print(
                    f"{len(waits)} failovers in {taken:.0f} s, forgotten in the last ones: {late}",
                    flush=True,
                )
    rows = []
    for face in ("sync", "async"):
        found = sorted(wait for each in waits for wait in each[face])
        rows.append(
            {
                "face": face,
                "failovers": len(waits),
                "waits": len(found),
                "forgotten": sum(wait > LATE for wait in found),
                "median_ms": statistics.median(found) * 1e3,
                "p99_ms": found[int(len(found) * 0.99)] * 1e3,
                "max_ms": found[-1] * 1e3,
            }
        )
        print(
            "{face}: {failovers} failovers, {waits} waits, forgotten {forgotten}; median {median_ms:.0f}, "
            "p99 {p99_ms:.0f}, longest {max_ms:.0f} ms".format(**rows[-1])
        )
    finish(args, rows)


if __name__ == "__main__":
    main()
