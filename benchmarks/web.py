"""FastAPI over HTTP through a crash of the primary, on pgroute and on psycopg_pool with the same DSN.

    python -m benchmarks.web [--only NAME ...] [--seconds 12] [--outage 2] [--clients 16]

Clients post rows one after the other, each on a connection of its own to uvicorn. The primary is killed, and after the
outage a standby is promoted. Replication is synchronous, so a row that was acknowledged must be there in the end.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
from fastapi import Depends, FastAPI, Request
from psycopg_pool import AsyncConnectionPool

from benchmarks.compare.table import show
from benchmarks.versions import listed, machine, versions
from pgroute.contrib.fastapi import RequestRouter, Writer, add_error_handlers, lifespan
from pgroute.testing import LocalCluster, find_server

HOST = "127.0.0.1"
INSERT = "INSERT INTO web_row VALUES (%s)"
BEFORE = 3.0
"""Seconds of load before the crash."""


def with_sessions(dsn):
    app = FastAPI(lifespan=lifespan(dsn))
    add_error_handlers(app)

    @app.post("/{number}")
    async def write(number: int, conn: Writer) -> None:
        await conn.execute(INSERT, (number,))

    return app


def with_run(dsn):
    app = FastAPI(lifespan=lifespan(dsn))
    add_error_handlers(app)

    @app.post("/{number}")
    async def write(number: int, router: RequestRouter) -> None:
        await router.execute(INSERT, (number,), once=str(number))

    return app


async def pooled(request: Request):
    async with request.state.pool.connection() as conn:
        yield conn


Pooled = Annotated[psycopg.AsyncConnection[Any], Depends(pooled, scope="function")]


def with_pool(dsn):
    @asynccontextmanager
    async def own(_):
        pool = AsyncConnectionPool(
            f"{dsn}&target_session_attrs=read-write",
            min_size=1,
            max_size=10,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )
        async with pool:
            yield {"pool": pool}

    app = FastAPI(lifespan=own)

    @app.post("/{number}")
    async def write(number: int, conn: Pooled) -> None:
        await conn.execute(INSERT, (number,))

    return app


CONTENDERS = {
    "pgroute, Writer": with_sessions,
    "pgroute, execute(once=)": with_run,
    "psycopg_pool, check=": with_pool,
}


class Client(threading.Thread):
    """Posts one row after the other, and notes when it got which status; 0 is a lost connection."""

    def __init__(self, port, numbers, stop):
        super().__init__()
        self.answers = []
        self._port, self._numbers, self._stopped = port, numbers, stop

    def run(self):
        connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        while not self._stopped.is_set():
            number, begun = next(self._numbers), time.monotonic()
            try:
                connection.request("POST", f"/{number}")
                with connection.getresponse() as response:
                    response.read()
                    status = response.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            self.answers.append((begun, time.monotonic(), status, number))
            if status != 200:
                time.sleep(0.01)
        connection.close()


def measure(name, args):
    with LocalCluster(synchronous=True) as cluster, socket.create_server((HOST, 0)) as listening:
        cluster.primary.execute("CREATE TABLE web_row (number int)")
        from pgroute import Router

        with Router(cluster.dsn) as router:
            router.install()
        command = [
            sys.executable,
            "-m",
            "benchmarks.web",
            "--serve",
            name,
            "--descriptor",
            str(listening.fileno()),
        ]
        server = subprocess.Popen(
            command,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DSN": cluster.dsn},
            pass_fds=[listening.fileno()],
        )
        stop, numbers = threading.Event(), itertools.count(1)
        clients = [Client(listening.getsockname()[1], numbers, stop) for _ in range(args.clients)]
        try:
            for client in clients:
                client.start()
            while not all(client.answers for client in clients):
                time.sleep(0.01)
            time.sleep(BEFORE)
            old = cluster.primary
            killed = time.monotonic()
            old.kill()
            time.sleep(args.outage)
            cluster.promote()
            promoted = time.monotonic()
            time.sleep(args.seconds - args.outage)
        finally:
            stop.set()
            for client in clients:
                client.join(90)
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        answers = [answer for client in clients for answer in client.answers]
        with psycopg.connect(cluster.primary.conninfo) as conn:
            rows = Counter(number for (number,) in conn.execute("SELECT number FROM web_row"))
    return account(answers, rows, killed, promoted)


def account(answers, rows, killed, promoted):
    failed = Counter(status for _, _, status, _ in answers if status != 200)
    acknowledged = [number for _, _, status, number in answers if status == 200]
    waits = sorted(end - begun for begun, end, _, _ in answers)
    last = max((end for _, end, status, _ in answers if status != 200), default=None)
    first = min((end for begun, end, status, _ in answers if status == 200 and end > promoted), default=None)
    return [
        str(len(answers)),
        ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(failed.items())) or "0",
        "-" if last is None else f"{last - promoted:+.2f} s",
        "-" if first is None else f"{1000 * (first - promoted):.0f} ms",
        f"{waits[-1]:.2f} s",
        f"{1000 * statistics.median(waits):.1f} ms",
        str(sum(number not in rows for number in acknowledged)),
        str(sum(count > 1 for count in rows.values())),
    ]


HEADER = (
    "contender",
    "requests",
    "errors",
    "last error after the promotion",
    "first 200 after it",
    "slowest",
    "median",
    "200, but no row",
    "rows twice",
)


def serve(name, descriptor):
    import uvicorn

    app = CONTENDERS[name](os.environ["DSN"])
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([socket.socket(fileno=descriptor)])


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.web", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=12.0, help="from the crash on (default 12)")
    parser.add_argument(
        "--outage", type=float, default=2.0, help="seconds from crash to promotion (default 2)"
    )
    parser.add_argument("--clients", type=int, default=16, help="(default 16)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.descriptor)
        return
    print(listed(machine()), listed(versions(find_server())), sep="\n")
    show("FastAPI through a crash", HEADER, [[name, *measure(name, args)] for name in args.only])


if __name__ == "__main__":
    main()
