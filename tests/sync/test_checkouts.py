# Generated from tests/aio/test_checkouts.py by .ci/unasync.py: edit that file, not this one.
"""What happens at each checkout: setup, connections that are used up, keys; and waiting for so many connections."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgroute import AcquireTimeout, Router, ConfigError, NoHostAvailable, PoolOptions
from pgroute.testing import LocalCluster
from tests.support import Background, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]


NOTICED = {"client_connection_check_interval": "100ms"}
"""Settings with which a server notices within a statement that its client is gone."""


def pid_of(router: Router[Any], timeout: float | None = None) -> int:
    with router.writer(timeout) as conn:
        return int(conn.info.backend_pid)


# setup.


class Setup:
    """A setup function that notes each call, and fails as told.

    Attributes:
        pids: of the connections with which it was called.
        failures: how many calls are to fail.
    """

    def __init__(self, failures: int = 0, error: type[Exception] = RuntimeError) -> None:
        self.pids: list[int] = []
        self.failures = failures
        self.error = error

    def __call__(self, conn: Any) -> None:
        self.pids.append(conn.info.backend_pid)
        if self.failures:
            self.failures -= 1
            raise self.error("no tenant")


def test_setup_is_called_at_each_checkout_before_the_body(shared: LocalCluster) -> None:
    number = 0

    def setup(conn: Any) -> None:
        nonlocal number
        number += 1
        conn.execute("SELECT set_config('shop.tenant', %s, false)", [str(number)])
        conn.commit()
        conn.row_factory = dict_row

    def tenant(conn: Any) -> Any:
        row = (conn.execute("SELECT current_setting('shop.tenant') AS tenant")).fetchone()
        return row["tenant"]

    with Router(shared.dsn, writer=PoolOptions(max_size=1, setup=setup)) as router:
        with router.writer() as conn:
            assert tenant(conn) == "1"
        assert router.run(tenant) == "2"
        conn = router.getconn("writer")
        assert tenant(conn) == "3"
        router.putconn(conn)
        with router.reader() as conn:
            assert (conn.execute("SELECT 1")).fetchone() == (1,)
        assert number == 3


def test_a_connection_with_which_setup_fails_is_closed_and_another_is_tried(
    shared: LocalCluster,
) -> None:
    setup = Setup()
    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        pid_of(router)
        setup.failures = 2
        pid = pid_of(router)
        assert len(setup.pids) == 4
        assert setup.pids[0] == setup.pids[1]
        assert len(set(setup.pids[1:])) == 3
        assert pid == setup.pids[-1]
        assert pid_of(router) == pid


@pytest.mark.parametrize("error", [ValueError, psycopg.OperationalError, psycopg.errors.QueryCanceled])
def test_a_setup_that_goes_on_failing_fails_the_session_with_its_error(
    shared: LocalCluster, error: type[Exception]
) -> None:
    setup = Setup(failures=3, error=error)
    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        begun = time.monotonic()
        with pytest.raises(error, match="no tenant") as caught:
            pid_of(router)
        assert time.monotonic() - begun < within(2.0)
        assert len(set(setup.pids)) == 3
        assert any("setup failed" in note for note in caught.value.__notes__)
        assert pid_of(router) == setup.pids[-1]


def leave_open(conn: Any) -> None:
    conn.execute("SELECT 1")


def close(conn: Any) -> None:
    conn.close()


@pytest.mark.parametrize("setup", [leave_open, close])
def test_a_setup_that_leaves_a_transaction_open_is_refused(shared: LocalCluster, setup: Any) -> None:
    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        with pytest.raises(psycopg.ProgrammingError, match="setup left a transaction open, or closed"):
            pid_of(router)


def test_a_connection_that_is_lost_in_setup_is_nobodys_error(shared: LocalCluster) -> None:
    losses = 5  # more than the errors of its own that are accepted

    def setup(conn: Any) -> None:
        nonlocal losses
        if losses:
            losses -= 1
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        pid_of(router)
        assert not losses
        assert router.get_stats()["writer"]["connections_lost"] == 5


def test_a_setup_that_takes_too_long_is_cut_at_the_deadline(shared: LocalCluster) -> None:
    def setup(conn: Any) -> None:
        conn.execute("SELECT pg_sleep(30)")

    with Router(shared.dsn, writer=PoolOptions(setup=setup, settings=NOTICED)) as router:
        begun = time.monotonic()
        with pytest.raises(NoHostAvailable) as caught:
            pid_of(router, 1.2)
        assert 1.0 <= time.monotonic() - begun < within(4.0)
        assert "lost in setup" in "".join(caught.value.__notes__)


def test_roles_have_a_setup_of_their_own(shared: LocalCluster) -> None:
    setup = Setup()
    with Router(shared.dsn, reader=PoolOptions(setup=setup)) as router:
        pid_of(router)
        assert not setup.pids
        with router.reader() as conn:
            assert setup.pids == [conn.info.backend_pid]




# max_uses.


def test_a_connection_is_replaced_after_so_many_sessions(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(max_size=1, max_uses=3)) as router:
        pids = [pid_of(router) for _ in range(9)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_a_used_up_connection_is_replaced_before_it_is_needed(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(min_size=0, max_uses=1)) as router:
        pid = pid_of(router)
        eventually(lambda: router.get_stats()["writer"]["pool_available"] == 1)
        assert pid_of(router, 0) != pid


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"max_uses": 0}, "max_uses"),
        ({"max_uses": -1}, "max_uses"),
        ({"max_uses": 1.5}, "max_uses"),
        ({"max_uses": True}, "max_uses"),
        ({"setup": "SET x"}, "setup"),
        ({"setup": 5}, "setup"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolOptions(**options)
    assert caught.value.parameter == parameter


# Keys.


def test_the_same_key_gets_the_same_connection_until_it_is_put_back(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("writer", key="request 1")
        assert router.getconn("writer", key="request 1") is conn
        other = router.getconn("writer", key=("request", 2))
        assert other is not conn
        reading = router.getconn("reader", key="request 1")
        assert reading is not conn
        assert reading.read_only
        router.putconn(conn)
        with pytest.raises(ValueError, match="not a connection taken from"):
            router.putconn(conn)
        assert router.getconn("writer", key=("request", 2)) is other
        again = router.getconn("writer", key="request 3")
        assert again is conn  # from the pool, under another key
        assert router.getconn("writer", key="request 1") is not conn
        for each in (other, reading, again, router.getconn("writer", key="request 1")):
            router.putconn(each)


def test_callers_with_one_key_at_one_time_share_one_connection(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, Background() as background:

        def take() -> Any:
            return router.getconn("writer", key="shared")

        conns = [caller.result() for caller in [background.start(take) for _ in range(8)]]
        assert len({id(conn) for conn in conns}) == 1
        assert router.stats().writer.totals["requests_num"] == 1
        router.putconn(conns[0])


def test_a_key_whose_taker_fails_is_free_for_the_next(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router, Background() as bg:
        held = router.getconn("writer", key="a")

        def late(timeout: float) -> str:
            with pytest.raises(AcquireTimeout) as caught:
                router.getconn("writer", key="b", timeout=timeout)
            return type(caught.value).__name__

        first = bg.start(late, 2.0)
        eventually(lambda: router.get_stats()["writer"]["requests_waiting"] == 1)
        second = bg.start(late, 0.1)
        assert second.result() == "AcquireTimeout"
        assert first.result() == "PoolExhausted"
        router.putconn(held)
        router.putconn(router.getconn("writer", key="b", timeout=2.0))


def test_a_lost_connection_stays_that_of_its_key_until_it_is_put_back(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        conn = router.getconn("writer", key="a")
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert router.getconn("writer", key="a") is conn
        router.putconn(conn)
        again = router.getconn("writer", key="a")
        assert again is not conn
        again.execute("SELECT 1")
        router.putconn(again)


@pytest.mark.parametrize("key", [[], {}, set()])
def test_a_key_must_be_hashable(shared: LocalCluster, key: Any) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="hashable"):
            router.getconn("writer", key=key)


def test_falsy_keys_are_keys(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for key in (0, "", ()):
            conn = router.getconn("writer", key=key)
            assert router.getconn("writer", key=key) is conn
            router.putconn(conn)


# Waiting for so many.


def test_a_wait_for_numbers_opens_them_evenly(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        router.wait(writers=3, readers=4)
        stats = router.stats()
        assert stats.writer.totals["pool_available"] == 3
        assert sorted(host["pool_size"] for host in stats.reader.hosts.values()) == [2, 2]
        router.wait(writers=3, readers=4, timeout=0)
        router.wait("reader", writers=0)


def test_those_in_use_count_too(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=PoolOptions(max_size=2)) as router:
        held = [router.getconn("writer") for _ in range(2)]
        router.wait(writers=2, timeout=0)
        for conn in held:
            router.putconn(conn)


def test_a_wait_for_more_than_there_can_be_says_how_many_there_are(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=PoolOptions(max_size=2)) as router:
        with pytest.raises(ConfigError, match="at most max_size, which is 10"):
            router.wait(writers=11)
        with pytest.raises(AcquireTimeout, match="4 of 5 connections of the readers are open"):
            router.wait(readers=5, timeout=1.0)


def test_a_wait_for_writers_of_a_drained_primary_fails_as_writer_would(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        router.wait(readers=1)
        router.drain(shared.primary.host + f":{shared.primary.port}")
        with pytest.raises(NoHostAvailable, match="drained"):
            router.wait(writers=1, timeout=0.2)


@pytest.mark.parametrize("number", [-1, 1.5, True, "2"])
def test_a_number_that_is_none_is_refused(shared: LocalCluster, number: Any) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="a whole number"):
            router.wait(readers=number)


# Counters.


def test_popped_counters_begin_anew_and_the_others_go_on(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for _ in range(3):
            pid_of(router)
        popped = router.pop_stats()["writer"]
        assert (popped["requests_num"], popped["connections_num"], popped["pool_max"]) == (3, 1, 10)
        pid_of(router)
        again = router.pop_stats()["writer"]
        assert (again["requests_num"], again["pool_size"]) == (1, 1)
        assert "connections_num" not in again
        assert router.get_stats()["writer"]["requests_num"] == 4
