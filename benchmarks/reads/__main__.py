"""The command: python -m benchmarks.reads [PART ...] [--json FILE], from the root of the repository."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path

from benchmarks.compare import table
from benchmarks.versions import listed, machine, store, versions
from pgroute.testing import find_server

from . import cost, failover, pairs, staleness, summary

PARTS = {"staleness": staleness.run, "pairs": pairs.run, "failover": failover.run, "cost": cost.run}


def parse():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument(
        "part", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"{', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--pause", type=float, default=20.0, help="seconds of paused replay (default 20)")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of an idle primary (default 60)")
    parser.add_argument("--outage", type=float, default=15.0, help="seconds without a primary (default 15)")
    parser.add_argument(
        "--pairs", type=int, default=10_000, help="writes and reads of each way (default 10000)"
    )
    parser.add_argument("--threads", type=int, default=32, help="that write and read (default 32)")
    parser.add_argument("--crashes", type=int, default=60, help="of an asynchronous primary (default 60)")
    parser.add_argument("--rounds", type=int, default=120, help="of each kind of session (default 120)")
    parser.add_argument("--sessions", type=int, default=96, help="in each of these rounds (default 96)")
    parser.add_argument("--pin", type=int, metavar="CPU", help="keep the sessions on one processor (Linux)")
    parser.add_argument(
        "--limit", type=float, default=330.0, help="seconds for a part's rounds (default 330)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the crashes (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, beside what is there")
    return parser.parse_args()


def main():
    args = parse()
    # As Ctrl-C, so that servers are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.disable(logging.CRITICAL)  # each failover is an ERROR or two: not what is shown here
    head = {"machine": machine(), "versions": versions(find_server())}
    print(listed(head["machine"]), listed(head["versions"]), sep="\n")
    for part in args.part or PARTS:
        begun = time.monotonic()
        found = PARTS[part](args, begun + args.limit)
        took = round(time.monotonic() - begun)
        for _, title, header, rows in summary.tables({part: found}):
            table.show(title, header, rows)
        print(f"{part}: {took} s", flush=True)
        if args.json:
            known = json.loads(args.json.read_text()) if args.json.exists() else {}
            reads = known.get("reads", {}) | {part: {**head, "took": took, **found}}
            store(args.json, {"reads": reads})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
