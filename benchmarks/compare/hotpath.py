"""The time of a session with one worker, divided into its SQL, the share of psycopg_pool and that of pgroute."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psycopg

from pgroute._psycopg.state import settings_of
from pgroute._sync.pool.lease import alive, lease_of
from pgroute.testing import LocalCluster

from .contenders import ALL, SIZES
from .steady import BASE, order

BARE = "SELECT 1 and COMMIT on a connection that is kept"
EMPTY = "a session in which nothing is done, {}"
WHOLE = "a session with SELECT 1, {}"
ALIVE = "one look at the socket (alive)"
ATTRIBUTES = "comparing the connection's attributes"


def timed(work, count):
    """Return the seconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


async def timed_async(work, count):
    """Return the seconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        await work()
    return (time.perf_counter() - start) / count


def works(conn, opened):
    """Return the functions to time with threads, by name."""

    def bare():
        conn.execute("SELECT 1")
        conn.commit()

    def empty(session):
        with session():
            pass

    def whole(session):
        with session() as mine:
            mine.execute("SELECT 1")

    found = {BARE: bare}
    for name, sessions in opened.items():
        found[EMPTY.format(name)] = lambda session=sessions.writer: empty(session)
        found[WHOLE.format(name)] = lambda session=sessions.writer: whole(session)
    with opened["pgroute"].writer() as routed:
        # An idle connection can be looked at from here; nobody else uses the pool.
        found[ALIVE] = lambda: alive(routed)
        found[ATTRIBUTES] = lambda: settings_of(routed) == lease_of(routed).baseline
    return found


def works_async(conn, opened):
    """Return the functions to time with asyncio, by name."""

    async def bare():
        await conn.execute("SELECT 1")
        await conn.commit()

    async def empty(session):
        async with session():
            pass

    async def whole(session):
        async with session() as mine:
            await mine.execute("SELECT 1")

    found = {BARE: bare}
    for name, sessions in opened.items():
        plain = name.removesuffix(" async")
        found[EMPTY.format(plain)] = lambda session=sessions.writer: empty(session)
        found[WHOLE.format(plain)] = lambda session=sessions.writer: whole(session)
    return found


def run_sync(cluster, args, deadline):
    with contextlib.ExitStack() as stack:
        names = ("pgroute", BASE["sync"])
        opened = {name: stack.enter_context(ALL[name].open(cluster.dsn, SIZES, False)) for name in names}
        todo = works(stack.enter_context(psycopg.connect(cluster.primary.conninfo)), opened)
        for work in todo.values():
            timed(work, args.sessions)
        rounds = []
        while len(rounds) < args.rounds and time.monotonic() < deadline:
            turn = order(list(todo), len(rounds))
            rounds.append({name: timed(todo[name], args.sessions) for name in turn})
        return rounds


async def run_async(cluster, args, deadline):
    async with contextlib.AsyncExitStack() as stack:
        names = ("pgroute async", BASE["async"])
        opened = {
            name: await stack.enter_async_context(ALL[name].open(cluster.dsn, SIZES, False)) for name in names
        }
        conn = await psycopg.AsyncConnection.connect(cluster.primary.conninfo)
        todo = works_async(await stack.enter_async_context(conn), opened)
        for work in todo.values():
            await timed_async(work, args.sessions)
        rounds = []
        while len(rounds) < args.rounds and time.monotonic() < deadline:
            turn = order(list(todo), len(rounds))
            rounds.append({name: await timed_async(todo[name], args.sessions) for name in turn})
        return rounds


def run(_scenario, _names, args, deadline):
    """Yield one result for each face: the seconds of each part, by round."""
    with LocalCluster(standbys=2) as cluster:
        for face in ("sync", "async"):
            print(f"  {face}", flush=True)
            if face == "sync":
                rounds = run_sync(cluster, args, deadline)
            else:
                rounds = asyncio.run(run_async(cluster, args, deadline))
            yield {"scenario": "hotpath", "face": face, "rounds": rounds}
