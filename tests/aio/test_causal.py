"""Causal sessions: readers see the writers before them, and never go back behind what was read."""

from __future__ import annotations

import asyncio  # async-only
import re
import time  # async-only
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    PoolOptions,
    PositionLost,
    RetryPolicy,
    RouteError,
    SessionLost,
)
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.aio.replicas import OFTEN, configure, cut_off, dsn_of, of, standbys_as_they_were
from tests.aio.workload import make_table
from tests.support import AsyncBackground, async_call, async_eventually
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

PROGRESS = b"pg_last_wal_replay_lsn"
COUNT = "SELECT count(*) FROM written"


@pytest.fixture
def lagging(mended: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster whose standbys may be held back."""
    with standbys_as_they_were(mended) as cluster:
        yield cluster


@pytest.fixture
def tapped(lagging: LocalCluster) -> Iterator[tuple[Wiretap, ...]]:
    """Give a tap in front of each node of that cluster."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Wiretap(node)) for node in lagging.nodes)


@pytest.fixture
def deferred(lagging: LocalCluster) -> Iterator[None]:
    """Make a table whose constraint is checked at COMMIT."""
    execute = lagging.primary.execute
    execute("CREATE TABLE deferred (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield
    execute("DROP TABLE deferred")


async def write(source: Any, number: int) -> None:
    """Write a number through the writer of a router or a causal object."""
    async with source.writer() as conn:
        await conn.execute("INSERT INTO written VALUES (%s)", [number])


async def count(session: Any) -> tuple[int, int]:
    """Return the port of the session's host, and how many numbers are there."""
    async with session as conn:
        cursor = await conn.execute(COUNT)
        (found,) = await cursor.fetchone()
        return int(conn.info.port), int(found)


def inserting(number: int) -> Any:
    """Return a body that writes a number."""

    async def body(conn: psycopg.AsyncConnection[Any]) -> int:
        await conn.execute("INSERT INTO written VALUES (%s)", [number])
        return number

    return body


async def counting(conn: psycopg.AsyncConnection[Any]) -> int:
    cursor = await conn.execute(COUNT)
    (found,) = await cursor.fetchone() or (0,)
    return int(found)


async def all_heard(router: AsyncRouter[Any]) -> None:
    await async_eventually(lambda: all(host.lsn for host in router.topology.hosts))


# What it promises.


@pytest.mark.parametrize("wait", [0.0, 0.1, 5.0])
async def test_reads_see_writes_though_replay_is_delayed(lagging: LocalCluster, wait: float) -> None:
    first, *standbys = lagging.nodes
    for node in standbys:
        delay = "200ms" if wait > 0.2 else "10s"
        await async_call(configure, node, recovery_min_apply_delay=delay)
    ports: list[int] = []
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await all_heard(router)
        causal = router.causal()
        for number in range(8):
            if number % 2:
                await write(causal, number)
            else:
                await causal.run(inserting(number))
            port, found = await count(causal.reader(wait=wait))
            assert found == number + 1
            assert await causal.run(counting, role="reader") == number + 1
            ports.append(port)
    assert set(ports) <= ({first.port} if wait < 0.2 else {node.port for node in standbys})


async def test_stale_reads_are_seen_without_it(lagging: LocalCluster) -> None:
    """So that the test before this one could fail."""
    for node in lagging.nodes[1:]:
        await async_call(configure, node, recovery_min_apply_delay="10s")
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await all_heard(router)
        await write(router, 1)
        assert (await count(router.reader()))[1] == 0


async def test_reads_never_go_back_behind_a_read(lagging: LocalCluster) -> None:
    first, ahead, paused = lagging.nodes
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await all_heard(router)
        await async_call(paused.pause_replay)
        causal, before, ports = router.causal(), 0, set()
        for number in range(30):
            await async_call(first.execute, f"INSERT INTO written VALUES ({number})")
            port, found = await count(causal.reader())
            assert found >= before
            before = found
            ports.add(port)
        assert ports == {ahead.port} or paused.port in ports
        await async_eventually(lambda: (of(router, ahead).lsn or 0) > (of(router, paused).lsn or 0))
        assert {(await count(causal.reader()))[0] for _ in range(10)} == {ahead.port}


async def test_a_position_goes_on_in_another_process(lagging: LocalCluster) -> None:
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        causal = router.causal()
        assert causal.position is None
        assert "None" in repr(causal)
        await write(causal, 1)
        cookie = str(causal.position)
        assert cookie in repr(causal)
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        causal = router.causal(cookie)
        assert str(causal.position) == cookie
        assert (await count(causal.reader()))[1] == 1
        assert str(causal.position) >= cookie


# What it costs.


@pytest.mark.parametrize("kind", ["writer", "reader", "run", "run reader", "run once"])
async def test_sessions_cost_no_more_round_trips(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...], kind: str
) -> None:
    used: dict[bool, list[int]] = {}
    unprepared = {"prepare_threshold": None}  # preparing a statement takes a round trip
    async with AsyncRouter(dsn_of(tapped), probe=OFTEN, kwargs=unprepared) as router:
        await router.install()
        await async_call(lagging.catch_up)
        warm: set[int] = set()
        while len(warm) < 2:  # so that no connection is opened any more
            warm.add((await count(router.reader()))[0])
        for source in (router, causal := router.causal()):
            trips = used[source is causal] = []
            for number in range(6):
                await async_eventually(lambda: all_there(router, causal))
                for tap in tapped:
                    tap.take()
                value = 10 * len(used) + number
                match kind:
                    case "writer":
                        await write(source, value)
                    case "reader":
                        await count(source.reader())
                    case "run":
                        await source.run(inserting(value))
                    case "run reader":
                        await source.run(counting, role="reader")
                    case _:
                        await source.run(inserting(value), once=f"key {value}")
                trips.append(sum(tap.round_trips() for tap in tapped))
    await async_call(lagging.primary.execute, "DROP SCHEMA pgroute CASCADE")
    assert len(set(used[False][2:])) == 1
    assert used[True][2:] == used[False][2:]


def all_there(router: AsyncRouter[Any], causal: Any) -> bool:
    """Return whether the probes have seen all hosts at the position."""
    return causal.position is None or all(
        (host.lsn or 0) >= causal.position.lsn for host in router.topology.hosts
    )


async def test_a_session_that_commits_nothing_asks_once(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    async with AsyncRouter(dsn_of(tapped), probe=OFTEN, kwargs={"autocommit": True}) as router:
        causal = router.causal()
        await write(causal, 1)
        tapped[0].take()
        await write(causal, 2)
        assert tapped[0].round_trips() == 2
        with pytest.raises(ZeroDivisionError):
            async with causal.writer() as conn:
                await conn.execute("INSERT INTO written VALUES (3)")
                raise ZeroDivisionError
        assert tapped[0].round_trips() == 2
        assert (await count(causal.reader(wait=5.0)))[1] == 3


# Outcomes that are not known.


@pytest.mark.parametrize("kind", ["writer", "run"])
async def test_unknown_commit_sends_the_next_reader_to_the_primary(lagging: LocalCluster, kind: str) -> None:
    first = lagging.nodes[0]
    with FaultProxy(first) as front:
        async with AsyncRouter(dsn_of([front, *lagging.nodes[1:]]), probe=OFTEN) as router:
            await all_heard(router)
            causal = router.causal()
            await write(causal, 1)
            position = causal.position
            front.when(b"COMMIT;", "to_server", "reset", after_forwarding=True)
            with pytest.raises(CommitUnknown):
                if kind == "writer":
                    await write(causal, 2)
                else:
                    await causal.run(inserting(2))
            assert causal.position == position
            await async_eventually(lambda: first.execute(COUNT) == [(2,)])
            assert await count(causal.reader()) == (front.port, 2)
            await async_call(lagging.catch_up)
            ports = {(await count(causal.reader()))[0] for _ in range(10)}
            assert front.port not in ports, "the session there has settled it"


async def test_reader_whose_connection_was_lost_leaves_a_doubt_too(lagging: LocalCluster) -> None:
    """It may have read more than the position says."""
    first, *standbys = lagging.nodes
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await all_heard(router)
        causal = router.causal()
        with pytest.raises((SessionLost, psycopg.errors.AdminShutdown)):
            async with causal.reader() as conn:
                await conn.execute(COUNT)
                node = next(n for n in standbys if n.port == conn.info.port)
                await async_call(node.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
                await conn.execute(COUNT)
        assert (await count(causal.reader()))[0] == first.port


async def test_reader_that_is_run_again_goes_to_another_standby(lagging: LocalCluster) -> None:
    """What the first attempt has read is discarded."""
    standbys = {node.port: node for node in lagging.nodes[1:]}
    ports: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> int:
        ports.append(conn.info.port)
        if len(ports) == 1:
            node = standbys[conn.info.port]
            await async_call(node.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        return await counting(conn)

    async with AsyncRouter(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        await all_heard(router)
        causal = router.causal()
        await write(causal, 1)
        await async_eventually(lambda: all_there(router, causal))
        assert await causal.run(body, role="reader") == 1
        assert set(ports) <= set(standbys)
        assert len(ports) == 2
        assert (await count(causal.reader()))[0] in standbys, "no doubt is left"


async def test_strict_readers_after_an_unknown_commit_are_told(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    with FaultProxy(first) as front:
        async with AsyncRouter(
            dsn_of([front, *lagging.nodes[1:]]), probe=OFTEN, reader_attrs="standby"
        ) as router:
            await all_heard(router)
            causal = router.causal()
            front.when(b"COMMIT;", "to_server", "reset")
            with pytest.raises(CommitUnknown):
                await write(causal, 1)
            with pytest.raises(psycopg.OperationalError, match="the outcome of an earlier session"):
                async with causal.reader(0.3):
                    pass
            await write(causal, 2)
            assert (await count(causal.reader(wait=5.0)))[1] == 2


async def test_position_lost_in_a_failover_is_told_to_all_later_sessions(any_cluster: LocalCluster) -> None:
    old, new, _ = any_cluster.nodes
    make_table(any_cluster)
    with FaultProxy(old) as wire:
        await async_call(cut_off, any_cluster, wire)
        async with AsyncRouter(any_cluster.dsn, probe=OFTEN) as router:
            await all_heard(router)
            causal, others = router.causal(), router.causal()
            await write(others, 1)
            await async_call(any_cluster.catch_up)
            wire.blackhole()
            await write(causal, 2)
            lost = causal.position
            assert not causal.lost
            await async_call(old.kill)
            await async_call(any_cluster.promote, new)
            await write(router, 3)
            for _ in range(2):
                for session in (causal.writer(), causal.reader()):
                    with pytest.raises(PositionLost) as caught:
                        async with session:
                            pass
                    assert caught.value.position == lost
                with pytest.raises(PositionLost):
                    await causal.run(inserting(4))
                with pytest.raises(PositionLost):
                    await causal.run(counting, role="reader")
                assert causal.lost
            assert causal.position == lost
            assert (await count(others.reader(wait=5.0)))[1] in (1, 2)
            await others.run(counting)
            assert (await count(others.reader(wait=5.0)))[1] == 2
            assert not others.lost
            again = router.causal(after=lost)
            with pytest.raises(PositionLost):
                await again.run(counting)
            assert again.lost


# Shared.


async def test_many_share_one_object(lagging: LocalCluster) -> None:
    lagging.primary.execute("ALTER TABLE written DROP CONSTRAINT written_pkey")
    stale: list[tuple[int, int]] = []
    done: list[int] = []
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router, AsyncBackground() as background:
        await all_heard(router)
        causal = router.causal()

        async def work(me: int) -> None:
            for number in range(20):
                await write(causal, me)
                async with causal.reader() as conn:
                    cursor = await conn.execute(f"{COUNT} WHERE number = {me}")
                    (found,) = await cursor.fetchone() or (0,)
                if found != number + 1:
                    stale.append((found, number + 1))
            done.append(me)

        tasks = [background.start(work, me) for me in range(12)]
        for task in tasks:
            await task.result(60.0)
    assert stale == []
    assert len(done) == 12


# The ends of sessions, which are as without it.


Conn = psycopg.AsyncConnection[Any]
ONE_ROW = "INSERT INTO written VALUES (1)"


async def nested_transaction_left_open(conn: Conn) -> None:
    await conn.transaction().__aenter__()
    await conn.execute(ONE_ROW)


async def nested_transaction(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute(ONE_ROW)


async def commits_itself(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    await conn.execute("COMMIT")


async def commits_by_method(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    await conn.commit()


async def goes_on_after_a_commit_of_its_own(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    await conn.execute("COMMIT")
    await conn.execute("INSERT INTO written VALUES (2)")


async def leaves_its_pipeline_open(conn: Conn) -> None:
    await conn.pipeline().__aenter__()
    await conn.execute(ONE_ROW)


async def pipeline(conn: Conn) -> None:
    async with conn.pipeline():
        await conn.execute(ONE_ROW)


async def deferred_constraint_fails(conn: Conn) -> None:
    await conn.execute("INSERT INTO deferred VALUES (1), (1)")


async def hides_an_error(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute(ONE_ROW)


async def leaves_two_phases(conn: Conn) -> None:
    await conn.tpc_begin(conn.xid(1, "gtrid", "bqual"))
    await conn.execute(ONE_ROW)


async def closes(conn: Conn) -> None:
    await conn.close()


async def leaves_a_command_running(conn: Conn) -> None:
    conn.pgconn.send_query(b"SELECT pg_sleep(0.1)")


async def changes_its_isolation(conn: Conn) -> None:
    await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    await conn.execute(ONE_ROW)


async def rolls_back(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    raise psycopg.Rollback


async def fails(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    await conn.execute("SELECT 1 / 0")


async def does_nothing(conn: Conn) -> None: ...


async def is_ended_by_the_server(conn: Conn) -> None:
    await conn.execute(ONE_ROW)
    await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


# By number, as an attempt that has hardly any time left gets no session.
THRICE = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())


async def outcome(source: Any, kind: str, body: Any) -> tuple[str, str]:
    """Run a body in a session; return the class and the first line of the error."""
    try:
        if kind == "run":
            await source.run(body, retry=THRICE)
        else:
            async with source.writer() if kind == "writer" else source.reader() as conn:
                await body(conn)
    except (psycopg.Error, psycopg.Rollback) as error:
        lost_early = "was lost in BEGIN" in str(error)  # of the last attempt of several
        if isinstance(error, psycopg.OperationalError) and (lost_early or not isinstance(error, RouteError)):
            return "lost", ""  # whether what the server said last is read is a matter of luck
        line = re.sub(r"after \d attempts.*", "", str(error).partition("\n")[0])
        return type(error).__name__, line
    return "", ""


@pytest.mark.parametrize("kind", ["writer", "run", "reader"])
@pytest.mark.parametrize(
    "body",
    [
        nested_transaction_left_open,
        nested_transaction,
        commits_itself,
        commits_by_method,
        goes_on_after_a_commit_of_its_own,
        leaves_its_pipeline_open,
        pipeline,
        deferred_constraint_fails,
        hides_an_error,
        leaves_two_phases,
        closes,
        leaves_a_command_running,
        changes_its_isolation,
        rolls_back,
        fails,
        does_nothing,
        is_ended_by_the_server,
    ],
    ids=lambda body: body.__name__,
)
@pytest.mark.usefixtures("deferred")
async def test_sessions_end_as_they_do_without_it(lagging: LocalCluster, body: Any, kind: str) -> None:
    first = lagging.nodes[0]
    one = PoolOptions(max_size=1)
    writing = PoolOptions(max_size=1, read_only=False)
    outcomes = []
    async with AsyncRouter(lagging.dsn, writer=one, reader=writing, reader_attrs="primary") as router:
        await router.wait()
        causal = router.causal()
        for source in (router, causal):
            told: tuple[Any, ...] = await outcome(source, kind, body)
            there = await async_call(first.execute, "SELECT number FROM written ORDER BY 1")
            await async_call(first.execute, "TRUNCATE written")
            for role in ("writer", "reader"):
                conn = await router.getconn(role)
                told += (role, conn.autocommit, conn.isolation_level, conn.pgconn.transaction_status)
                await router.putconn(conn)
            # In a transaction that was left open this would be rolled back.
            await write(source, 7)
            after = await async_call(first.execute, "SELECT number FROM written ORDER BY 1")
            await async_call(first.execute, "TRUNCATE written")
            outcomes.append((told, there, after))
            assert after == [(7,)]
    assert outcomes[0] == outcomes[1]


def rival(node: Node) -> None:
    """Read what another transaction writes, and write what it has read."""
    with psycopg.connect(node.conninfo, application_name="pgroute-testing") as conn:
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.execute(COUNT)
        conn.execute("INSERT INTO written VALUES (100)")


@pytest.mark.parametrize("late", [False, True], ids=["in the body", "at commit"])
async def test_serialization_failure_is_run_again(lagging: LocalCluster, late: bool) -> None:
    first = lagging.nodes[0]
    runs: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> int:
        runs.append(1)
        found = await counting(conn)
        if len(runs) == 1 and not late:
            await async_call(rival, first)
        await conn.execute("INSERT INTO written VALUES (%s)", [len(runs)])
        if len(runs) == 1 and late:
            await async_call(rival, first)
        return found

    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        for source in (router, router.causal()):
            await async_call(first.execute, "TRUNCATE written")
            runs.clear()
            found = await source.run(body, isolation="serializable")
            assert (len(runs), found) == (2, 1)


async def test_once_in_a_causal_object(lagging: LocalCluster) -> None:
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await router.install()
        causal = router.causal()
        try:
            assert await causal.run(inserting(1), once="a key") == 1
            assert await causal.run(inserting(1), once="a key") == 1
            assert (await count(causal.reader(wait=5.0)))[1] == 1
            # One who knows nothing of the first call sees its work too.
            other = router.causal()
            assert await other.run(inserting(1), once="a key") == 1
            assert (await count(other.reader(wait=5.0)))[1] == 1
        finally:
            await async_call(lagging.primary.execute, "DROP SCHEMA pgroute CASCADE")


async def test_commit_that_no_synchronous_standby_confirms_is_unknown(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    await async_call(configure, first, synchronous_standby_names="nobody")
    try:
        async with AsyncRouter(lagging.dsn, probe=OFTEN) as router, AsyncBackground() as background:
            causal = router.causal()
            task = background.start(write, causal, 1)
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            [(pid,)] = await async_eventually(lambda: first.execute(waiting))
            await async_call(first.execute, f"SELECT pg_cancel_backend({pid})")
            with pytest.raises(CommitUnknown, match="no synchronous standby has confirmed"):
                await task.result()
            assert (await count(causal.reader(wait=5.0)))[1] == 1
    finally:
        await async_call(configure, first, synchronous_standby_names=None)


# async-only: begin


async def test_cancelled_in_the_commit_keeps_the_pool_whole_and_carries_its_note(
    lagging: LocalCluster,
) -> None:
    first = lagging.nodes[0]
    with FaultProxy(first) as front:
        async with AsyncRouter(
            dsn_of([front, *lagging.nodes[1:]]), probe=OFTEN, writer=PoolOptions(max_size=1)
        ) as router:
            await all_heard(router)
            causal = router.causal()
            for number in range(3):
                await write(causal, 10 + number)
                front.when(b"COMMIT;", "to_server", "blackhole")
                task = asyncio.get_running_loop().create_task(write(causal, number))
                found = f"SELECT FROM written WHERE number = {number}"
                await async_eventually(lambda: first.execute(f"SELECT EXISTS ({found})") == [(True,)])  # noqa: B023
                task.cancel()
                begun_at = time.monotonic()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert "interrupted during COMMIT: it may have been committed" in caught.value.__notes__
                assert time.monotonic() - begun_at < 5.0
                front.clear_faults()
                # The next reader is sent to the primary, which has the row.
                port, there = await count(causal.reader())
                assert (port, there) == (front.port, 2 * (number + 1))
            assert router.stats().writer.totals.get("pool_size") in (0, 1)


# async-only: end
