"""Engines and sessions of asyncio; written by hand, as SQLAlchemy's face of asyncio is."""

from __future__ import annotations

import asyncio
import gc

import psycopg
import pytest
from sqlalchemy import event, exc, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import pgroute
from pgroute import AsyncRouter, PoolOptions, Router
from pgroute.contrib.sqlalchemy import RoutingSession, async_router_engine, async_run_in_session, router_of
from tests.contrib.sqlalchemy.conftest import Number
from tests.support import async_eventually, eventually

pytestmark = pytest.mark.cluster

RECOVERY = text("SELECT pg_is_in_recovery()")
PID = text("SELECT pg_backend_pid()")
STANDBY = select(func.pg_is_in_recovery())


@pytest.fixture
async def engine(url):
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def router(shared):
    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        yield router


async def test_connections_are_psycopgs_own_and_come_back(router):
    engine = async_router_engine(router)
    pids = set()
    for _ in range(3):
        async with engine.begin() as conn:
            raw = await conn.get_raw_connection()
            assert type(raw.driver_connection) is psycopg.AsyncConnection
            pids.add(await conn.scalar(PID))
    async with router.writer() as conn:
        pids.add(conn.info.backend_pid)
    assert len(pids) == 1


async def test_a_transaction_is_committed_or_rolled_back(engine, numbers):
    async with engine.begin() as conn:
        await conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
    with pytest.raises(ZeroDivisionError):
        async with engine.begin() as conn:
            await conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (2)"))
            raise ZeroDivisionError
    async with engine.connect() as conn:
        assert (await conn.scalars(select(Number.number))).all() == [1]


async def test_reads_are_asked_for_by_an_option(engine):
    async with engine.execution_options(postgresql_readonly=True).connect() as conn:
        assert await conn.scalar(RECOVERY)
    async with engine.connect() as conn:
        await conn.execution_options(postgresql_readonly=True)
        assert await conn.scalar(RECOVERY)


async def test_settings_of_sqlalchemys_do_not_reach_other_users_of_the_pool(router):
    async with async_router_engine(router, isolation_level="AUTOCOMMIT").connect() as conn:
        raw = await conn.get_raw_connection()
        assert raw.driver_connection is not None
        assert raw.driver_connection.autocommit
    async with router.writer() as conn:
        assert not conn.autocommit


async def test_a_lost_connection_is_told_and_replaced(engine, inspector):
    async with engine.connect() as conn:
        pid = await conn.scalar(PID)
        inspector.execute(inspector.cluster.nodes[0], f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(exc.OperationalError) as caught:
            await conn.commit()
        assert isinstance(caught.value.orig, pgroute.SessionLost)
        assert caught.value.connection_invalidated
        await conn.rollback()
        assert await conn.scalar(PID) != pid


async def test_a_cancelled_statement_gives_its_connection_back(router, shared, caplog):
    engine = async_router_engine(router)

    async def sleep():
        async with engine.connect() as conn:
            pids.append(await conn.scalar(PID))
            await conn.execute(text("SELECT pg_sleep(60)"))

    pids: list[int] = []
    task = asyncio.create_task(sleep())
    asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = {}"
    await async_eventually(lambda: pids and shared.primary.execute(asleep.format(pids[0])))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with router.writer(timeout=5) as conn:
        assert await (await conn.execute("SELECT 1")).fetchone() == (1,)
    assert "lost by its caller" not in caplog.text
    assert not router.stats().writer.totals.get("connections_lost")


async def test_a_connection_that_is_collected_is_closed(router):
    engine = async_router_engine(router)
    conn = await engine.connect()
    pid = await conn.scalar(PID)
    with pytest.warns(exc.SAWarning, match="garbage collector"):  # noqa: PT031
        del conn
        gc.collect()
    async with router.writer(timeout=5) as conn:
        assert conn.info.backend_pid != pid


async def test_an_engine_may_be_disposed_of_twice_and_used_again(url):
    engine = create_async_engine(url)
    async with engine.connect() as conn:
        await conn.scalar(PID)
    first = router_of(engine)
    await engine.dispose()
    await engine.dispose()
    assert "closed" in repr(first)
    async with engine.connect() as conn:
        await conn.scalar(PID)
    await engine.dispose()


@pytest.mark.parametrize("end", ["cancelled", "invalidated"])
async def test_a_connection_in_use_that_outlives_its_engine_closes_the_router_whatever_its_end(url, end):
    engine = create_async_engine(url)

    async def use():
        async with engine.connect() as conn:
            await conn.scalar(PID)
            ready.set()
            if end == "cancelled":
                await conn.execute(text("SELECT pg_sleep(60)"))
            await disposed.wait()
            await conn.invalidate()

    ready, disposed = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(use())
    await ready.wait()
    router = router_of(engine)
    await engine.dispose()
    assert "closed" not in repr(router)
    disposed.set()
    if end == "cancelled":
        task.cancel()
    await asyncio.wait([task])
    await async_eventually(lambda: "closed" in repr(router))


async def test_an_engine_that_is_collected_closes_its_router(url):
    engine = create_async_engine(url)
    async with engine.connect() as conn:
        await conn.scalar(PID)
    router = router_of(engine)
    del engine, conn
    gc.collect()
    await async_eventually(lambda: "closed" in repr(router))


async def ask(engine):
    async with engine.connect() as conn:
        return await conn.scalar(text("SELECT 7"))


def test_an_engine_goes_on_in_the_next_event_loop(url):
    engine = create_async_engine(url)
    assert asyncio.run(ask(engine)) == 7
    first = router_of(engine)
    assert asyncio.run(ask(engine)) == 7
    eventually(lambda: "closed" in repr(first))
    asyncio.run(engine.dispose())


async def test_an_engine_in_two_event_loops_at_once_is_told(engine):
    await ask(engine)
    with pytest.raises(
        exc.OperationalError, match="this engine is in use in another event loop: make one for"
    ):
        await asyncio.to_thread(asyncio.run, ask(engine))
    assert await ask(engine) == 7


async def test_an_engine_may_be_disposed_of_where_nothing_can_be_awaited(url):
    engine = create_async_engine(url)
    await ask(engine)
    router = router_of(engine)
    engine.sync_engine.dispose()
    await async_eventually(lambda: "closed" in repr(router))


@pytest.mark.parametrize("collect", [True, False])
def test_an_engine_is_closed_after_the_end_of_its_event_loop(url, collect):
    engine = create_async_engine(url)
    asyncio.run(ask(engine))
    router = router_of(engine)
    if collect:
        del engine
        gc.collect()
    else:
        engine.sync_engine.dispose()
    eventually(lambda: "closed" in repr(router))


async def test_a_router_of_the_other_face_is_told(shared):
    with Router(shared.dsn) as router:
        engine = async_router_engine(router)  # type: ignore[arg-type]
        with pytest.raises(
            exc.ProgrammingError, match="expected an AsyncRouter; create_engine\\(\\) takes a Router"
        ):
            async with engine.connect():
                pass


async def test_rows_are_streamed_by_a_cursor_of_the_server(engine):
    async with engine.connect() as conn:
        result = await conn.stream(
            text("SELECT generate_series(1, 100)"), execution_options={"yield_per": 10}
        )
        assert sum([row async for row in result.scalars()]) == 5050


async def test_many_tasks_share_an_engine(engine):
    async def work():
        async with engine.connect() as conn:
            return await conn.scalar(text("SELECT 1"))

    assert await asyncio.gather(*(work() for _ in range(30))) == [1] * 30


async def test_a_routing_session_reads_from_a_standby_until_it_writes(engine, numbers):
    make = async_sessionmaker(
        engine, sync_session_class=RoutingSession, start="reader", expire_on_commit=False
    )
    async with make() as session:
        assert await session.scalar(STANDBY)
        session.add(Number(number=1))
        await session.flush()
        assert not await session.scalar(STANDBY)
        await session.commit()
        assert (await session.scalars(select(Number.number))).all() == [1]
    assert isinstance(session.sync_session, RoutingSession)
    position = session.sync_session.position
    async with make(after=str(position)) as session:
        assert (await session.scalars(select(Number.number))).all() == [1]


async def test_a_transaction_is_run_again_in_a_new_session(engine, numbers):
    make = async_sessionmaker(engine)
    sessions = []

    async def work(session: AsyncSession, number: int) -> int:
        sessions.append(session)
        session.add(Number(number=number + len(sessions)))
        await session.flush()
        if len(sessions) == 1:
            await session.execute(select(func.pg_terminate_backend(func.pg_backend_pid())))
        return number

    assert await async_run_in_session(make, work, 10) == 10
    async with make() as session:
        assert (await session.scalars(select(Number.number))).all() == [12]
    assert len(sessions) == 2


async def test_settings_of_the_engine_are_those_of_a_transaction_that_is_run_again(url):
    engine = create_async_engine(url, isolation_level="REPEATABLE READ")
    maker = async_sessionmaker(engine.execution_options(postgresql_deferrable=True))

    async def look(session):
        shown = "current_setting('transaction_isolation'), current_setting('transaction_deferrable')"
        return tuple((await session.execute(text(f"SELECT {shown}"))).one())

    assert await async_run_in_session(maker, look) == ("repeatable read", "on")
    await engine.dispose()


async def test_an_error_of_the_function_rolls_back_and_comes_out(engine, numbers):
    async def fail(session):
        session.add(Number(number=1))
        await session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await async_run_in_session(async_sessionmaker(engine), fail)
    async with engine.connect() as conn:
        assert (await conn.scalars(select(Number.number))).all() == []


async def test_a_connect_event_may_use_the_connection(engine):
    seen = []

    @event.listens_for(engine.sync_engine, "connect")
    def connect(conn, _):
        cursor = conn.cursor()
        cursor.execute("SELECT 1")
        seen.append(cursor.fetchone())
        cursor.close()

    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT 1")) == 1
    assert seen == [(1,)]
