"""What the two sides of a comparison have in common: they are opened and used in the same way."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

import psycopg
import psycopg.rows
import yaml
from psycopg.conninfo import make_conninfo

import pgroute
from pgroute.testing import LocalCluster, Node
from tests.coming_from.snippets import evaluate
from tests.support import password_of

SERIAL = itertools.count(1)

OF_PGROUTE = {name: getattr(pgroute, name) for name in dir(pgroute)}
"""All names of the package, which has most of them only when they are asked for."""

CHANNEL = "jobs"

BINARY_SEVEN = b"PGCOPY\n\xff\r\n\0" + struct.pack("!iihiih", 0, 0, 1, 4, 7, -1)
"""One row with the number 7, as COPY has it in its binary format."""

SECRET = {"from_env", "from_file"}
"""The keys of a mapping that stands for a value."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where both sides connect to.

    Attributes:
        cluster: the servers.
        execute: runs a statement at a node, in a session that is not counted.
        folder: for files.
        hosts: host and port of the servers to use, instead of the cluster's.
        names: what code may use beside the names of its side.
    """

    cluster: LocalCluster
    execute: Callable[[Node, str], list[tuple[Any, ...]]]
    folder: Path
    hosts: tuple[tuple[str, int], ...] = ()
    names: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def services(self) -> Path:
        """A service file that leads to the primary."""
        return self.folder / "services"


@dataclasses.dataclass(frozen=True)
class Item:
    """A row as an object."""

    number: int


class Side:
    """One library at work; a context manager, in which the pool is open.

    Args:
        place: where to.
        cell: arguments of the pool, as the page has them, or a whole call.
        extra: further arguments.

    Attributes:
        library: its name in the page.
        constructor: makes a pool.
        dsn: the argument that gives it the DSN.
        always: arguments of each pool.
        small: arguments of a pool with 1 to 4 connections.
        is_async: whether functions are handed over as coroutine functions.
        in_time: what is raised if there is no connection in time.
        name: the application_name of its connections; of all routers the same, so that they share probes.
        calls: the names of the functions that were called, of those that cells hand over.
        names: what code in cells may use.
        arguments: of the pool; None: those in the cell.
        pool: the open pool, or the router.
    """

    library = ""
    name = "theirs"
    constructor = ""
    dsn = "dsn"
    always: Mapping[str, Any] = MappingProxyType({})
    small = ""
    is_async = True
    in_time: type[Exception] | tuple[type[Exception], ...] = TimeoutError

    def __init__(self, place: Place, cell: str = "", extra: str = "") -> None:
        self.place = place
        self.cell = cell
        self.extra = extra
        self.serial = next(SERIAL)
        self.calls: list[str] = []
        self.pool: Any = None
        self.arguments: dict[str, Any] | None = None
        self._before: set[int] = set()
        host, port = self.hosts[0]
        numbers = place.folder / f"{self.serial}.csv"
        numbers.write_text("number\n1\n2\n")
        self.names: dict[str, Any] = {
            "asyncio": asyncio,
            "make_conninfo": make_conninfo,
            "host": host,
            "port": port,
            "user": "postgres",
            "password": password_of(place.cluster),
            "database": "postgres",
            "passfile": str(place.cluster.passfile),
            "services": str(place.services),
            "path": str(numbers),
            "out": str(place.folder / f"{self.serial}-out.csv"),
            "data": BINARY_SEVEN,
            "dsn": self.make_dsn(),
            "Item": Item,
            "pid": self.pid,
            "work": self.work,
            "read": self.read,
            **{name: self._function(name) for name in ("prepare", "clean", "alert", "callback")},
            **self.classes(),
            **place.names,
        }

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """Host and port of the servers that it is given."""
        return self.place.hosts or ((self.place.cluster.nodes[0].host, self.place.cluster.nodes[0].port),)

    def make_dsn(self) -> str:
        """Return a DSN with a password in it."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        password = quote(password_of(self.place.cluster))
        return f"postgresql://postgres:{password}@{hosts}/postgres?application_name={self.name}"

    def classes(self) -> dict[str, Any]:
        """Return what the library's users import, and a connection class `Mine`."""
        raise NotImplementedError

    def _function(self, name: str) -> Callable[..., Any]:
        def function(*_: object) -> None:
            self.calls.append(name)

        async def coroutine_function(*_: object) -> None:
            self.calls.append(name)

        return coroutine_function if self.is_async else function

    async def __aenter__(self) -> Self:
        self._before = self._backends()
        self.pool = self.names["pool"] = await self.open(await self.make())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read_cell(self, code: str) -> dict[str, Any]:
        """Return the arguments that a cell has."""
        found: dict[str, Any] = await evaluate(f"dict({code})", self.names)
        return found

    async def make(self) -> Any:
        """Return the pool or router with its arguments."""
        if re.match(r"[\w.]+\(", self.cell):
            return await evaluate(self.cell, self.names)
        arguments = self.arguments
        if arguments is None:
            arguments = {}
            for code in self.small, self.cell, self.extra:
                arguments = combined(arguments, await self.read_cell(code), override=True) or {}
        return await self.construct(arguments)

    async def construct(self, arguments: dict[str, Any]) -> Any:
        """Return the pool or router with these arguments."""
        dsn = {} if {"dsn", "conninfo", "host", "hosts"} & arguments.keys() else {self.dsn: self.names["dsn"]}
        return await resolved(self.names[self.constructor](**dsn, **self.always, **arguments))

    async def open(self, pool: Any) -> Any:
        """Return the pool that was made, open."""
        return pool

    async def close(self) -> None:
        """Close the pool, also a second time."""
        raise NotImplementedError

    async def get(self, timeout: float | None = None) -> Any:
        """Return a connection."""
        raise NotImplementedError

    async def get_reader(self, timeout: float | None = None) -> Any:
        """Return a connection for a reader, where that makes a difference."""
        return await self.get(timeout)

    async def check(self, arguments: dict[str, Any]) -> None:
        """Check that connections have the libpq parameters among the arguments, where that can be seen."""

    async def take(self, timeout: float | None = None) -> Any:
        """Return a connection, None if there is none in time."""
        try:
            return await self.get(timeout)
        except self.in_time:
            return None

    async def give(self, conn: Any) -> None:
        """Return a connection to the pool."""
        raise NotImplementedError

    async def row(self, conn: Any, sql: str) -> Any:
        """Return the first row that a query gives."""
        raise NotImplementedError

    async def commit(self, conn: Any) -> None:
        """Commit, if the connection is not in autocommit mode."""

    async def ask(self, conn: Any, sql: str) -> Any:
        """Return the first value of the first row that a query gives."""
        row = await self.row(conn, sql)
        return next(iter(row.values())) if isinstance(row, dict) else row[0]

    async def value(self, sql: str) -> Any:
        """Return the first value that a query gives in a session of its own."""
        conn = await self.get()
        try:
            return await self.ask(conn, sql)
        finally:
            await self.give(conn)

    async def pid(self) -> Any:
        """Return the server process of a session."""
        return await self.value("SELECT pg_backend_pid()")

    def work(self, conn: Any) -> Any:
        """Use a connection: the page's `work`."""
        return self.ask(conn, "SELECT 42")

    async def read(self, listener: Any) -> Any:
        """Return the payload of the first message: the page's `read`."""
        first = anext(aiter(listener)) if hasattr(listener, "__anext__") else asyncio.to_thread(listener.next)
        reading = asyncio.ensure_future(first)
        while not reading.done():
            self.place.execute(self.place.cluster.primary, f"NOTIFY {CHANNEL}, 'work'")
            await asyncio.wait([reading], timeout=0.05)
        return reading.result().payload

    def waiting(self) -> int:
        """Return how many callers wait for a connection."""
        raise NotImplementedError

    def backends(self) -> set[int]:
        """Return the server processes of its connections to the primary."""
        return self._backends() - self._before

    def _backends(self) -> set[int]:
        sql = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{self.name}'"
        return {pid for (pid,) in self.place.execute(self.place.cluster.nodes[0], sql)}


class Psycopg(Side):
    """What the sides on psycopg 3 have in common, sync or not."""

    async def row(self, conn: Any, sql: str) -> Any:
        cursor = conn.execute(sql)
        return await (await cursor).fetchone() if inspect.isawaitable(cursor) else cursor.fetchone()

    def work(self, conn: Any) -> Any:
        if isinstance(conn, psycopg.AsyncConnection):
            return self.ask(conn, "SELECT 42")
        return conn.execute("SELECT 42").fetchone()[0]

    async def commit(self, conn: Any) -> None:
        await resolved(conn.commit())


def read_yaml(text: str) -> dict[str, Any]:
    """Return a mapping."""
    return dict(yaml.safe_load(text)) if text else {}


async def resolved(value: Any) -> Any:
    """Return a value, or what awaiting it gives."""
    return await value if inspect.isawaitable(value) else value


def combined(one: dict[str, Any], other: dict[str, Any], *, override: bool = False) -> dict[str, Any] | None:
    """Return arguments that stand for both; where they contradict each other, None, or the other with *override*."""
    found = dict(one)
    for name, value in other.items():
        here = found.get(name, value)
        both: Any = None
        if isinstance(here, dict) and isinstance(value, dict) and not SECRET & here.keys():
            both = combined(here, value, override=override)
        elif isinstance(here, pgroute.PoolOptions):
            fields = combined(_given(here), _given(value), override=override)
            both = None if fields is None else pgroute.PoolOptions(**fields)
        elif override or here == value:
            both = value
        if both is None and value is not None:
            return None
        found[name] = both
    return found


def _given(options: pgroute.PoolOptions) -> dict[str, Any]:
    """Return the options that are not the default ones."""
    default = pgroute.PoolOptions()
    names = [field.name for field in dataclasses.fields(options)]
    return {name: value for name in names if (value := getattr(options, name)) != getattr(default, name)}
