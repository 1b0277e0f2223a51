"""Write-then-read pairs: stale reads, the share that standbys serve, and the time to acquire the reader."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

import pgroute
from benchmarks.failover import percentile
from pgroute.testing import LocalCluster

TABLE = "CREATE TABLE pair (worker int PRIMARY KEY, number int NOT NULL) WITH (fillfactor = 10)"
WRITE = "UPDATE pair SET number = %s WHERE worker = %s"
READ = "SELECT number FROM pair WHERE worker = %s"
DELAY = 0.2
"""Seconds by which the standbys replay each commit late."""
WAYS = (
    # replay delay, seconds between write and read, wait (None: plain writer() and reader())
    (0.0, 0.0, None),
    (0.0, 0.0, 0.1),
    (DELAY, 0.0, None),
    (DELAY, 0.0, 0.0),
    (DELAY, 0.0, 0.1),
    (DELAY, 0.0, 0.3),
    (DELAY, 0.3, 0.1),
)
"""The default of wait is 0.1."""


@dataclass
class Worker:
    """One user: the reads of a thread, of a row of its own."""

    index: int
    stale: int = 0
    on_standby: int = 0
    acquires: list[float] = field(default_factory=list)
    error: Exception | None = None


def work(router, primary, count, worker, way):
    """Write and read so many pairs."""
    _, think, wait = way
    index = worker.index
    try:
        causal = None if wait is None else router.causal()
        for number in range(1, count + 1):
            with router.writer() if causal is None else causal.writer() as conn:
                conn.execute(WRITE, [number, index])
            if think:
                time.sleep(think)
            start = time.perf_counter()
            with router.reader() if causal is None else causal.reader(wait=wait) as conn:
                worker.acquires.append(time.perf_counter() - start)
                (seen,) = conn.execute(READ, [index]).fetchone()
                worker.on_standby += conn.info.port != primary.port
            worker.stale += seen < number
    except Exception as exc:  # noqa: BLE001  (raised in the main thread)
        worker.error = exc


def measure(cluster, args, way):
    """Return the row of one way."""
    delay, think, wait = way
    primary, *others = cluster.nodes
    for node in others:
        node.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay * 1e3:.0f}ms'")
        node.execute("SELECT pg_reload_conf()")
    primary.execute("UPDATE pair SET number = 0")
    cluster.catch_up()
    pool = pgroute.PoolOptions(min_size=args.threads, max_size=args.threads)
    with pgroute.Router(cluster.dsn, writer=pool, reader=pool) as router:
        until = time.monotonic() + 20
        while len(router.topology.standbys) < len(others):
            if time.monotonic() > until:
                raise TimeoutError(f"no standbys: {router.topology}")
            time.sleep(0.01)
        for role in ("writer", "reader"):
            router.wait(role)
        share = -(-args.pairs // args.threads)
        workers = [Worker(index) for index in range(args.threads)]
        threads = [
            threading.Thread(target=work, args=(router, primary, share, worker, way)) for worker in workers
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - start
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    acquires = [seconds for worker in workers for seconds in worker.acquires]
    return {
        "delay": delay,
        "think": think,
        "wait": wait,
        "pairs": len(acquires),
        "threads": args.threads,
        "stale": sum(worker.stale for worker in workers),
        "standby_share": sum(worker.on_standby for worker in workers) / len(acquires),
        "acquire_median_ms": statistics.median(acquires) * 1e3,
        "acquire_p99_ms": percentile(acquires, 0.99) * 1e3,
        "pairs_per_second": len(acquires) / took,
    }


def run(args, deadline):
    """Return the rows."""
    rows = []
    # As many connections to each host for writers as for readers, and those of the standbys and probes.
    settings = {
        "max_connections": str(2 * args.threads + 30),
        # Replay that is late for half a minute would end readers in its way at once.
        "max_standby_streaming_delay": "-1",
    }
    with LocalCluster(standbys=2, settings=settings) as cluster:
        cluster.primary.execute(
            f"{TABLE}; INSERT INTO pair SELECT i, 0 FROM generate_series(0, {args.threads - 1}) i"
        )
        for way in WAYS:
            if time.monotonic() > deadline:
                break
            rows.append(measure(cluster, args, way))
            print(f"  {way}: {rows[-1]['pairs_per_second']:.0f} pairs per second", flush=True)
    return {"rows": rows}
