# Generated from tests/aio/test_once_keys.py by .ci/unasync.py: edit that file, not this one.
"""Keys of transactions: who finds them, in which isolation, after whom, and what leaves none behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import Router, ConfigError, PoolOptions
from tests.sync.conftest import Proxied
from tests.sync.counting import (
    KEY,
    Increment,
    Lingering,
    call_once,
    clear,
    counted,
    shows,
    start_after,
    waiting,
)
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


class Word(str):
    """A text of a type of its own."""

    __slots__ = ()


# Several at once.


def test_of_processes_with_the_same_key_one_applies_it_and_all_get_its_result(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    command = [sys.executable, "-m", "tests.sync.contender", pair.cluster.dsn, KEY]
    with psycopg.connect(node.conninfo, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(1)")
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        try:
            eventually(
                lambda: (len(waiting(node, "advisory")), len(waiting(node, "transactionid"))) == (1, 2), 30.0
            )
            gate.execute("SELECT pg_advisory_unlock(1)")
            said = [(call(process.communicate, timeout=30.0))[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    assert said == ["1\n"] * 3
    assert counted(node) == (1, 1)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_in_any_isolation_the_key_is_found(pair: Proxied, isolation: str) -> None:
    increment = Increment()
    with Router(pair.dsn) as router:
        for _ in range(3):
            assert call_once(router, increment, isolation=isolation) == 1
    assert increment.runs == 1
    assert counted(pair.cluster.nodes[0]) == (1, 1)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_in_any_isolation_the_key_of_a_transaction_under_way_is_found(
    pair: Proxied, isolation: str
) -> None:
    node, first, second = pair.cluster.nodes[0], Lingering(), Increment()
    with Router(pair.dsn) as router, Background() as background:
        before = background.start(call_once, router, first, None, None, isolation)
        eventually(lambda: first.runs)
        after = background.start(call_once, router, second, None, None, isolation)
        eventually(lambda: waiting(node, "transactionid"))
        first.over.set()
        assert before.result() == 1
        assert after.result() == 1
    assert (first.runs, second.runs) == (1, 0)
    assert counted(node) == (1, 1)


def test_a_key_purged_while_it_is_looked_up_is_unknown_again(pair: Proxied) -> None:
    node, proxy = pair.cluster.nodes[0], pair.proxies[0]
    writer = PoolOptions(settings={"lock_timeout": "7s"})
    with Router(pair.dsn, writer=writer) as router, Background() as background:
        assert call_once(router, Increment()) == 1
        trigger = proxy.when(b"UPDATE pgroute.once", action="blackhole", after_forwarding=False)
        later = background.start(call_once, router, shows)
        call(trigger.wait)
        call(node.execute, "DELETE FROM pgroute.once")
        proxy.clear_faults()
        assert later.result() == [2, "7s"]
    assert counted(node) == (2, 1)


def test_the_age_of_a_key_begins_with_the_end_of_its_body(pair: Proxied) -> None:
    node, body = pair.cluster.nodes[0], Lingering()
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, body)
        eventually(lambda: body.runs)
        [(moment,)] = call(node.execute, "SELECT clock_timestamp()")
        body.over.set()
        worker.result()
    assert call(node.execute, "SELECT at > %s FROM pgroute.once", (moment,)) == [(True,)]


def test_a_row_that_its_own_body_has_deleted_is_there_again(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()

    def body(conn: Any) -> int:
        value = increment(conn)
        conn.execute("DELETE FROM pgroute.once")
        return value

    with Router(pair.dsn) as router:
        assert [call_once(router, body) for _ in range(2)] == [1, 1]
    assert increment.runs == 1
    assert counted(node) == (1, 1)


@pytest.mark.parametrize(
    "ends", ["DELETE FROM pgroute.once", "ROLLBACK AND CHAIN"], ids=["deletes", "rolls back and goes on"]
)
def test_a_body_that_returns_none_and_has_lost_its_row_is_not_run_again(
    pair: Proxied, ends: str
) -> None:
    increment = Increment()

    def body(conn: Any) -> None:
        conn.execute(ends)
        increment(conn)

    with Router(pair.dsn) as router:
        assert [call_once(router, body) for _ in range(2)] == [None, None]
    assert increment.runs == 1
    assert counted(pair.cluster.nodes[0]) == (1, 1)


# Bodies that end their transaction themselves.


@pytest.mark.parametrize("then", ["return", "raise", "go on", "fail"])
def test_what_a_body_has_committed_itself_has_no_result(pair: Proxied, then: str) -> None:
    increment = Increment()

    def body(conn: Any) -> None:
        increment(conn)
        conn.execute("COMMIT")
        if then == "raise":
            raise ValueError("after its COMMIT")
        if then == "go on":
            increment(conn)
        if then == "fail":
            conn.execute("SELECT 1/0")

    errors = {"raise": ValueError, "fail": psycopg.errors.DivisionByZero}
    with Router(pair.dsn) as router:
        with pytest.raises(errors.get(then, psycopg.ProgrammingError)):
            call_once(router, body)
        for _ in range(2):
            with pytest.raises(psycopg.ProgrammingError, match="no result is stored"):
                call_once(router, body)
    assert counted(pair.cluster.nodes[0]) == (1, 1)


def test_who_claims_the_key_that_a_body_has_rolled_back_keeps_it(pair: Proxied) -> None:
    with Router(pair.dsn) as router, Router(pair.dsn) as other:

        def nothing(_: Any) -> None:
            pass

        def body(conn: Any) -> None:
            conn.execute("ROLLBACK")
            call_once(other, nothing)

        with pytest.raises(psycopg.ProgrammingError, match="a COMMIT or ROLLBACK of its own"):
            call_once(router, body)
        assert call_once(router, body) is None


# What leaves no key.


def test_a_body_that_failed_leaves_no_key(pair: Proxied) -> None:
    node, body = pair.cluster.nodes[0], Lingering()
    body.error = ValueError("not today")
    body.over.set()
    with Router(pair.dsn) as router:
        with pytest.raises(ValueError, match="not today"):
            call_once(router, body)
        assert counted(node) == (0, 0)
        body.error = None
        assert call_once(router, body) == 1
    assert counted(node) == (1, 1)


def test_a_successor_of_a_body_that_failed_applies_it(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    with Router(pair.dsn) as router, Background() as background:
        before, after = start_after(node, router, background)
        before.error = ValueError("no")
        before.over.set()
        assert after.result() == [1, "0"]
    assert counted(node) == (1, 1)


def test_without_the_tables_it_says_so_and_writes_nothing(pair: Proxied) -> None:
    node, body = pair.cluster.nodes[0], Increment()
    call(node.execute, "DROP SCHEMA pgroute CASCADE")
    with Router(pair.dsn) as router:
        with pytest.raises(ConfigError, match="run `pgroute install DSN`"):
            call_once(router, body)
        assert body.runs == 0
        router.install()
        router.install()
        assert call_once(router, body) == 1
    assert counted(node) == (1, 1)
    clear(pair.cluster)


@pytest.mark.parametrize(
    "result",
    [{1, 2}, float("nan"), b"x", "\0", "\ud800", 1e400],
    ids=["set", "NaN", "bytes", "NUL", "half", "inf"],
)
def test_a_result_that_is_not_json_is_refused_before_commit(pair: Proxied, result: Any) -> None:
    node, increment = pair.cluster.nodes[0], Increment()

    def body(conn: Any) -> Any:
        increment(conn)
        return result

    with Router(pair.dsn) as router:
        with pytest.raises(TypeError, match=f"once={KEY!r} cannot be stored.*nothing was committed"):
            call_once(router, body)
    assert increment.runs == 1
    assert counted(node) == (0, 0)


@pytest.mark.parametrize("result", [None, True, 0.1, 2**80, "ü\n", [], {"a": [1, None, {"b": 1.5}]}])
def test_the_first_and_every_later_call_get_the_same_result(pair: Proxied, result: Any) -> None:
    def body(conn: Any) -> Any:
        return result

    with Router(pair.dsn) as router:
        found = [json.dumps(call_once(router, body)) for _ in range(2)]
    assert found == [json.dumps(result)] * 2


@pytest.mark.parametrize(
    ("result", "type_"),
    [((1, 2), list), (HTTPStatus.OK, int), (Word("a"), str), (True, bool), (1e300, int)],
    ids=["tuple", "IntEnum", "of str", "bool", "float"],
)
def test_the_first_call_gets_what_is_stored_too(pair: Proxied, result: Any, type_: type) -> None:
    def body(conn: Any) -> Any:
        return result

    with Router(pair.dsn) as router:
        assert [type(call_once(router, body)) for _ in range(2)] == [type_, type_]


@pytest.mark.parametrize("stored", ["[" * 3000 + "]" * 3000, "1" * 5000], ids=["deep", "long"])
def test_a_result_that_nobody_here_has_stored_is_an_error_of_psycopgs(
    pair: Proxied, stored: str
) -> None:
    # jsonb takes what Python refuses to read.
    with contextlib.suppress(RecursionError, ValueError):
        json.loads(stored)
        pytest.skip("this Python can read it")
    node = pair.cluster.nodes[0]
    call(node.execute, f"INSERT INTO pgroute.once (key, result) VALUES ('{KEY}', '{stored}')")
    increment = Increment()
    with Router(pair.dsn) as router:
        with pytest.raises(psycopg.DataError, match=f"stored result of once='{KEY}' cannot be read"):
            call_once(router, increment)
    assert increment.runs == 0
    assert counted(node) == (0, 1)
