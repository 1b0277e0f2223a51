"""The sides of the libraries that people come from."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import psycopg
import pytest
import yaml
from psycopg_pool import PoolTimeout

from tests.coming_from.ours import Ours, OursFromFile, OursFromFileSync, OursSync
from tests.coming_from.sides import Psycopg, Side, read_yaml, resolved
from tests.support import password_of


def public(*modules: str) -> dict[str, Any]:
    """Return the public names of modules."""
    return {
        name: value
        for module in modules
        for name, value in vars(importlib.import_module(module)).items()
        if not name.startswith("_")
    }


class PsycopgPool(Psycopg):
    """psycopg_pool's, sync."""

    library = "psycopg_pool"
    constructor = "ConnectionPool"
    dsn = "conninfo"
    always = MappingProxyType({"open": False})
    small = "min_size=1, max_size=4"
    is_async = False
    in_time = PoolTimeout

    def classes(self) -> dict[str, Any]:
        class Mine(psycopg.Connection[Any]):
            pass

        return {**public("psycopg_pool"), "psycopg": psycopg, "Mine": Mine}

    async def open(self, pool: Any) -> Any:
        pool.open(wait=True)
        return pool

    async def close(self) -> None:
        self.pool.close(timeout=0.1)

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.to_thread(self.pool.getconn, timeout)

    async def give(self, conn: Any) -> None:
        self.pool.putconn(conn)

    def waiting(self) -> int:
        return int(self.pool.get_stats().get("requests_waiting", 0))


class Asyncpg(Side):
    """asyncpg's."""

    library = "asyncpg"
    constructor = "create_pool"
    small = "min_size=1, max_size=4"

    def classes(self) -> dict[str, Any]:
        asyncpg = importlib.import_module("asyncpg")
        mine = type("Mine", (asyncpg.Connection,), {})
        item = type("Item", (asyncpg.Record,), {})
        calls = self.calls

        async def connect(*args: Any, **kwargs: Any) -> Any:
            calls.append("connect")
            return await asyncpg.connect(*args, **kwargs)

        found = {**public("asyncpg", "asyncpg.exceptions"), "asyncpg": asyncpg}
        return found | {"Mine": mine, "Item": item, "connect": connect}

    async def close(self) -> None:
        self.pool.terminate()

    async def get(self, timeout: float | None = None) -> Any:
        return await self.pool.acquire(timeout=timeout)

    async def give(self, conn: Any) -> None:
        await self.pool.release(conn)

    async def row(self, conn: Any, sql: str) -> Any:
        return await conn.fetchrow(sql)


class Psqlpy(Side):
    """psqlpy's."""

    library = "psqlpy"
    constructor = "ConnectionPool"
    small = "max_db_pool_size=4"

    def classes(self) -> dict[str, Any]:
        hosts, ports = zip(*self.hosts, strict=True)
        return {**public("psqlpy.exceptions", "psqlpy"), "hosts": [*hosts], "ports": [*ports]}

    async def close(self) -> None:
        self.pool.close()

    async def get(self, timeout: float | None = None) -> Any:
        return await asyncio.wait_for(self.pool.connection(), timeout)

    async def give(self, conn: Any) -> None:
        conn.close()

    async def row(self, conn: Any, sql: str) -> Any:
        return (await conn.fetch_row(sql)).result()


class Psycopg2(Side):
    """psycopg2's, for threads."""

    library = "psycopg2"
    constructor = "ThreadedConnectionPool"
    small = "minconn=1, maxconn=4"
    is_async = False

    def classes(self) -> dict[str, Any]:
        psycopg2 = importlib.import_module("psycopg2")
        self.in_time = importlib.import_module("psycopg2.pool").PoolError
        mine = type("Mine", (psycopg2.extensions.connection,), {})
        found = public("psycopg2", "psycopg2.extras", "psycopg2.pool")
        return {**found, "psycopg2": psycopg2, "Mine": mine}

    async def close(self) -> None:
        if not self.pool.closed:
            self.pool.closeall()

    async def get(self, timeout: float | None = None) -> Any:
        return self.pool.getconn()

    async def give(self, conn: Any) -> None:
        self.pool.putconn(conn)

    async def row(self, conn: Any, sql: str) -> Any:
        with conn.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()

    def work(self, conn: Any) -> Any:
        with conn.cursor() as cursor:
            cursor.execute("SELECT 42")
            return cursor.fetchone()[0]

    async def commit(self, conn: Any) -> None:
        conn.commit()


class Hasql(Psycopg):
    """hasql's, on psycopg 3."""

    library = "hasql"
    constructor = "PoolManager"
    small = 'pool_factory_kwargs={"max_size": 4}'
    in_time = (TimeoutError, PoolTimeout)

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        return self.place.hosts or tuple((node.host, node.port) for node in self.place.cluster.nodes)

    def classes(self) -> dict[str, Any]:
        found = public("hasql.exceptions", "hasql.staleness", "hasql.balancer_policy")
        return {
            **found,
            **public("hasql.driver.psycopg3"),
            "PoolTimeout": PoolTimeout,
            "timedelta": timedelta,
        }

    async def open(self, pool: Any) -> Any:
        await pool.ready()
        return pool

    async def close(self) -> None:
        await self.pool.close()

    async def get(self, timeout: float | None = None) -> Any:
        return await self.pool.acquire_master(timeout=timeout)

    async def get_reader(self, timeout: float | None = None) -> Any:
        return await self.pool.acquire_replica(timeout=timeout)

    async def give(self, conn: Any) -> None:
        await self.pool.release(conn)


class Pgmonkey(Psycopg):
    """A pool of pgmonkey's, which is one of psycopg_pool's; the cell is YAML of its configuration."""

    library = "pgmonkey"
    # An asynchronous pool that is closed while it grows would leave a socket to the garbage collector.
    small = "{pool_settings: {min_size: 1, max_size: 4}, async_pool_settings: {min_size: 1, max_size: 1}}"
    kind = "pool"
    is_async = False
    in_time = PoolTimeout

    def classes(self) -> dict[str, Any]:
        found = public("pgmonkey")
        return {**found, "manager": found["PGConnectionManager"]()}

    async def read_cell(self, code: str) -> dict[str, Any]:
        return read_yaml(code)

    async def construct(self, arguments: dict[str, Any]) -> Any:
        manager, path = self.names["manager"], self.write(arguments)
        made = await resolved(manager.get_database_connection(path, self.kind, resolve_env=True))
        await self.wait(made)
        return made

    def write(self, arguments: dict[str, Any]) -> str:
        """Write a file; return its path."""
        host, port = self.hosts[0]
        settings = {
            "host": host,
            "port": str(port),
            "user": "postgres",
            "dbname": "postgres",
            "password": password_of(self.place.cluster),
            "application_name": self.name,
        }
        path = self.place.folder / f"{self.serial}.yaml"
        self.names["path"] = str(path)
        settings |= arguments.get("connection_settings", {})
        path.write_text(yaml.safe_dump({**arguments, "connection_settings": settings}))
        return str(path)

    async def wait(self, connection: Any) -> None:
        """Return when the pool is filled."""
        await resolved(connection.pool.wait())

    async def close(self) -> None:
        await self.names["manager"].clear_cache_async()

    async def get(self, timeout: float | None = None) -> Any:
        pool = self.pool.pool
        return await (pool.getconn(timeout) if self.is_async else asyncio.to_thread(pool.getconn, timeout))

    async def give(self, conn: Any) -> None:
        await resolved(self.pool.pool.putconn(conn))

    def work(self, conn: Any) -> Any:
        cursor = conn.cursor()
        if hasattr(cursor, "__aenter__"):
            return self._work(cursor)
        with cursor:
            cursor.execute("SELECT 42")
            return cursor.fetchone()[0]

    async def _work(self, entered: Any) -> Any:
        async with entered as cursor:
            await cursor.execute("SELECT 42")
            return (await cursor.fetchone())[0]

    def waiting(self) -> int:
        return int(self.pool.pool.get_stats().get("requests_waiting", 0))


class PgmonkeyAsync(Pgmonkey):
    """Likewise, for asyncio."""

    kind = "async_pool"
    is_async = True


class PgmonkeyNormal(Pgmonkey):
    """Likewise, without a pool."""

    kind = "normal"

    async def wait(self, connection: Any) -> None:
        """Do nothing: it is connected."""

    async def get(self, timeout: float | None = None) -> Any:
        return self.pool.connection

    async def give(self, conn: Any) -> None:
        pass


SIDES: dict[str, tuple[type[Side], type[Side]]] = {
    "psycopg_pool": (PsycopgPool, OursSync),
    "asyncpg": (Asyncpg, Ours),
    "psqlpy": (Psqlpy, Ours),
    "psycopg2": (Psycopg2, OursSync),
    "pgmonkey": (Pgmonkey, OursFromFileSync),
    "hasql": (Hasql, Ours),
}
"""Theirs and ours, by the library."""

OTHER_FACES: dict[tuple[str, str], tuple[type[Side], type[Side]]] = {
    ("pgmonkey", "async"): (PgmonkeyAsync, OursFromFile),
    ("pgmonkey", "normal"): (PgmonkeyNormal, OursFromFileSync),
}
"""Those of libraries with several faces."""


def is_installed(library: str) -> bool:
    """Return whether the package is there to be compared with."""
    return importlib.util.find_spec(library) is not None


def sides_of(library: str, face: str = "") -> tuple[type[Side], type[Side]]:
    """Return both sides; skip the test if the package is not there."""
    if not is_installed(library):
        pytest.skip(f"{library} is not installed; the extra dev has it")
    return OTHER_FACES[library, face] if face else SIDES[library]
