"""Acquire + SELECT 1 + release: pgroute against psycopg_pool alone, on one primary, in interleaved rounds.

    python benchmarks/acquire.py [--rounds 40] [--sessions 2000] [--pin CPU] [--json FILE]

The ratio is psycopg_pool's time over pgroute's in the same pair of rounds: 1.00 is no overhead, below 1 is slower.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import threading
import time
from pathlib import Path

import psycopg_pool
from versions import finish

import pgroute
from pgroute.testing import LocalCluster

POOL = {"min_size": 1, "max_size": 10}


def sync_round(session, sessions, workers):
    def work():
        for _ in range(sessions // workers):
            with session() as conn:
                conn.execute("SELECT 1")

    threads = [threading.Thread(target=work) for _ in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / sessions


async def async_round(session, sessions, workers):
    async def work():
        for _ in range(sessions // workers):
            async with session() as conn:
                await conn.execute("SELECT 1")

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return (time.perf_counter() - start) / sessions


def order(index):
    """Return the order of this pair; it alternates, so that drift of the machine affects both alike."""
    return ("pgroute", "psycopg_pool") if index % 2 else ("psycopg_pool", "pgroute")


def run_sync(cluster, args, workers):
    with (
        pgroute.Router(cluster.dsn, writer=pgroute.PoolOptions(**POOL)) as router,
        psycopg_pool.ConnectionPool(cluster.primary.conninfo, **POOL) as pool,
    ):
        sessions = {"pgroute": router.writer, "psycopg_pool": pool.connection}
        for session in sessions.values():
            sync_round(session, args.sessions, workers)
        return [
            {name: sync_round(sessions[name], args.sessions, workers) for name in order(i)}
            for i in range(args.rounds)
        ]


async def run_async(cluster, args, workers):
    async with (
        pgroute.AsyncRouter(cluster.dsn, writer=pgroute.PoolOptions(**POOL)) as router,
        psycopg_pool.AsyncConnectionPool(cluster.primary.conninfo, **POOL) as pool,
    ):
        sessions = {"pgroute": router.writer, "psycopg_pool": pool.connection}
        for session in sessions.values():
            await async_round(session, args.sessions, workers)
        return [
            {name: await async_round(sessions[name], args.sessions, workers) for name in order(i)}
            for i in range(args.rounds)
        ]


def summary(face, workers, rounds):
    ratios = sorted(r["psycopg_pool"] / r["pgroute"] for r in rounds)
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "face": face,
        "workers": workers,
        "rounds": len(rounds),
        "pgroute_us": statistics.median(r["pgroute"] for r in rounds) * 1e6,
        "psycopg_pool_us": statistics.median(r["psycopg_pool"] for r in rounds) * 1e6,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=40, help="pairs of rounds for each row (default 40)")
    parser.add_argument("--sessions", type=int, default=2000, help="sessions in a round (default 2000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--pin", type=int, metavar="CPU", help="keep the client on one processor (Linux)")
    args = parser.parse_args()
    rows = []
    print(f"{'face':<6} {'workers':>7} {'pgroute':>10} {'psycopg_pool':>13} {'ratio':>6}  quartiles")
    with LocalCluster(standbys=2) as cluster:
        if args.pin is not None:
            os.sched_setaffinity(0, {args.pin})  # after the servers were started, which stay free
        for workers in (1, 8):
            for face in ("sync", "async"):
                if face == "sync":
                    rounds = run_sync(cluster, args, workers)
                else:
                    rounds = asyncio.run(run_async(cluster, args, workers))
                row = summary(face, workers, rounds)
                rows.append(row)
                low, high = row["ratio_quartiles"]
                print(
                    f"{face:<6} {workers:>7} {row['pgroute_us']:>7.1f} us {row['psycopg_pool_us']:>10.1f} us "
                    f"{row['ratio_median']:>6.3f}  {low:.3f} to {high:.3f}",
                    flush=True,
                )
        finish(args, rows, cluster)


if __name__ == "__main__":
    main()
