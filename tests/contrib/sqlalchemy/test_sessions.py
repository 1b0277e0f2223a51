"""RoutingSession: what goes to a standby, when it goes to the primary, and what it sees."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, delete, exc, func, insert, select, text, union_all, update
from sqlalchemy.orm import Session, sessionmaker

from pgroute import ConfigError, Router
from pgroute.contrib.sqlalchemy import RoutingSession, router_engine, router_of
from pgroute.contrib.sqlalchemy.statements import only_reads
from pgroute.testing import LocalCluster
from tests.contrib.sqlalchemy.conftest import Number
from tests.support import eventually

pytestmark = pytest.mark.cluster

STANDBY = select(func.pg_is_in_recovery())


@pytest.fixture
def make(engine, numbers):
    return sessionmaker(engine, class_=RoutingSession, start="reader")


def at_standby(session: Session) -> bool:
    return bool(session.scalar(STANDBY))


def test_a_session_starts_at_the_primary_unless_told_otherwise(engine):
    with RoutingSession(engine) as session:
        assert not at_standby(session)
        assert session.position is None


def test_a_session_reads_from_a_standby_until_it_writes(make):
    with make() as session:
        assert at_standby(session)
        session.add(Number(number=1))
        assert session.scalars(select(Number.number)).all() == [1]  # autoflush
        assert not at_standby(session)
        session.commit()
        assert at_standby(session)
        assert session.scalars(select(Number.number)).all() == [1]


@pytest.mark.parametrize(
    "statement",
    [
        insert(Number).values(number=1),
        update(Number).values(note="x"),
        delete(Number),
        select(Number).with_for_update(),
        union_all(select(Number.number).with_for_update(), select(Number.number)),
        select(Number).where(Number.number == select(Number.number).with_for_update().scalar_subquery()),
        select(insert(Number).values(number=1).returning(Number.number).cte()),
        text("SELECT 1"),
        text("SELECT number FROM sqlalchemy_numbers").columns(Number.number),
        select(func.count()).select_from(text("sqlalchemy_numbers")).with_for_update(read=True),
    ],
    ids=str,
)
def test_what_may_write_is_not_taken_for_a_read(statement):
    assert not only_reads(statement)


@pytest.mark.parametrize(
    "statement",
    [
        select(Number),
        select(func.count()).where(text("number > 1")),
        union_all(select(Number.number), select(Number.number)),
        select(select(Number.number).cte()),
    ],
    ids=str,
)
def test_queries_are_reads(statement):
    assert only_reads(statement)


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.execute(insert(Number).values(number=2)),
        lambda session: session.execute(update(Number).values(note="x")),
        lambda session: session.scalars(select(Number).with_for_update()).all(),
        lambda session: session.get(Number, 1, with_for_update=True),
        lambda session: session.execute(text("INSERT INTO sqlalchemy_numbers VALUES (2)")),
        lambda session: session.connection(),
        lambda session: session.to_writer(),
        lambda session: (session.add(Number(number=2)), session.flush()),
        lambda session: session.bulk_insert_mappings(Number, [{"number": 2}]),
    ],
)
def test_a_write_takes_the_rest_of_the_transaction_along(make, write, shared: LocalCluster):
    def again_at_standby() -> bool:
        if at_standby(session):
            return True
        session.rollback()
        # Reading, too, writes WAL (hints of pages), and an idle server keeps that in memory until the next commit.
        shared.nodes[0].execute("SELECT pg_current_xact_id()")
        return False

    with make() as session:
        assert at_standby(session)
        write(session)
        assert not at_standby(session)
        session.rollback()
        # A standby may have to replay up to where the primary was.
        eventually(again_at_standby)


def test_who_asks_for_the_dialect_writes_nothing(make):
    with make() as session:
        assert session.get_bind().dialect.name == "postgresql"
        assert at_standby(session)
        session.get_bind()
        assert at_standby(session)


def test_lazy_loads_and_get_read_from_a_standby(make):
    with make.begin() as session:
        session.add(Number(number=1, note="x"))
    with make(after=session.position) as session:
        number = session.get(Number, 1)
        assert number is not None
        session.expire(number)
        assert number.note == "x"
        assert at_standby(session)


def test_a_savepoint_does_not_end_the_stay_at_the_primary(make):
    with make() as session:
        with session.begin_nested():
            session.add(Number(number=1))
        assert not at_standby(session)


def test_a_session_sees_what_it_has_written(make, inspector, shared: LocalCluster):
    standbys = shared.nodes[1:]
    for node in standbys:
        inspector.execute(node, "SELECT pg_wal_replay_pause()")
    try:
        with make() as session:
            assert at_standby(session)
            session.rollback()
            session.add(Number(number=1))
            session.commit()
            assert session.scalars(select(Number.number)).all() == [1]
            assert not at_standby(session)
    finally:
        for node in standbys:
            inspector.execute(node, "SELECT pg_wal_replay_resume()")


def test_the_position_is_handed_from_session_to_session(make, inspector, shared: LocalCluster):
    standbys = shared.nodes[1:]
    with make.begin() as session:
        session.add(Number(number=1))
    text_of_it = str(session.position)
    inspector.catch_up()
    with make(after=text_of_it) as session:
        assert at_standby(session)
    for node in standbys:
        inspector.execute(node, "SELECT pg_wal_replay_pause()")
    try:
        with make.begin() as session:
            session.add(Number(number=2))
        with make(after=str(session.position)) as later:
            assert later.scalars(select(Number.number)).all() == [1, 2]
        with make() as unaware:
            assert unaware.scalars(select(Number.number)).all() == [1]
    finally:
        for node in standbys:
            inspector.execute(node, "SELECT pg_wal_replay_resume()")


def test_reads_that_end_by_rollback_leave_no_doubt(make, engine):
    def read():
        with make() as session:
            assert at_standby(session)
        return session.position

    position = eventually(read)  # a standby that answers before the primary cannot prove where it is
    with make(after=position) as session:
        assert at_standby(session)


def test_a_session_goes_on_with_its_position_when_its_engine_was_disposed_of(make, engine):
    with make() as session:
        session.add(Number(number=1))
        session.commit()
        position = session.position
        engine.dispose()
        assert session.scalars(select(Number.number)).all() == [1]
        session.rollback()
        assert session.position is not None
        assert position is not None
        assert session.position.lsn >= position.lsn


def test_a_causal_object_is_shared_with_sessions_of_the_router(shared, numbers):
    with Router(shared.dsn) as router:
        engine = router_engine(router)
        causal = router.causal()
        with causal.writer() as conn:
            conn.execute("INSERT INTO sqlalchemy_numbers VALUES (1)")
        with RoutingSession(engine, start="reader", causal=causal) as session:
            assert session.scalars(select(Number.number)).all() == [1]
        with engine.execution_options(postgresql_readonly=True, pgroute_causal=causal).connect() as conn:
            assert conn.scalars(select(Number.number)).all() == [1]


def test_each_statement_in_autocommit_counts(shared, numbers):
    with Router(shared.dsn) as router:
        causal = router.causal()
        engine = router_engine(router).execution_options(isolation_level="AUTOCOMMIT", pgroute_causal=causal)
        with engine.connect() as conn:
            conn.execute(insert(Number).values(number=1))
            conn.commit()
            conn.execute(insert(Number).values(number=2))
            written = conn.scalar(text("SELECT pg_current_wal_insert_lsn() - '0/0'"))
        assert causal.position is not None
        assert causal.position.lsn >= written


def test_a_causal_object_of_another_router_is_told(engine, shared):
    told = pytest.raises(exc.ProgrammingError, match="expected one of this engine's router")
    with Router(shared.dsn) as other, RoutingSession(engine, causal=other.causal()) as session, told:
        session.execute(text("SELECT 1"))


def test_a_function_that_writes_is_told_by_our_words(make):
    with make() as session:
        with pytest.raises(exc.InternalError, match="this session is a reader's"):
            session.scalar(select(func.set_config("x.y", "z", False), func.txid_current()))
        session.rollback()
        session.to_writer()
        assert session.scalar(select(func.txid_current()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "standby"}, "invalid start 'standby': expected 'writer' or 'reader'"),
        ({"after": "nowhere"}, "invalid after 'nowhere'"),
        ({"binds": {Number: None}}, "invalid binds"),
    ],
)
def test_mistakes_are_told(engine, options, words):
    with pytest.raises(ConfigError, match=words):
        RoutingSession(engine, **options)


def test_an_engine_of_another_dialect_is_told():
    other = create_engine("postgresql+psycopg://")
    with pytest.raises(ConfigError, match=r"invalid engine .*: expected an engine of postgresql\+pgroute"):
        RoutingSession(other).execute(STANDBY)
    with pytest.raises(ConfigError, match="expected an engine of postgresql\\+pgroute"):
        router_of(other)


def test_an_unknown_option_of_ours_is_told(engine):
    with pytest.raises(ConfigError, match=r"invalid pgroute_casual .* did you mean pgroute_causal"):
        engine.execution_options(pgroute_casual=1)
    with engine.connect() as conn, pytest.raises(ConfigError, match="of the engine, not of a connection"):
        conn.execution_options(pgroute_role="reader")
