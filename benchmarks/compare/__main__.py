"""The command: python -m benchmarks.compare [--scenario NAME ...] [--json FILE], from the root of the repository."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.versions import listed, machine, store, versions
from pgroute.testing import find_server

from . import failover, hotpath, stale, steady, summary, table
from .contenders import ALL

SCENARIOS = {
    "steady": steady.run,
    "hotpath": hotpath.run,
    **dict.fromkeys(failover.SCENARIOS, failover.run),
    "stale": stale.run,
}
TRIALS = {"crash": 20, "freeze": 8, "switchover": 20}


def parse():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="one or more (default: all)")
    parser.add_argument("--only", action="append", choices=ALL, help="these contenders (default: all)")
    parser.add_argument("--rounds", type=int, default=24, help="of the steady state (default 24)")
    parser.add_argument("--sessions", type=int, default=1000, help="in each of these rounds (default 1000)")
    parser.add_argument("--trials", type=int, help=f"of each failover (default: {listed(TRIALS)})")
    parser.add_argument("--writers", type=int, action="append", help="in each failover (default: 1, then 20)")
    parser.add_argument("--bound", type=float, default=20.0, help="seconds from a promotion (default 20)")
    parser.add_argument("--restarts", type=int, default=2, help="under idle connections (default 2)")
    parser.add_argument("--stale-bound", type=float, default=20.0, help="seconds to serve all (default 20)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a scenario (default 900)")
    parser.add_argument("--seed", type=int, default=1, help="of the promotions' delays (default 1)")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    args = parser.parse_args()
    args.writers = args.writers or [1, 20]
    args.default_trials = TRIALS
    return args


def main():
    args = parse()
    # As Ctrl-C, so that servers and processes are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    head = {"machine": machine(), "versions": versions(find_server()), "seed": args.seed}
    print(listed(head["machine"]), listed(head["versions"]), sep="\n")
    results, took = [], {}
    try:
        for scenario in args.scenario or SCENARIOS:
            begun = time.monotonic()
            print(f"{scenario}:", flush=True)
            results += SCENARIOS[scenario](scenario, args.only or list(ALL), args, begun + args.limit)
            took[scenario] = round(time.monotonic() - begun)
            print(f"{scenario}: {took[scenario]} s", flush=True)
    finally:
        for _, title, header, rows in summary.tables(results):
            table.show(title, header, rows)
        if args.json:
            store(args.json, {**head, "took": took, "results": results})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
