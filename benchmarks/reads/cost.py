"""What a session costs: each kind against a plainer one in interleaved rounds, and its round trips."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import threading
import time

import psycopg

import pgroute
from pgroute.testing import FaultProxy, LocalCluster

from .choosing import choosing
from .turns import Relay

POOL = {"min_size": 10, "max_size": 10}
PLAIN = {"prepare_threshold": None}
"""Preparing a statement would take a round trip more, once."""
SELECT = "SELECT 1"
INSERT = "INSERT INTO written (number) VALUES (1)"
KINDS = {
    # name: the plainer one that it is compared with
    "writer()": None,
    "reader()": "writer()",
    "reader(max_lag=1)": "reader()",
    "reader(after=), proven": "reader()",
    "causal().writer()": "writer()",
    "causal().reader()": "reader()",
    "run()": "writer()",
    "causal().run()": "run()",
    "writer(), INSERT": None,
    "causal().writer(), INSERT": "writer(), INSERT",
}


def statement(kind):
    return INSERT if kind.endswith("INSERT") else SELECT


def sessions(router, position):
    """Return what makes a session, by kind; the positions are text, as they arrive in a cookie."""
    text = str(position)
    return {
        "writer()": router.writer,
        "reader()": router.reader,
        "reader(max_lag=1)": lambda: router.reader(max_lag=1),
        "reader(after=), proven": lambda: router.reader(after=text),
        "causal().writer()": lambda: router.causal(text).writer(),
        "causal().reader()": lambda: router.causal(text).reader(),
        "writer(), INSERT": router.writer,
        "causal().writer(), INSERT": lambda: router.causal(text).writer(),
    }


def calls(router, position):
    """Return the functions that run a body in a transaction, by kind."""
    text = str(position)
    return {"run()": router.run, "causal().run()": lambda body: router.causal(text).run(body)}


def body(conn):
    conn.execute(SELECT)


async def async_body(conn):
    await conn.execute(SELECT)


def sync_round(router, position, kind, count, workers):
    """Return the seconds of one session."""
    make, call, sql = sessions(router, position).get(kind), calls(router, position).get(kind), statement(kind)

    def work():
        for _ in range(count // workers):
            if call is not None:
                call(body)
            else:
                with make() as conn:
                    conn.execute(sql)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / count


async def async_round(router, position, kind, count, workers):
    """Return the seconds of one session."""
    make, call, sql = sessions(router, position).get(kind), calls(router, position).get(kind), statement(kind)

    async def work():
        for _ in range(count // workers):
            if call is not None:
                await call(async_body)
            else:
                async with make() as conn:
                    await conn.execute(sql)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return (time.perf_counter() - start) / count


def order(index):
    """Return the kinds in the order of this round: it changes, so that a drift of the machine hits all alike."""
    kinds = list(KINDS)
    at = index * 3 % len(kinds)
    return kinds[at:] + kinds[:at]


def proven(topology, position):
    """Return whether all standbys are known to have replayed a position."""
    standbys = topology.standbys
    return len(standbys) == 2 and all((host.lsn or 0) >= position.lsn for host in standbys)


def run_sync(cluster, args, workers, deadline):
    pool = pgroute.PoolOptions(**POOL)
    with pgroute.Router(cluster.dsn, writer=pool, reader=pool) as router:
        position = written(router)
        for kind in KINDS:
            sync_round(router, position, kind, args.sessions, workers)
        rounds = []
        while len(rounds) < args.rounds and (len(rounds) < 2 or time.monotonic() < deadline):
            turn = order(len(rounds))
            rounds.append({kind: sync_round(router, position, kind, args.sessions, workers) for kind in turn})
        return rounds


async def run_async(cluster, args, workers, deadline):
    pool = pgroute.PoolOptions(**POOL)
    async with pgroute.AsyncRouter(cluster.dsn, writer=pool, reader=pool) as router:
        position = await asyncio.to_thread(written_by, cluster)
        until = time.monotonic() + 20
        while not proven(router.topology, position):
            if time.monotonic() > until:
                raise TimeoutError(f"not proven: {router.topology}")
            await asyncio.sleep(0.01)
        for kind in KINDS:
            await async_round(router, position, kind, args.sessions, workers)
        rounds = []
        while len(rounds) < args.rounds and (len(rounds) < 2 or time.monotonic() < deadline):
            turn = order(len(rounds))
            rounds.append(
                {kind: await async_round(router, position, kind, args.sessions, workers) for kind in turn}
            )
        return rounds


def written(router):
    """Write, and return the position once all standbys are known to have replayed it."""
    causal = router.causal()
    with causal.writer() as conn:
        conn.execute(INSERT)
    until = time.monotonic() + 20
    while not proven(router.topology, causal.position):
        if time.monotonic() > until:
            raise TimeoutError(f"not proven: {router.topology}")
        time.sleep(0.01)
    return causal.position


def written_by(cluster):
    with pgroute.Router(cluster.dsn) as router:
        return written(router)


def compare(face, workers, rounds):
    """Return the rows of one face with so many workers."""
    rows = []
    for kind, plain in KINDS.items():
        row = {
            "face": face,
            "workers": workers,
            "kind": kind,
            "over": plain,
            "times": [r[kind] for r in rounds],
            "us": statistics.median(r[kind] for r in rounds) * 1e6,
        }
        if plain is not None:
            low, middle, high = statistics.quantiles([r[plain] / r[kind] for r in rounds], n=4)
            row |= {"ratio": middle, "quartiles": [low, high]}
        rows.append(row)
    return rows


def counted(cluster):
    """Return the round trips of a session by kind, counted at relays in front of the nodes."""
    primary = cluster.primary
    probe = pgroute.ProbeOptions(interval=0.2, kwargs={"application_name": "uncounted"})
    one = pgroute.PoolOptions(min_size=1, max_size=1)
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(node)) for node in cluster.nodes]
        dsn = FaultProxy.dsn(relays)
        router = stack.enter_context(
            pgroute.Router(dsn, probe=probe, writer=one, reader=one, balance="ordered", kwargs=PLAIN)
        )
        position = written(router)

        def turns():
            return sum(sum(tuple(relay.turns.values())) for relay in relays)

        def count(work):
            for _ in range(3):
                work()  # connections are opened
            before = turns()
            for _ in range(5):
                work()
            return (turns() - before) / 5

        def direct(conn):
            conn.execute(SELECT)

        def session(make):
            with make() as conn:
                conn.execute(SELECT)

        def autocommit(make):
            with make() as conn:
                conn.autocommit = True
                conn.execute(SELECT)

        def rolled_back(make):
            with contextlib.suppress(ZeroDivisionError), make() as conn:
                conn.execute(SELECT)
                raise ZeroDivisionError

        rows = []
        conninfo = psycopg.conninfo.make_conninfo(primary.conninfo, host=relays[0].host, port=relays[0].port)
        with psycopg.connect(conninfo, autocommit=True, **PLAIN) as conn:
            rows.append(("one query on a connection of psycopg", count(lambda: direct(conn))))
        kinds = sessions(router, position)
        for kind, make in kinds.items():
            if statement(kind) == SELECT:
                rows.append((kind, count(lambda make=make: session(make))))
        for kind, call in calls(router, position).items():
            rows.append((kind, count(lambda call=call: call(body))))
        causal = kinds["causal().writer()"]
        rows.append(("writer(), rolled back", count(lambda: rolled_back(router.writer))))
        rows.append(("causal().writer(), rolled back", count(lambda: rolled_back(causal))))
        rows.append(("writer(), autocommit", count(lambda: autocommit(router.writer))))
        rows.append(("causal().writer(), autocommit", count(lambda: autocommit(causal))))
    return [{"kind": kind, "round_trips": found} for kind, found in rows] + asked(cluster)


def asked(cluster):
    """Return the round trips of readers whose standby must be asked, and of those that go on to the primary."""
    _, first, second = cluster.nodes
    # Probed once, and then not for a minute: what is written since is not proven by them.
    probe = pgroute.ProbeOptions(interval=60, kwargs={"application_name": "uncounted"})
    one = pgroute.PoolOptions(min_size=1, max_size=1)
    rows = []
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(node)) for node in cluster.nodes]
        router = stack.enter_context(
            pgroute.Router(
                FaultProxy.dsn(relays), probe=probe, writer=one, reader=one, balance="ordered", kwargs=PLAIN
            )
        )
        for role in ("writer", "reader"):
            router.wait(role)
        for behind, kind in (
            (False, "reader(after=), asked once"),
            (True, "reader(after=, wait=0), standbys behind: one is asked, then the primary"),
        ):
            found = []
            for _ in range(4):
                causal = router.causal()
                with causal.writer() as conn:
                    conn.execute(INSERT)
                if not behind:
                    cluster.catch_up()
                before = sum(sum(tuple(relay.turns.values())) for relay in relays)
                with router.reader(after=causal.position, wait=0) as conn:
                    conn.execute(SELECT)
                found.append(sum(sum(tuple(relay.turns.values())) for relay in relays) - before)
                if behind is False:
                    continue
                for node in (first, second):
                    node.pause_replay()
            rows.append({"kind": kind, "round_trips": statistics.median(found[1:])})
        for node in (first, second):
            node.resume_replay()
    return rows


def run(args, deadline):
    """Return the rows of the ratios, the round trips, and the choice among few and many hosts."""
    rows = []
    with LocalCluster(standbys=2, settings={"max_connections": "100"}) as cluster:
        cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY, number int)")
        cluster.catch_up()
        turns = counted(cluster)
        hosts = choosing()
        if args.pin is not None:
            os.sched_setaffinity(0, {args.pin})  # after the servers were started, which stay free
        for workers in (1, 8):
            for face in ("sync", "async"):
                if face == "sync":
                    rounds = run_sync(cluster, args, workers, deadline)
                else:
                    rounds = asyncio.run(run_async(cluster, args, workers, deadline))
                rows += compare(face, workers, rounds)
                print(f"  {face}, {workers}: {len(rounds)} rounds", flush=True)
    return {"rows": rows, "turns": turns, "hosts": hosts}
