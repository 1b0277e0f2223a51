"""Prints the lowest versions that pyproject.toml admits, as pins; with `--test [ARGUMENT]...` runs pytest with them.

The packages are installed in a virtual environment of their own, which goes in the end. Without arguments a part of the
tests is run that uses each of them: all of core, and some of what needs servers. What only checks or writes this
repository (mypy, ruff, mkdocs, ...) has no users whose versions differ.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = (
    "binary",
    "cli",
    "plot",
    "testing",
    "fastapi",
    "flask",
    "sqlalchemy",
    "prometheus",
    "opentelemetry",
    "examples",
)
TOOLS = ("dnslib", "hypothesis", "opentelemetry-sdk", "pyte", "pytest-xdist")
"""Further packages that the tests need, by their names in the extra `dev`."""
TESTS = (
    "tests/core",
    "tests/names/test_lookups.py",
    "tests/cli",
    "tests/testing/test_local_cluster.py",
    "tests/aio/test_routing.py",
    "tests/aio/test_run.py",
    "tests/aio/test_pools.py",
    "tests/sync/test_routing.py",
    "tests/sync/test_pools.py",
    "tests/sync/test_batch.py",
    "tests/contrib/sqlalchemy/test_sessions.py",
    "tests/contrib/sqlalchemy/test_async.py",
    "tests/contrib/metrics",
    "tests/examples",
)
REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,]+\])?(>=|==)([\w.]+?)(?:\.\*)?(?:,.*)?")


def requirements(project: dict[str, Any]) -> list[str]:
    """Return the requirements of the package, of its extras and of its tests."""
    extras: dict[str, list[str]] = project["optional-dependencies"]
    tools = [line for line in extras["dev"] if re.split("[=>]", line)[0] in TOOLS]
    found = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name]), *tools]
    return [line for line in found if not line.startswith(f"{project['name']}[")]


def pins(lines: list[str]) -> list[str]:
    """Return the lowest version of each, as a constraint.

    Raises:
        ValueError: a requirement has no lower bound, or one package has two.
    """
    lowest: dict[str, str] = {}
    for line in lines:
        match = REQUIREMENT.fullmatch(line)
        if match is None:
            raise ValueError(f"no lower bound that can be tried: {line}")
        if lowest.setdefault(match[1], match[3]) != match[3]:
            raise ValueError(f"two lower bounds of {match[1]}: {lowest[match[1]]} and {match[3]}")
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


def test(constraints: list[str], arguments: list[str]) -> int:
    """Run pytest with exactly these versions and return its exit status."""
    with tempfile.TemporaryDirectory(prefix="pgroute-lowest-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # or PostgreSQL's programs in it would be copied for each cluster of root's
        os.environ["PIP_USER"] = "0"  # in an environment pip refuses it, which pip.conf may ask for
        for variable in ("PIP_TARGET", "PIP_PREFIX"):
            os.environ.pop(variable, None)
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        (folder / "pins").write_text("\n".join(constraints) + "\n")
        names = [line.partition("==")[0] for line in constraints]
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "-c",
                str(folder / "pins"),
                *names,
                f"{ROOT}[{','.join(EXTRAS)}]",
            ],
            check=True,
        )
        subprocess.run(
            [python, "-m", "pip", "uninstall", "-q", "-y", "pgroute"], check=True
        )  # this tree's is tested
        chosen = arguments or [*TESTS, "-n", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [python, "-m", "pytest", "-q", "-p", "pgroute.testing.plugin", *chosen]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    constraints = pins(requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]))
    if arguments[:1] != ["--test"]:
        print("\n".join(constraints))
        return 0
    return test(constraints, arguments[1:])


if __name__ == "__main__":
    # By way of every finally: the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
