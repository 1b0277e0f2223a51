# Generated from tests/aio/test_run_mistakes.py by .ci/unasync.py: edit that file, not this one.
"""Bodies, loops and policies that go wrong in ways that are easily overlooked."""

from __future__ import annotations

import contextlib
import math
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
    RetryPolicy,
    SessionLost,
)
from pgroute.testing import LocalCluster
from tests.sync.conftest import Proxied
from tests.sync.counting import Increment, waiting
from tests.support import Background, call, eventually, within

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
ONE_CONNECTION = PoolOptions(max_size=1)


def die_unnoticed(conn: Connection) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        conn.execute(DIE)


def one(conn: Connection, sql: str) -> Any:
    row = (conn.execute(sql)).fetchone()
    assert row is not None
    return row[0]


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


@pytest.fixture
def written(proxied: Proxied) -> Proxied:
    """A cluster behind proxies, with a table."""
    proxied.cluster.primary.execute("CREATE TABLE written (number int)")
    return proxied


# The end of a transaction.


def test_a_serialization_failure_at_commit_is_run_again(shared: LocalCluster, table: str) -> None:
    runs: list[int] = []

    def write(conn: Connection, other: Connection) -> None:
        runs.append(len(runs))
        one(conn, f"SELECT count(*) FROM {table}")
        conn.execute(f"INSERT INTO {table} VALUES (%s)", (len(runs),))
        if len(runs) == 1:
            one(other, f"SELECT count(*) FROM {table}")
            other.execute(f"INSERT INTO {table} VALUES (10)")
            other.commit()

    conn = psycopg.Connection.connect(shared.primary.conninfo)
    with conn as other, Router(shared.dsn) as router:
        other.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        router.run(write, other, isolation="serializable")
    assert runs == [0, 1]
    assert numbers(shared, table) == [2, 10]


def test_rollback_of_a_transaction_around_the_body_is_let_out(shared: LocalCluster) -> None:
    def leave(_: Connection, around: Any) -> None:
        raise psycopg.Rollback(around)

    with Router(shared.dsn) as router, Router(shared.dsn) as other, other.writer() as conn:
        with pytest.raises(psycopg.Rollback):
            router.run(leave, conn.transaction())


@pytest.mark.parametrize("once", [None, "rolled back in the end"])
def test_the_result_of_an_attempt_that_failed_is_not_reported(
    written: Proxied, once: str | None
) -> None:
    runs: list[int] = []

    def charge(conn: Connection) -> str:
        runs.append(1)
        if len(runs) > 1:
            raise psycopg.Rollback
        conn.execute("INSERT INTO written VALUES (1)")
        die_unnoticed(conn)
        return "charged"

    with Router(written.dsn) as router:
        router.install()
        assert router.run(charge, once=once) is None
    assert len(runs) == 2
    assert numbers(written.cluster, "written") == []


@pytest.mark.parametrize(
    "sql", ["\n        -- now\n        /* really */ COMMIT", "SELECT 1; END", "ROLLBACK"]
)
def test_an_end_of_the_bodys_own_is_noticed_however_it_is_written(
    shared: LocalCluster, table: str, sql: str
) -> None:
    runs: list[int] = []

    def body(conn: Connection) -> None:
        runs.append(1)
        conn.execute(f"INSERT INTO {table} VALUES (%s)", (len(runs),))
        conn.execute(sql.encode())
        if len(runs) == 1:
            conn.execute(DIE)

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            router.run(body)
        assert "not run again" in str(caught.value.__notes__)
        with pytest.raises(psycopg.ProgrammingError, match="of its own"):
            router.run(body)
        assert router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == ([] if sql == "ROLLBACK" else [1, 2])


def test_savepoints_of_the_body_are_no_end(shared: LocalCluster, table: str) -> None:
    def body(conn: Connection) -> None:
        conn.execute("SAVEPOINT s")
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        conn.execute("ROLLBACK TO SAVEPOINT s")
        conn.execute("ROLLBACK WORK TO s")
        with contextlib.suppress(psycopg.DataError):
            with conn.transaction():
                conn.execute("SELECT 1/0")
        conn.execute(f"INSERT INTO {table} VALUES (2)")

    with Router(shared.dsn) as router:
        router.run(body)
    assert numbers(shared, table) == [2]


def test_a_pipeline_left_open_is_no_success(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    def body(conn: Connection) -> str:
        left.append(conn.pipeline())
        pipeline = left[0].__enter__()
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        pipeline.sync()
        return "done"

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.ProgrammingError, match="pipeline"):
            router.run(body)
        assert router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == []


def test_a_pipeline_within_the_body_is_fine(shared: LocalCluster, table: str) -> None:
    def body(conn: Connection) -> None:
        with conn.pipeline():
            for number in range(3):
                conn.execute(f"INSERT INTO {table} VALUES (%s)", (number,))

    with Router(shared.dsn) as router:
        router.run(body)
    assert numbers(shared, table) == [0, 1, 2]


def test_what_a_body_left_open_is_not_the_next_ones(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    def leave_open(conn: Connection) -> None:
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        left.append(conn.transaction())
        left[0].__enter__()

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.ProgrammingError, match=r"transaction\(\) of its own open"):
            router.run(leave_open)
        assert router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == []


def test_unconfirmed_by_the_standby_is_unknown(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    # A server that is told to keep warnings to itself would not say so.
    options = PoolOptions(settings={"client_min_messages": "error"})
    with Router(pair.cluster.dsn, writer=options) as router, Background() as background:
        router.wait()
        call(standby.freeze)
        handle = background.start(router.run, Increment())
        [(pid, _)] = eventually(lambda: waiting(primary, "SyncRep"))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(CommitUnknown, match="committed locally"):
            handle.result()


# Whose error it is.


def test_the_advice_to_call_again_is_only_for_the_transaction_with_that_key(written: Proxied) -> None:
    def pay(conn: Connection) -> None:
        conn.execute("INSERT INTO written VALUES (1)")

    with Router(written.dsn) as inner, Router(written.cluster.dsn) as outer:
        outer.install()
        inner.wait()
        written.proxies[0].when(b"COMMIT", action="reset")
        with pytest.raises(CommitUnknown) as caught:
            outer.run(lambda _: inner.run(pay), once="outer")
    assert not any("outer" in note for note in caught.value.__notes__)


def test_an_unknown_commit_of_another_session_is_never_swallowed(written: Proxied) -> None:
    runs: list[int] = []

    def pay(conn: Connection) -> None:
        conn.execute("INSERT INTO written VALUES (1)")

    with Router(written.dsn) as inner, Router(written.cluster.dsn) as outer:
        inner.wait()
        written.proxies[0].when(b"COMMIT", action="reset")

        def body(conn: Connection) -> None:
            runs.append(1)
            die_unnoticed(conn)
            inner.run(pay)

        with pytest.raises(CommitUnknown):
            outer.run(body)
    assert len(runs) == 1


def test_nothing_is_called_safe_to_run_again_once_the_body_has_committed(shared: LocalCluster) -> None:
    with Router("host=127.0.0.1 port=1") as nowhere, Router(shared.dsn) as router:

        def body(conn: Connection) -> None:
            conn.execute("COMMIT")
            nowhere.run(one, "SELECT 1", timeout=0.1)

        with pytest.raises(NoHostAvailable) as caught:
            router.run(body)
    assert not caught.value.rerun_safe


def test_a_writer_is_refused_within_a_body_also_by_way_of_another_router(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, Router(shared.dsn) as other:

        def middle(_: Connection) -> None:
            router.run(one, "SELECT 1")

        def body(_: Connection) -> None:
            other.run(middle)

        with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
            router.run(body)


def test_a_key_within_its_own_body_is_refused_at_once(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        router.install()

        def body(_: Connection) -> None:
            router.run(one, "SELECT 1", once="the same")

        begun = time.monotonic()
        with pytest.raises(psycopg.ProgrammingError, match="within its own body"):
            router.run(body, once="the same")
        assert time.monotonic() - begun < within(5.0)


# Deadlines.


def test_a_lock_of_the_table_of_keys_is_not_waited_for_longer_than_the_deadline(
    shared: LocalCluster,
) -> None:
    with Router(shared.dsn) as router:
        router.install()
        conn = psycopg.Connection.connect(shared.primary.conninfo)
        with conn as other:
            other.execute("LOCK TABLE pgroute.once IN SHARE ROW EXCLUSIVE MODE")
            begun = time.monotonic()
            with pytest.raises(CommitUnknown):
                router.run(one, "SELECT 1", once="fresh", timeout=1.0)
            assert time.monotonic() - begun < within(10.0)


@pytest.mark.parametrize("once", [None, "frozen"])
def test_a_frozen_only_host_does_not_hold_a_call_beyond_its_timeout(
    mended: LocalCluster, once: str | None
) -> None:
    primary = mended.primary
    with Router(primary.conninfo, probe=None) as router:
        router.install()
        call(primary.freeze)
        begun = time.monotonic()
        try:
            with pytest.raises(SessionLost, match="nothing was committed") as caught:
                router.run(one, "SELECT 1", timeout=0.5, once=once)
            assert caught.value.rerun_safe
            assert "1 attempt in" in caught.value.__notes__[0]
            assert time.monotonic() - begun < within(10.0)
        finally:
            call(primary.thaw)


def test_a_wait_that_is_cancelled_from_outside_is_told_so(shared: LocalCluster) -> None:
    options = PoolOptions(settings={"statement_timeout": "200ms"})
    with Router(shared.dsn) as holder, Router(shared.dsn, writer=options) as router:
        holder.install()

        def hold(_: Connection) -> None:
            with pytest.raises(CommitUnknown, match=r"statement timeout") as caught:
                router.run(one, "SELECT 1", once="held")
            assert "call again with once='held'" in "".join(caught.value.__notes__)

        holder.run(hold, once="held")


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(wait=lambda _: math.nan),
        RetryPolicy(wait=lambda _: math.inf),
        RetryPolicy(wait=lambda _: None),  # type: ignore[arg-type,return-value]
        RetryPolicy(wait=lambda _: 1 / 0),
        RetryPolicy(stop=tenacity.stop_after_attempt("x")),  # type: ignore[arg-type]
    ],
)
def test_a_policy_that_makes_no_sense_ends_the_attempts_with_the_real_error(
    shared: LocalCluster, policy: RetryPolicy
) -> None:
    with Router(shared.dsn, retry=policy) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            router.run(one, DIE)
    assert "the retry policy failed: " in caught.value.__notes__[0]


# Loops and bodies.


def leave_by_return(router: Router[Any], table: str) -> str:
    for attempt in router.attempts():
        with attempt as conn:
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            die_unnoticed(conn)
            return "done"
    return "not reached"


def test_a_loop_left_in_an_attempt_that_failed_is_told_aloud(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Router(shared.dsn) as router:
        with pytest.warns(ResourceWarning, match="NOTHING of it was committed"):
            leave_by_return(router, table)
    assert "NOTHING of it was committed" in caplog.text
    assert numbers(shared, table) == []


def test_attempts_serve_for_one_loop(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        attempts = router.attempts()
        for attempt in attempts:
            with attempt:
                pass
        with pytest.raises(RuntimeError, match="one loop"):
            for _ in attempts:
                pass


def test_an_attempt_is_left_only_after_it_was_entered(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for attempt in router.attempts():
            with pytest.raises(RuntimeError, match="not entered"):
                attempt.__exit__(None, None, None)
            with attempt:
                with pytest.raises(RuntimeError, match="can be used once"):
                    attempt.__enter__()
            with pytest.raises(RuntimeError, match="ended already"):
                attempt.__exit__(None, None, None)


def test_attempts_take_a_policy_and_a_timeout(shared: LocalCluster) -> None:
    twice = RetryPolicy(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none())
    for given, most in (({"retry": twice}, 2), ({"timeout": 0.2}, 50)):
        runs = 0
        with Router(shared.dsn) as router:
            router.wait()
            with pytest.raises(psycopg.OperationalError):
                for attempt in router.attempts(**given):
                    with attempt as conn:
                        runs += 1
                        conn.execute(DIE)
        assert 1 <= runs <= most


def test_the_connection_of_a_body_may_have_a_wait_of_its_own(shared: LocalCluster) -> None:
    def configure(conn: Connection) -> None:
        conn.wait = conn.wait  # type: ignore[method-assign]

    with Router(shared.dsn, writer=PoolOptions(max_size=1, configure=configure)) as router:
        with router.writer() as conn:
            before = vars(conn)["wait"]
        router.run(one, "SELECT 1")
        with router.writer() as conn:
            assert vars(conn)["wait"] is before


@pytest.mark.parametrize("lazy", [map, filter])
def test_lazy_iterators_are_refused(shared: LocalCluster, table: str, lazy: Any) -> None:
    def body(conn: Connection) -> Any:
        return lazy(conn.execute, [f"INSERT INTO {table} VALUES (1)"])

    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="was rolled back"):
            router.run(body)


def test_a_key_that_the_connection_cannot_send_is_refused(shared: LocalCluster) -> None:
    with Router(shared.dsn, kwargs={"client_encoding": "latin1"}) as router:
        router.install()
        with pytest.raises(ConfigError, match="can send"):
            router.run(one, "SELECT 1", once="snow \N{SNOWMAN}")


