"""The cost of metrics and traces on a session: BEGIN, SELECT 1 and COMMIT, with everything on and with everything off.

    python -m benchmarks.metrics [--rounds 400] [--sessions 20] [--pin] [--json FILE]

The ratio is the time without over the time with them in the same round: 1.00 is no overhead. It is the same router:
only its observer is taken away for the rounds without. "Metrics" are the histograms of OpenTelemetry; "everything" is a
span for each session besides, with a processor that exports in batches. Prometheus only costs a scrape, which is timed.

"Client" is the processor time of the session's thread, and "added" how much longer that is in the same round: on a busy
machine these say more than the time.

Sessions leave their values to a thread. Its work is done between the rounds here, and told per session ("later"); the
second ratio is what remained if the session's own thread did it. Rounds of 2000 sessions and more let the thread work
beside them instead, as in an application, but need a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, generate_latest

import pgroute
from benchmarks.compare.table import show
from benchmarks.versions import finish, machine, store, versions
from pgroute.contrib.opentelemetry import RouterInstrumentation
from pgroute.contrib.prometheus import RouterCollector
from pgroute.faces import manager_behind
from pgroute.testing import LocalCluster

OFF, METRICS, EVERYTHING = "off", "metrics", "everything"
SIZES = pgroute.PoolOptions(max_size=1)
WARM_UP = 2
COLD = 3
"""Sessions before each round, while the caches still hold what was done between the rounds."""


class Discard(SpanExporter):
    """Takes spans and does nothing with them."""

    def export(self, spans):
        return SpanExportResult.SUCCESS


class Observed:
    """A router, observed in different ways."""

    def __init__(self, router):
        self.router = router
        self._meter = manager_behind(router).meter
        self._registry = CollectorRegistry()
        self._registry.register(RouterCollector(router))
        self._tracing = TracerProvider()
        self._tracing.add_span_processor(BatchSpanProcessor(Discard()))
        self._metering = MeterProvider([InMemoryMetricReader()])
        self._observers = {OFF: (None, None)}
        for way in (METRICS, EVERYTHING):
            on = RouterInstrumentation(
                router,
                meter_provider=self._metering,
                tracer_provider=self._tracing,
                traces=way is EVERYTHING,
            )
            self._observers[way] = (on, self._meter.observer)
            self._meter.observer = None

    def begin(self, way):
        """Observe it in this way from now on."""
        self._meter.observer = self._observers[way][1]

    def scrape(self):
        """Return the seconds that a scrape takes."""
        begun = time.perf_counter()
        generate_latest(self._registry)
        return time.perf_counter() - begun

    def end(self, way):
        """Have done what is left, and return the seconds that this took."""
        begun = time.thread_time()
        if way is not OFF:
            self._observers[way][0].flush()
        return time.thread_time() - begun

    def close(self):
        for on, _ in self._observers.values():
            if on is not None:
                on.close()
        self._tracing.shutdown()
        self._metering.shutdown()


def session(router):
    with router.writer() as conn:
        conn.execute("SELECT 1")


async def async_session(router):
    async with router.writer() as conn:
        await conn.execute("SELECT 1")


def shuffled():
    """Return the ways in a random order: a round must not always follow the same one."""
    return random.sample((OFF, METRICS, EVERYTHING), 3)


def place(args, pid):
    if args.pin:
        os.sched_setaffinity(0, {0})
        os.sched_setaffinity(pid, {1})


class Round:
    """Times a block, with a way to observe."""

    def __init__(self, observed, way, count):
        self._observed, self._way, self._count = observed, way, count

    def __enter__(self):
        self._begun = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_):
        times = [time.perf_counter() - self._begun[0], time.thread_time() - self._begun[1]]
        later = self._observed.end(self._way) / (self._count + COLD)
        self.told = [*(seconds / self._count for seconds in times), later]


def measure_sync(dsn, args):
    rounds = []
    with pgroute.Router(dsn, writer=SIZES, name="benchmark") as router:
        with router.writer() as conn:
            place(args, conn.info.backend_pid)
        observed = Observed(router)
        for _ in range(WARM_UP + args.rounds):
            found = {}
            for way in shuffled():
                observed.begin(way)
                for _ in range(COLD):
                    session(router)
                with Round(observed, way, args.sessions) as measured:
                    for _ in range(args.sessions):
                        session(router)
                found[way] = measured.told
            rounds.append(found)
        scrape = statistics.median(observed.scrape() for _ in range(20))
        observed.close()
    return rounds[WARM_UP:], scrape


async def measure_async(dsn, args):
    rounds = []
    async with pgroute.AsyncRouter(dsn, writer=SIZES, name="benchmark") as router:
        async with router.writer() as conn:
            place(args, conn.info.backend_pid)
        observed = Observed(router)
        for _ in range(WARM_UP + args.rounds):
            found = {}
            for way in shuffled():
                observed.begin(way)
                for _ in range(COLD):
                    await async_session(router)
                with Round(observed, way, args.sessions) as measured:
                    for _ in range(args.sessions):
                        await async_session(router)
                found[way] = measured.told
            rounds.append(found)
        scrape = statistics.median(observed.scrape() for _ in range(20))
        observed.close()
    return rounds[WARM_UP:], scrape


def summarized(face, rounds, scrape):
    """Return a row for each way."""
    rows = []
    for way in (OFF, METRICS, EVERYTHING):
        times = [statistics.median(found[way][part] for found in rounds) for part in range(3)]
        row = {"face": face, "way": way, "scrape_seconds": scrape}
        row |= dict(zip(("seconds", "client_seconds", "later_seconds"), times, strict=True))
        if way != OFF:
            quartiles = statistics.quantiles([found[OFF][0] / found[way][0] for found in rounds], n=4)
            whole = statistics.median(found[OFF][0] / (found[way][0] + found[way][2]) for found in rounds)
            added = statistics.median(found[way][1] - found[OFF][1] for found in rounds)
            row |= {
                "ratio": quartiles[1],
                "quartiles": quartiles[::2],
                "whole": whole,
                "added_seconds": added,
            }
        rows.append(row)
    return rows


def table(rows):
    """Return header and rows of text."""
    header = (
        "face",
        "way",
        "time",
        "client",
        "added",
        "later",
        "ratio to off",
        "quartiles",
        "with later",
        "scrape",
    )
    return header, [
        (
            row["face"],
            row["way"],
            f"{row['seconds'] * 1e6:.0f} us",
            f"{row['client_seconds'] * 1e6:.0f} us",
            f"{row['added_seconds'] * 1e6:.1f} us" if "added_seconds" in row else "",
            f"{row['later_seconds'] * 1e6:.0f} us",
            f"{row['ratio']:.3f}" if "ratio" in row else "",
            "{:.3f} to {:.3f}".format(*row["quartiles"]) if "ratio" in row else "",
            f"{row['whole']:.3f}" if "whole" in row else "",
            f"{row['scrape_seconds'] * 1e3:.1f} ms",
        )
        for row in rows
    ]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=400, help="of each way (default 400)")
    parser.add_argument("--sessions", type=int, default=20, help="in a round (default 20)")
    parser.add_argument(
        "--pin", action="store_true", help="client and server on a processor each, 0 and 1 (Linux)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    with LocalCluster(standbys=0) as cluster:
        before = os.getloadavg()[0]
        rows = summarized("sync", *measure_sync(cluster.dsn, args))
        rows += summarized("async", *asyncio.run(measure_async(cluster.dsn, args)))
        show("one SELECT in a session", *table(rows))
        print(f"load before {before:.2f}, after {os.getloadavg()[0]:.2f}")
        if args.json and args.json.exists():
            found = {"machine": machine(), "versions": versions(cluster.server), "pinned": args.pin}
            store(args.json, {"metrics": {**found, "rows": rows}})
        else:
            finish(args, rows, cluster)


if __name__ == "__main__":
    main()
