"""`run_in_session` with a scoped_session, as web applications have one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import pgroute
from pgroute.contrib.sqlalchemy import async_run_in_session, run_in_session
from tests.contrib.sqlalchemy.conftest import Number

pytestmark = pytest.mark.cluster


AGAIN = text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")


class FlaskSession(Session):
    """Finds its engine as the Session of Flask-SQLAlchemy does."""

    def __init__(self, db: Any, **options: Any) -> None:
        super().__init__(**options)
        self._db = db

    def get_bind(self, mapper: Any = None, clause: Any = None, bind: Any = None, **kw: Any) -> Any:
        return self._db[None] if bind is None else bind


@pytest.fixture(params=["bind", "flask"])
def scoped(engine, numbers, request):  # the table goes after the sessions
    makers: dict[str, sessionmaker[Any]] = {
        "bind": sessionmaker(engine),
        "flask": sessionmaker(db={None: engine}, class_=FlaskSession),
    }
    scoped = scoped_session(makers[request.param])
    yield scoped
    scoped.remove()


def test_the_session_of_an_attempt_is_the_current_one(scoped, numbers):
    before = scoped()
    seen = []

    def add(session: Session) -> None:
        seen.append(session)
        assert scoped() is session
        scoped.add(Number(number=len(seen)))
        scoped.flush()
        if len(seen) == 1:
            scoped.execute(AGAIN)

    run_in_session(scoped, add)
    assert len(set(map(id, seen))) == 2
    assert scoped() is before
    assert scoped.scalars(select(Number.number)).all() == [2]


def test_no_session_is_the_current_one_afterwards_if_none_was(scoped, numbers):
    with pytest.raises(ZeroDivisionError):
        run_in_session(scoped, lambda _: 1 / 0)
    assert not scoped.registry.has()


def test_the_transaction_is_that_of_the_call(scoped, numbers, engine):
    def write_and_fail(session: Session) -> None:
        session.add(Number(number=1))
        session.flush()
        session.rollback()

    run_in_session(scoped, write_and_fail)
    run_in_session(scoped, lambda session: session.add(Number(number=2)))
    with Session(engine) as session:
        assert session.scalars(select(Number.number)).all() == [2]


async def test_an_async_session_of_an_attempt_is_the_current_one(url, numbers):
    engine = create_async_engine(url)
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)

    async def add(session: Any) -> None:
        assert scoped() is session
        scoped.add(Number(number=1))

    await async_run_in_session(scoped, add)
    assert not scoped.registry.has()
    async with engine.connect() as conn:
        assert (await conn.scalars(select(Number.number))).all() == [1]
    await engine.dispose()


@pytest.mark.parametrize(
    "maker",
    [
        Session(),
        sessionmaker(),
        scoped_session(sessionmaker()),
        scoped_session(sessionmaker(create_engine("postgresql+psycopg://nowhere"))),
        async_scoped_session(async_sessionmaker(), asyncio.current_task),
    ],
    ids=["a session", "no engine", "no engine in a scope", "another engine", "asyncio"],
)
def test_what_to_pass_is_told(maker):
    with pytest.raises(pgroute.ConfigError, match="postgresql\\+pgroute"):
        run_in_session(maker, lambda _: None)


def test_sessions_of_two_databases_are_refused(engine, url, numbers):
    other = create_engine(url)

    class TwoDatabases(FlaskSession):
        def get_bind(self, mapper: Any = None, clause: Any = None, bind: Any = None, **kw: Any) -> Any:
            return other if mapper is not None else super().get_bind(mapper, clause, bind, **kw)

    maker = sessionmaker(db={None: engine}, class_=TwoDatabases)
    with pytest.raises(pgroute.ConfigError, match="one database"):
        run_in_session(maker, lambda session: session.get(Number, 1))
    other.dispose()
