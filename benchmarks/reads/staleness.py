"""The measured staleness against the truth: replay paused, nothing written, the primary killed."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg

import pgroute
from pgroute.testing import LocalCluster

from .beat import TABLE, Beat, truth

INTERVALS = (1.0, 0.1)
"""Seconds between two probes."""
TOLERANCE = 0.1
"""Seconds above two intervals that the staleness may be too high."""
MAX_LAGS = (0.5, 1.0, 2.0, 5.0)
STEP = 0.02
BEFORE, AFTER = 5.0, 6.0
"""Seconds of a scene before and after its event."""


def open_router(stack, cluster, interval, **more):
    """Open a router with probes of its own: those of two routers that reach a host alike would be shared."""
    name = f"{interval:g} {more}"[:60]
    probe = pgroute.ProbeOptions(interval=interval, kwargs={"application_name": name})
    router = stack.enter_context(pgroute.Router(cluster.dsn, probe=probe, **more))
    until = time.monotonic() + 20
    while any(host.current_as_of is None for host in standbys(router)) or len(standbys(router)) < 2:
        if time.monotonic() > until:
            raise TimeoutError(f"no staleness of two standbys: {router.topology}")
        time.sleep(0.01)
    return router


def standbys(router):
    return [host for host in router.topology.hosts if host.role is pgroute.HostRole.STANDBY]


def measured(router, node, now):
    """Return the seconds that a standby may be missing according to the router; None: it cannot tell."""
    host = next(h for h in router.topology.hosts if h.port == node.port)
    return None if host.current_as_of is None else max(0.0, now - host.current_as_of)


class Trace:
    """Moments of one standby, as one router sees it: the truth, and what is measured."""

    def __init__(self, interval):
        self.interval = interval
        self.moments = []

    def add(self, at, true, found):
        self.moments.append((at, true, found))

    def summary(self, scene, standby, until=float("inf")):
        """Return what counts of it, of the moments before a time."""
        moments = [moment for moment in self.moments if moment[0] < until]
        known = [(true, found) for _, true, found in moments if found is not None]
        bound = 2 * self.interval + TOLERANCE
        above = [found - true for true, found in known]
        return {
            "scene": scene,
            "standby": standby,
            "interval": self.interval,
            "moments": len(moments),
            "unknown": len(moments) - len(known),
            "least_above": min(above),
            "most_above": max(above),
            "most": max(found for _, found in known),
            "below_truth": sum(each < 0 for each in above),
            "beyond_bound": sum(each > bound for each in above),
            "bound": bound,
        }

    def settled_after(self, event):
        """Return the seconds from an event until the staleness is at most the bound above the truth for good."""
        bound = 2 * self.interval + TOLERANCE
        late = [
            at for at, true, found in self.moments if at > event and (found is None or found - true > bound)
        ]
        return max(late, default=event) - event

    def thinned(self, start, step=0.1):
        """Return it as three lists, for the picture."""
        kept, last = [], float("-inf")
        for moment in self.moments:
            if moment[0] - last >= step:
                kept.append(moment)
                last = moment[0]
        return {
            "interval": self.interval,
            "at": [round(at - start, 3) for at, _, _ in kept],
            "truth": [round(true, 3) for _, true, _ in kept],
            "measured": [None if found is None else round(found, 3) for _, _, found in kept],
        }


def watch(routers, node, true, until):
    """Return a trace by router, until a time; *true* returns the truth for a moment, asked right after it."""
    traces = {interval: Trace(interval) for interval in routers}
    due = time.monotonic()
    while (now := time.monotonic()) < until:
        found = {interval: measured(router, node, now) for interval, router in routers.items()}
        fact = true(now)
        for interval, trace in traces.items():
            trace.add(now, fact, found[interval])
        due = max(due + STEP, time.monotonic())
        time.sleep(due - time.monotonic())
    return traces


def paused(cluster, args):
    """Replay of one standby paused under a steady writer: rows of it and of the other one, and the traces."""
    _, still, moving = cluster.nodes
    results = {}

    def follow(node):
        with psycopg.connect(node.conninfo, autocommit=True) as conn:
            results[node] = watch(routers, node, lambda now: truth(beat, conn, now), end)

    with contextlib.ExitStack() as stack:
        routers = {i: open_router(stack, cluster, i) for i in INTERVALS}
        beat = stack.enter_context(Beat(cluster.primary))
        start = time.monotonic()
        end = start + BEFORE + args.pause + AFTER
        threads = [threading.Thread(target=follow, args=(node,)) for node in (still, moving)]
        for thread in threads:
            thread.start()
        time.sleep(BEFORE)
        still.pause_replay()
        paused_at = time.monotonic()
        time.sleep(args.pause)
        resuming_at = time.monotonic()
        still.resume_replay()
        for thread in threads:
            thread.join()
    # A resumed standby catches up at once, and the router learns of it by the next probe.
    rows = [
        trace.summary("replay paused", "paused", until=resuming_at)
        | {
            "below_truth_later": trace.summary("", "")["below_truth"],
            "settled_after": trace.settled_after(resuming_at),
        }
        for trace in results[still].values()
    ]
    rows += [trace.summary("replay paused", "beside it") for trace in results[moving].values()]
    return rows, {
        "paused": paused_at - start,
        "resumed": resuming_at - start,
        "traces": [trace.thinned(start) for trace in results[still].values()],
    }


def idle(cluster, args):
    """Nothing is written, except for the records of one checkpoint and one change of the WAL file: the truth is 0."""
    primary, *others = cluster.nodes
    results = {}

    def follow(node):
        results[node] = watch(routers, node, lambda _: 0.0, end)

    with contextlib.ExitStack() as stack:
        routers = {i: open_router(stack, cluster, i) for i in INTERVALS}
        end = time.monotonic() + args.idle
        threads = [threading.Thread(target=follow, args=(node,)) for node in others]
        for thread in threads:
            thread.start()
        time.sleep(args.idle / 3)
        primary.execute("CHECKPOINT")
        time.sleep(args.idle / 3)
        primary.execute("SELECT pg_switch_wal()")
        for thread in threads:
            thread.join()
    return [
        trace.summary("idle primary", f"standby {number}")
        for number, node in enumerate(others, 1)
        for trace in results[node].values()
    ]


class Reader:
    """Asks for readers with a max_lag all the time, and keeps when they were served and refused."""

    def __init__(self, router, max_lag, stop):
        self.max_lag = max_lag
        self.served = []
        self.refused = []
        self._router = router
        self._stop = stop
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        while not self._stop.wait(0.01):
            at = time.monotonic()
            try:
                with self._router.reader(0, max_lag=self.max_lag) as conn:
                    at = time.monotonic()
                    conn.execute("SELECT 1")
                self.served.append(at)
            except pgroute.NoHostAvailable:
                self.refused.append(at)

    def summary(self, killed_at):
        early = [at for at in self.refused if at < killed_at]
        last = max(self.served)
        return {
            "max_lag": self.max_lag,
            "served": len(self.served),
            "refused": len(self.refused),
            "refused_before": len(early),
            "last_served": last - killed_at,
            "first_refused": min(at for at in self.refused if at >= killed_at) - killed_at,
            "served_too_late": sum(at > killed_at + self.max_lag for at in self.served),
        }


def killed(cluster, args):
    """The primary killed: the staleness goes up with the clock, and readers with a max_lag are refused."""
    primary, node, _ = cluster.nodes
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        routers = {i: open_router(stack, cluster, i) for i in INTERVALS}
        readers = []
        stack.enter_context(Beat(primary))
        for max_lag in MAX_LAGS:
            own = open_router(stack, cluster, 1.0, reader_attrs="standby", max_lag=max_lag)
            own.wait("reader")
            readers.append(Reader(own, max_lag, stop))
        start = time.monotonic()
        gone = []

        def kill():
            time.sleep(BEFORE)
            primary.kill()
            gone.append(time.monotonic())

        killer = threading.Thread(target=kill)
        killer.start()
        end = start + BEFORE + args.outage
        traces = watch(routers, node, lambda now: now - gone[0] if gone and now > gone[0] else 0.0, end)
        killer.join()
        stop.set()
        for reader in readers:
            reader.thread.join()
    rows = [trace.summary("primary killed", "standby 1") for trace in traces.values()]
    picture = {
        "killed": gone[0] - start,
        "traces": [trace.thinned(start) for trace in traces.values()],
    }
    return rows, picture, [reader.summary(gone[0]) for reader in readers]


def run(args, _deadline):
    """Return the rows, the pictures, and the readers that were refused."""
    with LocalCluster(standbys=2) as cluster:
        cluster.primary.execute(TABLE)
        cluster.catch_up()
        rows, pause = paused(cluster, args)
        rows += idle(cluster, args)
        more, kill, readers = killed(cluster, args)
    return {"rows": rows + more, "refused": readers, "pictures": {"pause": pause, "kill": kill}}
