"""Many tasks through one router while the primary is lost: `python examples/async_app.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine, kills its primary half-way and promotes a standby; on a
DSN it only writes and reads.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter

import psycopg

import pgroute
from pgroute.testing import LocalCluster

ORDERS = 400
WORKERS = 8


async def place_order(router: pgroute.AsyncRouter, number: int) -> str:
    """Write one order and return how it ended.

    Each end is told as it is, and left to the caller; `router.run(..., once=KEY)` would see most of them through.
    """
    try:
        async with router.writer() as conn:
            await conn.execute("INSERT INTO pgroute_orders VALUES (%s)", (number,))
    except pgroute.CommitUnknown:
        return "unknown"  # check before writing it again: it may be there
    except psycopg.OperationalError:
        return "failed"  # nothing was committed: writing it again is safe
    return "placed"


async def worker(router: pgroute.AsyncRouter, numbers: asyncio.Queue[int], ends: Counter[str]) -> None:
    """Place orders until none is left, reading in between."""
    while not numbers.empty():
        ends[await place_order(router, numbers.get_nowait())] += 1
        async with router.reader() as conn:
            await conn.execute("SELECT count(*) FROM pg_stat_activity")
        await asyncio.sleep(0.02)


async def fail_over(cluster: LocalCluster) -> None:
    """Kill the primary and promote a standby, as a cluster manager would."""
    await asyncio.sleep(0.5)
    await asyncio.to_thread(cluster.primary.kill)
    await asyncio.to_thread(cluster.promote)


async def main(dsn: str, cluster: LocalCluster | None = None) -> None:
    """Place all orders and count them."""
    numbers: asyncio.Queue[int] = asyncio.Queue()
    for number in range(ORDERS):
        numbers.put_nowait(number)
    ends: Counter[str] = Counter()
    async with pgroute.AsyncRouter(dsn) as router:
        router.subscribe(print)
        async with router.writer() as conn:
            await conn.execute("CREATE TABLE pgroute_orders (id int)")
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(WORKERS):
                    tasks.create_task(worker(router, numbers, ends))
                if cluster is not None:
                    tasks.create_task(fail_over(cluster))
            async with router.writer() as conn:
                rows = await (await conn.execute("SELECT id FROM pgroute_orders")).fetchall()
            print(f"{dict(ends)}, {len(rows)} rows found")
        finally:
            async with router.writer() as conn:
                await conn.execute("DROP TABLE pgroute_orders")


if __name__ == "__main__":
    logging.getLogger("pgroute").setLevel(logging.ERROR)  # the events are printed anyway
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with LocalCluster(synchronous=True) as local:
            asyncio.run(main(local.dsn, local))
