"""Runs every check of this repository, stopping at the first that fails; arguments go to pytest."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMORY = "/dev/shm"  # noqa: S108  (mkdtemp makes private folders there)
SITE = "SITE"
"""Stands for a temporary folder."""
STEPS = {
    "ruff check": [["-m", "ruff", "check", "."]],
    "ruff format": [["-m", "ruff", "format", "--check", "."]],
    "mypy": [["-m", "mypy"]],
    "generated": [[".ci/unasync.py", "--check"], [".ci/reference.py", "--check"]],
    "docs": [["-m", "mkdocs", "build", "--strict", "--site-dir", SITE]],
}


class CoreCoverage:
    """Prints the branch coverage of core ahead of pytest's last line."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Stop measuring and report; a run that imported nothing of core has nothing to report."""
        self.measured.stop()
        self.measured.save()
        terminalreporter.section("branch coverage of pgroute/core")
        try:
            self.measured.report(include=["pgroute/core/*"], file=terminalreporter)
        except coverage.exceptions.NoDataError as exc:
            terminalreporter.line(str(exc))


def run_pytest(arguments: list[str]) -> int:
    """Run tests in this process, so that coverage sees the imports that pytest's plugins make."""
    measured = coverage.Coverage()
    measured.start()
    return pytest.main(arguments, plugins=[CoreCoverage(measured)])


def use_memory() -> None:
    """Have the clusters' files in memory where there is plenty: on some disks a cluster takes ten seconds to make."""
    with contextlib.suppress(OSError):
        memory = os.statvfs(MEMORY)
        roomy = memory.f_bavail * memory.f_frsize >= 4 * 2**30 and not memory.f_flag & os.ST_NOEXEC
        if roomy and os.access(MEMORY, os.W_OK):
            os.environ.setdefault("TMPDIR", MEMORY)


def run_suite() -> int:
    """Run all tests: first those of core, whose coverage they alone must show, then the others side by side."""
    status = run_pytest(["tests/core"])
    if status:
        return status
    use_memory()
    # They wait for servers most of the time; a cluster for each worker is what memory and patience allow.
    workers = 4
    command = ["-m", "pytest", "--ignore=tests/core", "-n", str(workers), "--dist", "worksteal"]
    return subprocess.run([sys.executable, *command], check=False).returncode


def run_step(commands: list[list[str]]) -> int:
    """Run the commands of a step and return the exit status of the first that fails."""
    # mkdocs-material would print that it is maintained until May 2027.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            arguments = [folder if argument == SITE else argument for argument in command]
            status = subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode
            if status:
                return status
    return 0


def main(arguments: list[str]) -> int:
    """Run the steps in order and return the exit status of the first that fails."""
    os.chdir(ROOT)
    for done, (name, commands) in enumerate(STEPS.items()):
        print(f"== {name}", flush=True)
        started = time.monotonic()
        status = run_step(commands)
        print(f"== {name}: {'FAILED' if status else 'ok'}, {time.monotonic() - started:.1f} s", flush=True)
        if status:
            passed, skipped = [*STEPS][:done], [*STEPS, "pytest"][done + 1 :]
            print(f"== FAILED: {name}; passed: {', '.join(passed) or 'none'}; not run: {', '.join(skipped)}")
            return status
    print("== pytest", flush=True)
    return run_pytest(arguments) if arguments else run_suite()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
