"""Runs every check of this repository; tests with servers run only after all other checks have passed.

Arguments go to pytest, which then runs once, in place of all tests; `--long` alone runs all tests, the long ones too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import Runner, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
CORE, CONTAINERS = "tests/core", "tests/docker"

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUILD = 900
"""Seconds for which the images are waited for."""
# They wait for servers a good part of the time; more workers than that only make each other late.
WORKERS = 5


def static(site: str) -> tuple[list[Task], list[Task]]:
    """Return the static checks, as two lanes."""
    return (
        [
            Task("mypy", [["-m", "mypy", "--num-workers", "2"]]),
            Task("pyright", [[".ci/typed.py"]]),
        ],
        [
            Task("ruff check", [["-m", "ruff", "check", "."]]),
            Task("ruff format", [["-m", "ruff", "format", "--check", "."]]),
            Task("generated", [[".ci/unasync.py", "--check"], [".ci/reference.py", "--check"]]),
            Task("docs", [["-m", "mkdocs", "build", "--strict", "--site-dir", site]]),
        ],
    )


def pytest_options() -> list[str]:
    """Return options for pytest, whose output goes to a file."""
    return ["--color=yes"] if sys.stdout.isatty() else []


@contextlib.contextmanager
def images() -> Iterator[Callable[[], object]]:
    """Have the images made that the tests in containers need, which takes minutes where there are none.

    If they cannot be made, those tests say why. Gives what waits for the end of it.
    """
    with subprocess.Popen(
        ["docker/build"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield lambda: process.wait(BUILD)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def collection() -> Task:
    """Return the task that imports all test files: otherwise each worker would compile them all for itself."""
    return Task("collection", [["-m", "pytest", "-qq", "--collect-only", *pytest_options()]])


def end_tidily(*_: object) -> None:
    """Leave, once, by way of every finally: servers and containers have to be cleared away."""
    for sig in ENDS:
        signal.signal(sig, signal.SIG_IGN)
    raise KeyboardInterrupt


def tests(marks: Sequence[str], wait_for_images: Callable[[], object]) -> tuple[list[Task], list[Task]]:
    """Return the tests as two lanes: those in containers wait most of the time.

    The coverage of core, which its own tests alone must show, is measured by `--long` only: measuring takes longer than
    those tests.
    """
    options = ["-m", "pytest", *pytest_options(), *marks]

    def side_by_side(workers: int) -> list[str]:
        return ["-n", str(workers), "--dist", "worksteal"]

    core = [".ci/covered.py", *pytest_options(), *marks] if marks else [*options, *side_by_side(2)]
    core.append(CORE)
    others = [f"--ignore={path}" for path in (CORE, CONTAINERS)]
    return (
        [Task("tests", [[*options, *others, *side_by_side(WORKERS)]])],
        [
            Task("tests of core", [core]),
            Task("tests in containers", [[*options, CONTAINERS]], before=wait_for_images),
        ],
    )


def run(arguments: list[str]) -> list[Task]:
    """Run everything and return the failed checks."""
    marks = ["-m", "long or not long"] if arguments == ["--long"] else []
    chosen = [] if marks else arguments
    with tempfile.TemporaryDirectory() as site, contextlib.ExitStack() as stack:
        wait_for_images = None if chosen else stack.enter_context(images())
        runner = stack.enter_context(Runner())
        types, others = static(site)
        if wait_for_images is None:
            return runner.run(others, types) or runner.run([Task("pytest", [[".ci/covered.py", *chosen]])])
        if failed := runner.run([*others, collection()], types):
            return failed
        return runner.run(*tests(marks, wait_for_images))


def main(arguments: list[str]) -> int:
    """Run everything, list the failed checks, and return the exit status."""
    os.chdir(ROOT)
    # Ctrl-C too: programs in the background of a shell ignore it, and would hand that down.
    for sig in ENDS:
        signal.signal(sig, end_tidily)
    failed = run(arguments)
    if failed:
        # Once more, as the output of other tasks may stand between.
        for line in (line for task in failed for line in task.failures):
            print(line)
        print(f"== FAILED: {', '.join(task.name for task in failed)}", flush=True)
    return next((task.status or 0 for task in failed), 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
