"""Runs every check of this repository, stopping at the first that fails; arguments go to pytest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
MEMORY = "/dev/shm"  # noqa: S108  (mkdtemp makes private folders there)
CONTAINERS = "tests/docker"
BUILD = 900
"""Seconds for which the images are waited for."""
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


@contextlib.contextmanager
def images() -> Iterator[Callable[[], object]]:
    """Have the images made that the tests in containers need, which takes minutes where there are none.

    If they cannot be made, those tests say why. Gives what waits for the end of it.
    """
    with subprocess.Popen(
        ["nice", "-n", "19", "docker/build"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:

        def wait() -> None:
            try:
                process.wait(BUILD)
            except subprocess.TimeoutExpired:
                sys.exit(f"== FAILED: docker/build has not ended after {BUILD} s more")

        def end() -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)

        def terminate(*_: object) -> None:
            # No exception: pytest would take it for the failure of one test, and subprocess.run would kill a pytest
            # that has servers to end.
            end()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGTERM, terminate)
        try:
            yield wait
        finally:
            end()


def run_suite(wait_for_images: Callable[[], object]) -> int:
    """Run all tests: first those of core, whose coverage they alone must show, then the others side by side, then those
    in containers.
    """
    status = run_pytest(["tests/core"])
    if status:
        return status
    use_memory()
    # They wait for servers most of the time; a cluster for each worker is what memory and patience allow.
    others = [f"--ignore={path}" for path in ("tests/core", CONTAINERS)]
    for arguments in ([*others, "-n", "4", "--dist", "worksteal"], [CONTAINERS]):
        if arguments == [CONTAINERS]:
            wait_for_images()
        status = subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
        if status:
            break
    return status


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


def run_steps() -> int:
    """Run what comes before the tests, and return the exit status of the first step that fails."""
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
    return 0


def main(arguments: list[str]) -> int:
    """Run everything in order and return the exit status of the first that fails."""
    os.chdir(ROOT)
    if arguments:
        return run_steps() or run_pytest(arguments)
    with images() as wait_for_images:
        return run_steps() or run_suite(wait_for_images)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
