"""The metrics of the writers' host: outages and failovers, and the events that tell of them."""

from __future__ import annotations

from pgroute.contrib.metrics.family import COUNTER, GAUGE, HISTOGRAM, SECONDS, Family, single

WRITERS: tuple[Family, ...] = (
    Family(
        "open", GAUGE, (), "1 while sessions can be had of the router", single(lambda r: int(r.open)), "open"
    ),
    Family(
        "writable",
        GAUGE,
        (),
        "1 while there is a host for writers and the router is open",
        single(lambda r: int(r.open and r.topology.writable)),
        "writable",
    ),
    Family(
        "readable",
        GAUGE,
        (),
        "1 while there is a host for readers, the primary included, and the router is open",
        single(lambda r: int(r.open and r.topology.readable)),
        "readable",
    ),
    Family(
        "outage_seconds",
        GAUGE,
        (),
        "seconds for which there has been no host for writers; 0 while there is one",
        single(lambda r: r.outage),
        "outage",
        SECONDS,
    ),
    Family(
        "without_writer_seconds",
        COUNTER,
        (),
        "seconds without a host for writers, in all, since the first one was seen",
        single(lambda r: r.counts.without_writer_seconds),
        "without_writer.time",
        SECONDS,
    ),
    Family(
        "outages",
        COUNTER,
        (),
        "outages of the writers' host that are over",
        single(lambda r: r.counts.outages),
        "outages",
        "{outage}",
    ),
    Family(
        "failovers",
        COUNTER,
        (),
        "how often writers came to another host than before",
        single(lambda r: r.counts.failovers),
        "failovers",
        "{failover}",
    ),
    Family(
        "failover_duration_seconds",
        HISTOGRAM,
        (),
        "seconds without a host for writers in a failover",
        single(lambda r: r.failover_times),
        "failover.duration",
        SECONDS,
    ),
    Family(
        "split_brain_hosts",
        GAUGE,
        (),
        "hosts that claim to be the primary while nothing decides between them; 0 if there is no split brain",
        single(lambda r: len(r.topology.split_brain) if r.open else 0),
        "split_brain.hosts",
        "{host}",
    ),
    Family(
        "events",
        COUNTER,
        ("kind",),
        "events, by kind as in EventKind, such as primary-lost, split-brain and stale-primary",
        lambda r: [((kind,), count) for kind, count in r.counts.events.items()],
        "events",
        "{event}",
    ),
    Family(
        "events_dropped",
        COUNTER,
        (),
        "events that slow subscribers did not get",
        single(lambda r: r.events_dropped),
        "events.dropped",
        "{event}",
    ),
)
