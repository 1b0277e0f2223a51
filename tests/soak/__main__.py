"""`python -m tests.soak`: increments under keys while faults strike; status 1 if the count is not exact in the end."""

from __future__ import annotations

import argparse
import logging
import secrets
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.chaos.nemesis import FAULTS
from tests.soak.calls import Call
from tests.soak.run import Plan, Result, run
from tests.soak.worker import WRITERS

SECONDS_PER_FAULT = 2.0
SHOWN = 20


def main() -> int:
    by_name = {fault.name: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--increments", type=int, default=10000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, help="of the faults (default: a random one)")
    parser.add_argument("--fault", action="append", choices=tuple(by_name), help="only this kind; repeatable")
    parser.add_argument("--brisk", action="store_true", help="all waiting is short")
    parser.add_argument("--pg-version", help="of the servers (default: the newest found)")
    parser.add_argument(
        "--keep", type=Path, help="a folder for what the workers wrote (default: nothing is kept)"
    )
    args = parser.parse_args()
    if args.processes < 1 or args.increments < WRITERS * args.processes or args.faults < 0:
        parser.error(f"expected a process, {WRITERS} increments for each, and no fewer than 0 faults")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleared away
    plan = Plan(
        seed=secrets.randbelow(10**6) if args.seed is None else args.seed,
        increments=args.increments,
        processes=args.processes,
        faults=args.faults,
        kinds=tuple(by_name[name] for name in args.fault) if args.fault else FAULTS,
        brisk=args.brisk,
        spread=args.faults * SECONDS_PER_FAULT / (4 if args.brisk else 1),
        version=args.pg_version,
        keep=args.keep,
    )
    print(f"seed {plan.seed}", flush=True)
    try:
        result = run(plan, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        return 130
    show(plan, result)
    return 1 if result.wrong else 0


def show(plan: Plan, result: Result) -> None:
    """Print the figures and the verdict."""
    calls = result.calls
    errors = Counter(call.error for call in calls if call.error)
    settled: dict[int, Call] = {}
    surplus = 0
    for call in sorted(calls, key=lambda call: call.begun):
        surplus += call.number in settled
        if not call.error:
            settled.setdefault(call.number, call)
    figures = {
        "seed": plan.seed,
        "seconds": f"{result.seconds:.0f}",
        "processes": plan.processes,
        "counter": f"{result.counter} of {plan.increments}",
        "keys": result.keys,
        "calls": len(calls),
        "attempts": sum(call.attempts for call in calls),
        "  ended in CommitUnknown": sum(call.unknown for call in calls),
        "bodies run": sum(call.bodies for call in calls),
        "settled": len(settled),
        "  without running the body": sum(not call.bodies for call in settled.values()),
        "raised": sum(errors.values()),
        **{f"  {name}": times for name, times in sorted(errors.items())},
        "calls again": len(calls) - len(settled),
        "  after it was settled": surplus,
        "faults": len(result.played),
        **{f"  {name}": times for name, times in sorted(result.faults.items())},
    }
    for name, value in figures.items():
        print(f"{name:28} {value}")
    for text in result.wrong[:SHOWN]:
        print(f"WRONG: {text}")
    print("exactly once" if not result.wrong else f"{len(result.wrong)} violations")


if __name__ == "__main__":
    sys.exit(main())
