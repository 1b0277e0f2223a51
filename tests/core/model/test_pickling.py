"""What the router gives out can be pickled and copied: for a log, a test, another process."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import pgroute
from pgroute import (
    Event,
    EventKind,
    HostOptions,
    PoolOptions,
    ProbeOptions,
    RoleStats,
    Router,
    RouterStats,
    Topology,
)
from pgroute.core.topology.snapshot import Rules
from tests.core.world import A, B, C, D, World

COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *(lambda value, p=p: pickle.loads(pickle.dumps(value, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),  # noqa: S301
]


def world() -> World:
    """Return a cluster with a past: a stale primary, a standby behind, a host that refuses logins, one that is down."""
    seen = World(A, B, C, D).primary(A, lsn=9).standby(B, lsn=5).reject(C).timeout(D).timeout(D)
    return seen.primary(B, 2, lsn=12).standby(C, 2, system_id=None, reduced="permission denied")


WORLD = world()
TOPOLOGY = WORLD.topology
[HOST, *_] = TOPOLOGY.hosts
EVENT = Event(EventKind.HOST_CHANGED, 1.0, HOST.key, "text", before=HOST, after=HOST)
ROLE_STATS = RoleStats({"pool_size": 1}, {HOST.key: {"in_use": 1}})
VALUES = [
    TOPOLOGY,
    HOST,
    HOST.key,
    HOST.state,
    HOST.role,
    TOPOLOGY.candidates,
    TOPOLOGY.by_key,
    EVENT,
    tuple(WORLD.events),
    ROLE_STATS,
    RouterStats(ROLE_STATS, ROLE_STATS, 1),
    Router("postgresql://127.0.0.1/").stats(),
    HostOptions(weight=2.0),
    PoolOptions(max_size=3, settings={"work_mem": "1MB"}),
    ProbeOptions(interval=2.0),
    Rules(weights={"a": 1.0}),
    pgroute.SessionAttrs.ANY,
    pgroute.Role.WRITER,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("copied", COPIES)
def test_values_are_equal_to_their_copies(value: Any, copied: Callable[[Any], Any]) -> None:
    assert copied(value) == value
    assert repr(copied(value)) == repr(value)


def test_the_copy_of_a_topology_is_whole() -> None:
    other = pickle.loads(pickle.dumps(TOPOLOGY))  # noqa: S301
    assert str(other) == str(TOPOLOGY)
    assert other.host(HOST.key) == HOST
    for field in dataclasses.fields(Topology):
        assert getattr(other, field.name) == getattr(TOPOLOGY, field.name)


@pytest.mark.parametrize(
    "error",
    [
        pgroute.NoHostAvailable("none", topology=TOPOLOGY),
        pgroute.SessionLost("lost", topology=TOPOLOGY, rerun_safe=True),
        pgroute.CommitUnknown("unknown", topology=TOPOLOGY),
        pgroute.RouterClosed("closed"),
        pgroute.ConfigError("timeout", -1, "expected seconds"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("copied", COPIES)
def test_errors_keep_what_they_tell(error: Exception, copied: Callable[[Any], Any]) -> None:
    other = copied(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    expected = vars(error)
    assert vars(other) == ({**expected, "topology": None} if "topology" in expected else expected)


@pytest.mark.parametrize("name", ["candidates", "only", "by_key"])
def test_a_snapshot_cannot_be_changed(name: str) -> None:
    mapping = getattr(TOPOLOGY, name)
    key = next(iter(mapping))
    for change in (
        lambda: mapping.update({}),
        lambda: mapping.pop(key),
        lambda: mapping.__setitem__(key, None),
        lambda: mapping.__delitem__(key),
        mapping.clear,
        mapping.popitem,
        lambda: mapping.setdefault(key, None),
        lambda: mapping.__ior__({}),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
