"""Names that move, under load: how soon a flip is followed, and how many queries a name server gets.

    python -m benchmarks.names [--trials 10] [--json FILE]

A name server with scripted zones on loopback, and PostgreSQL servers on 127.0.0.2 to .4. An endpoint flips to another
server, once after a switchover in which the old primary has come back as a standby, once between two that both go on
serving, so that nothing but the TTL tells; a set of addresses goes from 2 to 3 to 1 under readers; an SRV record with
weights 1 and 3; a minute without a name server; 20 names for a minute.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg

import pgroute
from benchmarks.versions import finish
from pgroute.testing import LocalCluster
from tests.names.nameserver import SERVFAIL, NameServer
from tests.support import dsn_at

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


def write(router, seen, end):
    while not end.is_set():
        try:
            with router.writer() as conn:
                address = conn.info.hostaddr
                conn.execute("INSERT INTO t VALUES (1)")
            seen.append((time.monotonic(), address, None))
        except psycopg.Error as exc:
            seen.append((time.monotonic(), None, exc))


def read(router, seen, end):
    while not end.wait(0.002):
        try:
            with router.reader() as conn:
                address = conn.info.hostaddr
                conn.execute("SELECT 1")
            seen.append((time.monotonic(), address, None))
        except psycopg.Error as exc:
            seen.append((time.monotonic(), None, exc))


def under_load(router, work, count, script):
    """Run a script while threads work; return their results."""
    seen, end = [], threading.Event()
    threads = [threading.Thread(target=work, args=(router, seen, end)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        script(seen)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return seen


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(condition)
        time.sleep(0.002)


def flip(server, ttl):
    """Return the seconds from the record's change to the first write at the new address."""
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        old.execute("CREATE TABLE t (n int)")
        cluster.catch_up()
        server.ttl = ttl
        server.zone["db.test"] = [old.host]
        dsn = dsn_at(f"db.test:{old.port}", cluster)
        moved = 0.0

        def script(seen):
            nonlocal moved
            until(lambda: len(seen) > 20)
            old.stop("fast")
            new.promote()
            old.rejoin(new)
            # The router has found the old primary to be a standby by now, and waits for a primary.
            until(lambda: any(h.role is pgroute.HostRole.STANDBY for h in router.topology.hosts))
            server.zone["db.test"] = [new.host]
            moved = time.monotonic()
            until(lambda: any(address == new.host for _, address, _ in seen))

        with pgroute.Router(dsn, resolver=server.resolver) as router:
            seen = under_load(router, write, 4, script)
    first = min(at for at, address, _ in seen if address == new.host)
    return first - moved, sum(error is not None for at, _, error in seen if at > moved)


def flip_of_readers(server, ttl):
    """The same between two standbys that keep running: only the TTL reveals the move."""
    with LocalCluster(addresses=ADDRESSES) as cluster:
        server.ttl = ttl
        server.zone["ro.test"] = [ADDRESSES[1]]
        dsn = dsn_at(f"ro.test:{cluster.nodes[0].port}", cluster)
        moved = 0.0

        def script(seen):
            nonlocal moved
            until(lambda: len(seen) > 20)
            time.sleep(ttl * 0.37)  # so that the change is no neighbour of a question
            server.zone["ro.test"] = [ADDRESSES[2]]
            moved = time.monotonic()
            until(lambda: seen[-1][1] == ADDRESSES[2])

        with pgroute.Router(dsn, resolver=server.resolver, reader_attrs="standby") as router:
            seen = under_load(router, read, 4, script)
    first = min(at for at, address, _ in seen if address == ADDRESSES[2])
    return first - moved, sum(error is not None for _, _, error in seen)


def headless(server):
    server.ttl = 1
    with LocalCluster(addresses=ADDRESSES) as cluster:
        server.zone["set.test"] = [*ADDRESSES[:2]]
        dsn = dsn_at(f"set.test:{cluster.nodes[0].port}", cluster)
        changed = []

        def script(seen):
            for records in (ADDRESSES[:2], ADDRESSES, ADDRESSES[:1]):
                server.zone["set.test"] = [*records]
                until(lambda records=records: len(router.topology.hosts) == len(records))
                changed.append(time.monotonic())
                time.sleep(3)

        with pgroute.Router(dsn, resolver=server.resolver, addresses="expand") as router:
            seen = under_load(router, read, 4, script)
        ends = [*changed[1:], float("inf")]
        spread = [
            dict(Counter(address for at, address, _ in seen if start + 0.5 < at < end))
            for start, end in zip(changed, ends, strict=True)
        ]
        return sum(error is not None for _, _, error in seen), len(seen), spread


def weights(server):
    with LocalCluster(addresses=ADDRESSES) as cluster:
        port = cluster.nodes[0].port
        server.zone |= {f"n{n}.test": [address] for n, address in enumerate(ADDRESSES, 1)}
        server.zone["_pg._tcp.test"] = [
            (0, 1, port, "n2.test"),
            (0, 3, port, "n3.test"),
            (9, 0, port, "n1.test"),
        ]
        counts = Counter()
        with pgroute.Router(dsn_at("_pg._tcp.test", cluster), resolver=server.resolver) as router:
            until(lambda: len(router.topology.standbys) == 2)
            for _ in range(4000):
                with router.reader() as conn:
                    counts[conn.info.host] += 1
        return dict(counts)


def dead(server, seconds):
    server.ttl = 1
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        cluster.primary.execute("CREATE TABLE t (n int)")
        cluster.catch_up()
        server.zone["db.test"] = [*ADDRESSES[:2]]
        dsn = dsn_at(f"db.test:{cluster.nodes[0].port}", cluster)
        options = pgroute.PoolOptions(max_lifetime=5)  # new connections are made all the time

        def script(seen):
            until(lambda: len(seen) > 20)
            server.zone["db.test"] = SERVFAIL
            time.sleep(seconds)

        with pgroute.Router(dsn, resolver=server.resolver, addresses="expand", writer=options) as router:
            seen = under_load(router, write, 2, script)
        return sum(error is not None for _, _, error in seen), len(seen)


def twenty(server, seconds):
    server.ttl = 5
    with LocalCluster(standbys=0, addresses=ADDRESSES[:1]) as cluster:
        names = [f"h{n}.test" for n in range(20)]
        server.zone |= {name: [ADDRESSES[0]] for name in names}
        port = cluster.nodes[0].port
        hosts = ",".join(f"{name}:{port}" for name in names)
        counts = {}
        for what, ttl in (("TTL 5 s", 5), ("TTL 300 s", 300)):
            server.ttl = ttl
            with pgroute.Router(dsn_at(hosts, cluster), resolver=server.resolver) as router:
                router.wait()
                before = server.count()
                time.sleep(seconds)
                counts[what] = (server.count() - before) * 60 / seconds
        return counts


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--trials", type=int, default=10, help="flips for each TTL (default 10)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the long waits (default 60)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    rows = []

    def tell(what, text, **figures):
        rows.append({"what": what, **figures})
        print(f"{what:<40} {text}", flush=True)

    with NameServer() as server:
        for ttl in (1, 5, 20):
            found = [flip(server, ttl) for _ in range(args.trials)]
            took = [seconds for seconds, _ in found]
            errors = sum(count for _, count in found)
            tell(
                f"endpoint flips, no primary, TTL {ttl} s",
                f"first write after {statistics.median(took):.2f} s (at most {max(took):.2f}), {errors} errors",
                seconds=took, errors=errors,
            )  # fmt: skip
        for ttl in (1, 5):
            found = [flip_of_readers(server, ttl) for _ in range(args.trials)]
            took = [seconds for seconds, _ in found]
            errors = sum(count for _, count in found)
            tell(
                f"endpoint flips, both serve, TTL {ttl} s",
                f"first read after {statistics.median(took):.2f} s (at most {max(took):.2f}), {errors} errors",
                seconds=took, errors=errors,
            )  # fmt: skip
        errors, reads, spread = headless(server)
        tell(
            "2 -> 3 -> 1 addresses", f"{reads} reads, {errors} errors, {spread}", errors=errors, spread=spread
        )
        counts = weights(server)
        tell("SRV weights 1:3, 4000 sessions", str(counts), counts=counts)
        errors, writes = dead(server, args.seconds)
        tell(
            f"no DNS for {args.seconds:g} s",
            f"{writes} writes, {errors} errors",
            writes=writes,
            errors=errors,
        )
        asked = twenty(server, args.seconds)
        tell("20 names, questions a minute", str(asked), asked=asked)
    with LocalCluster(standbys=0) as cluster:
        finish(args, rows, cluster)


if __name__ == "__main__":
    main()
