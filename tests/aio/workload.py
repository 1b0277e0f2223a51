"""Writers and readers that go on until told to stop, and keep account of what they saw."""

from __future__ import annotations

import asyncio  # async-only
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
import pytest

from pgroute import AsyncRouter, CommitUnknown, NoHostAvailable, ProbeOptions, RouterClosed
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey
from pgroute.testing import LocalCluster, Node
from pgroute.testing.proxy_arguments import Endpoint
from tests.support import async_call

QUICK = ProbeOptions(interval=0.1, timeout=0.2)
"""For what is found out by a probe, where the time that it takes is not what is tested."""


class Session(NamedTuple):
    """Where and when a session ran."""

    port: int
    pid: int
    begun: float
    ended: float


@dataclass
class Account:
    """What a loop did.

    Attributes:
        sessions: those that ended well, in order.
        errors: each with the time at which its session was asked for.
        unknown: numbers whose COMMIT was lost on the way.
    """

    sessions: list[Session] = field(default_factory=list)
    errors: list[tuple[float, psycopg.Error]] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        return [session.port for session in self.sessions]

    def since(self, moment: float) -> list[Session]:
        """Return the sessions asked for after *moment*."""
        return [session for session in self.sessions if session.begun > moment]

    def errors_since(self, moment: float) -> list[psycopg.Error]:
        """Return the errors of sessions asked for after *moment*."""
        return [error for begun, error in self.errors if begun > moment]


def make_table(cluster: LocalCluster) -> None:
    """Make the table that the writers fill, and wait until the standbys have it."""
    cluster.primary.execute(
        "CREATE TABLE written (number int PRIMARY KEY, port int DEFAULT inet_server_port())"
    )
    cluster.catch_up()


def key(node: Endpoint) -> HostKey:
    """Return the name by which a router knows a node, or the proxy in front of it."""
    return HostKey(node.host, node.port)


def state(router: AsyncRouter[Any], node: Endpoint) -> HostState | None:
    """Return the state of a node as the router sees it."""
    host = router.topology.host(key(node))
    return host.state if host else None


def reason(router: AsyncRouter[Any], node: Endpoint) -> str:
    """Return why a node is in its state, as the router sees it."""
    host = router.topology.host(key(node))
    return host.reason if host else ""


def primary(router: AsyncRouter[Any]) -> HostKey | None:
    """Return the host that the router holds for the primary."""
    host = router.topology.primary
    return host.key if host else None


async def write(router: AsyncRouter[Any], number: int, timeout: float | None = None) -> Session:
    """Insert one row through a writer session and return where."""
    begun = time.monotonic()
    async with router.writer(timeout) as conn:
        cursor = await conn.execute(
            "INSERT INTO written VALUES (%s) RETURNING port, pg_backend_pid()", [number]
        )
        port, pid = await cursor.fetchone() or (0, 0)
    return Session(port, pid, begun, time.monotonic())


async def read(router: AsyncRouter[Any], timeout: float | None = None) -> Session:
    """Ask through a reader session where it is."""
    begun = time.monotonic()
    async with router.reader(timeout) as conn:
        cursor = await conn.execute("SELECT inet_server_port(), pg_backend_pid()")
        port, pid = await cursor.fetchone() or (0, 0)
    return Session(port, pid, begun, time.monotonic())


async def refused_until(
    told: Callable[[str], Any], router: AsyncRouter[Any], role: Any, timeout: float = 0.3
) -> NoHostAvailable:
    """Ask for sessions, none of which can be had, until *told(text of the error)* is true; return that error.

    The login that is refused may take longer than one caller waits.
    """
    until = time.monotonic() + 20.0
    while True:
        with pytest.raises(NoHostAvailable) as caught:
            await router.getconn(role, timeout=timeout)
        if told(str(caught.value)):
            return caught.value
        assert time.monotonic() < until, str(caught.value)
        await asyncio.sleep(0.01)


async def keep_writing(
    router: AsyncRouter[Any], stop: threading.Event, account: Account, first: int = 1
) -> None:
    """Write rows from number *first* on."""
    number = first
    while not stop.is_set():
        begun = time.monotonic()
        try:
            account.sessions.append(await write(router, number))
            account.written.append(number)
        except RouterClosed:
            return
        except CommitUnknown as error:
            account.unknown.append(number)
            account.errors.append((begun, error))
        except psycopg.Error as error:
            account.errors.append((begun, error))
        number += 1


async def keep_reading(router: AsyncRouter[Any], stop: threading.Event, account: Account) -> None:
    """Read in one short session after the other."""
    while not stop.is_set():
        begun = time.monotonic()
        try:
            account.sessions.append(await read(router))
        except RouterClosed:
            return
        except psycopg.Error as error:
            account.errors.append((begun, error))


async def numbers(node: Node) -> list[int]:
    """Return the rows found at a node."""
    return sorted(number for (number,) in await async_call(node.execute, "SELECT number FROM written"))
