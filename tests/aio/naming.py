"""What the tests of names share: a cluster whose nodes have one port, and sessions there under other names."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg

from pgroute import AsyncRouter, ProbeOptions
from pgroute.testing import LocalCluster
from tests.names.nameserver import NameServer
from tests.support import dsn_at

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
FAST = ProbeOptions(interval=0.3, min_ttl=0.3, lookup_timeout=0.5)


def router_of(cluster: LocalCluster, server: NameServer, *names: str, **options: Any) -> AsyncRouter:
    """Return a router to a cluster under these names."""
    hosts = ",".join(f"{name}:{cluster.nodes[0].port}" for name in names)
    options = {"probe": FAST, **options}
    return AsyncRouter(dsn_at(hosts, cluster), resolver=server.resolver, **options)


async def where(router: AsyncRouter, role: str = "writer", timeout: float = 5.0) -> str:
    """Return the address that a session is given at."""
    session = router.writer(timeout) if role == "writer" else router.reader(timeout)
    async with session as conn:
        assert conn.info.host != conn.info.hostaddr, "the name is what TLS and the password file see"
        return conn.info.hostaddr


def addresses(router: AsyncRouter) -> list[str | None]:
    return [host.address for host in router.topology.hosts]


async def keep_going(router: AsyncRouter, role: str, stop: threading.Event, seen: list[Any]) -> None:
    """Ask for sessions until told to stop, and note when each was had, and where, or its error."""
    while not stop.is_set():
        try:
            address: str | None = None
            session = router.writer() if role == "writer" else router.reader()
            async with session as conn:
                address = conn.info.hostaddr
                await conn.execute("SELECT 1")
            seen.append((time.monotonic(), address, None))
        except psycopg.Error as exc:
            seen.append((time.monotonic(), address, exc))


def sessions_at(node: Any) -> int:
    return int(node.execute(f"SELECT count(*) {CLIENTS}")[0][0])


CLIENTS = (
    "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    " AND application_name <> 'pgroute-testing'"
)


async def hold(router: AsyncRouter, entered: threading.Event, release: threading.Event) -> None:
    """Keep a session in the middle of a statement until it ends."""
    async with router.writer() as conn:
        entered.set()
        await conn.execute("SELECT pg_sleep(60)")
