"""Fifty processes with a pool each, real ones, against a server with max_connections=100, through a crash.

    python -m benchmarks.processes [--processes 50] [--repeats 3] [--libraries pgroute,hasql] [--json FILE]

Each process writes with some workers, each with a pause of 50 ms on average. The primary is killed, and a standby is
promoted a second later. What counts is how many connections the new primary has at most, how many logins it refuses
because it is full (53300), and when each process has written there again, from the moment that the promotion is
visible. The role is no superuser, so three connections are reserved for others. Everything is on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from benchmarks.compare.contenders import ALL, PATIENCE, for_hasql
from benchmarks.compare.table import show
from benchmarks.failover import percentile, promote, received
from pgroute.testing import LocalCluster

try:
    from hasql.driver.asyncpg import PoolManager as AsyncpgManager
except ImportError:
    AsyncpgManager = None

LIBRARIES = ("pgroute", "pgroute async", "psycopg_pool", "psycopg_pool async", "hasql", "hasql asyncpg")
SIZES = {"min_size": 1, "max_size": 4}
PAUSE = 0.05
AFTER_ERROR = 0.01
PROMOTED_AFTER = 1.0
START_BOUND = 180.0
AT_ONCE = 4
WRITE = "INSERT INTO written DEFAULT VALUES RETURNING inet_server_port()"
FULL = ("too many clients", "remaining connection slots")


class Process:
    """The workers of one process: write until told to stop, and note the first write at each server."""

    def __init__(self, workers):
        self.workers = workers
        self.begun, self.stopped = threading.Event(), threading.Event()
        self.first = {}
        self.errors = collections.Counter()

    def wrote(self, port):
        self.first.setdefault(port, time.monotonic())

    def failed(self, exc):
        self.errors[type(exc).__name__] += 1

    def told(self):
        return json.dumps({"first": self.first, "errors": self.errors})

    def run(self, contender, dsn):
        with contender.open(dsn, SIZES, readers=False) as sessions:
            threads = [threading.Thread(target=self._work, args=(sessions,)) for _ in range(self.workers)]
            print("ready", flush=True)
            self.begun.wait()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _work(self, sessions):
        while not self.stopped.wait(2 * PAUSE * random.random()):
            try:
                with sessions.writer() as conn:
                    port = conn.execute(WRITE).fetchone()[0]
                self.wrote(port)
            except Exception as exc:  # noqa: BLE001  (whatever a library raises)
                self.failed(exc)
                time.sleep(AFTER_ERROR)

    async def run_async(self, open_sessions, dsn, *, asyncpg=False):
        async with open_sessions(dsn, SIZES, readers=False) as sessions:
            print("ready", flush=True)
            await asyncio.to_thread(self.begun.wait)
            tasks = [asyncio.create_task(self._work_async(sessions, asyncpg)) for _ in range(self.workers)]
            await asyncio.gather(*tasks)

    async def _work_async(self, sessions, asyncpg):
        while not self.stopped.is_set():
            await asyncio.sleep(2 * PAUSE * random.random())
            try:
                async with sessions.writer() as conn:
                    if asyncpg:
                        port = await conn.fetchval(WRITE)
                    else:
                        port = (await (await conn.execute(WRITE)).fetchone())[0]
                        if not sessions.commits:
                            await conn.commit()
                self.wrote(port)
            except Exception as exc:  # noqa: BLE001  (whatever a library raises)
                self.failed(exc)
                await asyncio.sleep(AFTER_ERROR)


@contextlib.asynccontextmanager
async def open_asyncpg(dsn, sizes, readers):
    async with AsyncpgManager(for_hasql(dsn), pool_factory_kwargs=dict(sizes)) as manager:
        yield argparse.Namespace(writer=manager.acquire_master, commits=True)


def child(library, dsn, workers):
    """Work from the first line of standard input to its end, however this process ends: nothing of it stays."""
    logging.disable(logging.CRITICAL)
    process = Process(int(workers))

    def stop():
        sys.stdin.readline()
        process.begun.set()
        sys.stdin.read()
        process.begun.set()
        process.stopped.set()
        time.sleep(PATIENCE)
        finish()

    def finish():
        try:
            print(process.told(), flush=True)
        finally:
            os._exit(0)  # also if nobody reads that any more

    threading.Thread(target=stop, daemon=True).start()
    if library == "hasql asyncpg":
        asyncio.run(process.run_async(open_asyncpg, dsn, asyncpg=True))
    elif ALL[library].face == "async":
        asyncio.run(process.run_async(ALL[library].open, dsn))
    else:
        process.run(ALL[library], dsn)
    finish()


@contextlib.contextmanager
def started(library, dsn, args):
    """Start the processes, and yield them once all are ready and work; at the end none is left."""
    command = [sys.executable, "-m", "benchmarks.processes", "--child", library, dsn, str(args.workers)]
    processes = []
    try:
        pipe = subprocess.PIPE
        watchdog = threading.Timer(START_BOUND, functools.partial(kill, processes))
        watchdog.start()
        ready = []
        while len(processes) < args.processes:
            # A few at a time: a start is the processor's work, and none may run into a limit of its library by that.
            fresh = [
                subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
                for _ in range(min(AT_ONCE, args.processes - len(processes)))
            ]
            processes += fresh
            ready += [process.stdout.readline().strip() for process in fresh]
        watchdog.cancel()
        if ready != ["ready"] * args.processes:
            raise RuntimeError(f"{library}: only {ready.count('ready')} processes could start")
        for process in processes:
            process.stdin.write("work\n")
            process.stdin.flush()
        yield processes
    finally:
        kill(processes)


def kill(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def collected(processes, bound):
    """Stop the processes, and return what they tell."""
    watchdog = threading.Timer(bound, functools.partial(kill, processes))
    watchdog.start()
    for process in processes:
        process.stdin.close()
    told = [process.stdout.read().strip() for process in processes]
    watchdog.cancel()
    return [json.loads(text) if text else {"first": {}, "errors": {"killed": 1}} for text in told]


class Meter:
    """Counts the connections of the role at one server, by a superuser's session."""

    def __init__(self, node):
        self.peak = 0
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
        with psycopg.connect(self._node.conninfo, autocommit=True) as conn:
            while not self._stop.wait(0.02):
                self.peak = max(self.peak, conn.execute(query).fetchone()[0])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()


def refused(node):
    return sum(node.log().count(text) for text in FULL)


def trial(library, args):
    """Return what one crash was like."""
    with LocalCluster(standbys=2, settings={"max_connections": str(args.slots)}) as cluster:
        cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY)")
        cluster.primary.execute(f"CREATE ROLE app LOGIN PASSWORD '{cluster.password}'")
        cluster.primary.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
        cluster.primary.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app")
        cluster.catch_up()
        dsn = cluster.dsn.replace("//postgres@", "//app@")
        with started(library, dsn, args) as processes:
            time.sleep(args.settle)
            cluster.primary.kill()
            *_, new = sorted(cluster.standbys, key=received)
            before = refused(new)
            time.sleep(PROMOTED_AFTER)
            with Meter(new) as meter:
                seen_at = promote(new)
                time.sleep(args.bound)
            told = collected(processes, 2 * PATIENCE + 10.0)
        times = [t["first"].get(str(new.port), float("inf")) - seen_at for t in told]
        errors = sum((collections.Counter(t["errors"]) for t in told), collections.Counter())
        return {
            "peak": meter.peak,
            "refused": refused(new) - before,
            "p50": percentile(times, 0.5),
            "p99": percentile(times, 0.99),
            "unserved": sum(t > args.bound for t in times),
            "errors": dict(errors),
        }


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--processes", type=int, default=50, help="(default 50)")
    parser.add_argument("--workers", type=int, default=2, help="threads or tasks of each (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="crashes for each library (default 3)")
    parser.add_argument("--bound", type=float, default=15.0, help="seconds after the promotion (default 15)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the crash (default 5)")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="which (default: all)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--slots", type=int, default=100, help="max_connections of the servers (default 100)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    meeting = tempfile.TemporaryDirectory(
        prefix="pgroute-"
    )  # where they share their watch; a killed one leaves files
    os.environ["TMPDIR"] = meeting.name
    found, rows = {}, []
    for library in args.libraries.split(","):
        if library != "hasql asyncpg" and library not in ALL:
            continue
        if library == "hasql asyncpg" and AsyncpgManager is None:
            continue
        try:
            runs = found[library] = [trial(library, args) for _ in range(args.repeats)]
        except RuntimeError as exc:
            print(exc)
            continue
        rows.append(
            (
                library,
                f"{statistics.median(r['peak'] for r in runs):.0f}",
                f"{statistics.median(r['refused'] for r in runs):.0f}",
                f"{statistics.median(r['p50'] for r in runs):.2f} s",
                f"{statistics.median(r['p99'] for r in runs):.2f} s",
                f"{statistics.median(r['unserved'] for r in runs):.0f} of {args.processes}",
                f"{statistics.median(sum(r['errors'].values()) for r in runs):.0f}",
            )
        )
    header = ("library", "connections, most", "refused", "half served", "99 %", "never", "errors")
    show(f"{args.processes} processes, {args.workers} workers each", header, rows)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
