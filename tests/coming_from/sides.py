"""The two sides of a comparison: another library's pool and a router, opened and used in the same way."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

import pgroute
from pgroute.testing import LocalCluster, Node
from tests.coming_from.snippets import evaluate
from tests.support import dsn_with, password_of

SERIAL = itertools.count(1)

@dataclass(frozen=True)
class Place:
    """Where both sides connect to.

    Attributes:
        cluster: the servers.
        execute: runs a statement at a node, in a session that is not counted.
        folder: for files.
    """

    cluster: LocalCluster
    execute: Callable[[Node, str], list[tuple[Any, ...]]]
    folder: Path


class Side:
    """One library at work; a context manager, in which the pool is open.

    Args:
        place: where to.
        cell: arguments of the pool, as the page has them, or a whole call.
        extra: further arguments.
        names: what the cell may use.

    Attributes:
        name: the application_name of its connections.
        calls: the names of the functions that were called, of those that cells hand over.
        names: what code in cells may use.
        pool: the open pool, or the router.
    """

    library = ""
    constructor = ""
    dsn = "dsn=dsn"
    always = ""
    small = ""
    module = ""
    is_async = True

    def __init__(self, place: Place, cell: str = "", extra: str = "", **names: Any) -> None:
        self.place = place
        self.name = f"coming-{next(SERIAL)}"
        self._code = self._construct(cell, extra)
        primary = place.cluster.nodes[0]
        self.names: dict[str, Any] = {
            "make_conninfo": make_conninfo,
            "host": primary.host,
            "port": primary.port,
            "user": "postgres",
            "password": password_of(place.cluster),
            "database": "postgres",
            "passfile": str(place.cluster.passfile),
            "dsn": self._dsn(place.cluster),
            "work": self.work,
            "asyncio": asyncio,
            **self.classes(),
        }
        self.calls: list[str] = []
        self.names |= {name: self._hook(name) for name in ("prepare", "clean", "alert")} | {"pid": self.pid}
        self.names |= names
        self.pool: Any = None

    def _hook(self, name: str) -> Callable[..., Any]:
        def called(*_: object) -> None:
            self.calls.append(name)

        async def called_async(*_: object) -> None:
            self.calls.append(name)

        return called_async if self.is_async else called

    def _construct(self, cell: str, extra: str) -> str:
        if re.match(r"[\w.]+\(", cell):
            return cell
        dsn = "" if re.search(r"\b(dsn|conninfo|host|hosts|service)=", cell) else self.dsn
        return f"{self.constructor}({', '.join(filter(None, (dsn, cell, extra, self.always)))})"

    def _dsn(self, cluster: LocalCluster) -> str:
        node = cluster.nodes[0]
        return (
            f"postgresql://postgres:{password_of(cluster)}@{node.host}:{node.port}/postgres"
            f"?application_name={self.name}"
        )

    def classes(self) -> dict[str, Any]:
        """Return what the library's users import."""
        module = importlib.import_module(self.module)
        return {name: value for name, value in vars(module).items() if not name.startswith("_")}

    async def __aenter__(self) -> Self:
        self.pool = self.names["pool"] = await self.open(await evaluate(self._code, self.names))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, pool: Any) -> Any:
        """Return the pool that was made, open."""
        return pool

    async def close(self) -> None:
        """Close the pool, also a second time."""
        raise NotImplementedError

    async def get(self, timeout: float | None = None) -> Any:
        """Return a connection."""
        raise NotImplementedError

    async def take(self, timeout: float | None = None) -> Any:
        """Return a connection, None if there is none in time."""
        try:
            return await self.get(timeout)
        except self.none_in_time():
            return None

    def none_in_time(self) -> type[Exception] | tuple[type[Exception], ...]:
        """Return what is raised if there is no connection in time."""
        return TimeoutError

    async def give(self, conn: Any) -> None:
        """Return a connection to the pool."""
        raise NotImplementedError

    async def ask(self, conn: Any, sql: str) -> Any:
        """Return the first value that a query gives."""
        raise NotImplementedError

    async def value(self, sql: str) -> Any:
        """Return the first value that a query gives in a session of its own."""
        conn = await self.take()
        try:
            return await self.ask(conn, sql)
        finally:
            await self.give(conn)

    async def pid(self) -> Any:
        """Return the server process of a session."""
        return await self.value("SELECT pg_backend_pid()")

    async def work(self, conn: Any) -> Any:
        """What the page calls work(conn)."""
        return await self.ask(conn, "SELECT 42")

    def waiting(self) -> int:
        """Return how many callers wait for a connection."""
        raise NotImplementedError

    def backends(self) -> set[int]:
        """Return the server processes of its connections."""
        sql = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{self.name}'"
        return {pid for (pid,) in self.place.execute(self.place.cluster.nodes[0], sql)}


class Psycopg(Side):
    """What the sides on psycopg 3 have in common."""

    async def ask(self, conn: Any, sql: str) -> Any:
        cursor = conn.execute(sql)
        if inspect.isawaitable(cursor):
            return (await (await cursor).fetchone())[0]
        return cursor.fetchone()[0]


class Ours(Psycopg):
    """A router."""

    library = "pgroute"
    constructor = "AsyncRouter"
    module = "pgroute"
    small = "writer=PoolOptions(max_size=4)"

    def classes(self) -> dict[str, Any]:
        class Mine(psycopg.AsyncConnection[Any]):
            pass

        rows = importlib.import_module("psycopg.rows")
        return {"psycopg": psycopg, "namedtuple_row": rows.namedtuple_row, "Mine": Mine, **vars(pgroute)}

    def _dsn(self, cluster: LocalCluster) -> str:
        return dsn_with(cluster.dsn, application_name=self.name)

    async def open(self, pool: Any) -> Any:
        await pool.open()
        self.names["router"] = pool
        return pool

    async def close(self) -> None:
        await self.pool.close(timeout=0)

    def waiting(self) -> int:
        return int(self.pool.get_stats()["writer"]["requests_waiting"])

    async def get(self, timeout: float | None = None) -> Any:
        return await self.pool.getconn("writer", timeout=timeout)

    def none_in_time(self) -> type[Exception]:
        return pgroute.AcquireTimeout

    async def give(self, conn: Any) -> None:
        await self.pool.putconn(conn)


class OursSync(Ours):
    """A router of the sync face."""

    constructor = "Router"
    is_async = False

    def classes(self) -> dict[str, Any]:
        class Mine(psycopg.Connection[Any]):
            pass

        return {**super().classes(), "Mine": Mine}

    def work(self, conn: Any) -> Any:  # type: ignore[override]
        return conn.execute("SELECT 42").fetchone()[0]

    async def open(self, pool: Any) -> Any:
        pool.open()
        self.names["router"] = pool
        return pool

    async def close(self) -> None:
        self.pool.close(timeout=0)

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.to_thread(lambda: self.pool.getconn("writer", timeout=timeout))

    async def give(self, conn: Any) -> None:
        self.pool.putconn(conn)


class PsycopgPool(Psycopg):
    """psycopg_pool's."""

    library = "psycopg_pool"
    constructor = "ConnectionPool"
    dsn = "conninfo=dsn"
    always = "open=False"
    small = "min_size=1, max_size=4"
    module = "psycopg_pool"
    is_async = False

    def classes(self) -> dict[str, Any]:
        class Mine(psycopg.Connection[Any]):
            pass

        return {"psycopg": psycopg, "Mine": Mine, **super().classes()}

    def work(self, conn: Any) -> Any:  # type: ignore[override]
        return conn.execute("SELECT 42").fetchone()[0]

    async def open(self, pool: Any) -> Any:
        if pool.closed:
            pool.open()
        return pool

    async def close(self) -> None:
        self.pool.close(timeout=0.1)

    def waiting(self) -> int:
        return int(self.pool.get_stats().get("requests_waiting", 0))

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.to_thread(self.pool.getconn, timeout)

    def none_in_time(self) -> type[Exception]:
        return PoolTimeout

    async def give(self, conn: Any) -> None:
        self.pool.putconn(conn)


class Asyncpg(Side):
    """asyncpg's."""

    library = "asyncpg"
    constructor = "create_pool"
    module = "asyncpg"

    def classes(self) -> dict[str, Any]:
        asyncpg = importlib.import_module("asyncpg")
        return {"asyncpg": asyncpg, **super().classes()}

    async def open(self, pool: Any) -> Any:
        return pool  # create_pool() was awaited

    async def close(self) -> None:
        self.pool.terminate()

    async def get(self, timeout: float | None = None) -> Any:
        return await self.pool.acquire(timeout=timeout)

    async def give(self, conn: Any) -> None:
        await self.pool.release(conn)

    async def ask(self, conn: Any, sql: str) -> Any:
        return await conn.fetchval(sql)


class Psqlpy(Side):
    """psqlpy's."""

    library = "psqlpy"
    constructor = "ConnectionPool"
    module = "psqlpy"

    async def close(self) -> None:
        self.pool.close()

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.wait_for(self.pool.connection(), timeout)

    async def give(self, conn: Any) -> None:
        conn.close()

    async def ask(self, conn: Any, sql: str) -> Any:
        return await conn.fetch_val(sql)


class Psycopg2(Side):
    """psycopg2's."""

    library = "psycopg2"
    constructor = "ThreadedConnectionPool"
    module = "psycopg2.pool"
    is_async = False

    async def close(self) -> None:
        if not self.pool.closed:
            self.pool.closeall()

    async def get(self, timeout: float | None = None) -> Any:
        return self.pool.getconn()

    def none_in_time(self) -> type[Exception]:
        error: type[Exception] = self.names["PoolError"]
        return error

    async def give(self, conn: Any) -> None:
        self.pool.putconn(conn)

    async def ask(self, conn: Any, sql: str) -> Any:
        with conn.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    def work(self, conn: Any) -> Any:  # type: ignore[override]
        with conn.cursor() as cursor:
            cursor.execute("SELECT 42")
            return cursor.fetchone()[0]


class Hasql(Psycopg):
    """hasql's, on psycopg 3."""

    library = "hasql"
    constructor = "PoolManager"
    module = "hasql.driver.psycopg3"

    def _dsn(self, cluster: LocalCluster) -> str:
        hosts = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
        return (
            f"postgresql://postgres:{password_of(cluster)}@{hosts}/postgres?application_name={self.name}"
        )

    async def open(self, pool: Any) -> Any:
        await pool.ready()
        return pool

    async def close(self) -> None:
        await self.pool.close()

    async def get(self, timeout: float | None = None) -> Any:
        return await self.pool.acquire_master(timeout=timeout)

    def none_in_time(self) -> tuple[type[Exception], ...]:
        return TimeoutError, PoolTimeout

    async def give(self, conn: Any) -> None:
        await self.pool.release(conn)


THEIRS: dict[str, type[Side]] = {
    side.library: side for side in (PsycopgPool, Asyncpg, Psqlpy, Psycopg2, Hasql)
}


def is_installed(library: str) -> bool:
    """Return whether the package is there to be compared with."""
    return importlib.util.find_spec(library) is not None
