"""What can be observed of a pool or a router from outside, the same way of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.coming_from.sides import Side
from tests.support import async_eventually

Observe = Callable[[Side], Awaitable[Any]]

SOON = 0.02
"""Seconds for what should fail at once."""


PASSIVE: set[Observe] = set()
"""Observations that need no pool of their own."""


def passive(observe: Observe) -> Observe:
    """Mark an observation as one that needs no pool of its own."""
    PASSIVE.add(observe)
    return observe


@passive
async def works(side: Side) -> Any:
    """A session."""
    return await side.value("SELECT 42")


def gives(sql: str) -> Observe:
    """Return an observation of a query's result."""

    async def observe(side: Side) -> Any:
        return await side.value(sql)

    return passive(observe)


def shows(setting: str) -> Observe:
    """Return an observation of a setting of the server's in a session."""
    return gives(f"SELECT current_setting('{setting}')")


def attribute(name: str) -> Observe:
    """Return an observation of an attribute of connections."""

    async def observe(side: Side) -> Any:
        conn = await side.get()
        await side.give(conn)
        return getattr(conn, name)

    return passive(observe)


@passive
async def named(side: Side) -> str:
    """The name of the pool."""
    return str(side.pool.name)


@passive
async def of_my_class(side: Side) -> bool:
    """Whether connections are of the user's class."""
    conn = await side.get()
    found = isinstance(getattr(conn, "_con", conn), side.names["Mine"])
    await side.give(conn)
    return found


async def row_class(side: Side) -> str:
    """The class of rows."""
    conn = await side.get()
    row = await side.row(conn, "SELECT 1 AS number")
    await side.give(conn)
    return type(row).__name__.removeprefix("Real").removesuffix("Row").lower()


def most(number: int) -> Observe:
    """Return an observation of how many sessions there can be at once, which should be that many."""

    async def observe(side: Side) -> int:
        conns = [await side.get() for _ in range(number)]
        while (conn := await side.take(SOON)) is not None:
            conns.append(conn)
        for each in conns:
            await side.give(each)
        return len(conns)

    return observe


async def settled(count: Callable[[], int], least: int = 1) -> int:
    """Return a number that is large enough and has not changed for a moment."""
    await async_eventually(lambda: count() >= least)
    seen = 0
    while seen != count():
        seen = count()
        await asyncio.sleep(0.01)
    return seen


def opened(number: int) -> Observe:
    """Return an observation of how many connections there are when nobody needs more than one."""

    async def observe(side: Side) -> int:
        await side.give(await side.get())
        return await settled(lambda: len(side.backends()), number)

    return observe


def sizes(least: int, greatest: int) -> Observe:
    """Return an observation of both."""

    async def observe(side: Side) -> tuple[int, int]:
        return await opened(least)(side), await most(greatest)(side)

    return observe


async def fresh(side: Side) -> bool:
    """Whether each session has a connection of its own."""
    return bool(await side.pid() != await side.pid())


async def replaced(side: Side) -> bool:
    """Whether a connection is replaced that was there for a while."""
    conn = await side.get()
    before = await side.ask(conn, "SELECT pg_backend_pid()")
    await asyncio.sleep(0.06)
    await side.give(conn)
    return bool(before != await side.pid())


async def shrunk(side: Side) -> bool:
    """Whether connections are closed that were not needed for a while."""
    conns = [await side.get() for _ in range(3)]
    before = len(side.backends())
    for each in conns:
        await side.give(each)
    await async_eventually(lambda: len(side.backends()) <= 1)
    return before >= 3


async def survived(side: Side) -> Any:
    """A session after the server has ended all connections."""
    await side.give(await side.get())
    pids = ",".join(map(str, side.backends()))
    end = f"SELECT pg_terminate_backend(pid) FROM unnest('{{{pids}}}'::int[]) AS pid"
    side.place.execute(side.place.cluster.nodes[0], end)
    await async_eventually(lambda: not side.backends() & set(map(int, pids.split(","))))
    await asyncio.sleep(0.01)  # for those who have to read it in the loop
    return await side.value("SELECT 42")


async def forgotten(side: Side) -> bool:
    """Whether what a session has set is gone in the next one, on the same connection."""
    conn = await side.get()
    before = await side.ask(conn, "SELECT pg_backend_pid()")
    await side.ask(conn, "SELECT set_config('coming.from', 'there', false)")
    await side.commit(conn)
    await side.give(conn)
    sql = "SELECT pg_backend_pid() || coalesce(current_setting('coming.from', true), '')"
    return bool(await side.value(sql) == str(before))


async def kept(side: Side) -> bool:
    """Whether it is not."""
    return not await forgotten(side)


async def called(side: Side) -> list[str]:
    """Which functions were called in two sessions on one connection."""
    for _ in range(2):
        await side.give(await side.get())
    await settled(lambda: len(side.calls))
    return side.calls


async def prepared(side: Side) -> int:
    """How many statements the server has prepared when one was often used."""
    conn = await side.get()
    for _ in range(7):
        await side.ask(conn, "SELECT 42")
    found = await side.ask(conn, "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 42'")
    await side.give(conn)
    return int(found)


async def interrupted(side: Side) -> bool:
    """Whether a statement that takes too long is ended."""
    begun = time.monotonic()
    try:
        await side.value("SELECT pg_sleep(20)")
    except Exception:  # noqa: BLE001  (of each library its own)
        return time.monotonic() - begun < 10
    return False


async def gave_up(side: Side) -> bool:
    """Whether a caller waits for a connection as long as the pool says."""
    conn = await side.get(10)
    begun = time.monotonic()
    another = await side.take()
    waited = time.monotonic() - begun
    await side.give(conn)
    return another is None and SOON <= waited < 5


async def refused_in_queue(side: Side) -> bool:
    """Whether one more caller than may wait is refused at once."""
    begun = time.monotonic()
    try:
        await queue_up(side)
    except Exception:  # noqa: BLE001  (which one is another row)
        return time.monotonic() - begun < 5
    return False


# Where sessions go.


async def port_of_reader(side: Side) -> int:
    """The port of the server that a reader gets."""
    conn = await side.get_reader()
    port = await side.ask(conn, "SELECT inet_server_port()")
    await side.give(conn)
    return int(port)


async def spread(side: Side) -> bool:
    """Whether several servers serve readers."""
    first = await port_of_reader(side)
    for _ in range(300):
        if await port_of_reader(side) != first:
            return True
    return False


async def spread_if_held(side: Side) -> bool:
    """Whether new connections go to several servers."""
    conns: list[Any] = []
    ports: set[int] = set()
    while len(ports) < 2 and len(conns) < 16:
        conns.append(await side.get_reader())
        ports.add(await side.ask(conns[-1], "SELECT inet_server_port()"))
    for each in conns:
        await side.give(each)
    return len(ports) > 1


async def one_if_held(side: Side) -> bool:
    """Whether they go to one."""
    return not await spread_if_held(side)


async def read_standby(side: Side) -> bool:
    """Whether readers get a standby, as soon as it is known to be fit."""
    for _ in range(100):
        conn = await side.get_reader()
        standby = await side.ask(conn, "SELECT pg_is_in_recovery()")
        await side.give(conn)
        if standby:
            return True
        await asyncio.sleep(0.02)
    return False


async def read_primary(side: Side) -> bool:
    """Whether readers get the primary, which is all there is."""
    conn = await side.get_reader(5)
    standby = await side.ask(conn, "SELECT pg_is_in_recovery()")
    await side.give(conn)
    return not standby


async def read_nothing(side: Side) -> bool:
    """Whether readers get nothing from a primary."""
    try:
        await side.get_reader(0.1)
    except side.in_time:
        return True
    return False


async def read_both(side: Side) -> bool:
    """Whether readers get the primary and standbys."""
    found = set()
    for _ in range(300):
        conn = await side.get_reader()
        found.add(await side.ask(conn, "SELECT pg_is_in_recovery()"))
        await side.give(conn)
        if len(found) == 2:
            return True
    return False


# Errors.


async def exhaust(side: Side) -> None:
    """Take one connection more than there may be."""
    conn = await side.get(10)
    try:
        await side.get(SOON)
    finally:
        await side.give(conn)


async def queue_up(side: Side) -> None:
    """Wait for a connection when one more caller waits than may."""
    conn = await side.get()
    waiting = asyncio.create_task(side.get(10))
    await async_eventually(lambda: side.waiting() == 1)
    try:
        await side.get(10)
    finally:
        await side.give(conn)
        await side.give(await waiting)


async def use_closed(side: Side) -> None:
    """Ask a closed pool for a connection."""
    await side.close()
    await side.get()


async def get_soon(side: Side) -> None:
    """Ask for a connection that cannot be opened."""
    await side.get(0.1)


async def lose(side: Side) -> None:
    """Use a connection that the server has ended."""
    conn = await side.get()
    await side.ask(conn, "SELECT pg_terminate_backend(pg_backend_pid())")
