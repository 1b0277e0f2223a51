"""What was measured with, and where the figures go: the same in each benchmark."""

from __future__ import annotations

import json
import platform

import psycopg
import psycopg_pool

import pgroute


def finish(args, rows, cluster=None):
    """Print the versions of everything, and write rows and versions to the file that was asked for."""
    versions = {
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "psycopg_pool": psycopg_pool.__version__,
        "pgroute": pgroute.__version__,
    }
    if cluster is not None:
        versions["postgresql"] = cluster.server.version
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")
