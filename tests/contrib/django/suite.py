"""Runs parts of Django's own test suite with pgroute's backend and with Django's, and compares the outcomes.

The suite is part of Django's source distribution, which pip downloads: `python -m tests.contrib.django.suite`. It takes
a server with ICU, such as Debian's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import django
from psycopg.conninfo import conninfo_to_dict

from pgroute.testing import LocalCluster, available_versions

ROOT = Path(__file__).parents[3]
ENGINES = {"pgroute": "pgroute.contrib.django", "django": "django.db.backends.postgresql"}
APPS = (
    "aggregation",
    "annotations",
    "async",
    "atomic_migrations",
    "backends",
    "basic",
    "bulk_create",
    "cache",
    "check_framework",
    "constraints",
    "custom_managers",
    "dbshell",
    "defer",
    "delete",
    "delete_regress",
    "expressions",
    "fixtures",
    "get_or_create",
    "handlers",
    "indexes",
    "inspectdb",
    "introspection",
    "lookup",
    "many_to_many",
    "many_to_one",
    "migrations",
    "model_fields",
    "multiple_database",
    "postgres_tests",
    "prefetch_related",
    "queries",
    "raw_query",
    "save_delete_hooks",
    "schema",
    "select_for_update",
    "serializers",
    "servers",
    "sessions_tests",
    "signals",
    "test_runner",
    "test_utils",
    "timezones",
    "transaction_hooks",
    "transactions",
    "update",
)


def unpack(folder: Path, sdist: str | None) -> Path:
    """Return the folder with the tests of the Django that is installed."""
    if sdist is None:
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", *command, f"django=={django.__version__}"], check=True)
        [found] = folder.glob("*.tar.gz")
        sdist = str(found)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [tests] = folder.glob("*/tests/runtests.py")
    return tests.parent


def run(tests: Path, engine: str, cluster: LocalCluster, apps: list[str], log: Path) -> dict[str, str]:
    """Return the outcome of each test by name."""
    server = conninfo_to_dict(cluster.dsn)
    if engine != ENGINES["pgroute"]:
        server |= {"host": cluster.primary.host, "port": str(cluster.primary.port)}
    outcomes = log.with_suffix(".json")
    arguments = ["--settings=tests.contrib.django.suite_settings", "--parallel=1", "--noinput"]
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, "runtests.py", *arguments, *apps],
            cwd=tests,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SUITE_SERVER": json.dumps(server),
                "SUITE_ENGINE": engine,
                "SUITE_OUTCOMES": str(outcomes),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not outcomes.exists():
        raise SystemExit(f"the tests did not come to an end: see {log}\n{log.read_text()[-3000:]}")
    found: dict[str, str] = json.loads(outcomes.read_text())
    return found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("apps", nargs="*", default=APPS, help="(default: those that use the database most)")
    parser.add_argument("--sdist", help="Django's source distribution (default: downloaded)")
    parser.add_argument("--logs", type=Path, help="where the logs stay (default: nowhere)")
    args = parser.parse_args()
    major = min(server.major for server in available_versions())
    with tempfile.TemporaryDirectory() as name, LocalCluster(1, version=major) as cluster:
        logs = args.logs or Path(name)
        tests = unpack(Path(name), args.sdist)
        apps = [app for app in args.apps if (tests / app).is_dir()]
        found = {
            title: run(tests, engine, cluster, apps, logs / f"{title}.log")
            for title, engine in ENGINES.items()
        }
    ours, theirs = found["pgroute"], found["django"]
    print(f"Django {django.__version__}, {len(apps)} folders of its tests: {' '.join(apps)}")
    for title, outcomes in found.items():
        print(f"{title}: {dict(Counter(outcome.partition(':')[0] for outcome in outcomes.values()))}")
    different = sorted(test for test in {*ours, *theirs} if ours.get(test) != theirs.get(test))
    for test in different:
        print(f"{test}: {ours.get(test, 'not run')} / {theirs.get(test, 'not run')}")
    unexpected = [test for test in different if not ours.get(test, "").startswith("skipped")]
    print(
        f"{len(different)} different, of which {len(unexpected)} were not skipped for a reason of pgroute's"
    )
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
