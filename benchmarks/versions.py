"""Versions, machine and output file of the figures, for all benchmarks."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

import psycopg
import psycopg_pool

import pgroute


def versions(server=None):
    """Return the versions of everything here, and that of a server (`LocalCluster.server`)."""
    found = {
        "python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "libpq": f"{psycopg.pq.version() // 10000}.{psycopg.pq.version() % 10000}",
        "psycopg_pool": psycopg_pool.__version__,
        "pgroute": pgroute.__version__,
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["hasql"] = importlib.metadata.version("hasql")
    if server is not None:
        found["postgresql"] = server.version
    return found


def machine():
    """Return the versions and machine that the figures depend on."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def listed(values):
    """Return a dict as a line of text."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def finish(args, rows, cluster=None):
    """Print the versions of everything, and write rows and versions to the file that was asked for."""
    found = versions(None if cluster is None else cluster.server)
    print(listed(found))
    if args.json:
        args.json.write_text(json.dumps({"versions": found, "rows": rows}, indent=1) + "\n")


def readable(found):
    """Return it as JSON: times to the nanosecond, each innermost list in a line."""
    rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 9))
    text = json.dumps(rounded, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def store(path, found):
    """Write what was found to a file, beside what other benchmarks have written there."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(readable(kept | found))
