"""What a router costs that nobody uses: processor time and wake-ups of a process with one open router, three hosts.

    python -m benchmarks.idle [--seconds 60] [--repeats 3] [--interval 1,0.1] [--json FILE]

Each repeat is a process for each face and interval, one after the other. The first 5 s after opening do not count.
Wake-ups are voluntary context switches of all threads. Pools have their defaults: one idle connection for each role.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pgroute
from benchmarks.compare.table import show
from pgroute.testing import LocalCluster

SETTLING = 5.0


def usage():
    """Return processor seconds and voluntary context switches of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic(), used.ru_utime + used.ru_stime, used.ru_nvcsw


def told(before, after):
    seconds, cpu, switches = (b - a for a, b in zip(before, after, strict=True))
    return json.dumps({"cpu": cpu / seconds, "wakeups": switches / seconds})


def sync(dsn, seconds, probe):
    with pgroute.Router(dsn, probe=probe) as router:
        router.wait()
        router.wait("reader")
        time.sleep(SETTLING)
        before = usage()
        time.sleep(seconds)
        return told(before, usage())


async def aio(dsn, seconds, probe):
    async with pgroute.AsyncRouter(dsn, probe=probe) as router:
        await router.wait()
        await router.wait("reader")
        await asyncio.sleep(SETTLING)
        before = usage()
        await asyncio.sleep(seconds)
        return told(before, usage())


def child(face, dsn, seconds, interval):
    probe = pgroute.ProbeOptions(interval=float(interval))
    seconds = float(seconds)
    print(sync(dsn, seconds, probe) if face == "sync" else asyncio.run(aio(dsn, seconds, probe)))


def measure(face, dsn, seconds, interval):
    command = [sys.executable, "-m", "benchmarks.idle", "--child", face, dsn, str(seconds), str(interval)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement (default 60)")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each face (default 3)")
    parser.add_argument("--interval", default="1", help="of the probes, in seconds (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    found = {}
    with LocalCluster(standbys=2) as cluster:
        for _ in range(args.repeats):
            for interval in args.interval.split(","):
                for face in ("sync", "async"):
                    figures = measure(face, cluster.dsn, args.seconds, float(interval))
                    found.setdefault(f"{face} {interval} s", []).append(figures)
    rows = [
        (
            name,
            f"{100 * statistics.median(f['cpu'] for f in runs):.3f} %",
            " ".join(f"{100 * f['cpu']:.3f}" for f in runs),
            f"{statistics.median(f['wakeups'] for f in runs):.1f}",
        )
        for name, runs in found.items()
    ]
    show("an idle router, three hosts", ("face, interval", "of a core", "each", "wake-ups a second"), rows)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
