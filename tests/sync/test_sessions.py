# Generated from tests/aio/test_sessions.py by .ci/unasync.py: edit that file, not this one.
"""What a session is, and its honest end."""

from __future__ import annotations

import select
import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import Row, dict_row, namedtuple_row

from pgroute import Router, CommitUnknown, PoolExhausted, PoolOptions, SessionLost
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.support import Background, call, eventually, dsn_with

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
"""Every session gets the same connection."""


class Mine(psycopg.Connection[Row]):
    """A class of connections for any rows."""


def pid_of(router: Router[Any], role: str = "writer") -> int:
    """Return the backend that serves a session now."""
    with router.writer() if role == "writer" else router.reader() as conn:
        return int(conn.info.backend_pid)


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [number for (number,) in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY 1")]


def terminate(node: Node, *pids: int) -> None:
    """End backends, and return when they are gone."""
    for pid in pids:
        assert node.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]) == [(True,)]


# The way in: what the body gets.


def test_handlers_and_the_limit_of_prepared_statements_do_not_reach_the_next_session(
    shared: LocalCluster,
) -> None:
    told: list[str] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.add_notice_handler(lambda _: told.append("kept"))

    with Router(shared.dsn, writer=ONE, configure=configure) as router:
        with router.writer() as conn:
            pid, most = conn.info.backend_pid, conn.prepared_max
            conn.prepared_max = 3
            conn.add_notice_handler(lambda _: told.append("notice"))
            conn.add_notify_handler(lambda _: told.append("notify"))
            conn.execute("LISTEN handled")
        with router.writer() as conn:
            assert (conn.info.backend_pid, conn.prepared_max) == (pid, most)
            conn.execute("DO $$ BEGIN RAISE NOTICE 'noticed'; END $$")
            conn.execute("NOTIFY handled")
            conn.commit()
            conn.execute("UNLISTEN handled")
    assert told == ["kept"]


def test_the_body_gets_a_plain_psycopg_connection(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, router.writer() as conn:
        assert type(conn) is psycopg.Connection


def test_the_body_gets_the_users_connection_class(shared: LocalCluster) -> None:
    class Mine(psycopg.Connection[Any]):
        pass

    with Router(shared.dsn, connection_class=Mine) as router, router.reader() as conn:
        assert type(conn) is Mine


def test_a_connection_class_that_watches_over_its_subclasses(shared: LocalCluster) -> None:
    made: list[type] = []

    class Tagged(psycopg.Connection[Any]):
        def __init_subclass__(cls, *, tag: str) -> None: ...

    class Noting(psycopg.Connection[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(type(self))

    for wanted in (Tagged, Noting):
        with Router(shared.dsn, connection_class=wanted) as router, router.writer() as conn:
            assert type(conn) is wanted
    assert set(made) == {Noting}


def test_a_connection_class_that_connects_in_a_thread_of_its_own(shared: LocalCluster) -> None:
    class Elsewhere(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            made: list[Any] = []
            connect = super().connect
            thread = threading.Thread(target=lambda: made.append(connect(*args, **kwargs)))
            thread.start()
            thread.join()
            return made[0]
    with Router(shared.dsn, connection_class=Elsewhere) as router, router.writer() as conn:
        assert type(conn) is Elsewhere


def test_a_session_object_serves_once_at_a_time(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        session = router.writer()
        with session:
            with pytest.raises(RuntimeError, match="in use already"):
                with session:
                    pass


def test_a_session_object_is_not_waited_for_twice(shared: LocalCluster) -> None:
    with (
        Router(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        Background() as background,
    ):
        session = router.writer(10.0)

        def enter() -> str:
            try:
                with session as conn:
                    conn.execute("SELECT 1")
            except RuntimeError as exc:
                return str(exc)
            return ""

        held = router.getconn("writer")
        entering = [background.start(enter) for _ in range(2)]
        eventually(lambda: any(work.done() for work in entering))
        router.putconn(held)
        told = sorted([work.result() for work in entering])
        assert told == ["", "this session is in use already; ask the router for another"]
        assert enter() == "", "it serves again"


def test_a_session_that_got_no_connection_may_be_entered_again(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        session = router.writer(0.05)
        held = router.getconn("writer")
        with pytest.raises(PoolExhausted):
            session.__enter__()
        router.putconn(held)
        with session:
            pass


def test_a_session_that_was_not_entered_cannot_be_left(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        session = router.writer()
        with pytest.raises(RuntimeError, match="not entered"):
            session.__exit__(None, None, None)
        with session:
            pass
        with pytest.raises(RuntimeError, match="not entered"):
            session.__exit__(None, None, None)


def test_kwargs_reach_the_connection(shared: LocalCluster) -> None:
    kwargs = {"row_factory": dict_row, "autocommit": True, "prepare_threshold": 2, "application_name": "shop"}
    with Router(shared.dsn, kwargs=kwargs) as router, router.writer() as conn:
        cursor = conn.execute("SELECT current_setting('application_name') AS name")
        assert str(cursor.fetchone()) == "{'name': 'shop'}"
        assert conn.autocommit
        assert conn.prepare_threshold == 2


def test_class_that_names_its_rows_is_taken(shared: LocalCluster) -> None:
    named = Mine[dict[str, Any]]
    with Router(shared.dsn, connection_class=named, row_factory=dict_row, writer=ONE) as router:
        with router.writer() as conn:
            assert isinstance(conn, Mine)
            conn.row_factory = namedtuple_row  # type: ignore[assignment]
        with router.writer() as again:
            assert again is conn
            assert (again.execute("SELECT 1 AS n")).fetchone() == {"n": 1}


def test_the_roles_kwargs_win_over_the_routers_and_those_over_the_dsn(shared: LocalCluster) -> None:
    with Router(
        dsn_with(shared.dsn, application_name="dsn", options="-c work_mem=123kB"),
        kwargs={"application_name": "router", "row_factory": dict_row},
        reader=PoolOptions(kwargs={"application_name": "reader", "row_factory": namedtuple_row}),
    ) as router:
        names = []
        for session in (router.writer(), router.reader()):
            with session as conn:
                names.append((conn.info.get_parameters()["application_name"], conn.row_factory))
                cursor = conn.execute("SHOW work_mem")
                assert "123kB" in str(cursor.fetchone()), "a reader keeps the DSN's options"
    assert names == [("router", dict_row), ("reader", namedtuple_row)]


def test_settings_are_those_of_the_roles_sessions(shared: LocalCluster) -> None:
    settings = {"statement_timeout": "1234ms", "search_path": r'"a b", "c\d"', "jit": False}
    with Router(shared.dsn, writer=PoolOptions(settings=settings)) as router:
        with router.writer() as conn:
            found: list[str] = []
            for name in settings:
                cursor = conn.execute(f"SHOW {name}")
                found += cursor.fetchone() or ()
        with router.reader() as conn:
            cursor = conn.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)
    assert found == ["1234ms", r'"a b", "c\d"', "off"]


def test_configure_runs_for_each_new_connection_and_reset_for_each_returned(
    shared: LocalCluster,
) -> None:
    calls: list[tuple[str, int]] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        calls.append(("configure", conn.info.backend_pid))
        conn.row_factory = dict_row

    def reset(conn: psycopg.Connection[Any]) -> None:
        calls.append(("reset", conn.info.backend_pid))

    with Router(shared.dsn, writer=ONE, configure=configure, reset=reset) as router:
        for _ in range(2):
            with router.writer() as conn:
                assert conn.row_factory is dict_row
                conn.row_factory = namedtuple_row
        pid = pid_of(router)
    assert calls == [("configure", pid)] + 3 * [("reset", pid)]


def test_the_roles_callbacks_win_over_the_routers(shared: LocalCluster) -> None:
    calls: list[str] = []

    def general(conn: psycopg.Connection[Any]) -> None:
        calls.append("router")

    def special(conn: psycopg.Connection[Any]) -> None:
        calls.append("reader")

    with Router(
        shared.dsn, configure=general, reader=PoolOptions(configure=special), writer=ONE
    ) as router:
        pid_of(router, "reader")
        pid_of(router, "writer")
    assert calls == ["reader", "router"]


def test_a_connection_that_cannot_be_reset_is_replaced(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    def reset(conn: psycopg.Connection[Any]) -> None:
        raise KeyError("no such setting")

    with Router(shared.dsn, writer=ONE, reset=reset) as router:
        pids = [pid_of(router) for _ in range(3)]
    assert len(set(pids)) == 3
    assert "no such setting" in caplog.text


def test_a_connection_whose_reset_leaves_a_transaction_open_is_replaced(shared: LocalCluster) -> None:
    def reset(conn: psycopg.Connection[Any]) -> None:
        conn.execute("SELECT 1")

    with Router(shared.dsn, writer=ONE, reset=reset) as router:
        pids = [pid_of(router) for _ in range(3)]
    assert len(set(pids)) == 3


# Readers do not write.


def test_a_reader_on_a_standby_cannot_write(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with router.reader() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_reader_on_the_primary_cannot_write(
    shared: LocalCluster, table: str, autocommit: bool
) -> None:
    kwargs = {"autocommit": autocommit}
    with Router(shared.dsn, reader_attrs="primary", kwargs=kwargs) as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with router.reader() as conn:
                assert conn.read_only
                conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == []


def test_the_server_keeps_a_reader_from_writing_when_psycopg_does_not(
    shared: LocalCluster, table: str
) -> None:
    with Router(shared.dsn, reader_attrs="primary") as router:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with router.reader() as conn:
                conn.set_read_only(None)
                conn.execute(f"INSERT INTO {table} VALUES (1)")


def test_a_reader_that_declares_itself_read_write_is_read_only_for_the_next(
    shared: LocalCluster, table: str
) -> None:
    with Router(shared.dsn, reader_attrs="primary", reader=ONE) as router:
        with router.reader() as conn:
            conn.set_read_only(False)
        with router.reader() as conn:
            assert conn.read_only is True
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                conn.execute(f"INSERT INTO {table} VALUES (1)")
            conn.rollback()


def test_readers_write_where_read_only_is_switched_off(shared: LocalCluster, table: str) -> None:
    options = PoolOptions(read_only=False)
    with (
        Router(shared.dsn, reader_attrs="primary", reader=options) as router,
        router.reader() as conn,
    ):
        conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == [1]


# The end of the body.


def test_a_writer_commits(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router, router.writer() as conn:
        conn.execute(f"INSERT INTO {table} VALUES (1)")
    assert numbers(shared, table) == [1]


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_body_that_raises_rolls_back(shared: LocalCluster, table: str, error: BaseException) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        pid = pid_of(router)
        with pytest.raises(type(error)) as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                raise error
        assert caught.value is error
        assert pid_of(router) == pid, "the connection is as good as new"
    assert numbers(shared, table) == []


def test_errors_of_the_body_pass_untouched(shared: LocalCluster, table: str) -> None:
    raised: list[BaseException] = []
    with Router(shared.dsn, writer=ONE) as router:
        pid = pid_of(router)
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                try:
                    conn.execute(f"INSERT INTO {table} VALUES (1)")
                except psycopg.Error as error:
                    raised.append(error)
                    raise
        assert caught.value is raised[0]
        assert pid_of(router) == pid
    assert numbers(shared, table) == []


def test_the_loss_of_the_connection_in_the_body_passes_untouched(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.AdminShutdown):
            with router.writer() as conn:
                conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        pid_of(router)


def test_an_error_at_commit_passes_and_nothing_is_committed(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"ALTER TABLE {table} ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED")
    shared.primary.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    with Router(shared.dsn, writer=ONE) as router:
        pid = pid_of(router)
        with pytest.raises(psycopg.errors.UniqueViolation):
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1), (1)")
        assert pid_of(router) == pid
    assert numbers(shared, table) == []


def test_a_swallowed_error_is_raised_at_the_end_and_nothing_is_committed(
    shared: LocalCluster, table: str
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        pid = pid_of(router)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing was committed"):
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    conn.execute("SELECT 1 / 0")
        assert pid_of(router) == pid
    assert numbers(shared, table) == []


def test_a_swallowed_loss_is_raised_at_the_end(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(SessionLost, match="lost within the session") as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                with pytest.raises(psycopg.errors.AdminShutdown):
                    conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert caught.value.topology is not None
        assert caught.value.may_have_committed, "it may have been a COMMIT of the body's own"
        assert not caught.value.rerun_safe
    assert numbers(shared, table) == []


def test_a_connection_lost_unnoticed_before_the_commit_is_session_lost(
    shared: LocalCluster, table: str
) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(SessionLost) as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                call(terminate, shared.primary, conn.info.backend_pid)
        assert not caught.value.may_have_committed
    assert numbers(shared, table) == []


@pytest.mark.parametrize("end", ["disconnect", "reset"])
def test_a_connection_cut_unnoticed_before_the_commit_is_session_lost_too(
    shared: LocalCluster, table: str, end: str
) -> None:
    """Without the server's word libpq notes the loss when it looks at the socket, and forgets the transaction."""
    with FaultProxy(shared.primary) as proxy:
        with Router(FaultProxy.dsn([proxy])) as router:
            with pytest.raises(SessionLost, match="nothing of the transaction was committed") as caught:
                with router.writer() as conn:
                    conn.execute(f"INSERT INTO {table} VALUES (1)")
                    getattr(proxy, end)()
                    eventually(lambda: select.select([conn], [], [], 0)[0])
            assert not caught.value.may_have_committed
    assert numbers(shared, table) == []


def test_a_connection_lost_during_commit_is_commit_unknown(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(
        f"""CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"""
    )
    shared.primary.execute(
        f"""CREATE CONSTRAINT TRIGGER suicide AFTER INSERT ON {table} INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {table}_f()"""
    )
    with Router(shared.dsn) as router:
        with pytest.raises(CommitUnknown) as caught:
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
        pid_of(router)
    assert caught.value.may_have_committed
    assert not caught.value.rerun_safe
    assert isinstance(caught.value.__cause__, psycopg.errors.AdminShutdown)


@pytest.mark.parametrize(("role", "expected"), [("writer", CommitUnknown), ("reader", SessionLost)])
def test_a_host_that_dies_during_commit(
    mended: LocalCluster, role: str, expected: type[Exception]
) -> None:
    sessions: list[psycopg.Connection[Any]] = []
    frozen = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.writer() if role == "writer" else router.reader() as conn:
            conn.execute("SELECT 1")
            sessions.append(conn)
            eventually(frozen.is_set)

    with Router(mended.dsn) as router, Background() as background:
        worker = background.start(work, router)
        [conn] = eventually(lambda: sessions)
        [node] = [node for node in mended.nodes if node.port == conn.info.port]
        call(node.freeze)
        frozen.set()
        eventually(lambda: conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
        call(node.kill)
        with pytest.raises(expected):
            worker.result()


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_commit_that_no_standby_confirms_is_commit_unknown(
    pgroute_cluster_factory, function: str
) -> None:
    cluster: LocalCluster = call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            conn.execute("INSERT INTO t VALUES (1)")

    waiting = f"SELECT {function}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with Router(cluster.dsn, writer=ONE) as router, Background() as background:
        router.wait()
        call(standby.freeze)
        worker = background.start(work, router)
        eventually(lambda: primary.execute(waiting))
        with pytest.raises(CommitUnknown) as caught:
            worker.result()
        assert caught.value.may_have_committed
        assert primary.execute("SELECT number FROM t") == [(1,)], "it is committed, here at least"
        call(standby.thaw)
        work(router)
    assert primary.execute("SELECT count(*) FROM t") == [(2,)]


def test_a_body_that_commits_itself_without_confirmation_is_told_at_the_end(
    pgroute_cluster_factory,
) -> None:
    cluster: LocalCluster = call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            conn.execute("INSERT INTO t VALUES (1)")
            conn.commit()
            conn.execute("SELECT 1")

    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with Router(cluster.dsn, writer=ONE) as router, Background() as background:
        router.wait()
        call(standby.freeze)
        worker = background.start(work, router)
        eventually(lambda: primary.execute(waiting))
        with pytest.raises(CommitUnknown):
            worker.result()
        call(standby.thaw)


def test_a_committed_locally_warning_does_not_follow_to_the_next_session(
    pgroute_cluster_factory,
) -> None:
    cluster: LocalCluster = call(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int)")

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            conn.execute("INSERT INTO t VALUES (1)")
            conn.commit()
            raise KeyError

    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with Router(cluster.dsn, writer=ONE) as router, Background() as background:
        pid = pid_of(router)
        call(standby.freeze)
        worker = background.start(work, router)
        eventually(lambda: primary.execute(waiting))
        with pytest.raises(KeyError) as caught:
            worker.result()
        assert "no synchronous standby has confirmed it" in str(caught.value.__notes__)
        call(standby.thaw)
        assert pid_of(router) == pid


# What is left to the next borrower.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("autocommit", True),
        ("read_only", True),
        ("isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
        ("deferrable", True),
        ("row_factory", dict_row),
        ("cursor_factory", psycopg.ClientCursor),
        ("prepare_threshold", None),
    ],
)
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_what_a_body_sets_is_back_for_the_next(
    shared: LocalCluster, name: str, value: Any, ends: str
) -> None:
    def change(conn: psycopg.Connection[Any]) -> None:
        setter = getattr(conn, f"set_{name}", None)
        if setter is None:
            setattr(conn, name, value)
        else:
            setter(value)

    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            before, pid = getattr(conn, name), conn.info.backend_pid
        assert before != value
        if ends == "well":
            with router.writer() as conn:
                change(conn)
                conn.execute("SELECT 1")
        else:
            with pytest.raises(psycopg.errors.DivisionByZero):
                with router.writer() as conn:
                    change(conn)
                    conn.execute("SELECT 1 / 0")
        with router.writer() as conn:
            assert getattr(conn, name) == before
            assert conn.info.backend_pid == pid


def test_a_body_that_closes_its_connection_costs_only_that(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.ProgrammingError, match="the body closed its connection"):
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
                conn.close()
        pid_of(router)
    assert numbers(shared, table) == []


# Connections that end while they are idle.


def test_idle_connections_ended_one_by_one_never_reach_the_caller(shared: LocalCluster) -> None:
    pids = set()
    with Router(shared.dsn, writer=ONE) as router:
        for _ in range(10):
            pid = pid_of(router)
            call(terminate, shared.primary, pid)
            pids.add(pid)
    assert len(pids) == 10


def test_idle_connections_ended_all_at_once_never_reach_the_caller(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(min_size=5)) as router:
        held = [router.getconn("writer") for _ in range(5)]
        old = {conn.info.backend_pid for conn in held}
        for conn in held:
            router.putconn(conn)
        call(terminate, shared.primary, *old)
        held = [router.getconn("writer", timeout=2.0) for _ in range(5)]
        assert old.isdisjoint({conn.info.backend_pid for conn in held})
        for conn in held:
            conn.execute("SELECT 1")
            router.putconn(conn)


def test_a_notification_that_waits_on_an_idle_connection_does_not_cost_it(
    shared: LocalCluster,
) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            conn.execute("LISTEN news")
            pid = conn.info.backend_pid
            heard: list[str] = []
            conn.add_notify_handler(lambda notify: heard.append(notify.payload))
        for number in range(10):
            call(shared.primary.execute, f"NOTIFY news, 'edition {number}'")
            eventually(lambda: select.select([conn.fileno()], [], [], 0)[0])
            assert pid_of(router) == pid


def test_sessions_in_parallel_have_their_own_connections(shared: LocalCluster) -> None:
    pids: list[int] = []
    together = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.writer() as conn:
            pids.append(conn.info.backend_pid)
            eventually(together.is_set)

    with Router(shared.dsn) as router, Background() as background:
        workers = [background.start(work, router) for _ in range(10)]
        eventually(lambda: len(pids) == 10)
        together.set()
        for worker in workers:
            worker.result()
    assert len(set(pids)) == 10


