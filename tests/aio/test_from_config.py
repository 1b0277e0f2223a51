"""Routers from a configuration file on real servers: what the file says is in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.rows import dict_row, scalar_row

from pgroute import AsyncRouter, ConfigError, PoolExhausted, from_config
from pgroute.testing import LocalCluster
from tests.support import password_of

pytestmark = pytest.mark.cluster

FILE = """
[routers.shop]
dsn = "postgresql://${PGROUTE_TEST_USER:-postgres}@%s/postgres"
acquire_timeout = 10

[routers.shop.kwargs]
password = { from_file = "password" }
application_name = "from a file"
row_factory = "psycopg.rows:dict_row"

[routers.shop.writer]
max_size = 3
settings = { statement_timeout = "4s", search_path = "a, b" }
"""


def written(folder: Path, cluster: LocalCluster) -> Path:
    """Return a configuration file, with the password in a file beside it."""
    hosts = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
    (folder / "password").write_text(f"{password_of(cluster)}\n")
    file = folder / "pgroute.toml"
    file.write_text(FILE % hosts)
    return file


def router_of(file: Path) -> AsyncRouter[Any]:
    return from_config(file, kind="async_pool")


async def test_what_the_file_says_is_in_force(tmp_path: Path, shared: LocalCluster) -> None:
    asked = (
        "SELECT current_setting('statement_timeout') AS timeout, current_setting('search_path') AS path,"
        " current_setting('application_name') AS name, pg_is_in_recovery() AS standby"
    )
    async with router_of(written(tmp_path, shared)) as router:
        assert repr(router).endswith("Router 'shop' open>")
        async with router.writer() as conn:
            row = await (await conn.execute(asked)).fetchone()
            assert row == {"timeout": "4s", "path": "a, b", "name": "from a file", "standby": False}
        async with router.reader() as conn:
            row = await (await conn.execute(asked)).fetchone()
            assert row == {"timeout": "0", "path": '"$user", public', "name": "from a file", "standby": True}


async def test_a_function_asks_for_the_router_whenever_it_needs_it(
    tmp_path: Path, shared: LocalCluster
) -> None:
    file = written(tmp_path, shared)

    async def pid() -> int:
        router = router_of(file)
        await router.open()
        async with router.writer() as conn:
            return int(conn.info.backend_pid)

    try:
        assert await pid() == await pid()
    finally:
        await router_of(file).close()


async def test_a_connection_is_one_connection(tmp_path: Path, shared: LocalCluster) -> None:
    async with from_config(written(tmp_path, shared), kind="async_connection") as router:
        await router.wait()
        async with router.writer() as conn, router.reader():
            first = conn.info.backend_pid
            with pytest.raises(PoolExhausted):
                await router.getconn("writer", timeout=0.1)
        async with router.writer() as conn:
            assert conn.info.backend_pid == first
        assert {role: stats["pool_size"] for role, stats in router.get_stats().items()} == {
            "writer": 1,
            "reader": 1,
        }


async def test_the_program_says_what_the_rows_are(tmp_path: Path, shared: LocalCluster) -> None:
    file = written(tmp_path, shared)
    with pytest.raises(ConfigError, match=r"kwargs has another.*\(in .*pgroute.toml\)"):
        from_config(file, kind="async_pool", row_factory=scalar_row)
    file.write_text(file.read_text().replace('row_factory = "psycopg.rows:dict_row"', ""))
    async with from_config(file, kind="async_pool", row_factory=scalar_row) as router:
        assert await router.fetchrow("SELECT 1") == 1
        assert from_config(file, kind="async_pool", row_factory=scalar_row) is router
        assert router_of(file) is router
        with pytest.raises(
            ConfigError, match=r"expected <function scalar_row .*, with which this process uses"
        ):
            from_config(file, kind="async_pool", row_factory=dict_row)
    with file.open("a") as more:
        more.write("[routers.orders]\nrow_factory = 'psycopg.rows:dict_row'\n")
    with pytest.raises(ConfigError, match=r"row_factory .*: expected the one of the file"):
        from_config(file, "orders", kind="async_pool", row_factory=scalar_row)
    made = from_config(file, "orders", kind="async_pool")
    assert from_config(file, "orders", kind="async_pool", row_factory=dict_row) is made
    assert made._manager.config.reader.arguments == {"row_factory": dict_row}
    with pytest.raises(ConfigError, match="invalid row_factory 'dict_row'"):
        from_config(file, "orders", kind="async_pool", row_factory="dict_row")  # type: ignore[call-overload]


async def test_the_environment_is_read_when_the_router_is_made(
    tmp_path: Path, shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, shared)
    async with router_of(file) as router, router.writer() as conn:
        assert conn.info.user == "postgres"
    monkeypatch.setenv("PGROUTE_TEST_USER", "nobody_at_all")
    made = router_of(file)
    assert made is not router
    assert made._manager.config.dsn.params["user"] == "nobody_at_all"
