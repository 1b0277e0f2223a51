"""When a host is connected to again: a table."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pgroute.core.config.options import ProbeOptions
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey
from pgroute.core.schedule import CONNECT_GAP, REJECTED_GAP, connect_delay
from pgroute.core.topology.transition import initial_topology

KEY = HostKey("a", 5432)


@pytest.mark.parametrize(
    ("state", "interval", "kicked", "least", "most"),
    [
        (HostState.UP, 60.0, False, 54.0, 66.0),
        (HostState.UP, 60.0, True, CONNECT_GAP, CONNECT_GAP),
        (HostState.UP, 0.05, False, CONNECT_GAP, CONNECT_GAP * 1.1),
        (HostState.DOWN, 60.0, True, CONNECT_GAP, CONNECT_GAP),
        (HostState.STARTING, 60.0, False, CONNECT_GAP, CONNECT_GAP * 1.1),
        (HostState.STARTING, 60.0, True, CONNECT_GAP, CONNECT_GAP),
        (HostState.BUSY, 1.0, False, 0.9, 1.1),
        (HostState.BUSY, 1.0, True, 0.9, 1.1),
        (HostState.REJECTED, 0.05, False, REJECTED_GAP, REJECTED_GAP),
        (HostState.REJECTED, 60.0, True, REJECTED_GAP, REJECTED_GAP),
    ],
)
def test_the_pause_between_connection_attempts(
    state: HostState, interval: float, kicked: bool, least: float, most: float
) -> None:
    topology = initial_topology((KEY,), 0.0)
    host = replace(topology.hosts[0], state=state)
    # A primary is known: nothing else speeds the probes up.
    topology = replace(topology, by_key={KEY: host}, primary_lost_at=None)
    options = ProbeOptions(interval=interval)
    for seed in range(20):
        delay = connect_delay(topology, KEY, options, 1.0, random.Random(seed), kicked=kicked)
        assert least <= delay <= most
