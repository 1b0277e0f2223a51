"""The cost of the router's COPY over psycopg's own on one connection: the same rows, in interleaved rounds.

    python benchmarks/copying.py [--rounds 15] [--rows 100000] [--pin CPU] [--json FILE]

The ratio is psycopg's time over the router's in the same pair of rounds: 1.00 is no overhead, more is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import io
import os
import statistics
import time
from pathlib import Path

import psycopg
from versions import finish

import pgroute
from pgroute.testing import LocalCluster

CREATE = "CREATE UNLOGGED TABLE copied (id int, name text, price float8, at timestamptz)"
WAYS = ("rows in", "file in", "file out", "rows out")


def make_rows(count):
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return [(i, f"name {i}", i / 7, at) for i in range(count)]


def plain_sync(conn, way, rows, data):
    with conn.cursor() as cursor:
        if way == "rows in":
            with cursor.copy("COPY copied FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        elif way == "file in":
            file = io.BytesIO(data)
            with cursor.copy("COPY copied FROM STDIN") as copy:
                while block := file.read(65536):
                    copy.write(block)
        elif way == "file out":
            file = io.BytesIO()
            with cursor.copy("COPY copied TO STDOUT") as copy:
                for block in copy:
                    file.write(block)
        else:
            with cursor.copy("COPY copied TO STDOUT") as copy:
                for _ in copy.rows():
                    pass
    conn.commit()


def routed_sync(router, way, rows, data):
    if way == "rows in":
        router.copy_to_table("copied", rows)
    elif way == "file in":
        router.copy_to_table("copied", io.BytesIO(data))
    elif way == "file out":
        router.copy_from("copied", io.BytesIO(), role="writer")
    else:
        with router.copy_rows("copied", role="writer") as found:
            for _ in found:
                pass


async def plain_async(conn, way, rows, data):
    async with conn.cursor() as cursor:
        if way == "rows in":
            async with cursor.copy("COPY copied FROM STDIN") as copy:
                for row in rows:
                    await copy.write_row(row)
        elif way == "file in":
            file = io.BytesIO(data)
            async with cursor.copy("COPY copied FROM STDIN") as copy:
                while block := file.read(65536):
                    await copy.write(block)
        elif way == "file out":
            file = io.BytesIO()
            async with cursor.copy("COPY copied TO STDOUT") as copy:
                async for block in copy:
                    file.write(block)
        else:
            async with cursor.copy("COPY copied TO STDOUT") as copy:
                async for _ in copy.rows():
                    pass
    await conn.commit()


async def routed_async(router, way, rows, data):
    if way == "rows in":
        await router.copy_to_table("copied", rows)
    elif way == "file in":
        await router.copy_to_table("copied", io.BytesIO(data))
    elif way == "file out":
        await router.copy_from("copied", io.BytesIO(), role="writer")
    else:
        async with router.copy_rows("copied", role="writer") as found:
            async for _ in found:
                pass


def prepare(cluster, way, rows):
    """Empty the table for what is copied in, and leave the rows in it for what is copied out."""
    cluster.primary.execute("TRUNCATE copied")
    if way.endswith("out"):
        with pgroute.Router(cluster.dsn) as router:
            router.copy_to_table("copied", rows)


def order(index):
    """Return in which order the two go in this round, so that a drift of the machine hits both alike."""
    return ("plain", "routed") if index % 2 else ("routed", "plain")


def run_sync(cluster, way, rounds, rows, data):
    found = []
    with pgroute.Router(cluster.dsn) as router, psycopg.connect(cluster.dsn) as conn:
        for index in range(rounds + 1):
            taken = {}
            for who in order(index):
                if way.endswith("in"):
                    prepare(cluster, way, rows)
                start = time.perf_counter()
                if who == "plain":
                    plain_sync(conn, way, rows, data)
                else:
                    routed_sync(router, way, rows, data)
                taken[who] = time.perf_counter() - start
            found.append(taken)
    return found[1:]


async def run_async(cluster, way, rounds, rows, data):
    found = []
    async with (
        pgroute.AsyncRouter(cluster.dsn) as router,
        await psycopg.AsyncConnection.connect(cluster.dsn) as conn,
    ):
        for index in range(rounds + 1):
            taken = {}
            for who in order(index):
                if way.endswith("in"):
                    await asyncio.to_thread(prepare, cluster, way, rows)
                start = time.perf_counter()
                if who == "plain":
                    await plain_async(conn, way, rows, data)
                else:
                    await routed_async(router, way, rows, data)
                taken[who] = time.perf_counter() - start
            found.append(taken)
    return found[1:]


def compare(face, way, rounds):
    ratios = sorted(r["plain"] / r["routed"] for r in rounds)
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "face": face,
        "way": way,
        "psycopg_ms": statistics.median(r["plain"] for r in rounds) * 1e3,
        "router_ms": statistics.median(r["routed"] for r in rounds) * 1e3,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15, help="of each way (default 15)")
    parser.add_argument("--rows", type=int, default=100_000, help="in a copy (default 100,000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--pin", type=int, metavar="CPU", help="keep the client on one processor (Linux)")
    args = parser.parse_args()
    rows = make_rows(args.rows)
    found = []
    print(f"{'face':<6} {'way':<9} {'psycopg':>9} {'router':>9} {'ratio':>6}  quartiles")
    with LocalCluster(standbys=0) as cluster:
        cluster.primary.execute(CREATE)
        prepare(cluster, "rows out", rows)
        file = io.BytesIO()
        with pgroute.Router(cluster.dsn) as router:
            router.copy_from("copied", file, role="writer")
        if args.pin is not None:
            os.sched_setaffinity(0, {args.pin})  # after the server was started, which stays free
        for face in ("sync", "async"):
            for way in WAYS:
                prepare(cluster, way, rows)
                if face == "sync":
                    rounds = run_sync(cluster, way, args.rounds, rows, file.getvalue())
                else:
                    rounds = asyncio.run(run_async(cluster, way, args.rounds, rows, file.getvalue()))
                row = compare(face, way, rounds)
                found.append(row)
                low, high = row["ratio_quartiles"]
                print(
                    f"{face:<6} {way:<9} {row['psycopg_ms']:>6.0f} ms {row['router_ms']:>6.0f} ms"
                    f" {row['ratio_median']:>6.3f}  {low:.3f} to {high:.3f}",
                    flush=True,
                )
        finish(args, found, cluster)


if __name__ == "__main__":
    main()
