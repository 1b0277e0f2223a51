"""The cost of run() over writer(), and of once= over run(): one INSERT, on one primary, without and with network delay.

    python -m benchmarks.transactions [--rounds 300] [--transactions 20] [--delay 1.0] [--pin] [--json FILE]

The ratio is the time of the plainer way over that of the other in the same round: 1.00 is no overhead. "By hand" are
the statements of run() and of once= on one connection of psycopg, sent by libpq's blocking call: what remains of the
ratio if the client does nothing else. The times of the processors are those of the calling thread, and of its server
process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import time
from pathlib import Path

import psycopg

import pgroute
from benchmarks.compare.table import show
from benchmarks.versions import finish, machine, store, versions
from pgroute.core.transactions.once_keys import once_statements
from pgroute.testing import FaultProxy, LocalCluster

INSERT = "INSERT INTO written (number) VALUES (1)"
STATEMENTS = once_statements(b"pgroute")
BY_HAND, KEY_BY_HAND = "by hand", "a key by hand"
WRITER, RUN, ONCE = "writer()", "run()", "run(once=)"
COMPARED = ((WRITER, RUN), (RUN, ONCE), (BY_HAND, KEY_BY_HAND))
SIZES = pgroute.PoolOptions(max_size=1)
SERIAL = itertools.count()


def insert(conn):
    conn.execute(INSERT)


async def async_insert(conn):
    await conn.execute(INSERT)


def by_hand(conn):
    conn.pgconn.exec_(b"BEGIN")
    conn.execute(INSERT)
    conn.pgconn.exec_(b"COMMIT")


def key_by_hand(conn):
    values = {
        b"key": b"'by hand %d'" % next(SERIAL),
        b"value": b"'null'",
    }
    conn.pgconn.exec_(b"BEGIN;" + STATEMENTS.claim % values)
    conn.execute(INSERT)
    conn.pgconn.exec_(STATEMENTS.keep % values + b";COMMIT")


def in_writer(router):
    with router.writer() as conn:
        conn.execute(INSERT)


async def in_async_writer(router):
    async with router.writer() as conn:
        await conn.execute(INSERT)


def key():
    return f"benchmark {next(SERIAL)}"


def server_time(pid):
    """Return the seconds that a server process has run; 0.0 where the system does not tell (it does on Linux)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0


class Clock:
    """Measures a block: its time, that of this thread, and that of a server process."""

    def __init__(self, pid):
        self._pid = pid

    def _now(self):
        return time.perf_counter(), time.thread_time(), server_time(self._pid)

    def __enter__(self):
        self._begun = self._now()
        return self

    def __exit__(self, *_):
        self.passed = [after - before for after, before in zip(self._now(), self._begun, strict=True)]


def order(names, index):
    """Return the ways in the order of this round: it changes, so that a drift of the machine hits all alike."""
    at = index % len(names)
    return names[at:] + names[:at]


def place(args, *pids):
    """Keep this process and its server processes on processors of their own, if that was asked for."""
    if args.pin:
        os.sched_setaffinity(0, {0})
        for pid in pids:
            os.sched_setaffinity(pid, {1})


def measure_sync(dsn, args, count):
    rounds = []
    with contextlib.ExitStack() as stack:
        conn = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        router = stack.enter_context(pgroute.Router(dsn, writer=SIZES))
        with router.writer() as pooled:
            pid = pooled.info.backend_pid
        own = conn.info.backend_pid
        place(args, pid, own)
        ways = {
            BY_HAND: (own, lambda: by_hand(conn)),
            KEY_BY_HAND: (own, lambda: key_by_hand(conn)),
            WRITER: (pid, lambda: in_writer(router)),
            RUN: (pid, lambda: router.run(insert)),
            ONCE: (pid, lambda: router.run(insert, once=key())),
        }
        for index in range(-2, args.rounds):  # the first ones are for warming up
            found = {}
            for name in order(list(ways), index):
                server, work = ways[name]
                with Clock(server) as clock:
                    for _ in range(count):
                        work()
                found[name] = [seconds / count for seconds in clock.passed]
            rounds.append(found)
    return rounds[2:]


async def measure_async(dsn, args, count):
    rounds = []
    async with pgroute.AsyncRouter(dsn, writer=SIZES) as router:
        async with router.writer() as pooled:
            pid = pooled.info.backend_pid
        place(args, pid)
        ways = {
            WRITER: lambda: in_async_writer(router),
            RUN: lambda: router.run(async_insert),
            ONCE: lambda: router.run(async_insert, once=key()),
        }
        for index in range(-2, args.rounds):
            found = {}
            for name in order(list(ways), index):
                with Clock(pid) as clock:
                    for _ in range(count):
                        await ways[name]()
                found[name] = [seconds / count for seconds in clock.passed]
            rounds.append(found)
    return rounds[2:]


def summarized(face, delay, rounds):
    """Return a row for each way."""
    plainer = {other: plain for plain, other in COMPARED}
    rows = []
    for name in rounds[0]:
        times = [statistics.median(found[name][part] for found in rounds) for part in range(3)]
        row = {"face": face, "delay_ms": delay, "way": name}
        row |= dict(zip(("seconds", "client_seconds", "server_seconds"), times, strict=True))
        if name in plainer:
            ratios = [found[plainer[name]][0] / found[name][0] for found in rounds]
            quartiles = statistics.quantiles(ratios, n=4)
            row |= {"compared": plainer[name], "ratio": quartiles[1], "quartiles": quartiles[::2]}
        rows.append(row)
    return rows


def table(rows):
    """Return header and rows of text."""
    header = ("face", "delay", "way", "time", "client", "server", "compared with", "ratio", "quartiles")
    return header, [
        (
            row["face"],
            f"{row['delay_ms']:g} ms",
            row["way"],
            f"{row['seconds'] * 1e6:.0f} us",
            f"{row['client_seconds'] * 1e6:.0f} us",
            f"{row['server_seconds'] * 1e6:.0f} us",
            row.get("compared", ""),
            f"{row['ratio']:.3f}" if "ratio" in row else "",
            "{:.3f} to {:.3f}".format(*row["quartiles"]) if "ratio" in row else "",
        )
        for row in rows
    ]


def tables(measured):
    """Yield name, title, header and rows of every table for docs/performance.md."""
    if measured:
        yield "transactions", "one INSERT as a transaction", *table(measured["rows"])


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transactions", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=300, help="of each way (default 300)")
    parser.add_argument(
        "--transactions", type=int, default=20, help="in a round without delay (default 20), a quarter with"
    )
    parser.add_argument(
        "--delay", type=float, default=1.0, help="ms of the network, there and back (default 1)"
    )
    parser.add_argument(
        "--pin", action="store_true", help="client and server on a processor each, 0 and 1 (Linux)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    rows = []
    with LocalCluster(standbys=0) as cluster:
        cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY, number int)")
        with pgroute.Router(cluster.dsn) as router:
            router.install()
        for delay in (0.0, args.delay):
            with contextlib.ExitStack() as stack:
                dsn = cluster.dsn
                if delay:
                    wire = stack.enter_context(FaultProxy(cluster.primary))
                    wire.delay(delay / 2000)
                    dsn = FaultProxy.dsn([wire], dbname="postgres")
                count = max(1, args.transactions // (4 if delay else 1))
                rows += summarized("sync", delay, measure_sync(dsn, args, count))
                rows += summarized("async", delay, asyncio.run(measure_async(dsn, args, count)))
        show("one INSERT as a transaction", *table(rows))
        if args.json and args.json.exists():
            found = {"machine": machine(), "versions": versions(cluster.server), "pinned": args.pin}
            store(args.json, {"transactions": {**found, "rows": rows}})
        else:
            finish(args, rows, cluster)


if __name__ == "__main__":
    main()
