# Generated from tests/aio/test_causal.py by .ci/unasync.py: edit that file, not this one.
"""Causal sessions: readers see the writers before them, and never go back behind what was read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import (
    Router,
    CommitUnknown,
    PoolOptions,
    PositionLost,
    RetryPolicy,
    RouteError,
    SessionLost,
)
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.sync.replicas import OFTEN, configure, cut_off, dsn_of, of, standbys_as_they_were
from tests.sync.workload import make_table
from tests.support import Background, call, eventually
from tests.wiretap import Wiretap

pytestmark = [pytest.mark.cluster, pytest.mark.long]

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


def write(source: Any, number: int) -> None:
    """Write a number through the writer of a router or a causal object."""
    with source.writer() as conn:
        conn.execute("INSERT INTO written VALUES (%s)", [number])


def count(session: Any) -> tuple[int, int]:
    """Return the port of the session's host, and how many numbers are there."""
    with session as conn:
        cursor = conn.execute(COUNT)
        (found,) = cursor.fetchone()
        return int(conn.info.port), int(found)


def inserting(number: int) -> Any:
    """Return a body that writes a number."""

    def body(conn: psycopg.Connection[Any]) -> int:
        conn.execute("INSERT INTO written VALUES (%s)", [number])
        return number

    return body


def counting(conn: psycopg.Connection[Any]) -> int:
    cursor = conn.execute(COUNT)
    (found,) = cursor.fetchone() or (0,)
    return int(found)


def all_heard(router: Router[Any]) -> None:
    eventually(lambda: all(host.lsn for host in router.topology.hosts))


# What it promises.


@pytest.mark.parametrize("wait", [0.0, 0.1, 5.0])
def test_reads_see_writes_though_replay_is_delayed(lagging: LocalCluster, wait: float) -> None:
    first, *standbys = lagging.nodes
    for node in standbys:
        delay = "200ms" if wait > 0.2 else "10s"
        call(configure, node, recovery_min_apply_delay=delay)
    ports: list[int] = []
    with Router(lagging.dsn, probe=OFTEN) as router:
        all_heard(router)
        causal = router.causal()
        for number in range(8):
            if number % 2:
                write(causal, number)
            else:
                causal.run(inserting(number))
            port, found = count(causal.reader(wait=wait))
            assert found == number + 1
            assert causal.run(counting, role="reader") == number + 1
            ports.append(port)
    assert set(ports) <= ({first.port} if wait < 0.2 else {node.port for node in standbys})


def test_stale_reads_are_seen_without_it(lagging: LocalCluster) -> None:
    """So that the test before this one could fail."""
    for node in lagging.nodes[1:]:
        call(configure, node, recovery_min_apply_delay="10s")
    with Router(lagging.dsn, probe=OFTEN) as router:
        all_heard(router)
        write(router, 1)
        assert (count(router.reader()))[1] == 0


def test_reads_never_go_back_behind_a_read(lagging: LocalCluster) -> None:
    first, ahead, paused = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN) as router:
        all_heard(router)
        call(paused.pause_replay)
        causal, before, ports = router.causal(), 0, set()
        for number in range(30):
            call(first.execute, f"INSERT INTO written VALUES ({number})")
            port, found = count(causal.reader())
            assert found >= before
            before = found
            ports.add(port)
        assert ports == {ahead.port} or paused.port in ports
        eventually(lambda: (of(router, ahead).lsn or 0) > (of(router, paused).lsn or 0))
        assert {(count(causal.reader()))[0] for _ in range(10)} == {ahead.port}


def test_a_position_goes_on_in_another_process(lagging: LocalCluster) -> None:
    with Router(lagging.dsn, probe=OFTEN) as router:
        causal = router.causal()
        assert causal.position is None
        assert "None" in repr(causal)
        write(causal, 1)
        cookie = str(causal.position)
        assert cookie in repr(causal)
    with Router(lagging.dsn, probe=OFTEN) as router:
        causal = router.causal(cookie)
        assert str(causal.position) == cookie
        assert (count(causal.reader()))[1] == 1
        assert str(causal.position) >= cookie


# What it costs.


@pytest.mark.parametrize("kind", ["writer", "reader", "run", "run reader", "run once"])
def test_sessions_cost_no_more_round_trips(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...], kind: str
) -> None:
    used: dict[bool, list[int]] = {}
    unprepared = {"prepare_threshold": None}  # preparing a statement takes a round trip
    with Router(dsn_of(tapped), probe=OFTEN, kwargs=unprepared) as router:
        router.install()
        call(lagging.catch_up)
        warm: set[int] = set()
        while len(warm) < 2:  # so that no connection is opened any more
            warm.add((count(router.reader()))[0])
        for source in (router, causal := router.causal()):
            trips = used[source is causal] = []
            for number in range(6):
                eventually(lambda: all_there(router, causal))
                for tap in tapped:
                    tap.take()
                value = 10 * len(used) + number
                match kind:
                    case "writer":
                        write(source, value)
                    case "reader":
                        count(source.reader())
                    case "run":
                        source.run(inserting(value))
                    case "run reader":
                        source.run(counting, role="reader")
                    case _:
                        source.run(inserting(value), once=f"key {value}")
                trips.append(sum(tap.round_trips() for tap in tapped))
    call(lagging.primary.execute, "DROP SCHEMA pgroute CASCADE")
    assert len(set(used[False][2:])) == 1
    assert used[True][2:] == used[False][2:]


def all_there(router: Router[Any], causal: Any) -> bool:
    """Return whether the probes have seen all hosts at the position."""
    return causal.position is None or all(
        (host.lsn or 0) >= causal.position.lsn for host in router.topology.hosts
    )


def test_a_session_that_commits_nothing_asks_once(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    with Router(dsn_of(tapped), probe=OFTEN, kwargs={"autocommit": True}) as router:
        causal = router.causal()
        write(causal, 1)
        tapped[0].take()
        write(causal, 2)
        assert tapped[0].round_trips() == 2
        with pytest.raises(ZeroDivisionError):
            with causal.writer() as conn:
                conn.execute("INSERT INTO written VALUES (3)")
                raise ZeroDivisionError
        assert tapped[0].round_trips() == 2
        assert (count(causal.reader(wait=5.0)))[1] == 3


# Outcomes that are not known.


@pytest.mark.parametrize("kind", ["writer", "run"])
def test_unknown_commit_sends_the_next_reader_to_the_primary(lagging: LocalCluster, kind: str) -> None:
    first = lagging.nodes[0]
    with FaultProxy(first) as front:
        with Router(dsn_of([front, *lagging.nodes[1:]]), probe=OFTEN) as router:
            all_heard(router)
            causal = router.causal()
            write(causal, 1)
            position = causal.position
            front.when(b"COMMIT;", "to_server", "reset", after_forwarding=True)
            with pytest.raises(CommitUnknown):
                if kind == "writer":
                    write(causal, 2)
                else:
                    causal.run(inserting(2))
            assert causal.position == position
            eventually(lambda: first.execute(COUNT) == [(2,)])
            assert count(causal.reader()) == (front.port, 2)
            call(lagging.catch_up)
            ports = {(count(causal.reader()))[0] for _ in range(10)}
            assert front.port not in ports, "the session there has settled it"


def test_reader_whose_connection_was_lost_leaves_a_doubt_too(lagging: LocalCluster) -> None:
    """It may have read more than the position says."""
    first, *standbys = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN) as router:
        all_heard(router)
        causal = router.causal()
        with pytest.raises((SessionLost, psycopg.errors.AdminShutdown)):
            with causal.reader() as conn:
                conn.execute(COUNT)
                node = next(n for n in standbys if n.port == conn.info.port)
                call(node.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
                conn.execute(COUNT)
        assert (count(causal.reader()))[0] == first.port


def test_reader_that_is_run_again_goes_to_another_standby(lagging: LocalCluster) -> None:
    """What the first attempt has read is discarded."""
    standbys = {node.port: node for node in lagging.nodes[1:]}
    ports: list[int] = []

    def body(conn: psycopg.Connection[Any]) -> int:
        ports.append(conn.info.port)
        if len(ports) == 1:
            node = standbys[conn.info.port]
            call(node.execute, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        return counting(conn)

    with Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        all_heard(router)
        causal = router.causal()
        write(causal, 1)
        eventually(lambda: all_there(router, causal))
        assert causal.run(body, role="reader") == 1
        assert set(ports) <= set(standbys)
        assert len(ports) == 2
        assert (count(causal.reader()))[0] in standbys, "no doubt is left"


def test_strict_readers_after_an_unknown_commit_are_told(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    with FaultProxy(first) as front:
        with Router(
            dsn_of([front, *lagging.nodes[1:]]), probe=OFTEN, reader_attrs="standby"
        ) as router:
            all_heard(router)
            causal = router.causal()
            front.when(b"COMMIT;", "to_server", "reset")
            with pytest.raises(CommitUnknown):
                write(causal, 1)
            with pytest.raises(psycopg.OperationalError, match="the outcome of an earlier session"):
                with causal.reader(0.3):
                    pass
            write(causal, 2)
            assert (count(causal.reader(wait=5.0)))[1] == 2


def test_position_lost_in_a_failover_is_told_to_all_later_sessions(any_cluster: LocalCluster) -> None:
    old, new, _ = any_cluster.nodes
    make_table(any_cluster)
    with FaultProxy(old) as wire:
        call(cut_off, any_cluster, wire)
        with Router(any_cluster.dsn, probe=OFTEN) as router:
            all_heard(router)
            causal, others = router.causal(), router.causal()
            write(others, 1)
            call(any_cluster.catch_up)
            wire.blackhole()
            write(causal, 2)
            lost = causal.position
            assert not causal.lost
            call(old.kill)
            call(any_cluster.promote, new)
            write(router, 3)
            for _ in range(2):
                for session in (causal.writer(), causal.reader()):
                    with pytest.raises(PositionLost) as caught:
                        with session:
                            pass
                    assert caught.value.position == lost
                with pytest.raises(PositionLost):
                    causal.run(inserting(4))
                with pytest.raises(PositionLost):
                    causal.run(counting, role="reader")
                assert causal.lost
            assert causal.position == lost
            assert (count(others.reader(wait=5.0)))[1] in (1, 2)
            others.run(counting)
            assert (count(others.reader(wait=5.0)))[1] == 2
            assert not others.lost
            again = router.causal(after=lost)
            with pytest.raises(PositionLost):
                again.run(counting)
            assert again.lost


# Shared.


def test_many_share_one_object(lagging: LocalCluster) -> None:
    lagging.primary.execute("ALTER TABLE written DROP CONSTRAINT written_pkey")
    stale: list[tuple[int, int]] = []
    done: list[int] = []
    with Router(lagging.dsn, probe=OFTEN) as router, Background() as background:
        all_heard(router)
        causal = router.causal()

        def work(me: int) -> None:
            for number in range(20):
                write(causal, me)
                with causal.reader() as conn:
                    cursor = conn.execute(f"{COUNT} WHERE number = {me}")
                    (found,) = cursor.fetchone() or (0,)
                if found != number + 1:
                    stale.append((found, number + 1))
            done.append(me)

        tasks = [background.start(work, me) for me in range(12)]
        for task in tasks:
            task.result(60.0)
    assert stale == []
    assert len(done) == 12


# The ends of sessions, which are as without it.


Conn = psycopg.Connection[Any]
ONE_ROW = "INSERT INTO written VALUES (1)"


def nested_transaction_left_open(conn: Conn) -> None:
    conn.transaction().__enter__()
    conn.execute(ONE_ROW)


def nested_transaction(conn: Conn) -> None:
    with conn.transaction():
        conn.execute(ONE_ROW)


def commits_itself(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    conn.execute("COMMIT")


def commits_by_method(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    conn.commit()


def goes_on_after_a_commit_of_its_own(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    conn.execute("COMMIT")
    conn.execute("INSERT INTO written VALUES (2)")


def leaves_its_pipeline_open(conn: Conn) -> None:
    conn.pipeline().__enter__()
    conn.execute(ONE_ROW)


def pipeline(conn: Conn) -> None:
    with conn.pipeline():
        conn.execute(ONE_ROW)


def deferred_constraint_fails(conn: Conn) -> None:
    conn.execute("INSERT INTO deferred VALUES (1), (1)")


def hides_an_error(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute(ONE_ROW)


def leaves_two_phases(conn: Conn) -> None:
    conn.tpc_begin(conn.xid(1, "gtrid", "bqual"))
    conn.execute(ONE_ROW)


def closes(conn: Conn) -> None:
    conn.close()


def leaves_a_command_running(conn: Conn) -> None:
    conn.pgconn.send_query(b"SELECT pg_sleep(0.1)")


def changes_its_isolation(conn: Conn) -> None:
    conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    conn.execute(ONE_ROW)


def rolls_back(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    raise psycopg.Rollback


def fails(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    conn.execute("SELECT 1 / 0")


def does_nothing(conn: Conn) -> None: ...


def is_ended_by_the_server(conn: Conn) -> None:
    conn.execute(ONE_ROW)
    conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


# By number, as an attempt that has hardly any time left gets no session.
THRICE = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())


def outcome(source: Any, kind: str, body: Any) -> tuple[str, str]:
    """Run a body in a session; return the class and the first line of the error."""
    try:
        if kind == "run":
            source.run(body, retry=THRICE)
        else:
            with source.writer() if kind == "writer" else source.reader() as conn:
                body(conn)
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
def test_sessions_end_as_they_do_without_it(lagging: LocalCluster, body: Any, kind: str) -> None:
    first = lagging.nodes[0]
    one = PoolOptions(max_size=1)
    writing = PoolOptions(max_size=1, read_only=False)
    outcomes = []
    with Router(lagging.dsn, writer=one, reader=writing, reader_attrs="primary") as router:
        router.wait()
        causal = router.causal()
        for source in (router, causal):
            told: tuple[Any, ...] = outcome(source, kind, body)
            there = call(first.execute, "SELECT number FROM written ORDER BY 1")
            call(first.execute, "TRUNCATE written")
            for role in ("writer", "reader"):
                conn = router.getconn(role)
                told += (role, conn.autocommit, conn.isolation_level, conn.pgconn.transaction_status)
                router.putconn(conn)
            # In a transaction that was left open this would be rolled back.
            write(source, 7)
            after = call(first.execute, "SELECT number FROM written ORDER BY 1")
            call(first.execute, "TRUNCATE written")
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
def test_serialization_failure_is_run_again(lagging: LocalCluster, late: bool) -> None:
    first = lagging.nodes[0]
    runs: list[int] = []

    def body(conn: psycopg.Connection[Any]) -> int:
        runs.append(1)
        found = counting(conn)
        if len(runs) == 1 and not late:
            call(rival, first)
        conn.execute("INSERT INTO written VALUES (%s)", [len(runs)])
        if len(runs) == 1 and late:
            call(rival, first)
        return found

    with Router(lagging.dsn, probe=OFTEN) as router:
        for source in (router, router.causal()):
            call(first.execute, "TRUNCATE written")
            runs.clear()
            found = source.run(body, isolation="serializable")
            assert (len(runs), found) == (2, 1)


def test_once_in_a_causal_object(lagging: LocalCluster) -> None:
    with Router(lagging.dsn, probe=OFTEN) as router:
        router.install()
        causal = router.causal()
        try:
            assert causal.run(inserting(1), once="a key") == 1
            assert causal.run(inserting(1), once="a key") == 1
            assert (count(causal.reader(wait=5.0)))[1] == 1
            # One who knows nothing of the first call sees its work too.
            other = router.causal()
            assert other.run(inserting(1), once="a key") == 1
            assert (count(other.reader(wait=5.0)))[1] == 1
        finally:
            call(lagging.primary.execute, "DROP SCHEMA pgroute CASCADE")


def test_commit_that_no_synchronous_standby_confirms_is_unknown(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    call(configure, first, synchronous_standby_names="nobody")
    try:
        with Router(lagging.dsn, probe=OFTEN) as router, Background() as background:
            causal = router.causal()
            task = background.start(write, causal, 1)
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            [(pid,)] = eventually(lambda: first.execute(waiting))
            call(first.execute, f"SELECT pg_cancel_backend({pid})")
            with pytest.raises(CommitUnknown, match="no synchronous standby has confirmed"):
                task.result()
            assert (count(causal.reader(wait=5.0)))[1] == 1
    finally:
        call(configure, first, synchronous_standby_names=None)


