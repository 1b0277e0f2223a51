# Generated from tests/aio/test_once_prepared.py by .ci/unasync.py: edit that file, not this one.
"""Statements for keys are prepared where psycopg would prepare them, and nothing depends on that."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import Router, PoolOptions, RetryPolicy
from tests.sync.conftest import Proxied
from tests.sync.counting import INCREMENT, Increment, counted, start_after
from tests.sync.test_pooler import PROGRAM, pooler
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster

AT_ONCE = {"prepare_threshold": 0}
ONE = PoolOptions(max_size=1)
OURS = "SELECT count(*)::int FROM pg_prepared_statements WHERE name LIKE 'pgroute%'"


def ours(router: Router[Any]) -> int:
    """Return how many statements of ours are prepared on the only connection."""
    with router.writer() as conn:
        [count] = (conn.execute(OURS, prepare=False)).fetchone() or (-1,)
    return int(count)


def remove(conn: psycopg.Connection[Any]) -> None:
    """Remove our statements without psycopg's knowledge."""
    names = conn.pgconn.exec_(b"SELECT name FROM pg_prepared_statements WHERE name LIKE 'pgroute%'")
    for row in range(names.ntuples):
        conn.pgconn.exec_(b"DEALLOCATE %b" % (names.get_value(row, 0) or b""))


def removing(conn: psycopg.Connection[Any]) -> int:
    """Increment the counter, and remove our statements."""
    [value] = (conn.execute(INCREMENT)).fetchone() or (0,)
    remove(conn)
    return int(value)


def test_they_are_prepared_after_as_many_keys_as_psycopg_would_wait_for(pair: Proxied) -> None:
    with Router(pair.dsn, writer=ONE, kwargs={"prepare_threshold": 2}) as router:
        prepared = []
        for number in range(4):
            assert router.run(Increment(), once=f"key {number}") == number + 1
            prepared.append(ours(router))
        assert prepared == [0, 0, 2, 2]
        assert [router.run(Increment(), once=f"key {number}") for number in range(4)] == [1, 2, 3, 4]
    assert counted(pair.cluster.primary) == (4, 4)


@pytest.mark.parametrize("result", [None, True, "it's", 1.5, ["ü", None], {"a": {"b": 1}}])
def test_results_are_stored_as_ever(pair: Proxied, result: Any) -> None:
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:

        def body(conn: psycopg.Connection[Any]) -> Any:
            conn.execute(INCREMENT)
            return result

        assert [router.run(body, once="it's a \\ key ü") for _ in range(2)] == [result, result]
        assert ours(router) == 2
    assert counted(pair.cluster.primary) == (1, 1)


@pytest.mark.parametrize(
    ("kwargs", "writer"),
    [({"prepare_threshold": None}, ONE), (AT_ONCE, PoolOptions(max_size=1, reset="discard"))],
    ids=["without a threshold", "where each session ends with DISCARD ALL"],
)
def test_none_are_prepared(pair: Proxied, kwargs: dict[str, Any], writer: PoolOptions) -> None:
    with Router(pair.dsn, writer=writer, kwargs=kwargs) as router:
        for number in range(8):
            assert router.run(Increment(), once=f"key {number}") == number + 1
            assert ours(router) == 0


def fail(router: Router[Any]) -> None:
    """Have a session roll back, after which psycopg removes all that is prepared."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        with router.writer() as conn:
            conn.execute("SELECT 1")
            conn.execute("SELECT 1/0")


def deallocate(router: Router[Any]) -> None:
    with router.writer() as conn:
        conn.execute("DEALLOCATE ALL")


def drop(router: Router[Any]) -> None:
    with router.writer() as conn:
        conn.execute("CREATE TEMP TABLE short_lived ()")
        conn.execute("DROP TABLE short_lived")


@pytest.mark.parametrize("end", [fail, deallocate, drop])
def test_what_a_session_has_removed_is_prepared_anew(pair: Proxied, end: Any) -> None:
    with Router(pair.dsn, writer=ONE, kwargs={"prepare_threshold": 1}) as router:
        for number in range(4):
            assert router.run(Increment(), once=f"key {number}") == number + 1
        assert ours(router) == 2
        end(router)
        assert ours(router) == 0
        prepared = []
        for number in range(4, 7):
            body = Increment()
            assert router.run(body, once=f"key {number}") == number + 1
            assert body.runs == 1
            prepared.append(ours(router))
        assert prepared == [0, 2, 2]
    assert counted(pair.cluster.primary) == (7, 7)


STATEMENTS = ["SAVEPOINT a; ROLLBACK TO a", "CREATE TEMP TABLE w (); DROP TABLE w", "DEALLOCATE ALL"]


@pytest.mark.parametrize("statements", STATEMENTS)
def test_a_body_after_which_psycopg_removes_them_is_run_once(pair: Proxied, statements: str) -> None:
    def body(conn: psycopg.Connection[Any]) -> int:
        [value] = (conn.execute(INCREMENT)).fetchone() or (0,)
        for statement in statements.split("; "):
            conn.execute(statement)
        runs.append(conn)
        return int(value)

    runs: list[object] = []
    once = RetryPolicy(stop=tenacity.stop_after_attempt(1))
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE, retry=once) as router:
        for number in range(3):
            assert router.run(body, once=f"key {number}") == number + 1
    assert len(runs) == 3
    assert counted(pair.cluster.primary) == (3, 3)


def test_what_is_gone_without_a_word_is_missed_at_the_next_key(pair: Proxied) -> None:
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        assert router.run(Increment(), once="first") == 1
        with router.writer() as conn:
            remove(conn)
        body = Increment()
        assert router.run(body, once="second") == 2
        assert body.runs == 1
        assert ours(router) == 0
    assert counted(pair.cluster.primary) == (2, 2)


def test_a_body_that_removes_them_without_a_word_is_run_again_once(pair: Proxied) -> None:
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        runs = []

        def body(conn: psycopg.Connection[Any]) -> int:
            runs.append(conn)
            return removing(conn)

        assert router.run(body, once="first") == 1
        assert len(runs) == 2
        assert router.run(body, once="second") == 2
        assert len(runs) == 3
    assert counted(pair.cluster.primary) == (2, 2)


def test_a_router_that_misses_them_often_prepares_no_more(pair: Proxied) -> None:
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        for number in range(5):
            assert router.run(removing, once=f"key {number}") == number + 1
            router.expire("writer")
        assert router.run(Increment(), once="last") == 6
        assert ours(router) == 0


def test_one_that_psycopg_has_removed_to_make_room_is_prepared_anew(pair: Proxied) -> None:
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        assert router.run(Increment(), once="first") == 1
        with router.writer() as conn:
            conn.prepared_max = 4
            for number in range(4):
                conn.execute(f"SELECT {number}")
            conn.prepared_max = 100
        for number in range(2, 4):
            body = Increment()
            assert router.run(body, once=f"key {number}") == number
            assert body.runs == 1
        assert ours(router) == 2
        assert router._manager.unprepared == 0
    assert counted(pair.cluster.primary) == (3, 3)


def test_an_error_of_that_kind_from_the_users_own_trigger_is_raised(pair: Proxied) -> None:
    node = pair.cluster.primary
    trigger = """
        CREATE FUNCTION pg_temp_like() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = '26000'; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON counter DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pg_temp_like()"""
    call(node.execute, trigger)
    try:
        with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
            body = Increment()
            with pytest.raises(psycopg.errors.InvalidSqlStatementName, match="mine"):
                router.run(body, once="key")
            assert body.runs == 1
    finally:
        call(node.execute, "DROP FUNCTION pg_temp_like CASCADE")
    assert counted(node) == (0, 0)


def test_without_another_attempt_a_body_that_removes_them_without_a_word_leaves_nothing(
    pair: Proxied,
) -> None:
    with Router(
        pair.dsn, writer=ONE, kwargs=AT_ONCE, retry=RetryPolicy(stop=tenacity.stop_after_attempt(1))
    ) as router:
        with pytest.raises(psycopg.errors.InvalidSqlStatementName) as caught:
            router.run(removing, once="key")
        assert any("set prepare_threshold=None" in note for note in caught.value.__notes__)
        assert counted(pair.cluster.primary) == (0, 0)
        assert router.run(removing, once="key") == 1
    assert counted(pair.cluster.primary) == (1, 1)


def test_a_name_that_is_taken_is_left_alone(pair: Proxied) -> None:
    with Router(pair.dsn, writer=PoolOptions(max_size=2), kwargs=AT_ONCE) as router:
        router.run(Increment(), once="first")
        with router.writer() as conn, router.writer() as other:
            names = (conn.execute("SELECT name FROM pg_prepared_statements")).fetchall()
            names += (other.execute("SELECT name FROM pg_prepared_statements")).fetchall()
        [name] = [name for (name,) in names if name.startswith("pgroute_keep")]
    with Router(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        with router.writer() as conn:
            conn.execute(f"PREPARE {name} AS SELECT 1", prepare=False)
        body = Increment()
        assert router.run(body, once="second") == 2
        assert body.runs == 1
    assert counted(pair.cluster.primary) == (2, 2)


def test_a_wait_for_another_transaction_is_cancelled_and_begun_again(pair: Proxied) -> None:
    with Router(pair.dsn, kwargs=AT_ONCE) as router, Background() as background:
        before, after = start_after(pair.cluster.primary, router, background)
        call(_until_bounded, pair)
        before.over.set()
        assert after.result() == 1
        assert router.run(Increment(), once="another") == 2
    assert counted(pair.cluster.primary) == (2, 2)


def _until_bounded(pair: Proxied) -> None:
    sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%lock_timeout%' AND wait_event = 'transactionid'"
    eventually(lambda: pair.cluster.primary.execute(sql))


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
def test_behind_a_pooler_that_does_not_keep_them_each_key_is_applied_once(pair: Proxied) -> None:
    def body(conn: psycopg.Connection[Any]) -> int:
        cursor = conn.execute(INCREMENT, prepare=False)
        [value] = cursor.fetchone() or (0,)
        return int(value)

    def call(router: Router[Any], key: str) -> int:
        value: int = router.run(body, once=key)
        return value

    with ExitStack() as stack:
        port = stack.enter_context(pooler(pair.cluster.primary))
        dsn = f"host={pair.cluster.primary.host} port={port} dbname={pair.cluster.dbname} user=postgres"
        for _ in range(2):  # the second one finds what the first has left on the server's connections
            with (
                Router(dsn, writer=PoolOptions(max_size=4), kwargs=AT_ONCE) as router,
                Background() as background,
            ):
                calls = [background.start(call, router, f"key {number % 10}") for number in range(40)]
                values = [call.result() for call in calls]
        assert sorted(set(values)) == list(range(1, 11))
    assert counted(pair.cluster.primary) == (10, 10)
