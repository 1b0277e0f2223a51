"""The cost of run() over writer(), and of once= over run(): one INSERT, on one primary, in interleaved rounds.

    python benchmarks/transactions.py [--rounds 30] [--transactions 500] [--pin CPU] [--json FILE]

The ratio is the time of the plainer way over that of the other in the same pair of rounds: 1.00 is no overhead.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import time
from pathlib import Path

from versions import finish

import pgroute
from pgroute.testing import LocalCluster

INSERT = "INSERT INTO written (number) VALUES (1)"
WAYS = ("writer", "run", "once")


def insert(conn):
    conn.execute(INSERT)


async def async_insert(conn):
    await conn.execute(INSERT)


def sync_round(router, way, transactions, serial):
    start = time.perf_counter()
    for _ in range(transactions):
        if way == "writer":
            with router.writer() as conn:
                conn.execute(INSERT)
        elif way == "run":
            router.run(insert)
        else:
            router.run(insert, once=f"benchmark {next(serial)}")
    return (time.perf_counter() - start) / transactions


async def async_round(router, way, transactions, serial):
    start = time.perf_counter()
    for _ in range(transactions):
        if way == "writer":
            async with router.writer() as conn:
                await conn.execute(INSERT)
        elif way == "run":
            await router.run(async_insert)
        else:
            await router.run(async_insert, once=f"benchmark {next(serial)}")
    return (time.perf_counter() - start) / transactions


def ways(index):
    """Return the ways in the order of this round: it changes, so that a drift of the machine hits all alike."""
    at = index % len(WAYS)
    return WAYS[at:] + WAYS[:at]


def run_sync(cluster, args, serial):
    with pgroute.Router(cluster.dsn) as router:
        for way in WAYS:
            sync_round(router, way, args.transactions, serial)
        return [
            {way: sync_round(router, way, args.transactions, serial) for way in ways(i)}
            for i in range(args.rounds)
        ]


async def run_async(cluster, args, serial):
    async with pgroute.AsyncRouter(cluster.dsn) as router:
        for way in WAYS:
            await async_round(router, way, args.transactions, serial)
        return [
            {way: await async_round(router, way, args.transactions, serial) for way in ways(i)}
            for i in range(args.rounds)
        ]


def compare(face, rounds, plain, other):
    ratios = sorted(r[plain] / r[other] for r in rounds)
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "face": face,
        "compared": f"{other} over {plain}",
        f"{plain}_us": statistics.median(r[plain] for r in rounds) * 1e6,
        f"{other}_us": statistics.median(r[other] for r in rounds) * 1e6,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=30, help="of each way (default 30)")
    parser.add_argument("--transactions", type=int, default=500, help="in a round (default 500)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--pin", type=int, metavar="CPU", help="keep the client on one processor (Linux)")
    args = parser.parse_args()
    serial = itertools.count()
    rows = []
    print(f"{'face':<6} {'compared':<16} {'time':>20} {'ratio':>6}  quartiles")
    with LocalCluster(standbys=0) as cluster:
        cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY, number int)")
        with pgroute.Router(cluster.dsn) as router:
            router.install()
        if args.pin is not None:
            os.sched_setaffinity(0, {args.pin})  # after the server was started, which stays free
        for face in ("sync", "async"):
            if face == "sync":
                rounds = run_sync(cluster, args, serial)
            else:
                rounds = asyncio.run(run_async(cluster, args, serial))
            for plain, other in (("writer", "run"), ("run", "once")):
                row = compare(face, rounds, plain, other)
                rows.append(row)
                low, high = row["ratio_quartiles"]
                times = f"{row[f'{other}_us']:.0f} over {row[f'{plain}_us']:.0f} us"
                print(
                    f"{face:<6} {row['compared']:<16} {times:>20} {row['ratio_median']:>6.3f}  {low:.3f} to {high:.3f}",
                    flush=True,
                )
        finish(args, rows, cluster)


if __name__ == "__main__":
    main()
