"""What importing pgroute takes beside psycopg and psycopg_pool: processor time of new processes, in turns.

    python -m benchmarks.importing [--repeats 40]

The difference is that of the least times: other work on the machine only ever adds to them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

from benchmarks.compare.table import show

PLAIN = "import psycopg, psycopg_pool"
STATEMENTS = (
    PLAIN,
    "import pgroute",
    "from pgroute import Router",
    "from pgroute import AsyncRouter",
    "from pgroute import AsyncRouter, Router",
)


def cpu(statement):
    """Return the milliseconds of processor time of a process that executes a statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.importing", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--repeats", type=int, default=40, help="processes for each statement (default 40)")
    args = parser.parse_args()
    times = {statement: [] for statement in STATEMENTS}
    for statement in STATEMENTS:
        cpu(statement)  # compiles the modules
    for _ in range(args.repeats):
        for statement, taken in times.items():
            taken.append(cpu(statement))
    plain = times[PLAIN]
    rows = [
        (
            statement,
            f"{min(taken):.0f} ms",
            f"{min(taken) - min(plain):.0f} ms",
            f"{statistics.median(t - p for t, p in zip(taken, plain, strict=True)):.0f} ms",
        )
        for statement, taken in times.items()
    ]
    show("importing", ("statement", "least", "more than psycopg", "median of the differences"), rows)


if __name__ == "__main__":
    main()
