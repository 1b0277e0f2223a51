"""The three-days test: a switchover under load, with stock SQLAlchemy beside postgresql+pgroute.

    python benchmarks/contrib/sqlalchemy_switchover.py [--seconds 15] [--workers 2]

Stock SQLAlchemy has a QueuePool, pool_pre_ping and a URL with all hosts, without and with target_session_attrs. The
primary is stopped, a standby promoted, and the old primary comes back as a standby of it. Then the load grows, so that
new connections are made. Told of each engine: the errors, the seconds from the promotion to its first write after it,
and how many of the writes of the last 5 seconds failed.
"""

from __future__ import annotations

import argparse
import threading
import time

from sqlalchemy import create_engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.exc import SQLAlchemyError

from pgroute.testing import LocalCluster

registry.register("postgresql.pgroute", "pgroute.contrib.sqlalchemy.dialect", "PgrouteDialect")

PING = {"pool_pre_ping": True}
ENGINES = {
    "psycopg, pre-ping": ("psycopg", "", PING),
    "psycopg, pre-ping, target_session_attrs=read-write": (
        "psycopg",
        "&target_session_attrs=read-write",
        PING,
    ),
    "pgroute": ("pgroute", "", {}),
}


class Load:
    """Writes through an engine from several threads, and notes what happens."""

    def __init__(self, engine, workers):
        self.engine = engine
        self.written, self.failed = [], []
        self.stop = threading.Event()
        self.threads = []
        self.grow(workers)

    def grow(self, workers):
        for _ in range(workers):
            self.threads.append(threading.Thread(target=self._work))
            self.threads[-1].start()

    def _work(self):
        while not self.stop.is_set():
            try:
                with self.engine.begin() as conn:
                    conn.execute(text("INSERT INTO written VALUES (1)"))
                self.written.append(time.monotonic())
            except SQLAlchemyError as error:
                self.failed.append((time.monotonic(), type(error.__cause__ or error).__name__))
            time.sleep(0.01)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.engine.dispose()


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with LocalCluster(1) as cluster:
        cluster.primary.execute("CREATE TABLE written (number int)")
        hosts = "&".join(f"host={node.host}:{node.port}" for node in cluster.nodes)
        loads = {}
        for name, (driver, query, arguments) in ENGINES.items():
            url = f"postgresql+{driver}://postgres@/postgres?{hosts}&passfile={cluster.passfile}{query}"
            loads[name] = Load(create_engine(url, **arguments), options.workers)
        while not all(load.written for load in loads.values()):
            time.sleep(0.05)
        time.sleep(2)
        old = cluster.primary
        begun = time.monotonic()
        old.stop("fast")
        new = cluster.promote()
        promoted = time.monotonic()
        old.rejoin(new)
        back = time.monotonic()
        for load in loads.values():
            load.grow(options.workers)
        time.sleep(options.seconds)
        end = time.monotonic()
        for load in loads.values():
            load.end()
    print(
        f"stopped to promoted {promoted - begun:.2f} s, old primary back as a standby {back - promoted:.2f} s later"
    )
    for name, load in loads.items():
        after = [at for at in load.written if at > promoted]
        first = f"{after[0] - promoted:.2f} s" if after else "never"
        written = sum(1 for at in load.written if at > end - 5)
        failed = sum(1 for at, _ in load.failed if at > end - 5)
        kinds = {kind: sum(1 for _, k in load.failed if k == kind) for _, kind in load.failed}
        late = sum(1 for at, _ in load.failed if at > back)
        print(
            f"{name}: first write after the promotion: {first}; errors {len(load.failed)} {kinds}, "
            f"{late} of them after the old primary was back; failed in the last 5 s: {failed} of {written + failed}"
        )


if __name__ == "__main__":
    main()
