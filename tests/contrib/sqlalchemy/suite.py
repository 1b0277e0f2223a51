"""Runs SQLAlchemy's own tests of a dialect through postgresql+pgroute and through its psycopg dialect, and compares.

The tests are those of the installed version, from its source distribution: SQLAlchemy's, not copied here.

    python tests/contrib/sqlalchemy/suite.py [--async] [--source DIR] [ARGUMENT OF PYTEST ...]
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote

import sqlalchemy

from pgroute.testing import LocalCluster, available_versions

ROOT = Path(__file__).parents[3]
TESTS = ("test/dialect/test_suite.py", "test/dialect/postgresql")
SCHEMAS = "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2"
AVAILABLE = "SELECT count(*) FROM pg_available_extensions WHERE name IN ('hstore', 'citext')"


def source(folder: Path) -> Path:
    """Return the source distribution of the installed version, unpacked in a folder."""
    name = f"sqlalchemy=={sqlalchemy.__version__}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "sqlalchemy", name]
    subprocess.run(command, cwd=folder, check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path.parent for path in folder.glob("*/setup.cfg"))


def version() -> int:
    """Return a version of PostgreSQL with the extensions that SQLAlchemy's tests create."""
    for server in reversed(available_versions()):
        with LocalCluster(0, version=server.major) as cluster:
            [(count,)] = cluster.primary.execute(AVAILABLE)
        if count == 2:
            return server.major
    raise SystemExit("no PostgreSQL with the extensions hstore and citext: install postgresql-contrib")


def outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test by name."""
    found = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  (pytest's, of this run)
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name.replace("pgroute", "DRIVER").replace("psycopg", "DRIVER")] = (
            kinds[0] if kinds else "passed"
        )
    return found


def run(driver: str, sdist: Path, arguments: list[str], major: int) -> dict[str, str]:
    """Return the outcomes of the tests through a driver, on a cluster of their own."""
    with LocalCluster(1, version=major, settings={"max_prepared_transactions": "10"}) as cluster:
        cluster.primary.execute(SCHEMAS)
        # One host for both: the tests of the dialect know nothing of several.
        host = f"{cluster.primary.host}:{cluster.primary.port}"
        url = f"postgresql+{driver}://postgres@{host}/postgres?passfile={quote(str(cluster.passfile))}"
        report = sdist / f"report-{driver}.xml"
        command = [
            sys.executable,
            "-s",
            "-m",
            "pytest",
            "-p",
            "tests.contrib.sqlalchemy.suite_plugin",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            "-p",
            "no:pgroute",
            "-q",
            "--tb=short",
            "--dburi",
            url,
            f"--junitxml={report}",
            *(arguments or TESTS),
        ]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, cwd=sdist, check=False, env={**os.environ, "PYTHONPATH": paths})
        return outcomes(report)


def main() -> int:
    """Run both and print the counts; return 1 if a test has another outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--async", dest="asynchronous", action="store_true")
    parser.add_argument("--source", type=Path)
    options, arguments = parser.parse_known_args()
    ending = "_async" if options.asynchronous else ""
    with tempfile.TemporaryDirectory() as folder:
        sdist, major = options.source or source(Path(folder)), version()
        theirs = run(f"psycopg{ending}", sdist, arguments, major)
        ours = run(f"pgroute{ending}", sdist, arguments, major)
    print(f"SQLAlchemy {sqlalchemy.__version__}{ending}")
    print("psycopg", dict(collections.Counter(theirs.values())))
    print("pgroute", dict(collections.Counter(ours.values())))
    differing = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
    for name in sorted(differing):
        print(f"differs: {name}: psycopg {theirs.get(name)}, pgroute {ours.get(name)}")
    return bool(differing)


if __name__ == "__main__":
    raise SystemExit(main())
