"""Failover: from the moment that a promotion is visible to the first write, and to the last of several writers' first.

    python benchmarks/failover.py [--trials 20] [--writers 1] [--fault kill|immediate|freeze] [--json FILE]

In each trial the writers write all the time, the primary gets the fault, and a standby is promoted after a delay
spread over 0.5 to 3 s. A connection of our own asks the standby every millisecond whether it has left recovery.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import statistics
import threading
import time
from pathlib import Path

import psycopg

import pgroute
from pgroute.testing import LocalCluster

DELAYS = (0.5, 3.0)
ROWS = ("first write", "last writer", "outage")


def write_on(router, stop, writes, errors):
    """Write until stopped; record the time and port of each write, and each error."""
    while not stop.is_set():
        try:
            with router.writer() as conn:
                conn.execute("INSERT INTO written DEFAULT VALUES")
            writes.append((time.monotonic(), conn.info.port))
        except psycopg.Error as exc:
            errors.append(exc)


def received(node):
    """Return how far the WAL of a standby reaches."""
    return int(node.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0][0])


def promote(node):
    """Promote a standby and return when it was seen to accept writes."""
    with psycopg.connect(node.conninfo, autocommit=True) as conn:
        conn.execute("SELECT pg_promote(false)")
        while conn.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
            time.sleep(0.001)
        return time.monotonic()


def trial(cluster, args, delay):
    """Return the times of one failover in seconds, and the errors that the writers saw."""
    old = cluster.primary
    standbys = cluster.standbys
    stop = threading.Event()
    writes, errors = [[] for _ in range(args.writers)], []
    with pgroute.Router(cluster.dsn) as router:
        threads = [threading.Thread(target=write_on, args=(router, stop, w, errors)) for w in writes]
        for thread in threads:
            thread.start()
        while not all(len(w) > 10 for w in writes):
            time.sleep(0.01)
        {"kill": old.kill, "immediate": lambda: old.stop("immediate"), "freeze": old.freeze}[args.fault]()
        broken_at = time.monotonic()
        # One that had received more could not follow the other.
        *others, new = sorted(standbys, key=received)
        time.sleep(delay)
        seen_at = promote(new)
        # One that hangs on a frozen host is done when it has written on the new primary.
        while not all(w[-1][1] == new.port for w in writes):
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    firsts = [min(at for at, port in w if port == new.port) for w in writes]
    for other in others:
        other.follow(new, wait=False)
    old.rejoin(new)
    cluster.catch_up()
    return {
        "delay": delay,
        "first write": min(firsts) - seen_at,
        "last writer": max(firsts) - seen_at,
        "outage": max(firsts) - broken_at,
        "errors": len(errors),
    }


def percentile(values, share):
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--trials", type=int, default=20, help="failovers (default 20)")
    parser.add_argument("--writers", type=int, default=1, help="concurrent writers (default 1)")
    parser.add_argument("--fault", choices=("kill", "immediate", "freeze"), default="kill")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # each failover is an ERROR or two: not what is shown here
    low, high = DELAYS
    trials = []
    with LocalCluster(standbys=2) as cluster:
        cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY)")
        cluster.catch_up()
        for index in range(args.trials):
            share = index / max(1, args.trials - 1)
            trials.append(trial(cluster, args, low + (high - low) * share))
        versions = {
            "python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "pgroute": pgroute.__version__,
            "postgresql": cluster.server.version,
        }
    rows = {
        name: {
            "median_ms": statistics.median(t[name] for t in trials) * 1e3,
            "p95_ms": percentile([t[name] for t in trials], 0.95) * 1e3,
            "max_ms": max(t[name] for t in trials) * 1e3,
        }
        for name in ROWS
    }
    print(f"{args.trials} x {args.fault}, promotion {low:g} to {high:g} s later, {args.writers} writer(s)")
    print(f"{'':<12} {'median':>10} {'p95':>10} {'max':>10}")
    for name, row in rows.items():
        print(f"{name:<12} " + " ".join(f"{value:>7.1f} ms" for value in row.values()))
    errors = [t["errors"] for t in trials]
    print(f"errors seen by the writers in a trial: at most {max(errors)}, {sum(errors)} in all")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if args.json:
        result = {
            "versions": versions,
            "fault": args.fault,
            "writers": args.writers,
            "rows": rows,
            "trials": trials,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
