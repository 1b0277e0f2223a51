"""run_in_session: transactions of ORM sessions that are run again as a whole."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, exc, func, select, text
from sqlalchemy.orm import Session, sessionmaker

import pgroute
from pgroute import ConfigError, Router
from pgroute.contrib.sqlalchemy import RoutingSession, router_of, run_in_session
from tests.contrib.sqlalchemy.conftest import Number
from tests.support import passfile_of

pytestmark = pytest.mark.cluster

KILL = select(func.pg_terminate_backend(func.pg_backend_pid()))


@pytest.fixture(params=[Session, pytest.param(RoutingSession, marks=pytest.mark.long)])
def maker(engine, numbers, request):
    return sessionmaker(engine, class_=request.param)


def stored(maker) -> list[int]:
    with maker() as session:
        return list(session.scalars(select(Number.number).order_by(Number.number)))


def add(session, number):
    session.add(Number(number=number))
    return number


def test_the_result_is_returned_once_all_is_committed(maker):
    assert run_in_session(maker, add, 7) == 7
    assert stored(maker) == [7]


def test_an_error_of_the_function_rolls_back_and_comes_out(maker):
    def fail(session):
        add(session, 1)
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_session(maker, fail)
    assert stored(maker) == []


def test_an_error_of_a_statement_comes_out_as_sqlalchemys(maker):
    run_in_session(maker, add, 1)
    with pytest.raises(exc.IntegrityError):
        run_in_session(maker, add, 1)
    assert stored(maker) == [1]


def test_a_lost_connection_is_made_good_in_a_new_session(maker):
    sessions = []

    def work(session):
        sessions.append(session)
        add(session, len(sessions))
        session.flush()
        if len(sessions) == 1:
            session.execute(KILL)

    run_in_session(maker, work)
    assert len(set(map(id, sessions))) == len(sessions) == 2
    assert stored(maker) == [2]


def test_a_lost_connection_is_made_good_although_the_function_hides_it(maker):
    calls = []

    def work(session):
        calls.append(1)
        add(session, len(calls))
        session.flush()
        if len(calls) == 1:
            with contextlib.suppress(exc.DBAPIError), session.begin_nested():
                session.execute(KILL)

    run_in_session(maker, work)
    assert stored(maker) == [2]


def test_a_deadlock_is_run_again(maker):
    for number in (1, 2):
        run_in_session(maker, add, number)
    both = threading.Barrier(2)
    attempts = []

    def work(session, first, second):
        attempts.append(first)
        session.get(Number, first, with_for_update=True)
        if len(attempts) <= 2:
            both.wait(20)
        session.get(Number, second, with_for_update=True).note = "done"

    threads = [
        threading.Thread(target=run_in_session, args=(maker, work, *pair)) for pair in ((1, 2), (2, 1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attempts) == 3


def test_a_serialization_failure_is_run_again(maker):
    run_in_session(maker, add, 1)
    attempts = []

    def work(session):
        attempts.append(1)
        number = session.get(Number, 1)
        if len(attempts) == 1:
            with maker.begin() as other:
                other.get(Number, 1).note = "other"
        number.note = f"{number.note} mine"

    run_in_session(maker, work, isolation="repeatable read")
    assert len(attempts) == 2
    with maker() as session:
        assert session.get(Number, 1).note == "other mine"


def test_the_function_must_not_commit(maker):
    def work(session):
        add(session, 1)
        session.commit()

    with pytest.raises(exc.ProgrammingError, match="the function of run_in_session must not commit"):
        run_in_session(maker, work)
    assert stored(maker) == []


def test_the_function_may_roll_back_and_nothing_is_committed(maker):
    def work(session):
        add(session, 1)
        session.flush()
        session.rollback()
        return "none"

    assert run_in_session(maker, work) == "none"
    assert stored(maker) == []


def test_a_hidden_error_is_told(maker):
    def work(session):
        try:
            session.execute(text("SELECT 1/0"))
        except exc.DataError:
            return

    with pytest.raises(exc.DBAPIError) as caught:
        run_in_session(maker, work)
    assert isinstance(caught.value.orig, psycopg.errors.InFailedSqlTransaction)


def test_a_savepoint_may_fail_within(maker):
    run_in_session(maker, add, 1)

    def work(session):
        with pytest.raises(exc.IntegrityError), session.begin_nested():
            add(session, 1)
        add(session, 2)

    run_in_session(maker, work)
    assert stored(maker) == [1, 2]


def test_a_lost_commit_is_commit_unknown_and_not_run_again(shared, numbers, pgroute_proxy_factory):
    proxies = [pgroute_proxy_factory(node) for node in shared.nodes]
    hosts = "&".join(f"host={proxy.host}:{proxy.port}" for proxy in proxies)
    engine = create_engine(
        f"postgresql+pgroute://postgres@/{shared.dbname}?{hosts}&passfile={passfile_of(shared)}"
    )
    maker = sessionmaker(engine)
    attempts = []

    def work(session):
        attempts.append(1)
        add(session, 1)
        session.flush()
        proxies[0].when(b"COMMIT\0", "to_client", "reset", after_forwarding=False)

    with pytest.raises(exc.OperationalError) as caught:
        run_in_session(maker, work)
    assert isinstance(caught.value.orig, pgroute.CommitUnknown)
    assert len(attempts) == 1
    engine.dispose()


def test_a_key_applies_it_once(maker):
    from pgroute.contrib.sqlalchemy import router_of

    with maker() as session:
        session.execute(text("SELECT 1"))
    router: Router = router_of(maker.kw["bind"])
    router.install()
    calls = []

    def work(session):
        calls.append(1)
        return {"number": add(session, 5)}

    key = f"sqlalchemy {id(maker)}"
    assert run_in_session(maker, work, once=key) == {"number": 5}
    assert run_in_session(maker, work, once=key) == {"number": 5}
    assert len(calls) == 1
    assert stored(maker) == [5]


def test_the_result_is_stored_where_it_is_the_first_use_of_the_engine(engine, numbers, shared):
    with Router(shared.dsn) as router:
        router.install()
    key = f"first {id(engine)}"
    assert [run_in_session(sessionmaker(engine), add, 1, once=key) for _ in range(2)] == [1, 1]


def test_a_result_that_is_not_json_is_refused_in_the_first_use_of_the_engine(engine, numbers, shared):
    with Router(shared.dsn) as router:
        router.install()
    maker = sessionmaker(engine)
    with pytest.raises(TypeError, match="cannot be stored"):
        run_in_session(maker, lambda session: add(session, 1) and object(), once=f"object {id(engine)}")
    assert stored(maker) == []


def test_a_reader_reads_from_a_standby(maker):
    assert run_in_session(maker, lambda s: s.scalar(select(func.pg_is_in_recovery())), role="reader")


def test_sessions_of_the_same_causal_object_see_it(engine, numbers, inspector, shared):
    causal = router_of(engine).causal()
    makers: list[sessionmaker[Any]] = [
        sessionmaker(engine, class_=RoutingSession, start="reader", causal=causal),
        sessionmaker(engine.execution_options(pgroute_causal=causal)),
    ]
    inspector.catch_up()
    for node in shared.standbys:
        node.pause_replay()
    count = select(func.count()).select_from(Number)
    try:
        for number, maker in enumerate(makers):
            run_in_session(maker, add, number)
            assert causal.position is not None
            assert stored(makers[0])[-1] == number
            assert run_in_session(maker, lambda session: session.scalar(count), role="reader") == number + 1
    finally:
        for node in shared.standbys:
            node.resume_replay()


def test_a_run_is_behind_a_position(engine, numbers, inspector, shared):
    with RoutingSession(engine, start="reader") as session:
        inspector.catch_up()
        for node in shared.standbys:
            node.pause_replay()
        try:
            add(session, 1)
            session.commit()
            maker = sessionmaker(engine, class_=RoutingSession, after=session.position)
            found = run_in_session(
                maker, lambda session: session.scalar(select(Number.number)), role="reader"
            )
        finally:
            for node in shared.standbys:
                node.resume_replay()
    assert found == 1


KIND = text(
    "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
    " current_setting('transaction_deferrable')"
)


@pytest.mark.parametrize(
    ("of_engine", "options", "asked", "kind"),
    [
        ({"isolation_level": "REPEATABLE READ"}, {}, {}, ("repeatable read", "off", "off")),
        ({"isolation_level": "AUTOCOMMIT"}, {}, {}, ("read committed", "off", "off")),
        ({}, {"isolation_level": "REPEATABLE_READ"}, {}, ("repeatable read", "off", "off")),
        (
            {},
            {"isolation_level": "REPEATABLE READ"},
            {"isolation": "serializable"},
            ("serializable", "off", "off"),
        ),
        (
            {},
            {"postgresql_readonly": True, "postgresql_deferrable": True},
            {},
            ("read committed", "on", "on"),
        ),
        ({}, {"postgresql_readonly": True}, {"role": "reader"}, ("read committed", "on", "off")),
        ({}, {}, {"read_only": True, "deferrable": True}, ("read committed", "on", "on")),
    ],
    ids=str,
)
def test_settings_of_the_engine_are_those_of_the_transaction(url, of_engine, options, asked, kind):
    engine = create_engine(url, **of_engine)
    maker = sessionmaker(engine.execution_options(**options))
    for _ in range(2):
        assert tuple(run_in_session(maker, lambda session: session.execute(KIND).one(), **asked)) == kind
    engine.dispose()


@pytest.mark.parametrize(
    "options",
    [{"isolation_level": "SERIALIZABLE"}, {"postgresql_readonly": True}, {"isolation_level": "AUTOCOMMIT"}],
)
def test_settings_that_come_too_late_are_told(maker, options):
    with pytest.raises(
        exc.ProgrammingError, match="comes too late in a transaction of run_in_session, which takes"
    ):
        run_in_session(maker, lambda session: session.connection(execution_options=options))
    same = {"isolation_level": "SERIALIZABLE"}
    run_in_session(
        maker, lambda session: session.connection(execution_options=same), isolation="serializable"
    )


def test_hooks_after_the_commit_run_after_it(maker):
    from sqlalchemy import event

    seen = []

    def work(session):
        add(session, 1)
        event.listen(session, "after_commit", lambda _: seen.append(stored(maker)))

    run_in_session(maker, work)
    assert seen == [[1]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((sessionmaker(), add), "invalid maker .*: expected a sessionmaker with bind="),
        ((sessionmaker(create_engine("postgresql+psycopg://")), add), "an engine of postgresql\\+pgroute"),
        ((create_engine("postgresql+pgroute://"), add), "expected a sessionmaker"),
        ((sessionmaker(create_engine("postgresql+pgroute://")), 1), "invalid fn 1"),
    ],
)
def test_mistakes_are_told(arguments, words):
    with pytest.raises(ConfigError, match=words):
        run_in_session(*arguments)
