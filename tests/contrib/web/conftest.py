"""A table behind a deferred constraint: a transaction that breaks it fails at COMMIT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pgroute.testing import LocalCluster

SERIAL = itertools.count(1)


@pytest.fixture
def notes(shared: LocalCluster) -> Iterator[str]:
    """The name of a table (text text UNIQUE) of this test's own, which the standbys have too."""
    name = f"web_notes_{next(SERIAL)}"
    shared.primary.execute(f"CREATE TABLE {name} (text text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    shared.catch_up()
    yield name
    shared.primary.execute(f"DROP TABLE {name}")


@pytest.fixture
def held_back(shared: LocalCluster, notes: str) -> Iterator[str]:
    """The same table, while no standby replays anything."""
    _, *standbys = shared.nodes
    for node in standbys:
        node.pause_replay()
    yield notes
    for node in standbys:
        node.resume_replay()
    shared.catch_up()
