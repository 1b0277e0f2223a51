"""`python -m tests.chaos`: a long run by command, with a summary; status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import logging
import secrets
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.chaos.nemesis import FAULTS
from tests.chaos.report import show
from tests.chaos.run import Plan, run

FACES = {"sync": ("sync",) * 4, "async": ("async",) * 4, "both": ("sync", "async", "sync", "async")}


def main() -> int:
    by_name = {fault.name: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="no fault begins later (default: 600)")
    parser.add_argument("--steps", type=int, help="faults, at most (default: any number)")
    parser.add_argument("--seed", type=int, help="of the sequence of faults (default: a random one)")
    parser.add_argument("--mode", choices=("sync", "async-replication"), default="sync")
    parser.add_argument("--face", choices=tuple(FACES), default="both")
    parser.add_argument("--writers", type=int, default=3, help="in each of 4 processes (default: 3)")
    parser.add_argument("--readers", type=int, default=2, help="in each of 4 processes (default: 2)")
    parser.add_argument("--fault", action="append", choices=tuple(by_name), help="only this kind; repeatable")
    parser.add_argument("--brisk", action="store_true", help="all waiting is short")
    parser.add_argument("--pg-version", help="of the servers (default: the newest found)")
    parser.add_argument("--keep", type=Path, help="a folder for journals and logs (default: none are kept)")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleared away
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    console = Console()
    plan = Plan(
        seed=seed,
        seconds=args.seconds,
        steps=args.steps,
        mode=args.mode,
        faces=FACES[args.face],
        writers=args.writers,
        readers=args.readers,
        faults=tuple(by_name[name] for name in args.fault) if args.fault else FAULTS,
        brisk=args.brisk,
        version=args.pg_version,
        keep=args.keep,
    )
    console.print(f"seed {seed}: {' '.join(sys.argv[1:])}", markup=False, highlight=False)
    try:
        result = run(plan, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        return 130
    show(console, result)
    console.print(f"seed {seed}", highlight=False)
    return 1 if result.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
