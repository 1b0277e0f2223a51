"""What a session is, and its honest end."""

from __future__ import annotations

import asyncio  # async-only
import select
import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import Row, dict_row, namedtuple_row

from pgroute import AsyncRouter, CommitUnknown, PoolExhausted, PoolOptions, SessionLost
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.support import AsyncBackground, async_call, async_eventually, dsn_with

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
"""Every session gets the same connection."""


class Mine(psycopg.AsyncConnection[Row]):
    """A class of connections for any rows."""


async def pid_of(router: AsyncRouter[Any], role: str = "writer") -> int:
    """Return the backend that serves a session now."""
    async with router.writer() if role == "writer" else router.reader() as conn:
        return int(conn.info.backend_pid)


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [number for (number,) in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY 1")]


def terminate(node: Node, *pids: int) -> None:
    """End backends, and return when they are gone."""
    for pid in pids:
        assert node.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]) == [(True,)]


# The way in: what the body gets.


async def test_handlers_and_the_limit_of_prepared_statements_do_not_reach_the_next_session(
    shared: LocalCluster,
) -> None:
    told: list[str] = []

    async def configure(conn: psycopg.AsyncConnection[Any]) -> None:
        conn.add_notice_handler(lambda _: told.append("kept"))

    async with AsyncRouter(shared.dsn, writer=ONE, configure=configure) as router:
        async with router.writer() as conn:
            pid, most = conn.info.backend_pid, conn.prepared_max
            conn.prepared_max = 3
            conn.add_notice_handler(lambda _: told.append("notice"))
            conn.add_notify_handler(lambda _: told.append("notify"))
            await conn.execute("LISTEN handled")
        async with router.writer() as conn:
            assert (conn.info.backend_pid, conn.prepared_max) == (pid, most)
            await conn.execute("DO $$ BEGIN RAISE NOTICE 'noticed'; END $$")
            await conn.execute("NOTIFY handled")
            await conn.commit()
            await conn.execute("UNLISTEN handled")
    assert told == ["kept"]


async def test_the_body_gets_a_plain_psycopg_connection(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router, router.writer() as conn:
        assert type(conn) is psycopg.AsyncConnection


async def test_the_body_gets_the_users_connection_class(shared: LocalCluster) -> None:
    class Mine(psycopg.AsyncConnection[Any]):
        pass

    async with AsyncRouter(shared.dsn, connection_class=Mine) as router, router.reader() as conn:
        assert type(conn) is Mine


async def test_a_connection_class_that_watches_over_its_subclasses(shared: LocalCluster) -> None:
    made: list[type] = []

    class Tagged(psycopg.AsyncConnection[Any]):
        def __init_subclass__(cls, *, tag: str) -> None: ...

    class Noting(psycopg.AsyncConnection[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(type(self))

    for wanted in (Tagged, Noting):
        async with AsyncRouter(shared.dsn, connection_class=wanted) as router, router.writer() as conn:
            assert type(conn) is wanted
    assert set(made) == {Noting}


# sync-only: def test_a_connection_class_that_connects_in_a_thread_of_its_own(shared: LocalCluster) -> None:
# sync-only:     class Elsewhere(psycopg.Connection[Any]):
# sync-only:         @classmethod
# sync-only:         def connect(cls, *args: Any, **kwargs: Any) -> Any:
# sync-only:             made: list[Any] = []
# sync-only:             connect = super().connect
# sync-only:             thread = threading.Thread(target=lambda: made.append(connect(*args, **kwargs)))
# sync-only:             thread.start()
# sync-only:             thread.join()
# sync-only:             return made[0]
# sync-only:     with Router(shared.dsn, connection_class=Elsewhere) as router, router.writer() as conn:
# sync-only:         assert type(conn) is Elsewhere


async def test_a_session_object_serves_once_at_a_time(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        session = router.writer()
        async with session:
            with pytest.raises(RuntimeError, match="in use already"):
                async with session:
                    pass


async def test_a_session_object_is_not_waited_for_twice(shared: LocalCluster) -> None:
    async with (
        AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        AsyncBackground() as background,
    ):
        session = router.writer(10.0)

        async def enter() -> str:
            try:
                async with session as conn:
                    await conn.execute("SELECT 1")
            except RuntimeError as exc:
                return str(exc)
            return ""

        held = await router.getconn("writer")
        entering = [background.start(enter) for _ in range(2)]
        await async_eventually(lambda: any(work.done() for work in entering))
        await router.putconn(held)
        told = sorted([await work.result() for work in entering])
        assert told == ["", "this session is in use already; ask the router for another"]
        assert await enter() == "", "it serves again"


async def test_a_session_that_got_no_connection_may_be_entered_again(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        session = router.writer(0.05)
        held = await router.getconn("writer")
        with pytest.raises(PoolExhausted):
            await session.__aenter__()
        await router.putconn(held)
        async with session:
            pass


async def test_a_session_that_was_not_entered_cannot_be_left(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        session = router.writer()
        with pytest.raises(RuntimeError, match="not entered"):
            await session.__aexit__(None, None, None)
        async with session:
            pass
        with pytest.raises(RuntimeError, match="not entered"):
            await session.__aexit__(None, None, None)


async def test_kwargs_reach_the_connection(shared: LocalCluster) -> None:
    kwargs = {"row_factory": dict_row, "autocommit": True, "prepare_threshold": 2, "application_name": "shop"}
    async with AsyncRouter(shared.dsn, kwargs=kwargs) as router, router.writer() as conn:
        cursor = await conn.execute("SELECT current_setting('application_name') AS name")
        assert str(await cursor.fetchone()) == "{'name': 'shop'}"
        assert conn.autocommit
        assert conn.prepare_threshold == 2


async def test_class_that_names_its_rows_is_taken(shared: LocalCluster) -> None:
    named = Mine[dict[str, Any]]
    async with AsyncRouter(shared.dsn, connection_class=named, row_factory=dict_row, writer=ONE) as router:
        async with router.writer() as conn:
            assert isinstance(conn, Mine)
            conn.row_factory = namedtuple_row  # type: ignore[assignment]
        async with router.writer() as again:
            assert again is conn
            assert await (await again.execute("SELECT 1 AS n")).fetchone() == {"n": 1}


async def test_the_roles_kwargs_win_over_the_routers_and_those_over_the_dsn(shared: LocalCluster) -> None:
    async with AsyncRouter(
        dsn_with(shared.dsn, application_name="dsn", options="-c work_mem=123kB"),
        kwargs={"application_name": "router", "row_factory": dict_row},
        reader=PoolOptions(kwargs={"application_name": "reader", "row_factory": namedtuple_row}),
    ) as router:
        names = []
        for session in (router.writer(), router.reader()):
            async with session as conn:
                names.append((conn.info.get_parameters()["application_name"], conn.row_factory))
                cursor = await conn.execute("SHOW work_mem")
                assert "123kB" in str(await cursor.fetchone()), "a reader keeps the DSN's options"
    assert names == [("router", dict_row), ("reader", namedtuple_row)]


async def test_settings_are_those_of_the_roles_sessions(shared: LocalCluster) -> None:
    settings = {"statement_timeout": "1234ms", "search_path": r'"a b", "c\d"', "jit": False}
    async with AsyncRouter(shared.dsn, writer=PoolOptions(settings=settings)) as router:
        async with router.writer() as conn:
            found: list[str] = []
            for name in settings:
                cursor = await conn.execute(f"SHOW {name}")
                found += await cursor.fetchone() or ()
        async with router.reader() as conn:
            cursor = await conn.execute("SHOW statement_timeout")
            assert await cursor.fetchone() == ("0",)
    assert found == ["1234ms", r'"a b", "c\d"', "off"]


async def test_configure_runs_for_each_new_connection_and_reset_for_each_returned(
    shared: LocalCluster,
) -> None:
    calls: list[tuple[str, int]] = []

    async def configure(conn: psycopg.AsyncConnection[Any]) -> None:
        calls.append(("configure", conn.info.backend_pid))
        conn.row_factory = dict_row

    async def reset(conn: psycopg.AsyncConnection[Any]) -> None:
        calls.append(("reset", conn.info.backend_pid))

    async with AsyncRouter(shared.dsn, writer=ONE, configure=configure, reset=reset) as router:
        for _ in range(2):
            async with router.writer() as conn:
                assert conn.row_factory is dict_row
                conn.row_factory = namedtuple_row
        pid = await pid_of(router)
    assert calls == [("configure", pid)] + 3 * [("reset", pid)]


async def test_the_roles_callbacks_win_over_the_routers(shared: LocalCluster) -> None:
    calls: list[str] = []

    async def general(conn: psycopg.AsyncConnection[Any]) -> None:
        calls.append("router")

    async def special(conn: psycopg.AsyncConnection[Any]) -> None:
        calls.append("reader")

    async with AsyncRouter(
        shared.dsn, configure=general, reader=PoolOptions(configure=special), writer=ONE
    ) as router:
        await pid_of(router, "reader")
        await pid_of(router, "writer")
    assert calls == ["reader", "router"]


async def test_a_connection_that_cannot_be_reset_is_replaced(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def reset(conn: psycopg.AsyncConnection[Any]) -> None:
        raise KeyError("no such setting")

    async with AsyncRouter(shared.dsn, writer=ONE, reset=reset) as router:
        pids = [await pid_of(router) for _ in range(3)]
    assert len(set(pids)) == 3
    assert "no such setting" in caplog.text


async def test_a_connection_whose_reset_leaves_a_transaction_open_is_replaced(shared: LocalCluster) -> None:
    async def reset(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")

    async with AsyncRouter(shared.dsn, writer=ONE, reset=reset) as router:
        pids = [await pid_of(router) for _ in range(3)]
    assert len(set(pids)) == 3


# Readers do not write.


async def test_a_reader_on_a_standby_cannot_write(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with router.reader() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_reader_on_the_primary_cannot_write(
    shared: LocalCluster, table: str, autocommit: bool
) -> None:
    kwargs = {"autocommit": autocommit}
    async with AsyncRouter(shared.dsn, reader_attrs="primary", kwargs=kwargs) as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with router.reader() as conn:
                assert conn.read_only
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == []


async def test_the_server_keeps_a_reader_from_writing_when_psycopg_does_not(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn, reader_attrs="primary") as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with router.reader() as conn:
                await conn.set_read_only(None)
                await conn.execute(f"INSERT INTO {table} VALUES (1)")


async def test_a_reader_that_declares_itself_read_write_is_read_only_for_the_next(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn, reader_attrs="primary", reader=ONE) as router:
        async with router.reader() as conn:
            await conn.set_read_only(False)
        async with router.reader() as conn:
            assert conn.read_only is True
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
            await conn.rollback()


async def test_readers_write_where_read_only_is_switched_off(shared: LocalCluster, table: str) -> None:
    options = PoolOptions(read_only=False)
    async with (
        AsyncRouter(shared.dsn, reader_attrs="primary", reader=options) as router,
        router.reader() as conn,
    ):
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == [1]


# The end of the body.


async def test_a_writer_commits(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router, router.writer() as conn:
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == [1]


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_a_body_that_raises_rolls_back(shared: LocalCluster, table: str, error: BaseException) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        pid = await pid_of(router)
        with pytest.raises(type(error)) as caught:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                raise error
        assert caught.value is error
        assert await pid_of(router) == pid, "the connection is as good as new"
    assert numbers(shared, table) == []


async def test_errors_of_the_body_pass_untouched(shared: LocalCluster, table: str) -> None:
    raised: list[BaseException] = []
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        pid = await pid_of(router)
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                try:
                    await conn.execute(f"INSERT INTO {table} VALUES (1)")
                except psycopg.Error as error:
                    raised.append(error)
                    raise
        assert caught.value is raised[0]
        assert await pid_of(router) == pid
    assert numbers(shared, table) == []


async def test_the_loss_of_the_connection_in_the_body_passes_untouched(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.errors.AdminShutdown):
            async with router.writer() as conn:
                await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await pid_of(router)


async def test_an_error_at_commit_passes_and_nothing_is_committed(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"ALTER TABLE {table} ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED")
    shared.primary.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        pid = await pid_of(router)
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1), (1)")
        assert await pid_of(router) == pid
    assert numbers(shared, table) == []


async def test_a_swallowed_error_is_raised_at_the_end_and_nothing_is_committed(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        pid = await pid_of(router)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing was committed"):
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await conn.execute("SELECT 1 / 0")
        assert await pid_of(router) == pid
    assert numbers(shared, table) == []


async def test_a_swallowed_loss_is_raised_at_the_end(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(SessionLost, match="lost within the session") as caught:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                with pytest.raises(psycopg.errors.AdminShutdown):
                    await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert caught.value.topology is not None
        assert caught.value.may_have_committed, "it may have been a COMMIT of the body's own"
        assert not caught.value.rerun_safe
    assert numbers(shared, table) == []


async def test_a_connection_lost_unnoticed_before_the_commit_is_session_lost(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(SessionLost) as caught:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                await async_call(terminate, shared.primary, conn.info.backend_pid)
        assert not caught.value.may_have_committed
    assert numbers(shared, table) == []


@pytest.mark.parametrize("end", ["disconnect", "reset"])
async def test_a_connection_cut_unnoticed_before_the_commit_is_session_lost_too(
    shared: LocalCluster, table: str, end: str
) -> None:
    """Without the server's word libpq notes the loss when it looks at the socket, and forgets the transaction."""
    with FaultProxy(shared.primary) as proxy:
        async with AsyncRouter(FaultProxy.dsn([proxy])) as router:
            with pytest.raises(SessionLost, match="nothing of the transaction was committed") as caught:
                async with router.writer() as conn:
                    await conn.execute(f"INSERT INTO {table} VALUES (1)")
                    getattr(proxy, end)()
                    await async_eventually(lambda: select.select([conn], [], [], 0)[0])
            assert not caught.value.may_have_committed
    assert numbers(shared, table) == []


async def test_a_connection_lost_during_commit_is_commit_unknown(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(
        f"""CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"""
    )
    shared.primary.execute(
        f"""CREATE CONSTRAINT TRIGGER suicide AFTER INSERT ON {table} INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {table}_f()"""
    )
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(CommitUnknown) as caught:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
        await pid_of(router)
    assert caught.value.may_have_committed
    assert not caught.value.rerun_safe
    assert isinstance(caught.value.__cause__, psycopg.errors.AdminShutdown)


@pytest.mark.parametrize(("role", "expected"), [("writer", CommitUnknown), ("reader", SessionLost)])
async def test_a_host_that_dies_during_commit(
    mended: LocalCluster, role: str, expected: type[Exception]
) -> None:
    sessions: list[psycopg.AsyncConnection[Any]] = []
    frozen = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() if role == "writer" else router.reader() as conn:
            await conn.execute("SELECT 1")
            sessions.append(conn)
            await async_eventually(frozen.is_set)

    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        worker = background.start(work, router)
        [conn] = await async_eventually(lambda: sessions)
        [node] = [node for node in mended.nodes if node.port == conn.info.port]
        await async_call(node.freeze)
        frozen.set()
        await async_eventually(lambda: conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
        await async_call(node.kill)
        with pytest.raises(expected):
            await worker.result()


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_commit_that_no_standby_confirms_is_commit_unknown(
    pgroute_cluster_factory, function: str
) -> None:
    cluster: LocalCluster = await async_call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            await conn.execute("INSERT INTO t VALUES (1)")

    waiting = f"SELECT {function}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with AsyncRouter(cluster.dsn, writer=ONE) as router, AsyncBackground() as background:
        await router.wait()
        await async_call(standby.freeze)
        worker = background.start(work, router)
        await async_eventually(lambda: primary.execute(waiting))
        with pytest.raises(CommitUnknown) as caught:
            await worker.result()
        assert caught.value.may_have_committed
        assert primary.execute("SELECT number FROM t") == [(1,)], "it is committed, here at least"
        await async_call(standby.thaw)
        await work(router)
    assert primary.execute("SELECT count(*) FROM t") == [(2,)]


async def test_a_body_that_commits_itself_without_confirmation_is_told_at_the_end(
    pgroute_cluster_factory,
) -> None:
    cluster: LocalCluster = await async_call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            await conn.execute("INSERT INTO t VALUES (1)")
            await conn.commit()
            await conn.execute("SELECT 1")

    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with AsyncRouter(cluster.dsn, writer=ONE) as router, AsyncBackground() as background:
        await router.wait()
        await async_call(standby.freeze)
        worker = background.start(work, router)
        await async_eventually(lambda: primary.execute(waiting))
        with pytest.raises(CommitUnknown):
            await worker.result()
        await async_call(standby.thaw)


async def test_a_committed_locally_warning_does_not_follow_to_the_next_session(
    pgroute_cluster_factory,
) -> None:
    cluster: LocalCluster = await async_call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            await conn.execute("INSERT INTO t VALUES (1)")
            await conn.commit()
            raise KeyError

    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with AsyncRouter(cluster.dsn, writer=ONE) as router, AsyncBackground() as background:
        pid = await pid_of(router)
        await async_call(standby.freeze)
        worker = background.start(work, router)
        await async_eventually(lambda: primary.execute(waiting))
        with pytest.raises(KeyError) as caught:
            await worker.result()
        assert "no synchronous standby has confirmed it" in str(caught.value.__notes__)
        await async_call(standby.thaw)
        assert await pid_of(router) == pid


# What is left to the next borrower.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("autocommit", True),
        ("read_only", True),
        ("isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
        ("deferrable", True),
        ("row_factory", dict_row),
        ("cursor_factory", psycopg.AsyncClientCursor),
        ("prepare_threshold", None),
    ],
)
@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_what_a_body_sets_is_back_for_the_next(
    shared: LocalCluster, name: str, value: Any, ends: str
) -> None:
    async def change(conn: psycopg.AsyncConnection[Any]) -> None:
        setter = getattr(conn, f"set_{name}", None)
        if setter is None:
            setattr(conn, name, value)
        else:
            await setter(value)

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            before, pid = getattr(conn, name), conn.info.backend_pid
        assert before != value
        if ends == "well":
            async with router.writer() as conn:
                await change(conn)
                await conn.execute("SELECT 1")
        else:
            with pytest.raises(psycopg.errors.DivisionByZero):
                async with router.writer() as conn:
                    await change(conn)
                    await conn.execute("SELECT 1 / 0")
        async with router.writer() as conn:
            assert getattr(conn, name) == before
            assert conn.info.backend_pid == pid


async def test_a_body_that_closes_its_connection_costs_only_that(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.ProgrammingError, match="the body closed its connection"):
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
                await conn.close()
        await pid_of(router)
    assert numbers(shared, table) == []


# Connections that end while they are idle.


async def test_idle_connections_ended_one_by_one_never_reach_the_caller(shared: LocalCluster) -> None:
    pids = set()
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        for _ in range(10):
            pid = await pid_of(router)
            await async_call(terminate, shared.primary, pid)
            pids.add(pid)
    assert len(pids) == 10


async def test_idle_connections_ended_all_at_once_never_reach_the_caller(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=PoolOptions(min_size=5)) as router:
        held = [await router.getconn("writer") for _ in range(5)]
        old = {conn.info.backend_pid for conn in held}
        for conn in held:
            await router.putconn(conn)
        await async_call(terminate, shared.primary, *old)
        held = [await router.getconn("writer", timeout=2.0) for _ in range(5)]
        assert old.isdisjoint({conn.info.backend_pid for conn in held})
        for conn in held:
            await conn.execute("SELECT 1")
            await router.putconn(conn)


async def test_a_notification_that_waits_on_an_idle_connection_does_not_cost_it(
    shared: LocalCluster,
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            await conn.execute("LISTEN news")
            pid = conn.info.backend_pid
            heard: list[str] = []
            conn.add_notify_handler(lambda notify: heard.append(notify.payload))
        for number in range(10):
            await async_call(shared.primary.execute, f"NOTIFY news, 'edition {number}'")
            await async_eventually(lambda: select.select([conn.fileno()], [], [], 0)[0])
            assert await pid_of(router) == pid


async def test_sessions_in_parallel_have_their_own_connections(shared: LocalCluster) -> None:
    pids: list[int] = []
    together = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            pids.append(conn.info.backend_pid)
            await async_eventually(together.is_set)

    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        workers = [background.start(work, router) for _ in range(10)]
        await async_eventually(lambda: len(pids) == 10)
        together.set()
        for worker in workers:
            await worker.result()
    assert len(set(pids)) == 10


# async-only: begin
async def test_tasks_in_hundreds_share_ten_connections(shared: LocalCluster, table: str) -> None:
    async def work(number: int) -> None:
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (%s)", [number])

    async with AsyncRouter(shared.dsn) as router:
        await asyncio.gather(*(work(number) for number in range(300)))
        assert router.get_stats()["writer"]["pool_size"] <= 10
    assert numbers(shared, table) == [*range(300)]


# async-only: end
