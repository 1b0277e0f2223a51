# Generated from tests/aio/test_observed.py by .ci/unasync.py: edit that file, not this one.
"""What the counters and the observer of a router are told of sessions that fail, are lost or could not be had."""

from __future__ import annotations

import contextlib
import gc
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, ConfigError, NoHostAvailable, PoolOptions, Role
from pgroute.testing import LocalCluster
from tests.sync.replicas import standbys_as_they_were
from tests.support import call, eventually

pytestmark = pytest.mark.cluster


class Interrupt(BaseException):
    """As KeyboardInterrupt, which would end the event loop too."""


class Seen:
    """A session, as the observer keeps it.

    Attributes:
        waited: seconds until it had its connection.
        error: the class of the error that ended it; None: there was none.
        ends: how often it was told to have ended.
        used: seconds from then on.
    """

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.error: type[BaseException] | None = None
        self.ends = 0
        self.used = 0.0

    def failed(self, exc: BaseException) -> None:
        self.error = type(exc)

    def ended(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.used = seconds
        self.ends += 1


class Observer:
    """Keeps what it is told of the sessions of a router.

    Attributes:
        sessions: that were begun.
        refusals: the classes of the errors of those that could not be had.
    """

    def __init__(self) -> None:
        self.sessions: list[Seen] = []
        self.refusals: list[type[BaseException]] = []

    def begun(self, role: Role, key: Any, since: float, waited: float, attempt: int) -> Seen:
        self.sessions.append(Seen(waited))
        return self.sessions[-1]

    def refused(self, role: Role, since: float, attempt: int, exc: BaseException) -> None:
        self.refusals.append(type(exc))

    def connected(self, role: Role, key: Any, seconds: float) -> None:
        pass

    def failed_over(self, seconds: float) -> None:
        pass

    @property
    def errors(self) -> list[type[BaseException] | None]:
        """Of the sessions that were begun, each of which has ended once."""
        assert all(session.ends == 1 for session in self.sessions)
        return [session.error for session in self.sessions]


def observe(router: Router[Any]) -> Observer:
    observer = router._manager.meter.observer = Observer()
    return observer


def errors_of(router: Router[Any], role: str = "writer") -> dict[str, int]:
    """Return how many sessions of a role could not be had, by the error."""
    errors = router.stats().counts.session_errors[role]
    return {name: count for name, count in errors.items() if count}


def uses_of(router: Router[Any], role: str = "writer") -> int:
    """Return how many sessions of a role are counted as having had a connection."""
    return sum(counts.used.count for counts in router._manager.pools[Role(role)].by_host().values())


# Sessions that could not be had.




@pytest.mark.parametrize(
    ("error", "key"), [(ValueError, "other"), (psycopg.DataError, "other"), (Interrupt, "cancelled")]
)
def test_sessions_that_setup_fails_are_counted(
    shared: LocalCluster, error: type[BaseException], key: str
) -> None:
    def setup(conn: Any) -> None:
        raise error

    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        observer = observe(router)
        with pytest.raises(error):
            router.getconn("writer")
        assert errors_of(router) == {key: 1}
        assert observer.refusals == [error]
        assert (router.stats().counts.sessions["writer"], uses_of(router)) == (0, 0)


def test_a_session_without_a_host_is_counted_by_its_error() -> None:
    with Router("host=127.0.0.1 port=1") as router:
        observer = observe(router)
        with pytest.raises(NoHostAvailable):
            router.getconn("writer", timeout=0.05)
        assert errors_of(router) == {"NoHostAvailable": 1}
        assert observer.refusals == [NoHostAvailable]


# How long sessions had their connections.


def test_a_standby_that_was_behind_has_not_served_the_session(mended: LocalCluster) -> None:
    with standbys_as_they_were(mended) as cluster:
        primary, *standbys = cluster.nodes
        with Router(cluster.dsn) as router:
            eventually(lambda: all(host.usable for host in router.topology.hosts))
            for node in standbys:
                call(node.pause_replay)
            causal = router.causal()
            with causal.writer() as conn:
                conn.execute("INSERT INTO written VALUES (1)")
            observer = observe(router)
            with causal.reader(wait=0.1) as conn:
                assert conn.info.port == primary.port
            assert router.stats().counts.position_waits["behind"] >= 1  # or no time is left for the other
            assert router.stats().counts.sessions["reader"] == uses_of(router, "reader") == 1
            assert observer.errors == [None]


def test_a_session_that_its_caller_loses_is_counted_once(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        observer = observe(router)
        conn = router.getconn("writer")
        del conn

        def noticed() -> bool:
            gc.collect()
            return router.get_stats()["writer"].get("connections_lost") == 1

        eventually(noticed)
        assert router.stats().counts.sessions["writer"] == uses_of(router) == 1
        assert observer.errors == [None]


def test_the_time_of_setup_is_waited_and_not_used(shared: LocalCluster) -> None:
    ended_at = 0.0

    def setup(conn: Any) -> None:
        nonlocal ended_at
        conn.execute("SELECT pg_sleep(0.2)")
        conn.commit()
        ended_at = time.monotonic()

    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        observer = observe(router)
        router.putconn(router.getconn("writer"))
        since_setup = time.monotonic() - ended_at
        [session] = observer.sessions
        assert session.waited >= 0.2
        assert session.used <= since_setup
        assert (session.ends, uses_of(router)) == (1, 1)


class Rude:
    """An observer whose methods raise, and a policy whose `acquired` does: an interrupt may come anywhere."""

    def pick(self, candidates: Any, load: Any, rng: Any) -> Any:
        return candidates[0]

    def acquired(self, candidate: Any, seconds: float) -> None:
        if self.interrupts:
            raise Interrupt

    def begun(self, *_: object) -> Any:
        return self

    def refused(self, *_: object) -> None:
        raise Interrupt

    def failed(self, exc: BaseException) -> None:
        pass

    def ended(self, seconds: float) -> None:
        raise Interrupt

    def connected(self, *_: object) -> None:
        pass

    def failed_over(self, seconds: float) -> None:
        pass

    interrupts = True


def test_an_interrupt_of_the_counting_costs_no_connection(shared: LocalCluster) -> None:
    rude = Rude()
    with Router(shared.dsn, balance=rude, writer=PoolOptions(max_size=1)) as router:
        router._manager.meter.observer = rude
        with pytest.raises(Interrupt) as refused:
            router.getconn("writer")
        rude.interrupts = False
        conn = router.getconn("writer", timeout=10)
        with pytest.raises(Interrupt) as ended:
            router.putconn(conn)
        conn = router.getconn("writer", timeout=10)
        router._manager.meter.observer = None
        with contextlib.suppress(Interrupt):
            router.putconn(conn)
    del refused, ended  # their tracebacks show the frames


def test_connections_with_which_setup_fails_are_no_sessions(shared: LocalCluster) -> None:
    failures = 2

    def setup(conn: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ValueError

    with Router(shared.dsn, writer=PoolOptions(setup=setup)) as router:
        with router.writer():
            pass
        assert router.stats().counts.sessions["writer"] == uses_of(router) == 1
        assert errors_of(router) == {}


# The errors of sessions.


@pytest.mark.parametrize(
    ("query", "column", "error"),
    [("SELECT 1/0", 0, psycopg.errors.DivisionByZero), ("SELECT 1", 5, ConfigError)],
)
def test_the_error_of_a_statement_is_told(
    shared: LocalCluster, query: str, column: int, error: type[Exception]
) -> None:
    with Router(shared.dsn) as router:
        observer = observe(router)
        with pytest.raises(error):
            router.fetchval(query, column=column)
        assert observer.errors == [error]


def test_the_error_of_a_row_factory_is_told(shared: LocalCluster) -> None:
    def factory(cursor: Any) -> Any:
        def make(values: Any) -> Any:
            raise KeyError if role == "reader" else psycopg.DataError

        return make

    with Router(shared.dsn) as router:
        observer = observe(router)
        for role, error in (("reader", KeyError), ("writer", psycopg.DataError)):
            with pytest.raises(error):
                router.fetch("SELECT 1", role=Role(role), row_factory=factory)
        assert observer.errors == [KeyError, psycopg.DataError]




def test_a_wanted_rollback_is_no_error(shared: LocalCluster) -> None:
    def body(conn: psycopg.Connection[Any]) -> None:
        raise psycopg.Rollback

    with Router(shared.dsn) as router:
        observer = observe(router)
        router.run(body)
        for attempt in router.attempts():
            with attempt:
                raise psycopg.Rollback
        assert observer.errors == [None, None]


def test_a_rollback_that_is_not_wanted_there_is_an_error(shared: LocalCluster) -> None:
    def body(conn: psycopg.Connection[Any]) -> None:
        conn.execute("COMMIT")
        raise psycopg.Rollback

    with Router(shared.dsn) as router:
        observer = observe(router)
        with pytest.raises(psycopg.Rollback):
            router.run(body)
        with pytest.raises(psycopg.Rollback):
            with router.writer():
                raise psycopg.Rollback
        assert observer.errors == [psycopg.Rollback] * 2


def test_the_error_of_a_body_that_commits_by_itself_is_told(shared: LocalCluster) -> None:
    def body(conn: psycopg.Connection[Any], error: type[Exception] | None) -> None:
        conn.execute("COMMIT")
        if error is not None:
            raise error

    with Router(shared.dsn) as router:
        observer = observe(router)
        for error in (KeyError, None):
            with pytest.raises(psycopg.ProgrammingError if error is None else error):
                router.run(body, error)
        assert observer.errors == [KeyError, psycopg.ProgrammingError]


def test_the_error_amid_a_copy_is_told(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        observer = observe(router)
        with pytest.raises(KeyError):
            with router.copy_rows("SELECT generate_series(1, 100000)") as rows:
                for _ in rows:
                    raise KeyError
        assert observer.errors == [KeyError]
