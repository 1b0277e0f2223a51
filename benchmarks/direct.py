"""One value by fetchval() and by psycopg_pool's connection(), on one primary, without and with network delay.

    python -m benchmarks.direct [--rounds 30] [--queries 200] [--delay 1.0] [--json FILE]

The ratio is the time of psycopg_pool over that of fetchval() in the same pair of rounds: above 1.00 fetchval() wins.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from pathlib import Path

import psycopg_pool

import pgroute
from benchmarks.compare.table import show
from benchmarks.versions import finish
from pgroute.testing import FaultProxy, LocalCluster

QUERY = "SELECT 1"
SIZES = {"min_size": 1, "max_size": 1}
SECONDS_OF_A_ROUND = 1.0


def pooled(pool, queries):
    for _ in range(queries):
        with pool.connection() as conn:
            conn.execute(QUERY).fetchone()


def direct(router, queries):
    for _ in range(queries):
        router.fetchval(QUERY, role="writer")


async def async_pooled(pool, queries):
    for _ in range(queries):
        async with pool.connection() as conn:
            await (await conn.execute(QUERY)).fetchone()


async def async_direct(router, queries):
    for _ in range(queries):
        await router.fetchval(QUERY, role="writer")


def rounds_of(ways, args, queries):
    """Yield how long a query took in each way, in rounds whose order changes."""
    for index in range(-1, args.rounds):
        times = {}
        for name in ways if index % 2 else [*ways][::-1]:
            start = time.perf_counter()
            yield name
            times[name] = (time.perf_counter() - start) / queries
        if index >= 0:  # the first one is for warming up
            yield times


def measure_sync(dsn, args, queries):
    found = []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(psycopg_pool.ConnectionPool(dsn, **SIZES, open=True))
        router = stack.enter_context(pgroute.Router(dsn, writer=pgroute.PoolOptions(**SIZES)))
        work = {"pool": lambda: pooled(pool, queries), "direct": lambda: direct(router, queries)}
        for item in rounds_of(work, args, queries):
            if isinstance(item, dict):
                found.append(item)
            else:
                work[item]()
    return found


async def measure_async(dsn, args, queries):
    found = []
    async with contextlib.AsyncExitStack() as stack:
        pool = psycopg_pool.AsyncConnectionPool(dsn, **SIZES, open=False)
        await stack.enter_async_context(pool)
        router = await stack.enter_async_context(
            pgroute.AsyncRouter(dsn, writer=pgroute.PoolOptions(**SIZES))
        )
        work = {"pool": lambda: async_pooled(pool, queries), "direct": lambda: async_direct(router, queries)}
        for item in rounds_of(work, args, queries):
            if isinstance(item, dict):
                found.append(item)
            else:
                await work[item]()
    return found


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.direct", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=30, help="of each way (default 30)")
    parser.add_argument("--queries", type=int, default=200, help="in a round without delay (default 200)")
    parser.add_argument(
        "--delay", type=float, default=1.0, help="ms of the network, there and back (default 1)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    rows = []
    with LocalCluster(standbys=0) as cluster:
        for delay in (0.0, args.delay):
            with contextlib.ExitStack() as stack:
                dsn = cluster.dsn
                if delay:
                    wire = stack.enter_context(FaultProxy(cluster.primary))
                    wire.delay(delay / 2000)
                    dsn = FaultProxy.dsn([wire], dbname="postgres")
                queries = args.queries if not delay else max(20, args.queries // 10)
                for face in ("sync", "async"):
                    if face == "sync":
                        found = measure_sync(dsn, args, queries)
                    else:
                        found = asyncio.run(measure_async(dsn, args, queries))
                    rows.append(summarized(face, delay, found))
        show(
            "fetchval() beside psycopg_pool's connection() and execute()",
            ("face", "delay", "psycopg_pool", "fetchval()", "ratio", "quartiles"),
            [
                (
                    row["face"],
                    f"{row['delay_ms']:g} ms",
                    f"{row['pool_us']:.0f} us",
                    f"{row['direct_us']:.0f} us",
                    f"{row['ratio_median']:.2f}",
                    "{:.2f} to {:.2f}".format(*row["ratio_quartiles"]),
                )
                for row in rows
            ],
        )
        finish(args, rows, cluster)


def summarized(face, delay, found):
    ratios = [times["pool"] / times["direct"] for times in found]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "face": face,
        "delay_ms": delay,
        "pool_us": statistics.median(times["pool"] for times in found) * 1e6,
        "direct_us": statistics.median(times["direct"] for times in found) * 1e6,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [low, high],
    }


if __name__ == "__main__":
    main()
