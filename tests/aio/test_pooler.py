"""A transaction pooler in front of each server: PgBouncer, which keeps its clients when its server is gone."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, Event, HostRole, HostState, PoolOptions, ProbeOptions
from pgroute.testing import LocalCluster, Node
from pgroute.testing.ports import Port
from tests import support
from tests.aio.workload import Account, keep_writing, make_table, numbers, read, write
from tests.support import AsyncBackground, async_call, async_eventually, within

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed"),
]

CONFIG = """
[databases]
{node.dbname} = user=postgres password={password} host={node.host} port={node.port}
[pgbouncer]
listen_addr = {node.host}
listen_port = {port}
unix_socket_dir =
auth_type = any

pool_mode = transaction
server_login_retry = 1
"""

BY_USER = CONFIG.replace("user=postgres password={password} ", "").replace(
    "auth_type = any", "auth_type = trust\nauth_file = {users}\ndefault_pool_size = 2"
)
"""Each user has a pool of its own, of two connections."""

UNPREPARED = {"prepare_threshold": None}
"""For the users' statements: the pooler gives each transaction another connection."""


@contextlib.contextmanager
def pooler(node: Node, settings: str = CONFIG) -> Iterator[int]:
    """Run a pooler in front of a server, and give its port."""
    port = Port()
    config = node.data_dir.parent / f"{node.name}.ini"
    users = config.with_suffix(".users")
    owner, password = node.data_dir.stat(), support.password_of(node)
    users.write_text(f'"postgres" "{password}"\n"watch" "{password}"\n')
    config.write_text(settings.format(node=node, port=port.number, users=users, password=password))
    for file in (config, users):
        file.chmod(0o600)
        shutil.chown(file, owner.st_uid, owner.st_gid)
    account: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    assert PROGRAM is not None
    log_path = node.data_dir.parent / f"{node.name}.pooler.log"
    log_path.touch(0o600)
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [PROGRAM, config], stdout=log, stderr=log, **(account if not os.getuid() else {})
        )
    try:
        support.eventually(lambda: answers(port.number))
        yield port.number
    finally:
        process.terminate()
        process.wait(10)
        port.release()


@pytest.fixture
def pooled() -> Iterator[Callable[..., str]]:
    """Give a function that runs a pooler in front of each of some nodes and returns their DSN."""
    with contextlib.ExitStack() as stack:

        def run(*nodes: Node) -> str:
            hosts = ",".join(f"{node.host}:{stack.enter_context(pooler(node))}" for node in nodes)
            return f"postgresql://postgres@{hosts}/postgres"

        yield run


def answers(port: int) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
        return True
    return False


async def test_writers_readers_and_a_failover_through_transaction_poolers(
    pgroute_cluster_factory: Any, pooled: Any
) -> None:
    cluster: LocalCluster = await async_call(pgroute_cluster_factory, standbys=1)
    first, second = cluster.nodes
    make_table(cluster)
    account, stop = Account(), threading.Event()
    async with (
        AsyncRouter(pooled(*cluster.nodes), kwargs=UNPREPARED) as router,
        AsyncBackground() as background,
    ):
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        assert [host.role for host in router.topology.hosts] == [HostRole.PRIMARY, HostRole.STANDBY]
        assert (await write(router, 0)).port == first.port
        assert {(await read(router)).port for _ in range(10)} == {second.port}

        writers = [background.start(keep_writing, router, stop, account, first) for first in (10_000, 20_000)]
        await async_eventually(lambda: len(account.sessions) > 20)
        await async_call(first.kill)
        await async_call(second.promote)
        promoted_at = time.monotonic()
        await async_eventually(lambda: account.since(promoted_at))
        stop.set()
        for writer in writers:
            await writer.result()
        after = account.since(promoted_at)
        assert after[0].ended - promoted_at < within(3.0)
        assert {session.port for session in after} == {second.port}
        print(f"first write {(after[0].ended - promoted_at) * 1000:.0f} ms after the promotion")
        # The standby was asynchronous: what it had not received is lost with the first, and nothing since.
        assert {session.port for session in account.sessions} == {first.port, second.port}
        late = [n for n, s in zip(account.written, account.sessions, strict=True) if s.port == second.port]
        assert set(late) <= set(await numbers(second))

        await async_call(first.rejoin, second)
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        assert [host.role for host in router.topology.hosts] == [HostRole.STANDBY, HostRole.PRIMARY]
        assert {(await read(router)).port for _ in range(10)} == {first.port}
        assert (await write(router, 1)).port == second.port


async def test_reads_see_writes_through_transaction_poolers(
    shared: LocalCluster, table: str, pooled: Any
) -> None:
    ports = {node.port for node in shared.nodes[1:]}
    served: set[int] = set()
    probe = ProbeOptions(interval=0.1)
    async with AsyncRouter(pooled(*shared.nodes), probe=probe, kwargs=UNPREPARED) as router:
        await async_eventually(lambda: all(host.lsn for host in router.topology.hosts))
        causal = router.causal()
        for number in range(20):
            async with causal.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (%s)", [number])
            for reader in (causal.reader(wait=5.0), router.reader(after=str(causal.position), wait=5.0)):
                async with reader as conn:
                    cursor = await conn.execute(f"SELECT count(*), inet_server_port() FROM {table}")
                    found, port = await cursor.fetchone() or (0, 0)
                assert found == number + 1
                served.add(port)
            async with router.reader(max_lag=2.0) as conn:
                await conn.execute("SELECT 1")
    assert served == ports


async def test_a_reader_at_the_primary_behind_a_pooler_cannot_write(
    shared: LocalCluster, table: str, pooled: Any
) -> None:
    insert = f"INSERT INTO {table} VALUES (%s)"
    dsn = pooled(shared.primary)
    async with AsyncRouter(dsn, reader_attrs="primary", kwargs=UNPREPARED) as router:
        for number in range(3):
            # In turn over the pooler's one connection: neither role leaves its setting to the other.
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                async with router.reader() as conn:
                    await conn.execute(insert, [-1])
            async with router.writer() as conn:
                await conn.execute(insert, [number])
        assert [host.state for host in router.topology.hosts] == [HostState.UP]
    rows = await async_call(shared.primary.execute, f"SELECT number FROM {table} ORDER BY 1")
    assert rows == [(0,), (1,), (2,)]


async def test_copies_go_through_a_transaction_pooler(shared: LocalCluster, table: str, pooled: Any) -> None:
    rows = [(number,) for number in range(100_000)]
    file = io.BytesIO()
    async with AsyncRouter(pooled(shared.primary), kwargs=UNPREPARED) as router:
        await router.install()
        assert await router.copy_to_table(table, rows) == 100_000
        with pytest.raises(psycopg.errors.UniqueViolation):
            await router.copy_to_table(table, rows)
        assert await router.copy_to_table(table, [(-1,)], once=f"copy into {table}") == 1
        assert await router.copy_from(table, file) == 100_001
        async with router.copy_rows(table) as found:
            async for _ in found:
                break
        assert await router.fetchval(f"SELECT count(*) FROM {table}") == 100_001
    assert file.getvalue().count(b"\n") == 100_001


async def test_settings_that_a_pooler_refuses_are_told_in_the_log(
    shared: LocalCluster, pooled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = pooled(shared.nodes[0])
    options = PoolOptions(settings={"statement_timeout": "5s"})
    async with AsyncRouter(dsn, writer=options, kwargs=UNPREPARED) as router, router.writer() as conn:
        assert await (await conn.execute("SHOW statement_timeout")).fetchone() == ("0",)
    assert "PoolOptions(settings=) is not in force there" in caplog.text


@pytest.fixture
def watch(shared: LocalCluster) -> Iterator[str]:
    """Give the name of a role that may do nothing but log in."""
    shared.primary.execute(f"CREATE ROLE watch LOGIN PASSWORD '{shared.password}'")
    shared.catch_up()
    yield "watch"
    shared.primary.execute("DROP ROLE watch")


async def test_a_watch_with_a_user_of_its_own_sees_a_host_whose_pool_is_full(
    shared: LocalCluster, watch: str
) -> None:
    async def hold(router: AsyncRouter[Any], seconds: float) -> None:
        async with router.writer(10.0) as conn:
            await conn.execute("SELECT pg_sleep(%s)", [seconds])

    events: list[Event] = []
    probe = ProbeOptions(interval=0.1, timeout=0.5, kwargs={"user": watch})
    with pooler(shared.primary, BY_USER) as port:
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with (
            AsyncRouter(dsn, probe=probe, kwargs=UNPREPARED) as router,
            AsyncBackground() as background,
        ):
            await router.wait()
            router.subscribe(events.append)
            holders = [background.start(hold, router, 3.0) for _ in range(2)]
            await async_eventually(lambda: router.stats().writer.totals["pool_size"] == 2)
            begun_at = time.monotonic()
            waiter = background.start(hold, router, 0.0)
            for work in (*holders, waiter):
                await work.result()
            assert time.monotonic() - begun_at > 2.0, "ten probes, and two timeouts"
            [host] = router.topology.hosts
            assert (host.state, host.generation) == (HostState.UP, 0)
            assert host.system_id is not None
    assert events == []
