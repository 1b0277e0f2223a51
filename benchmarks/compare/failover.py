"""Crash, freeze and switchover: from the moment that the promotion is visible until writers write again.

Contenders go through the same failover at the same time, each in a process of its own, on one cluster. With many
writers they go in two groups, one after the other: all of them reconnecting at once would measure the processors.
"""

from __future__ import annotations

import collections
import random
import re
import time

import psycopg

from benchmarks.failover import promote, received
from pgroute.testing import ClusterError, LocalCluster

from .field import Field, login_name
from .runner import Runner

SCENARIOS = {
    "crash": "the primary and all its sessions are killed",
    "freeze": "every process of the primary is stopped (SIGSTOP)",
    "switchover": "the primary is shut down (fast) and is back, as a standby, before the promotion",
}
DELAYS = {"crash": (0.5, 3.0), "freeze": (0.5, 3.0), "switchover": (0.5, 1.5)}
READ_FOR = 2.0
GROUPS = (
    ("pgroute", "psycopg_pool", "psycopg_pool tuned", "hasql"),
    ("pgroute async", "psycopg_pool async", "psycopg_pool tuned async", "hasql tuned"),
)
_SETTINGS = {"max_connections": "300", "log_connections": "on"}
_LOGIN = re.compile(r"connection authorized: .* application_name=(\S+)")


def break_primary(scenario, old, new):
    """Make the fault; after a switchover the old primary accepts sessions again, read-only ones."""
    if scenario == "crash":
        old.kill()
    elif scenario == "freeze":
        old.freeze()
    else:
        old.stop("fast")
        old.configure_standby(new)
        old.start()


def logins(nodes):
    """Return how many sessions were opened on some nodes until now, by application_name."""
    return collections.Counter(name for node in nodes for name in _LOGIN.findall(node.log()))


def heats(scenario, names, writers):
    """Return the contenders that share a failover; a freeze is long, and only some recover from it at once."""
    if writers == 1 or scenario == "freeze":
        return [names]
    groups = [[n for n in names if n in together] for together in GROUPS]
    return [group for group in groups if group]


def trial(cluster, field, scenario, *, names, writers, delay, bound):
    """Return the results of one failover, by contender."""
    reading = scenario == "switchover"
    started = field.ask("start", cluster.dsn, writers, reading, timeout=60.0, names=names)
    old = cluster.primary
    *_, new = sorted(cluster.standbys, key=received)
    standbys = cluster.standbys
    before = logins(standbys)
    broken_at = time.monotonic()
    break_primary(scenario, old, new)
    if scenario != "switchover":
        # One that had received more could not follow the other.
        *_, new = sorted(cluster.standbys, key=received)
    time.sleep(max(0.0, broken_at + delay - time.monotonic()))
    opened = logins(standbys)
    promoting_at = time.monotonic()
    seen_at = promote(new)
    command = ("watch", new.port, broken_at, seen_at, bound)
    results = field.ask(*command, timeout=bound + 10.0, names=started)
    if reading:
        time.sleep(max(0.0, seen_at + READ_FOR - time.monotonic()))
    if scenario == "freeze":
        old.kill()  # whoever is stuck there ends now
    last_reads = field.ask("close", timeout=20.0, names=results)
    for name in set(started) - set(results):  # so stuck that it did not even answer
        results[name] = {"recovered_after": [None] * writers, "errors": {}}
    for standby in cluster.standbys:
        standby.follow(new, wait=False)
    if scenario != "switchover":
        old.rejoin(new)
    for standby in cluster.standbys:
        standby.wait_streaming(new)
    cluster.catch_up()
    for name, last in last_reads.items():
        key = login_name(name)
        results[name] |= {
            **last,
            "logins_per_second": (opened[key] - before[key]) / (promoting_at - broken_at),
        }
    return {"delay": delay, "promoted_after": seen_at - broken_at, "contenders": results}


def run(scenario, names, args, deadline):
    """Yield one result for each number of writers: so many trials, fewer if the deadline is passed meanwhile."""
    rng = random.Random(f"{args.seed} {scenario}")
    low, high = DELAYS[scenario]
    count = args.trials or args.default_trials[scenario]
    for writers in args.writers:
        delays = [low + (high - low) * rng.random() for _ in range(count)]
        trials = []
        # A new cluster for each: standbys would be slower with every timeline in their history.
        with LocalCluster(standbys=2, settings=_SETTINGS) as cluster, Field(names, Runner) as field:
            cluster.primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY)")
            cluster.catch_up()
            for number, delay in enumerate(delays, 1):
                if time.monotonic() > deadline:
                    print(f"  out of time after {number - 1} trials", flush=True)
                    break
                print(f"  {scenario}, {writers} writer(s), trial {number} of {count}", flush=True)
                settings = {"writers": writers, "delay": delay, "bound": args.bound}
                try:
                    trials.extend(
                        trial(cluster, field, scenario, names=heat, **settings)
                        for heat in heats(scenario, names, writers)
                    )
                except (ClusterError, psycopg.Error) as exc:
                    print(f"  ended after {number - 1} trials: {exc}", flush=True)
                    break
        yield {
            "scenario": scenario,
            "writers": writers,
            "bound": args.bound,
            "fault": SCENARIOS[scenario],
            "delays": [low, high],
            "trials": trials,
        }
