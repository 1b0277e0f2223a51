"""Our side: a router, made by code or from a configuration file, of either face."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import psycopg.rows
import yaml

import pgroute
from tests.coming_from.sides import OF_PGROUTE, Psycopg, read_yaml, resolved


class Ours(Psycopg):
    """An AsyncRouter."""

    library = "pgroute"
    name = "ours"
    constructor = "AsyncRouter"
    small = "writer=PoolOptions(max_size=4)"
    in_time = pgroute.AcquireTimeout

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        return self.place.hosts or tuple((node.host, node.port) for node in self.place.cluster.nodes)

    def classes(self) -> dict[str, Any]:
        base: Any = psycopg.AsyncConnection if self.is_async else psycopg.Connection
        calls = self.calls

        class Mine(base):  # type: ignore[misc]
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Any:
                calls.append("connect")
                return super().connect(*args, **kwargs)

        hosts, ports = (",".join(map(str, each)) for each in zip(*self.hosts, strict=True))
        found = {**vars(psycopg.rows), **OF_PGROUTE, "psycopg": psycopg}
        return {**found, "Mine": Mine, "hosts": hosts, "ports": ports}

    async def open(self, pool: Any) -> Any:
        await resolved(pool.open())
        self.names["router"] = pool
        return pool

    async def close(self) -> None:
        await resolved(self.pool.close(timeout=0))

    async def get(self, timeout: float | None = None) -> Any:
        return await self._get("writer", timeout)

    async def get_reader(self, timeout: float | None = None) -> Any:
        return await self._get("reader", timeout)

    async def _get(self, role: str, timeout: float | None) -> Any:
        if self.is_async:
            return await self.pool.getconn(role, timeout=timeout)
        return await asyncio.to_thread(lambda: self.pool.getconn(role, timeout=timeout))

    async def give(self, conn: Any) -> None:
        await resolved(self.pool.putconn(conn))

    def waiting(self) -> int:
        return int(self.pool.get_stats()["writer"]["requests_waiting"])

    async def check(self, arguments: dict[str, Any]) -> None:
        conn = await self.get()
        known = {each.keyword.decode(): each.val for each in conn.pgconn.info}
        await self.give(conn)
        for name, value in arguments.get("kwargs", {}).items():
            given = known.get(name)
            if isinstance(value, (str, int)) and given is not None and "${" not in str(value):
                assert given == str(value).encode(), f"{name} is {given!r}"


class OursSync(Ours):
    """A Router."""

    constructor = "Router"
    is_async = False


class OursFromFile(Ours):
    """A router from a configuration file; the cell is YAML of its table."""

    small = "{writer: {max_size: 4}}"

    async def read_cell(self, code: str) -> dict[str, Any]:
        return read_yaml(code)

    async def construct(self, arguments: dict[str, Any]) -> Any:
        return pgroute.from_config(self.write(arguments), kind="async_pool" if self.is_async else "pool")

    def write(self, arguments: dict[str, Any]) -> str:
        """Write a file for the router; return its path."""
        path = self.place.folder / f"{self.serial}.yaml"
        self.names["path"] = str(path)
        table = {"dsn": self.make_dsn(), **arguments}
        path.write_text(yaml.safe_dump({"routers": {"shop": table}}))
        return str(path)


class OursFromFileSync(OursFromFile):
    """Likewise, of the sync face."""

    is_async = False
