"""Fleets of 1 to 10,000 processes through faults, simulated: logins at the new primary, time until served, probes.

    python -m benchmarks.fleet [--clients 1,10,100] [--scenarios crash,return] [--sweeps] [--json FILE] [--plots FOLDER]
    python -m benchmarks.fleet --histories 1000 [--first 0]

Discrete events around pgroute/core itself: topology, routing, schedule, retries and admission decide; clock, network
and servers are simulated. Each process is on a machine of its own, with a router, one probe connection to each host and
one task that writes. 10,000 of them take minutes. The sweeps vary one setting at a time, on a tenth of such a fleet
with a tenth of the server's capacity.

With --histories, short runs of random faults are made from seeds, and what must always hold is checked.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

from benchmarks.compare.table import show
from benchmarks.fleet.fleet import Violation
from benchmarks.fleet.history import History
from benchmarks.fleet.plots import draw
from benchmarks.fleet.scenarios import SCENARIOS

TENTH = {"clients": 1000, "slots": 25_000, "capacity": 800.0}
BUSY = {"clients": 100, "slots": 2500, "callers": 10, "service": 0.2}
SWEEPS = {
    "spread": ("crash", [{"spread": s} for s in (0.0, 0.35, 0.7, 1.05, 1.4, 2.1, 2.8)]),
    "admission": ("crash", [{"admission": a, "callers": 10} for a in (False, True)]),
    "full": ("full", [{"admission": a, "slots": 1500} for a in (False, True)]),
    "paced": ("return", [{"paced": p} for p in (False, True)]),
    "probes": ("crash", [{"paced": p, "clients": 200} for p in (False, True)]),
    "budget_floor": (
        "partition",
        [{**BUSY, "budget": 0.0, "budget_floor": f} for f in (0.0, 0.1, 1.0, 10.0)],
    ),
    "budget": ("partition", [{**BUSY, "budget_floor": 0.0, "budget": b} for b in (0.0, 0.1, 0.2, 0.5)]),
}


def measure(name, seed, **settings):
    begun = time.perf_counter()
    gc.disable()  # it would look through all clients again and again
    try:
        figures = SCENARIOS[name](seed, **settings).run()
    finally:
        gc.enable()
    return figures | {"settings": settings, "wall": time.perf_counter() - begun}


def row(found, setting=None):
    first = found["scenario"] if setting is None else setting
    return (
        first,
        f"{found['clients']:,}",
        f"{found['served_50']:.2f} s",
        f"{found['served_99']:.2f} s",
        f"{found['logins_peak']:,.0f}",
        f"{found['capacity']:,.0f}",
        f"{found['refused']:,}",
        f"{found['probes_steady']:.2f}",
        f"{found['probes_peak']:,.0f}",
        f"{found['retries']:,}",
        f"{found['errors']:,}",
    )


HEADER = (
    "", "clients", "half served", "99 %", "logins/s", "capacity", "refused", "probes/s, steady", "probes/s, most",
    "retries", "errors",
)  # fmt: skip


def histories(first, count):
    begun, lendings = time.perf_counter(), 0
    for seed in range(first, first + count):
        try:
            lendings += History(seed).run().lendings
        except Violation as exc:
            exc.add_note(f"seed {seed}")
            raise
    took = time.perf_counter() - begun
    print(f"{count} histories, {lendings} sessions in {took:.1f} s: {60 * count / took:,.0f} a minute")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--clients", default="1,10,100,1000", help="sizes of the fleet (default 1,10,100,1000)"
    )
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="which (default: all)")
    parser.add_argument(
        "--sweeps",
        nargs="?",
        const=",".join(SWEEPS),
        help="vary one setting at a time instead (default: each)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--histories", type=int, metavar="COUNT", help="check short histories of random faults instead"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed of the histories")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--plots", type=Path, help="draw what the JSON file has into this folder")
    args = parser.parse_args()
    if args.histories:
        histories(args.first, args.histories)
        return
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    if args.sweeps:
        for name in args.sweeps.split(","):
            scenario, choices = SWEEPS[name]
            found = [measure(scenario, args.seed, **{**TENTH, **choice}) for choice in choices]
            known[f"sweep {name}"] = found
            labels = [str(choice[name]) if name in choice else str(choice) for choice in choices]
            show(f"{scenario}, by {name}", HEADER, list(map(row, found, labels)))
    elif not args.plots:
        found = [
            measure(name, args.seed, clients=int(size))
            for name in args.scenarios.split(",")
            for size in args.clients.split(",")
        ]
        for figures in found:
            known[f"{figures['scenario']} {figures['clients']}"] = figures
        show("fleets", HEADER, [row(figures) for figures in found])
    if args.json:
        args.json.write_text(json.dumps(known))
    if args.plots:
        draw(known, args.plots)


if __name__ == "__main__":
    main()
