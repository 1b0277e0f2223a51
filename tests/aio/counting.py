"""A counter that transactions increment under a key, and what is to be seen of them at a server."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

from pgroute import AsyncRouter, RetryPolicy
from pgroute._async.pool.lease import lease_of
from pgroute.core.sql.schema import definition
from pgroute.testing import LocalCluster, Node
from tests.support import AsyncBackground, AsyncHandle, async_call, async_eventually

KEY = "payment 42"
INCREMENT = "UPDATE counter SET value = value + 1 RETURNING value"


def set_up(cluster: LocalCluster) -> None:
    """Make the counter and the tables of `once`, and wait until the standbys have them."""
    cluster.primary.execute(
        f"{definition()} CREATE TABLE counter (value int NOT NULL); INSERT INTO counter VALUES (0)"
    )
    cluster.catch_up()


def clear(cluster: LocalCluster) -> None:
    """Drop what `set_up` made."""
    cluster.primary.execute("DROP SCHEMA IF EXISTS pgroute CASCADE; DROP TABLE IF EXISTS counter")


class Increment:
    """A body that increments the counter; it keeps the connections of its runs, and the pids of their backends."""

    def __init__(self) -> None:
        self.conns: list[psycopg.AsyncConnection[Any]] = []
        self.pids: list[int] = []

    async def __call__(self, conn: psycopg.AsyncConnection[Any]) -> int:
        self.conns.append(conn)
        self.pids.append(conn.info.backend_pid)
        cursor = await conn.execute(INCREMENT)
        (value,) = await cursor.fetchone() or (0,)
        return int(value)

    @property
    def runs(self) -> int:
        return len(self.conns)

    def cut(self) -> None:
        """Give up the connection of the first run, as the kernel does after a time without an answer."""
        lease_of(self.conns[0]).abort()


async def call_once(
    router: AsyncRouter[Any],
    body: Any,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    isolation: str | None = None,
) -> Any:
    """Increment the counter under the key."""
    return await router.run(body, once=KEY, timeout=timeout, retry=retry, isolation=isolation)


async def counted(node: Node) -> tuple[int, int]:
    """Return the value of the counter and the number of keys."""
    sql = "SELECT value, (SELECT count(*) FROM pgroute.once)::int FROM counter"
    [(value, keys)] = await async_call(node.execute, sql)
    return value, keys


def waiting(node: Node, event: str) -> set[tuple[Any, ...]]:
    """Return the transactions that wait for something: "SyncRep", "transactionid", ...; pid and time of the start."""
    sql = "SELECT pid, xact_start FROM pg_stat_activity WHERE wait_event = %s AND xact_start IS NOT NULL"
    return set(node.execute(sql, (event,)))


def terminate(node: Node, pid: int) -> None:
    """End a backend, and return when it has ended."""
    assert node.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)) == [(True,)]


class Lingering(Increment):
    """A body that increments, says so by its runs, and goes on when told to: to the end, or to an error."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.error: Exception | None = None

    async def __call__(self, conn: psycopg.AsyncConnection[Any]) -> int:
        value = await super().__call__(conn)
        await async_eventually(self.over.is_set)
        if self.error is not None:
            raise self.error
        return value


async def shown(conn: psycopg.AsyncConnection[Any]) -> str:
    """Return the lock_timeout that holds."""
    cursor = await conn.execute("SHOW lock_timeout")
    (value,) = await cursor.fetchone() or ("",)
    return str(value)


async def shows(conn: psycopg.AsyncConnection[Any]) -> list[Any]:
    """Increment the counter and return the lock_timeout of the body."""
    cursor = await conn.execute(INCREMENT)
    (value,) = await cursor.fetchone() or (0,)
    return [value, await shown(conn)]


async def start_after(
    node: Node, router: AsyncRouter[Any], background: AsyncBackground
) -> tuple[Lingering, AsyncHandle]:
    """Start a call that waits for a predecessor; return the predecessor and the call."""
    before = Lingering()
    background.start(call_once, router, before)
    await async_eventually(lambda: before.runs)
    after = background.start(call_once, router, shows)
    await async_eventually(lambda: waiting(node, "transactionid"))
    return before, after
