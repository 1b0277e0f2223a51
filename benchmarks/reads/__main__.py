"""The command: python -m benchmarks.reads PART [--json FILE], from the root of the repository."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path

from benchmarks.versions import listed, machine, versions
from pgroute.testing import find_server

from . import cost, failover, pairs, staleness

PARTS = {"staleness": staleness.run, "pairs": pairs.run, "failover": failover.run, "cost": cost.run}


def parse():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--pause", type=float, default=20.0)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--outage", type=float, default=15.0)
    parser.add_argument("--pairs", type=int, default=10000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--cost-rounds", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--pin", type=int)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main():
    args = parse()
    logging.disable(logging.CRITICAL)
    found = PARTS[args.part](args)
    for row in found["rows"] + found.get("refused", []):
        print(row)
    if args.json:
        args.json.write_text(json.dumps(found))


main()
