"""Positions through crashes of an asynchronous primary: lost ones must be told, and no reader may be served without."""

from __future__ import annotations

import collections
import contextlib
import random
import re
import threading
import time
from dataclasses import dataclass, field

import psycopg

import pgroute
from pgroute.testing import FaultProxy, LocalCluster

TABLE = "CREATE TABLE written (worker int, number int, PRIMARY KEY (worker, number))"
WRITE = "INSERT INTO written VALUES (%s, %s)"
READ = "SELECT count(*) FROM written WHERE worker = %s AND number BETWEEN %s AND %s"
WORKERS = 4
WRITES = 5
"""Before each read."""
CUT = (0.05, 0.3)
"""Seconds for which the primary goes on without its standbys."""
HISTORY = 300
"""Positions checked of each worker, the last ones before the crash."""


@dataclass
class Worker:
    """A user who writes and reads again: what is acknowledged, and what came of the reads.

    Attributes:
        index: its rows in the table.
        first: the first row since it has begun anew, after a position was lost.
        written: number and position of each acknowledged write.
        reads: reads that found all.
        silent: reads that missed something acknowledged, and nothing told.
        told: how often PositionLost was raised.
        errors: others, by class.
    """

    index: int
    first: int = 0
    written: list[tuple[int, pgroute.Position]] = field(default_factory=list)
    reads: int = 0
    silent: int = 0
    told: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)


def work(router, worker, number, stop):
    """Write and read until stopped. A user begins anew when told that the position was lost."""
    causal = router.causal()
    unknown = set()
    worker.first = number + 1
    while not stop.is_set():
        try:
            for _ in range(WRITES):
                number += 1
                with causal.writer(1.0) as conn:
                    conn.execute(WRITE, [worker.index, number])
                worker.written.append((number, causal.position))
            with causal.reader(1.0) as conn:
                row = conn.execute(READ, [worker.index, worker.first, number]).fetchone()
            expected = number - worker.first + 1 - len(unknown)
            if expected <= row[0] <= expected + len(unknown):
                worker.reads += 1
            else:
                worker.silent += 1
        except pgroute.PositionLost:
            worker.told += 1
            causal = router.causal()
            unknown.clear()
            worker.first = number + 1
        except psycopg.Error as error:
            worker.errors[type(error).__name__] += 1
            if not worker.written or worker.written[-1][0] != number:
                unknown.add(number)  # committed or not: it is not expected


def stream_through(standby, proxy):
    """Make a standby stream from its primary through a proxy; return once it does."""
    [(conninfo,)] = standby.execute("SHOW primary_conninfo")
    through = re.sub(r"port='?\d+'?", f"port={proxy.port}", conninfo)
    if through == conninfo:
        raise ValueError("no port in primary_conninfo")
    standby.execute(f"ALTER SYSTEM SET primary_conninfo TO '{through.replace(chr(39), chr(39) * 2)}'")
    standby.execute("SELECT pg_reload_conf()")
    streams = (
        f"SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {proxy.port}"
    )
    until = time.monotonic() + 20
    while standby.execute(streams) != [(1,)]:
        if time.monotonic() > until:
            raise TimeoutError(f"{standby} does not stream through the proxy")
        time.sleep(0.02)


def received(node):
    """Return how far the WAL of a standby reaches."""
    return int(node.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0][0])


def check(router, kept, worker, tally):
    """Use each of a worker's last positions, as another request of the same user would."""
    for number, position in worker.written[-HISTORY:]:
        lost = (worker.index, number) not in kept
        tally["positions"] += 1
        tally["lost"] += lost
        try:
            with router.reader(5.0, after=position) as conn:
                (found,) = conn.execute(READ, [worker.index, number, number]).fetchone()
        except pgroute.PositionLost as error:
            tally["told" if lost else "false_alarms"] += 1
            tally["proven_lost" if "was lost" in str(error) else "unproven"] += 1
        else:
            if found and not lost:
                tally["served"] += 1
            else:
                tally["silent"] += 1


def one_round(cluster, rng, rounds, tally):
    """Crash the primary after its standbys were cut off, promote one, and use the positions."""
    old = cluster.primary
    standbys = cluster.standbys
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(old)) for _ in standbys]
        for standby, proxy in zip(standbys, proxies, strict=True):
            stream_through(standby, proxy)
        router = stack.enter_context(pgroute.Router(cluster.dsn))
        workers = [Worker(index) for index in range(WORKERS)]
        numbers = dict(old.execute("SELECT worker, max(number) FROM written GROUP BY 1"))
        threads = [
            threading.Thread(target=work, args=(router, worker, numbers.get(worker.index, 0), stop))
            for worker in workers
        ]
        for thread in threads:
            thread.start()
        while not all(worker.reads > 20 for worker in workers):
            time.sleep(0.01)
        for proxy in proxies:
            proxy.discard()  # each standby at a moment of its own, perhaps within a record
            time.sleep(rng.uniform(0, 0.02))
        time.sleep(rng.uniform(*CUT))
        old.kill()
        for proxy in proxies:
            proxy.refuse(existing="reset")
        *others, new = sorted(standbys, key=received)
        time.sleep(rng.uniform(0.05, 1.0))
        new.promote()
        promoted_at = time.monotonic()
        before = [len(worker.written) for worker in workers]
        while not all(len(w.written) > b + 10 for w, b in zip(workers, before, strict=True)):
            if time.monotonic() > promoted_at + 20:
                raise TimeoutError(f"not all workers write again: {workers}")
            time.sleep(0.01)
        for other in others:
            other.follow(new, wait=False)
        stop.set()
        for thread in threads:
            thread.join()
        kept = set(new.execute("SELECT worker, number FROM written"))
        # What was written after the promotion is not of interest here.
        for worker, count in zip(workers, before, strict=True):
            worker.written = worker.written[:count]
            check(router, kept, worker, tally["the router that saw the failover"])
        with pgroute.Router(cluster.dsn) as later:
            later.wait()
            for worker in workers:
                check(later, kept, worker, tally["a router opened after it"])
    rounds.append(
        {
            "reads": sum(w.reads for w in workers),
            "silent": sum(w.silent for w in workers),
            "told": sum(w.told for w in workers),
            "errors": dict(sum((w.errors for w in workers), collections.Counter())),
        }
    )
    old.rejoin(new)
    cluster.catch_up()


def run(args, deadline):
    """Return a row for each kind of router, and what the users saw."""
    rng = random.Random(args.seed)
    rounds = []
    tally = collections.defaultdict(collections.Counter)
    while len(rounds) < args.crashes and time.monotonic() < deadline:
        with LocalCluster(standbys=2) as cluster:
            cluster.primary.execute(TABLE)
            cluster.catch_up()
            for _ in range(min(10, args.crashes - len(rounds))):
                if time.monotonic() > deadline:
                    break
                one_round(cluster, rng, rounds, tally)
            print(f"  {len(rounds)} crashes", flush=True)
    keys = ("positions", "lost", "told", "silent", "served", "false_alarms", "proven_lost", "unproven")
    rows = [{"asked": name, **{key: found[key] for key in keys}} for name, found in tally.items()]
    return {"rows": rows, "rounds": rounds}
