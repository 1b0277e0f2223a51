"""What is observed of both sides for each row: what an argument does, and what a call has left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.coming_from.sides import Side
from tests.support import async_eventually

Observe = Callable[[Side], Awaitable[Any]]

SOON = 0.05
"""Seconds for what should fail at once."""


@dataclass(frozen=True)
class Observation:
    """How a row is observed.

    Attributes:
        observe: a function of an open side, whose result must be equal on both.
        shorter: what the test writes in place of the page's numbers, as whole words.
        theirs: further arguments of theirs, that the observation needs.
        ours: further arguments of ours.
    """

    observe: Observe
    shorter: dict[str, str] = field(default_factory=dict)
    theirs: str = ""
    ours: str = ""


# Of arguments.


async def works(side: Side) -> Any:
    """A session."""
    return await side.value("SELECT 42")


def shows(setting: str) -> Observe:
    """Return an observation of a setting of the server's in a session."""

    async def observe(side: Side) -> Any:
        return await side.value(f"SELECT current_setting('{setting}')")

    return observe


def gives(sql: str) -> Observe:
    """Return an observation of a query's result."""

    async def observe(side: Side) -> Any:
        return await side.value(sql)

    return observe


async def most(side: Side) -> int:
    """How many sessions there can be at once."""
    conns = []
    while (conn := await side.take(SOON if conns else None)) is not None:
        conns.append(conn)
    for each in conns:
        await side.give(each)
    return len(conns)


async def settled(count: Callable[[], int]) -> int:
    """Return a number that is above 0 and has not changed for a moment."""
    seen = 0
    while seen == 0 or seen != count():
        seen = count()
        await asyncio.sleep(0.03)
    return seen


async def opened(side: Side) -> int:
    """How many connections there are when nobody needs more than one."""
    await side.give(await side.take())
    return await settled(lambda: len(side.backends()))


async def replaced(side: Side) -> bool:
    """Whether a session after a while has another connection than one before."""
    conn = await side.take()
    before = await side.ask(conn, "SELECT pg_backend_pid()")
    await asyncio.sleep(0.15)
    await side.give(conn)
    return before != await side.value("SELECT pg_backend_pid()")


async def shrunk(side: Side) -> bool:
    """Whether connections are closed that were not needed for a while."""
    conns = [await side.take() for _ in range(3)]
    before = len(side.backends())
    for each in conns:
        await side.give(each)
    await async_eventually(lambda: len(side.backends()) <= 1)
    return before >= 3


async def gave_up(side: Side) -> bool:
    """Whether a session too many ends the wait in the time that is the pool's own."""
    conn = await side.take()
    begun = time.monotonic()
    another = await side.take()
    waited = time.monotonic() - begun
    await side.give(conn)
    return another is None and 0.05 <= waited < 5


async def refused_in_queue(side: Side) -> bool:
    """Whether one more caller than may wait is refused at once."""
    conn = await side.take()
    waiting = asyncio.create_task(side.take(10))
    await async_eventually(lambda: side.waiting() == 1)
    begun = time.monotonic()
    try:
        refused = await side.take(10) is None
    except Exception:
        refused = True
    quick = time.monotonic() - begun < 5
    await side.give(conn)
    await side.give(await waiting)
    return refused and quick


async def survived(side: Side) -> Any:
    """A session after the server has ended all connections."""
    await side.give(await side.take())
    pids = ",".join(map(str, side.backends()))
    side.place.execute(side.place.cluster.nodes[0], f"SELECT pg_terminate_backend(p) FROM unnest('{{{pids}}}'::int[]) p")
    await async_eventually(lambda: not side.backends())
    return await side.value("SELECT 42")


async def called(side: Side) -> list[str]:
    """Which functions were called in two sessions on one connection."""
    for _ in range(2):
        await side.give(await side.take())
    await settled(lambda: len(side.calls))
    return side.calls


async def class_of(side: Side) -> bool:
    """Whether connections are of the user's class."""
    conn = await side.take()
    await side.give(conn)
    return isinstance(getattr(conn, "_con", conn), side.names["Mine"])


async def named(side: Side) -> str:
    return str(side.pool.name)


async def fresh(side: Side) -> bool:
    """Whether each session has a connection of its own."""
    return await side.value("SELECT pg_backend_pid()") != await side.value("SELECT pg_backend_pid()")


def attribute(name: str) -> Observe:
    """Return an observation of an attribute of connections."""

    async def observe(side: Side) -> Any:
        conn = await side.take()
        await side.give(conn)
        return getattr(conn, name)

    return observe


OF_ARGUMENTS: dict[str, dict[str, Observation]] = {
    "psycopg_pool": {
        "conninfo=dsn": Observation(works),
        "conninfo=lambda: dsn": Observation(works),
        'kwargs={"autocommit": True}': Observation(attribute("autocommit")),
        'kwargs=lambda: {"password": password}': Observation(works),
        "connection_class=Mine": Observation(class_of),
        "min_size=4": Observation(opened, {"4": "2"}),
        "max_size=5": Observation(most, {"5": "2"}, theirs="min_size=1"),
        "configure=prepare": Observation(called, theirs="min_size=1"),
        "check=ConnectionPool.check_connection": Observation(survived, theirs="min_size=1"),
        "check=prepare": Observation(called, theirs="min_size=1"),
        "reset=clean": Observation(called, theirs="min_size=1"),
        'name="shop"': Observation(named),
        "timeout=30": Observation(gave_up, {"30": "0.1"}, theirs="min_size=1, max_size=1", ours="writer=PoolOptions(max_size=1)"),
        "max_waiting=1": Observation(refused_in_queue, theirs="min_size=1, max_size=1"),
        "max_lifetime=3600": Observation(replaced, {"3600": "0.1"}),
        "max_idle=600": Observation(shrunk, {"600": "0.1"}, theirs="min_size=1, max_size=4"),
        "num_workers=3": Observation(works),
        "NullConnectionPool(dsn, max_size=5)": Observation(fresh),
    },
}


# Of calls. A template stands for both sides, or there is one for each; `pid` asks for the process of a session.

_STATS = "sorted({}.keys() & {{'pool_min', 'pool_max', 'pool_size', 'pool_available', 'requests_num', 'usage_ms'}})"

AROUND_CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "psycopg_pool": {
        "pool.open(wait=True, timeout=30)": ("{}; pool.closed",),
        "pool.wait(timeout=30)": (
            "{}; pool.get_stats()['pool_available'] > 0",
            "{}; router.get_stats()['writer']['pool_available'] > 0",
        ),
        "pool.resize(min_size=2, max_size=5)": (
            "{}; pool.min_size, pool.max_size",
            "{}; await pid(); [router.get_stats()['writer']['pool_' + each] for each in ('min', 'max')]",
        ),
        "pool.drain()": ("before = await pid(); {}; before != await pid()",),
        "pool.get_stats()": (_STATS,),
        "pool.pop_stats()": (_STATS,),
        "pool.close(timeout=5)": ("{}; pool.closed",),
    },
}
"""Rows that have their own pool, as they change it or give nothing to compare."""


@dataclass(frozen=True)
class Provocation:
    """What raises an error on both sides.

    Attributes:
        theirs, ours: code.
        their_pool, our_pool: arguments of the pools.
    """

    theirs: str
    ours: str
    their_pool: str = ""
    our_pool: str = ""


_ONE = {"their_pool": "min_size=1, max_size=1", "our_pool": "writer=PoolOptions(max_size=1)"}

OF_ERRORS: dict[str, dict[str, Provocation]] = {
    "psycopg_pool": {
        "PoolTimeout": Provocation(
            "pool.getconn(); pool.getconn(timeout=0.05)",
            "router.getconn('writer'); router.getconn('writer', timeout=0.05)",
            **_ONE,
        ),
        "PoolClosed": Provocation("pool.close(); pool.getconn()", "router.close(); router.getconn('writer')"),
    },
}
