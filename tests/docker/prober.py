"""`python -m tests.docker.prober`: says, independently of pgroute, which host is a primary and from when it commits.

Runs beside the application, asks every host each few milliseconds over a connection of psycopg, and prints JSON lines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time

import psycopg

EVERY = 0.004
"""Seconds between two questions to a host."""

TIMEOUT = 2
"""Seconds for a connection; what hangs is cut by the kernel: a question, or an answer that does not come through."""


class Prober:
    """Asks one host, "name" or "name:port", until it is told to stop."""

    def __init__(self, conninfo: str, host: str, stop: threading.Event) -> None:
        self._host = host
        self._stop = stop
        name, _, port = host.partition(":")
        self._conninfo = psycopg.conninfo.make_conninfo(
            conninfo,
            host=name,
            port=port or None,
            connect_timeout=TIMEOUT,
            tcp_user_timeout=TIMEOUT * 1000,
            keepalives_idle=1,
            keepalives_interval=1,
            keepalives_count=TIMEOUT,
            application_name="prober",
        )
        self._primary = False

    def run(self) -> None:
        """Connect again and again."""
        while not self._stop.is_set():
            with contextlib.suppress(psycopg.Error), self._connect() as conn:
                while not self._stop.wait(EVERY):
                    self._ask(conn)
            self._primary = False
            self._stop.wait(EVERY)

    def _connect(self) -> psycopg.Connection:
        # Nothing is prepared: it may be a pooler that is asked.
        return psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)

    def _ask(self, conn: psycopg.Connection) -> None:
        row = conn.execute("SELECT NOT pg_is_in_recovery()").fetchone()
        assert row is not None
        if row[0] and not self._primary:
            self._tell("primary")
            conn.execute("INSERT INTO probe (host) VALUES (%s)", (self._host,))
            self._tell("commits")
        self._primary = row[0]

    def _tell(self, what: str) -> None:
        # One write: other threads write, too.
        sys.stdout.write(json.dumps({"host": self._host, "what": what, "at": time.monotonic()}) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conninfo", required=True)
    parser.add_argument("hosts", nargs="+")
    args = parser.parse_args()
    stop = threading.Event()
    threads = [
        threading.Thread(target=Prober(args.conninfo, host, stop).run, daemon=True) for host in args.hosts
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main()
