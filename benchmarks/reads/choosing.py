"""The choice of a host among few and many: core alone, without servers."""

from __future__ import annotations

import random
import statistics
import time

from pgroute.core.model.position import Position
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.routing.balance import parse_policy
from pgroute.core.routing.demand import Demand
from pgroute.core.routing.first_choice import first_choice
from pgroute.core.topology.observations import Answer
from pgroute.core.topology.transition import apply, initial_topology

SYSTEM_ID = 7001
SIZES = (3, 50)
LSN = 1000


def answers(hosts, at):
    """Return an answer of each host; the first one is the primary."""
    return [
        Answer(
            key,
            HostRole.STANDBY if index else HostRole.PRIMARY,
            sent_at=at,
            rtt=0.001,
            timeline=1,
            lsn=LSN,
            system_id=SYSTEM_ID,
            started_at=float(index),
        )
        for index, key in enumerate(hosts)
    ]


def known(size):
    """Return the topology of so many hosts, all up and none behind."""
    hosts = tuple(HostKey(f"host{number}", 5432) for number in range(size))
    topology = initial_topology(hosts, 100.0)
    for answer in answers(hosts, 100.0):
        topology, _ = apply(topology, answer, 100.001)
    return topology


def each(work, count):
    """Return the seconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


def works(size):
    """Return the functions to time, by name."""
    topology = known(size)
    rng, policy, now = random.Random(1), parse_policy("random"), 100.01
    reader = SessionAttrs.PREFER_STANDBY
    position = Position(SYSTEM_ID, 1, LSN)
    answer = answers(topology.by_key, 101.0)[-1]
    found = {
        "reader()": None,
        "reader(max_lag=1)": Demand(max_lag=1.0),
        "reader(after=), proven": Demand(after=position),
        "reader(max_lag=, after=), proven": Demand(max_lag=1.0, after=position),
        "reader(after=), all behind": Demand(after=Position(SYSTEM_ID, 1, LSN + 1), wait=0.1),
    }
    chosen = {
        name: lambda demand=demand: first_choice(
            topology, reader, policy, rng, lambda _: 0, demand=demand, now=now
        )
        for name, demand in found.items()
    }
    return {**chosen, "a probe's answer, to the next snapshot": lambda: apply(topology, answer, 101.001)}


def choosing(rounds=15, count=400):
    """Return the median microseconds of each choice, by the number of hosts."""
    todo = {size: works(size) for size in SIZES}
    rows = []
    for name in todo[SIZES[0]]:
        times = {size: [] for size in SIZES}
        for _ in range(rounds):
            for size in SIZES:
                times[size].append(each(todo[size][name], count))
        rows.append(
            {"choice": name, **{f"{size}_hosts_us": statistics.median(t) * 1e6 for size, t in times.items()}}
        )
    return rows
