"""Steady state: acquire + SELECT 1 + release on the primary, in rounds in which each contender has its turn."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from pgroute.testing import LocalCluster

from .contenders import ALL, SIZES

WORKERS = (1, 8, 64)
BASE = {"sync": "psycopg_pool", "async": "psycopg_pool async"}


def sync_round(sessions, count, workers):
    """Return the seconds that one session took."""

    def work():
        for _ in range(count // workers):
            with sessions.writer() as conn:
                conn.execute("SELECT 1")

    threads = [threading.Thread(target=work) for _ in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / (count // workers * workers)


async def async_round(sessions, count, workers):
    """Return the seconds that one session took."""

    async def work():
        for _ in range(count // workers):
            async with sessions.writer() as conn:
                await conn.execute("SELECT 1")
                if not sessions.commits:
                    await conn.commit()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return (time.perf_counter() - start) / (count // workers * workers)


def order(names, number):
    """Return the names in the order of this round: it changes, so that a drift of the machine hits all alike."""
    at = number % len(names)
    turned = names[at:] + names[:at]
    return turned if number // len(names) % 2 == 0 else turned[::-1]


def run_sync(dsn, names, args, workers, deadline):
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(ALL[name].open(dsn, SIZES, False)) for name in names}
        for sessions in opened.values():
            sync_round(sessions, args.sessions, workers)
        rounds = []
        for number in range(args.rounds):
            if time.monotonic() > deadline:
                break
            rounds.append(
                {name: sync_round(opened[name], args.sessions, workers) for name in order(names, number)}
            )
        return rounds


async def run_async(dsn, names, args, workers, deadline):
    async with contextlib.AsyncExitStack() as stack:
        opened = {name: await stack.enter_async_context(ALL[name].open(dsn, SIZES, False)) for name in names}
        for sessions in opened.values():
            await async_round(sessions, args.sessions, workers)
        rounds = []
        for number in range(args.rounds):
            if time.monotonic() > deadline:
                break
            rounds.append(
                {
                    name: await async_round(opened[name], args.sessions, workers)
                    for name in order(names, number)
                }
            )
        return rounds


def run(_scenario, names, args, deadline):
    """Yield one result for each face and number of workers: the seconds of a session, by round and contender."""
    # hasql's tuning changes how often it probes, nothing of a session, and its probes would be in everybody's way.
    names = [name for name in names if name != "hasql tuned"]
    with LocalCluster(standbys=2) as cluster:
        for face in ("sync", "async"):
            mine = [name for name in names if ALL[name].face == face]
            for workers in WORKERS if mine else ():
                print(f"  {face}, {workers} worker(s)", flush=True)
                if face == "sync":
                    rounds = run_sync(cluster.dsn, mine, args, workers, deadline)
                else:
                    rounds = asyncio.run(run_async(cluster.dsn, mine, args, workers, deadline))
                yield {"scenario": "steady", "face": face, "workers": workers, "rounds": rounds}
