# Generated from tests/aio/test_run.py by .ci/unasync.py: edit that file, not this one.
"""Whole transactions: which are run again, which never, and what the caller is told."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import (
    Router,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolOptions,
    ProbeOptions,
    RetryPolicy,
    RouterClosed,
)
from pgroute.testing import FaultProxy, LocalCluster
from tests.support import Background, call, eventually, coroutine_function, within

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
THRICE = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01))


def one(conn: Connection, sql: str, *args: Any) -> Any:
    """Return the first value of the first row."""
    row = (conn.execute(sql, args)).fetchone()
    assert row is not None
    return row[0]


class Body:
    """A body that does one thing in its first runs, and writes in every one.

    Attributes:
        runs: how often it was called.
    """

    def __init__(self, table: str, first: Any, times: int = 1) -> None:
        self.runs = 0
        self._table = table
        self._first = first
        self._times = times

    def __call__(self, conn: Connection) -> int:
        self.runs += 1
        conn.execute(f"INSERT INTO {self._table} VALUES (%s)", (self.runs,))
        if self.runs <= self._times:
            self._first(conn)
        return self.runs


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    """Return what is in a table."""
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


def die(conn: Connection) -> None:
    conn.execute(DIE)


def die_unnoticed(conn: Connection) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        conn.execute(DIE)


def fail_unnoticed(conn: Connection) -> None:
    with contextlib.suppress(psycopg.DataError):
        conn.execute("SELECT 1/0")


def test_the_result_of_the_body_comes_back_and_its_work_is_there(
    shared: LocalCluster, table: str
) -> None:
    def insert(conn: Connection, number: int, *, port: str = "inet_server_port()") -> int:
        conn.execute(f"INSERT INTO {table} VALUES (%s)", (number,))
        port_there: int = one(conn, f"SELECT {port}")
        return port_there

    with Router(shared.dsn) as router:
        assert router.run(insert, 7) == shared.primary.port
        assert router.run(one, "SELECT pg_is_in_recovery()", role="reader") is True
    assert numbers(shared, table) == [7]


@pytest.mark.parametrize("lost", [die, die_unnoticed], ids=["told", "unnoticed"])
def test_a_connection_lost_in_the_body_costs_a_run(shared: LocalCluster, table: str, lost: Any) -> None:
    body = Body(table, lost, times=2)
    with Router(shared.dsn) as router:
        assert router.run(body) == 3
    assert numbers(shared, table) == [3]


def test_serialization_failures_and_deadlocks_are_run_again(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"INSERT INTO {table} VALUES (0), (1000)")
    met = threading.Barrier(4)
    runs: list[int] = []

    def count_up(conn: Connection) -> None:
        runs.append(1)
        number = one(conn, f"SELECT min(number) FROM {table}")
        if len(runs) <= 4:
            call(met.wait, 10)
        conn.execute(f"UPDATE {table} SET number = %s WHERE number = %s", (number + 1, number))

    def many(router: Router[Any]) -> None:
        for _ in range(10):
            router.run(count_up, isolation="serializable")

    with Router(shared.dsn) as router, Background() as background:
        handles = [background.start(many, router) for _ in range(4)]
        for handle in handles:
            handle.result()
    assert numbers(shared, table) == [40, 1000]
    assert len(runs) >= 43, "all four have read the same number, which one of them could count up"


def test_a_deadlock_is_run_again(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"INSERT INTO {table} VALUES (1), (2)")
    met = threading.Barrier(2)
    runs: list[int] = []

    def lock(conn: Connection, first: int, second: int) -> None:
        runs.append(first)
        conn.execute(f"SELECT FROM {table} WHERE number = %s FOR UPDATE", (first,))
        if len(runs) <= 2:
            call(met.wait, 10)
        conn.execute(f"SELECT FROM {table} WHERE number = %s FOR UPDATE", (second,))

    with Router(shared.dsn) as router, Background() as background:
        handles = [background.start(router.run, lock, *pair) for pair in ((1, 2), (2, 1))]
        for handle in handles:
            handle.result()
    # Which of them loses is PostgreSQL's choice, and the loser may be back first and meet the winner once more.
    assert len(runs) >= 3
    assert set(runs) == {1, 2}


def test_run_survives_a_failover_without_an_error(cluster: LocalCluster) -> None:
    cluster.primary.execute("CREATE TABLE counted (n int)")
    cluster.primary.execute("INSERT INTO counted VALUES (0)")
    cluster.catch_up()
    stop = threading.Event()
    told: list[int] = []

    def count_up(conn: Connection) -> int:
        number: int = one(conn, "UPDATE counted SET n = n + 1 RETURNING n")
        return number

    def keep_counting(router: Router[Any]) -> None:
        while not stop.is_set():
            try:
                told.append(router.run(count_up))
            except CommitUnknown:
                told.append(told[-1])

    with Router(cluster.dsn) as router, Background() as background:
        handle = background.start(keep_counting, router)
        eventually(lambda: len(told) > 10)
        call(cluster.primary.kill)
        call(cluster.promote)
        before = len(told)
        eventually(lambda: len(told) > before + 10)
        stop.set()
        handle.result()
    assert cluster.primary.execute("SELECT n FROM counted") == [(told[-1],)]


def test_a_host_that_turns_read_only_and_back_costs_time_only(mended: LocalCluster) -> None:
    primary = mended.primary
    primary.execute("CREATE TABLE written (number int PRIMARY KEY)")

    def write(conn: Connection) -> None:
        conn.execute("INSERT INTO written VALUES (1)")

    def read_only(value: str) -> None:
        primary.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        primary.execute("SELECT pg_reload_conf()")

    with (
        Router(mended.dsn, probe=ProbeOptions(interval=0.1)) as router,
        Background() as background,
    ):
        router.wait()
        try:
            call(read_only, "on")
            handle = background.start(router.run, write)
            eventually(lambda: router.topology.primary and router.topology.primary.read_only)
        finally:
            call(read_only, "off")
        handle.result()
    assert primary.execute("SELECT number FROM written") == [(1,)]


def test_an_error_of_the_application_rolls_back_and_is_let_out_untouched(
    shared: LocalCluster, table: str
) -> None:
    def refuse(_: Connection) -> None:
        raise KeyError("mine")

    body = Body(table, refuse)
    with Router(shared.dsn) as router:
        with pytest.raises(KeyError, match="mine") as caught:
            router.run(body)
    assert not hasattr(caught.value, "__notes__")
    assert (body.runs, numbers(shared, table)) == (1, [])


def test_an_error_in_the_data_is_not_run_again(shared: LocalCluster, table: str) -> None:
    def insert_twice(conn: Connection) -> None:
        conn.execute(f"INSERT INTO {table} VALUES (1)")

    body = Body(table, insert_twice)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            router.run(body)
    assert "1 attempt in" in caught.value.__notes__[0]
    assert (body.runs, numbers(shared, table)) == (1, [])


def test_a_swallowed_error_is_no_success_and_not_run_again(shared: LocalCluster, table: str) -> None:
    body = Body(table, fail_unnoticed)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            router.run(body)
        router.wait(timeout=5.0)
    assert (body.runs, numbers(shared, table)) == (1, [])


def test_rollback_rolls_back_and_is_no_error(shared: LocalCluster, table: str) -> None:
    def give_up(_: Connection) -> None:
        raise psycopg.Rollback

    body = Body(table, give_up)
    with Router(shared.dsn) as router:
        assert router.run(body) is None
    assert (body.runs, numbers(shared, table)) == (1, [])


def test_the_body_cannot_commit(shared: LocalCluster, table: str) -> None:
    def commit(conn: Connection) -> None:
        conn.commit()

    body = Body(table, commit)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            router.run(body)
    assert (body.runs, numbers(shared, table)) == (1, [])


def commit_by_itself(conn: Connection) -> None:
    conn.execute("COMMIT")


def commit_and_go_on(conn: Connection) -> None:
    conn.execute("COMMIT")
    conn.execute("SELECT 1")


@pytest.mark.parametrize("ended", [commit_by_itself, commit_and_go_on])
def test_a_body_that_commits_by_itself_is_told_so(shared: LocalCluster, table: str, ended: Any) -> None:
    body = Body(table, ended)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="by a COMMIT or ROLLBACK of its own"):
            router.run(body)
        router.wait(timeout=5.0)
    assert (body.runs, numbers(shared, table)) == (1, [1])


def test_a_body_that_committed_by_itself_is_never_run_again(shared: LocalCluster, table: str) -> None:
    def commit_and_die(conn: Connection) -> None:
        conn.execute("COMMIT")
        conn.execute(DIE)

    body = Body(table, commit_and_die)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            router.run(body)
    assert "not run again" in caught.value.__notes__[0]
    assert (body.runs, numbers(shared, table)) == (1, [1])


def test_a_body_that_closes_its_connection_is_not_run_again(shared: LocalCluster, table: str) -> None:
    def close(conn: Connection) -> None:
        conn.close()

    body = Body(table, close)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="closed its connection"):
            router.run(body)
    assert (body.runs, numbers(shared, table)) == (1, [])


def test_a_transaction_of_the_body_left_open_is_an_error(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    def leave_open(conn: Connection) -> None:
        left.append(conn.transaction())
        left[0].__enter__()

    body = Body(table, leave_open)
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match=r"transaction\(\) of its own open"):
            router.run(body)
        router.wait(timeout=5.0)
    assert numbers(shared, table) == []


def test_lost_during_commit_is_unknown_and_not_run_again(proxied: Any) -> None:
    proxied.cluster.primary.execute("CREATE TABLE written (number int PRIMARY KEY)")
    body = Body("written", one_more)
    with Router(proxied.dsn) as router:
        router.wait()
        proxied.proxies[0].when(b"COMMIT", action="reset")
        with pytest.raises(CommitUnknown) as caught:
            router.run(body)
    assert not caught.value.rerun_safe
    assert "1 attempt in" in caught.value.__notes__[0]
    assert body.runs == 1
    # The server may still be at it.
    eventually(lambda: proxied.cluster.primary.execute("SELECT number FROM written") == [(1,)])


def one_more(conn: Connection) -> None:
    conn.execute("SELECT 1")


def test_what_cannot_write_is_run_again_even_if_lost_during_commit(proxied: Any) -> None:
    runs: list[int] = []

    def read(conn: Connection) -> int:
        runs.append(one(conn, "SELECT 1"))
        return len(runs)

    with Router(proxied.dsn, probe=ProbeOptions(interval=0.1)) as router:
        router.wait()
        proxied.proxies[0].when(b"COMMIT", action="reset")
        assert router.run(read, read_only=True) == 2


def test_lost_at_begin_costs_an_attempt(proxied: Any) -> None:
    proxied.cluster.primary.execute("CREATE TABLE written (number int PRIMARY KEY)")
    with Router(proxied.dsn) as router:
        router.wait()
        lost = proxied.proxies[0].when(b"BEGIN", action="reset", after_forwarding=False)
        for attempt in router.attempts():
            with attempt as conn:
                number = attempt.number
                conn.execute("INSERT INTO written VALUES (1)")
        assert (lost.hits, number) == (1, 2)


def test_the_last_error_is_raised_with_attempts_and_time(shared: LocalCluster, table: str) -> None:
    body = Body(table, die, times=9)
    with Router(shared.dsn, retry=THRICE) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            router.run(body)
        assert "pgroute: 3 attempts in " in caught.value.__notes__[0]
        body = Body(table, die, times=9)
        with pytest.raises(psycopg.OperationalError):
            router.run(body, retry=RetryPolicy(stop=tenacity.stop_after_attempt(1)))
        assert body.runs == 1


def test_with_the_retry_budget_spent_errors_are_raised_at_once(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = RetryPolicy(budget=0.0, budget_floor=0.5, wait=tenacity.wait_none())
    runs = []
    with Router(shared.dsn, retry=narrow) as router:
        for _ in range(2):
            body = Body(table, die, times=9)
            with pytest.raises(psycopg.OperationalError) as caught:
                router.run(body)
            told = "pgroute: not run again: the retry budget is spent: "
            assert caught.value.__notes__[-1].startswith(told)
            runs.append(body.runs)
        assert runs[0] >= 6
        assert runs[1] < 6
        told = "transactions are not run again: the retry budget is spent: "
        assert [r.message.startswith(told) for r in caplog.records if "retry budget" in r.message] == [True]
        body = Body(table, die, times=9)
        with pytest.raises(psycopg.OperationalError):
            router.run(body, retry=RetryPolicy(stop=tenacity.stop_after_attempt(8), budget=None))
        assert body.runs == 8
        with pytest.raises(psycopg.OperationalError):
            router.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_deadline_bounds_sessions_attempts_and_pauses(shared: LocalCluster, table: str) -> None:
    patient = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(0.05))
    body = Body(table, die, times=1000)
    with Router(shared.dsn) as router:
        router.wait()
        begun = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            router.run(body, timeout=1.0, retry=patient)
        assert time.monotonic() - begun < within(5.0)
        assert body.runs > 1
        with router.writer() as first:
            first.execute("SELECT 1")


def test_no_host_is_told_in_time_and_safe_to_try_again(shared: LocalCluster) -> None:
    proxies = [FaultProxy(node) for node in shared.nodes]
    with proxies[0], proxies[1], proxies[2]:
        dsn = FaultProxy.dsn(proxies)
        for proxy in proxies:
            proxy.refuse(existing="reset")
        with Router(dsn) as router:
            begun = time.monotonic()
            with pytest.raises(NoHostAvailable) as caught:
                router.run(one, "SELECT 1", timeout=0.5)
            assert 0.4 < time.monotonic() - begun < within(5.0)
    assert caught.value.rerun_safe
    assert "1 attempt in" in caught.value.__notes__[0]


def test_closing_the_router_ends_the_pause_between_attempts(shared: LocalCluster, table: str) -> None:
    endless = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(60))
    body = Body(table, die, times=9)
    with Router(shared.dsn) as router, Background() as background:
        handle = background.start(lambda: router.run(body, retry=endless))
        eventually(lambda: body.runs == 1)
        router.close()
        with pytest.raises(RouterClosed) as caught:
            handle.result()
    assert caught.value.rerun_safe


def test_isolation_and_the_like_are_for_this_transaction_only(shared: LocalCluster) -> None:
    def settings(conn: Connection) -> tuple[str, ...]:
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        return tuple([one(conn, f"SHOW {name}") for name in names])

    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        before = router.run(settings)
        assert before == ("read committed", "off", "off")
        strict = router.run(settings, isolation="serializable", read_only=True, deferrable=True)
        assert strict == ("serializable", "on", "on")
        assert router.run(settings) == before


def test_attributes_that_configure_and_setup_have_set_are_those_of_the_transaction(
    shared: LocalCluster,
) -> None:
    levels = iter(("SERIALIZABLE", "READ_COMMITTED"))

    def configure(conn: Connection) -> None:
        conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

    def setup(conn: Connection) -> None:
        conn.set_isolation_level(psycopg.IsolationLevel[next(levels)])

    def shown(conn: Connection) -> Any:
        return one(conn, "SHOW transaction_isolation")

    with Router(shared.dsn, writer=PoolOptions(max_size=1, configure=configure)) as router:
        assert router.run(shown) == "repeatable read"
        with router.writer() as conn:
            conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        assert router.run(shown) == "repeatable read"
    options = PoolOptions(max_size=1, configure=configure, setup=setup)
    with Router(shared.dsn, writer=options) as router:
        assert [router.run(shown) for _ in range(2)] == ["serializable", "read committed"]


def test_autocommit_connections_have_a_transaction_too(shared: LocalCluster, table: str) -> None:
    def insert_and_fail(conn: Connection) -> None:
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        raise KeyError("mine")

    with Router(shared.dsn, kwargs={"autocommit": True}) as router:
        with pytest.raises(KeyError):
            router.run(insert_and_fail)
    assert numbers(shared, table) == []


def test_a_writer_within_a_body_is_refused(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:

        def nested(_: Connection) -> None:
            router.run(one, "SELECT 1")

        def nested_attempts(_: Connection) -> None:
            for attempt in router.attempts():
                with attempt:
                    pass

        for body in (nested, nested_attempts):
            with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
                router.run(body)
            with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
                router.run(body, role="reader")

        def savepoint(conn: Connection) -> None:
            with conn.transaction():
                conn.execute(f"INSERT INTO {table} VALUES (1)")

        router.run(savepoint)
    assert numbers(shared, table) == [1]


def test_what_may_be_run_within_a_body(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, Router(shared.dsn) as other:

        def body(_: Connection) -> list[bool]:
            answers = [router.run(one, "SELECT pg_is_in_recovery()", role="reader")]
            answers.append(router.run(one, "SELECT pg_is_in_recovery()", read_only=True))
            answers.append(other.run(one, "SELECT pg_is_in_recovery()"))
            return answers

        assert router.run(body) == [True, False, False]
        assert router.run(one, "SELECT 1") == 1




def a_generator(_: Connection) -> Any:
    yield 1


def returns_a_generator(conn: Connection) -> Any:
    return a_generator(conn)


def plain(_: Connection) -> int:
    return 1


def an_async_generator(_: Connection) -> Any:
    yield 1


def unawaited(conn: Connection) -> Any:
    conn.execute("CREATE TABLE nothing_of_this ()")
    return coroutine_function(conn)


MISTAKES = [
    a_generator,
    returns_a_generator,
    unawaited,
    None,
    "SELECT 1",
    coroutine_function,
]


@pytest.mark.parametrize("body", MISTAKES)
def test_a_body_that_would_do_its_work_later_is_refused(shared: LocalCluster, body: Any) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="invalid fn "):
            router.run(body)
        assert router.run(one, "SELECT to_regclass('nothing_of_this')") is None


def test_a_coroutine_in_place_of_a_function_is_refused(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="expected the function: run"):
            router.run(coroutine_function())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"role": "primary"}, "role"),
        ({"isolation": "snapshot"}, "isolation"),
        ({"once": ""}, "once"),
        ({"once": "k" * 513}, "once"),
        ({"once": 7}, "once"),
        ({"once": "k", "role": "reader"}, "once"),
        ({"once": "k", "read_only": True}, "once"),
        ({"retry": 3}, "retry"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_session_is_asked_for(
    given: dict[str, Any], named: str
) -> None:
    with Router("host=127.0.0.1 port=1 dbname=postgres") as router:
        with pytest.raises(ConfigError, match=f"invalid {named} "):
            router.run(one, "SELECT 1", **given)


def test_attempts_follow_each_other_until_one_commits(shared: LocalCluster, table: str) -> None:
    seen: list[int] = []
    with Router(shared.dsn) as router:
        for attempt in router.attempts():
            with attempt as conn:
                seen.append(attempt.number)
                conn.execute(f"INSERT INTO {table} VALUES (%s)", (attempt.number,))
                if attempt.number < 3:
                    conn.execute(DIE)
    assert seen == [1, 2, 3]
    assert numbers(shared, table) == [3]


def test_an_attempt_that_was_not_entered_or_twice_is_a_mistake(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(RuntimeError, match="was not used"):
            for _ in router.attempts():
                pass
        for attempt in router.attempts():
            with attempt:
                with pytest.raises(RuntimeError, match="used once"):
                    with attempt:
                        pass
        with pytest.raises(RuntimeError, match="used once"):
            with attempt:
                pass


def test_attempts_let_out_what_is_not_run_again(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(KeyError):
            for attempt in router.attempts():
                with attempt as conn:
                    conn.execute(f"INSERT INTO {table} VALUES (1)")
                    raise KeyError("mine")
    assert numbers(shared, table) == []


def test_a_router_that_is_not_open_refuses(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    with pytest.raises(RouterClosed):
        router.run(one, "SELECT 1")
