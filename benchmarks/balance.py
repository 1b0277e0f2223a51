"""Which replica gets how many sessions, and how long they take: each policy of pgroute, and hasql's.

    python -m benchmarks.balance [--only NAME ...] [--seconds 4] [--json benchmarks/results.json]

A primary with three replicas behind proxies, and 16 tasks that read, with pauses, through one library at a time: all
replicas equal, one slowed tenfold by its proxy, one killed, and the same one back again. If the file of --json has
results of benchmarks/compare, these are put among them.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import json
import logging
import random
import signal
import statistics
import sys
import time
from pathlib import Path

import psycopg

import pgroute
from benchmarks.compare.summary import balance_rows
from benchmarks.compare.table import show
from benchmarks.failover import percentile
from benchmarks.versions import listed, machine, readable, versions
from pgroute.core.routing.warm_up import WARM_UP
from pgroute.testing import FaultProxy, LocalCluster

try:
    from hasql import balancer_policy
    from hasql.driver.psycopg3 import PoolManager
except ImportError:
    PoolManager = None

TASKS = 16
PAUSE = 0.02
"""Seconds between two sessions of a task, on average: about 700 sessions a second, which leaves the processors time."""

QUERY = "SELECT count(*) FROM generate_series(1, 200)"
SLOWER = 10
SIZES = {"min_size": 1, "max_size": 10}
TIMEOUT = 5.0


@contextlib.asynccontextmanager
async def open_pgroute(dsn, *, balance):
    options = pgroute.PoolOptions(**SIZES)
    async with pgroute.AsyncRouter(
        dsn, balance=balance, reader=options, acquire_timeout=TIMEOUT, kwargs={"autocommit": True}
    ) as router:
        await router.wait("reader")
        yield router.reader


@contextlib.asynccontextmanager
async def open_hasql(dsn, *, policy):
    kwargs = {**SIZES, "kwargs": {"autocommit": True}}
    async with PoolManager(
        dsn, balancer_policy=policy, acquire_timeout=TIMEOUT, pool_factory_kwargs=kwargs
    ) as manager:
        await manager.ready(masters_count=1, replicas_count=3)
        yield manager.acquire_replica


LONGEST = 90.0
"""Seconds for one contender."""

CONTENDERS = {
    f"pgroute {name}": functools.partial(open_pgroute, balance=name)
    for name in ("random", "ordered", "round-robin", "least-busy", "adaptive")
}
if PoolManager is not None:
    CONTENDERS |= {
        f"hasql {name}": functools.partial(open_hasql, policy=policy)
        for name, policy in (
            ("greedy", balancer_policy.GreedyBalancerPolicy),
            ("random", balancer_policy.RandomWeightedBalancerPolicy),
            ("round-robin", balancer_policy.RoundRobinBalancerPolicy),
        )
    }


class Load:
    """Tasks that read until the block is left. `sessions` has the end, the seconds, the port or the error of each."""

    def __init__(self, session):
        self._session = session
        self.sessions = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._work(random.Random(n))) for n in range(TASKS)]
        return self

    async def __aexit__(self, *exc):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, rng):
        while True:
            await asyncio.sleep(rng.expovariate(1 / PAUSE))
            begun = time.monotonic()
            try:
                async with self._session() as conn:
                    await conn.execute(QUERY)
                    where = conn.info.port
            except (psycopg.Error, TimeoutError) as exc:
                where = type(exc).__name__
            now = time.monotonic()
            self.sessions.append((now, now - begun, where))

    async def measure(self, seconds, ports):
        """Return what happened in the next seconds."""
        since = time.monotonic()
        await asyncio.sleep(seconds)
        found = [s for s in self.sessions if s[0] >= since]
        served = collections.Counter(where for _, _, where in found)
        times = [took for _, took, _ in found]
        total = sum(served[port] for port in ports)
        return {
            "sessions": len(found),
            "p50": statistics.median(times),
            "p99": percentile(times, 0.99),
            "most": max(times),
            "shares": [served[port] / total for port in ports],
            "errors": {name: count for name, count in served.items() if isinstance(name, str)},
        }


async def contend(opened, cluster, proxies, seconds):
    """Return the measures of one contender, by phase; the last replica is the one that suffers."""
    ports = [proxy.port for proxy in proxies[1:]]
    node, proxy = cluster.nodes[-1], proxies[-1]
    found = {}
    hosts = ",".join(f"{p.host}:{p.port}" for p in proxies)
    # hasql does not take a DSN with a password file.
    dsn = f"postgresql://postgres:{cluster.password}@{hosts}/postgres"
    async with opened(dsn) as session, Load(session) as load:
        await asyncio.sleep(1.5)  # all replicas are found, and the pools grow
        found["equal"] = await load.measure(seconds, ports)
        proxy.delay((SLOWER - 1) * found["equal"]["p50"] / 2)
        found["slowing"] = await load.measure(3.0, ports)
        found["slow"] = await load.measure(seconds, ports)
        proxy.clear_faults()
        await asyncio.sleep(1.0)
        await asyncio.to_thread(node.stop, "immediate")
        found["down"] = await load.measure(seconds, ports)
        await asyncio.to_thread(node.start)
        found["returning"] = await load.measure(3.0, ports)
        await asyncio.sleep(max(0.0, WARM_UP - 2.0))
        found["returned"] = await load.measure(3.0, ports)
    return found


async def one(opened, cluster, proxies, seconds):
    """Return the measures of one contender. Raises TimeoutError if it hangs."""
    async with asyncio.timeout(LONGEST):
        return await contend(opened, cluster, proxies, seconds)


def store(path, result):
    """Write the result, among those of benchmarks/compare if the file has them."""
    kept = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
    others = [r for r in kept.get("results", ()) if r["scenario"] != result["scenario"]]
    path.write_text(readable({**kept, "results": [*others, result]}))


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="these (default: all)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default 4)")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    args = parser.parse_args()
    for logger in ("hasql", "psycopg.pool"):
        logging.getLogger(logger).setLevel(
            logging.CRITICAL
        )  # they report each attempt to reach the dead replica
    # As Ctrl-C, so that servers are ended, and what was measured is kept.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measured = {}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(standbys=3))
        proxies = [stack.enter_context(FaultProxy(node)) for node in cluster.nodes]
        found = {"machine": machine(), "versions": versions(cluster.server)}
        print(listed(found["machine"]), listed(found["versions"]), sep="\n")
        try:
            for name in args.only or CONTENDERS:
                print(f"{name} ...", flush=True)
                try:
                    measured[name] = asyncio.run(one(CONTENDERS[name], cluster, proxies, args.seconds))
                except TimeoutError:
                    print(f"{name}: no result in {LONGEST:g} s")
        finally:
            result = {"scenario": "balance", **found, "seconds": args.seconds, "contenders": measured}
            show("balance", *balance_rows(result))
            if args.json:
                store(args.json, result)


if __name__ == "__main__":
    main()
