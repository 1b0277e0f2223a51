"""Engines through a switchover, beside a stock one, and Alembic on a cluster."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, exc, select, text
from sqlalchemy.orm import sessionmaker

import pgroute
from pgroute.contrib.sqlalchemy import router_engine, run_in_session
from pgroute.testing import LocalCluster
from tests.contrib.sqlalchemy.conftest import Base, Number, url_of
from tests.support import passfile_of

pytestmark = pytest.mark.cluster


def switch_over(cluster: LocalCluster) -> None:
    old = cluster.primary
    old.stop("fast")
    old.rejoin(cluster.promote())


def writes(engine) -> None:
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers SELECT count(*) FROM sqlalchemy_numbers"))


@pytest.mark.long
def test_writes_follow_the_primary_where_a_stock_engine_stays_with_the_old_one():
    with LocalCluster(1) as cluster:
        stock = create_engine(url_of(cluster, driver="psycopg"), pool_pre_ping=True)
        engine = create_engine(url_of(cluster))
        Base.metadata.create_all(engine)
        writes(stock)
        writes(engine)
        switch_over(cluster)
        begun = time.monotonic()
        writes(engine)
        assert time.monotonic() - begun < 5
        for _ in range(3):
            with pytest.raises(exc.InternalError, match="read-only transaction"):
                writes(stock)
        stock.dispose()
        engine.dispose()


@pytest.mark.long
def test_a_session_over_a_switchover_is_told_and_run_in_session_is_not():
    with LocalCluster(1) as cluster:
        engine = create_engine(url_of(cluster))
        Base.metadata.create_all(engine)
        maker = sessionmaker(engine)
        attempts = []

        def work(session):
            attempts.append(1)
            session.add(Number(number=1))
            session.flush()
            if len(attempts) == 1:
                switch_over(cluster)

        with pytest.raises(exc.OperationalError) as caught, maker.begin() as session:
            session.add(Number(number=2))
            session.flush()
            run_in_session(maker, work)
        assert isinstance(caught.value.orig, pgroute.SessionLost)
        assert len(attempts) == 2
        with maker() as session:
            assert session.scalars(select(Number.number)).all() == [1]
        engine.dispose()


@pytest.mark.long
def test_a_lost_position_is_told_to_the_causal_object():
    with LocalCluster(1) as cluster, pgroute.Router(cluster.dsn) as router:
        switch_over(cluster)
        with router.writer():
            system_id = router.topology.system_id
        assert system_id is not None
        causal = router.causal(pgroute.Position(system_id, 1, 2**62))
        engine = router_engine(router).execution_options(pgroute_causal=causal)
        with pytest.raises(exc.OperationalError) as caught:
            engine.connect()
        assert isinstance(caught.value.orig, pgroute.PositionLost)
        assert causal.lost


def test_a_host_that_becomes_read_only_ends_the_session_with_our_words(engine, numbers):
    with engine.connect() as conn:
        conn.execute(text("SET default_transaction_read_only = on"))
        conn.commit()
        with pytest.raises(exc.InternalError, match="this host takes no writes any more") as caught:
            conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
        assert caught.value.connection_invalidated
    writes(engine)


ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool
from sqlalchemy.dialects import registry

registry.register("postgresql.pgroute", "pgroute.contrib.sqlalchemy.dialect", "PgrouteDialect")
section = context.config.get_section(context.config.config_ini_section)
connectable = engine_from_config(section, prefix="sqlalchemy.", poolclass=pool.NullPool)
with connectable.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
connectable.dispose()
"""
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{revision}", {down}


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
"""


def test_alembic_migrates_the_primary(shared, inspector, tmp_path: Path):
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parent / "env.py").write_text(ENV)
    made = 'op.create_table("migrated", sa.Column("id", sa.Integer, primary_key=True))'
    (versions / "a1.py").write_text(
        MIGRATION.format(revision="a1", down=None, upgrade=made, downgrade='op.drop_table("migrated")')
    )
    added = 'op.add_column("migrated", sa.Column("note", sa.Text))'
    (versions / "b2.py").write_text(
        MIGRATION.format(
            revision="b2", down='"a1"', upgrade=added, downgrade='op.drop_column("migrated", "note")'
        )
    )
    # The standbys first: the order of the hosts decides nothing.
    hosts = "&".join(f"host={node.host}:{node.port}" for node in reversed(shared.nodes))
    url = f"postgresql+pgroute://postgres@/{shared.dbname}?{hosts}&passfile={passfile_of(shared)}"
    ini = tmp_path / "alembic.ini"
    settings = f"[alembic]\nscript_location = {versions.parent}\nsqlalchemy.url = {url}\n"
    ini.write_text(settings.replace("%", "%%"))

    told = io.StringIO()
    config = Config(ini, stdout=told)
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'migrated'"
    command.upgrade(config, "head")
    assert inspector.execute(shared.nodes[0], columns) == [(2,)]
    command.current(config)
    assert "b2 (head)" in told.getvalue()
    command.downgrade(config, "base")
    assert inspector.execute(shared.nodes[0], columns) == [(0,)]
    inspector.execute(shared.nodes[0], "DROP TABLE alembic_version")
