"""A counter that transactions increment under a key, and what is to be seen of them at a server."""

from __future__ import annotations

from typing import Any

import psycopg

from pgroute import AsyncRouter, RetryPolicy
from pgroute._async.pool.lease import lease_of
from pgroute.core.sql.schema import definition
from pgroute.testing import LocalCluster, Node
from tests.support import async_call

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
