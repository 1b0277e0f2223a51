"""Engines over the clusters of the tests, and the names of the dialect, which an installation has from its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgroute.testing import LocalCluster
from tests.support import passfile_of

registry.register("postgresql.pgroute", "pgroute.contrib.sqlalchemy.dialect", "PgrouteDialect")


class Base(DeclarativeBase):
    pass


class Number(Base):
    """A row of the table that the fixture `numbers` makes."""

    __tablename__ = "sqlalchemy_numbers"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[str | None] = mapped_column(default=None)


def url_of(cluster: LocalCluster, query: str = "", driver: str = "pgroute") -> str:
    """Return the URL of a cluster, in SQLAlchemy's style."""
    hosts = "&".join(f"host={node.host}:{node.port}" for node in cluster.nodes)
    return f"postgresql+{driver}://postgres@/{cluster.dbname}?{hosts}&passfile={passfile_of(cluster)}{query}"


@pytest.fixture
def url(shared: LocalCluster) -> str:
    """The URL of the cluster of the whole run."""
    return url_of(shared)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def numbers(shared: LocalCluster, inspector: Any) -> Iterator[type[Number]]:
    """The table of Number, empty, on all nodes."""
    name = Number.__tablename__
    inspector.execute(shared.nodes[0], f"CREATE TABLE {name} (number int PRIMARY KEY, note text)")
    inspector.catch_up()
    yield Number
    inspector.execute(shared.nodes[0], f"DROP TABLE {name}")
