"""Runs programs in parallel and shows their output one after the other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FAILURE = re.compile(r"(?m)^(?:\x1b\[\d+m)*((?:FAILED|ERROR)\b.* tests/.*)$")
POLL = 0.1  # seconds
PATIENCE = 60.0
"""Seconds that a task may take to clear away."""


@dataclass
class Task:
    """Commands, run one after the other until one fails.

    Attributes:
        name: for people.
        commands: each the arguments of this Python.
        before: returns when the first may begin.
        status: the exit status; None until the end.
        seconds: how long it took.
        failures: the lines in which pytest names them.
        output: what they printed.
    """

    name: str
    commands: Sequence[Sequence[str]]
    before: Callable[[], object] | None = None
    status: int | None = None
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    output: tempfile._TemporaryFileWrapper[bytes] = field(
        default_factory=lambda: tempfile.NamedTemporaryFile(prefix="pgroute-check-")  # noqa: SIM115  (closed when shown)
    )


class Runner:
    """Runs tasks; a context manager that ends running tasks on exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self, *lanes: Sequence[Task]) -> list[Task]:
        """Run lanes of tasks side by side, show the tasks in the order of the lanes, and return those that failed.

        In a lane all tasks are run, those behind a failure too.
        """
        threads = [threading.Thread(target=self._run_lane, args=[lane], daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        tasks = [task for lane in lanes for task in lane]
        for task in tasks:
            self._show(task)
        for thread in threads:
            thread.join()
        return [task for task in tasks if task.status]

    def end(self) -> None:
        """Interrupt running tasks like Ctrl-C: pytest has to remove its servers and containers."""
        with self._lock:
            self._ended = True
            running = [*self._running]
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _run_lane(self, lane: Sequence[Task]) -> None:
        for task in lane:
            status = 1
            try:
                if task.before is not None:
                    task.before()
                began = time.monotonic()
                status = next(filter(None, (self._run(command, task) for command in task.commands)), 0)
                task.seconds = time.monotonic() - began
            except Exception as exc:  # noqa: BLE001  (said where this task's output is read)
                task.output.write(f"{exc!r}\n".encode())
                task.output.flush()
            finally:
                task.status = status

    def _run(self, command: Sequence[str], task: Task) -> int:
        with self._lock:
            if self._ended:
                return 1
            process = subprocess.Popen(
                [sys.executable, *command],
                # mkdocs-material would print that it is maintained until May 2027.
                env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
                stdin=subprocess.DEVNULL,
                stdout=task.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one Ctrl-C from us, not a second one from the terminal amid the clearing
            )
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status

    def _show(self, task: Task) -> None:
        """Print a task's output as it comes, until its end."""
        print(f"== {task.name}", flush=True)
        with open(task.output.name, "rb") as output:  # noqa: PTH123  (a second reader with a place of its own)
            try:
                while task.status is None:
                    _copy(output)
                    time.sleep(POLL)
            except KeyboardInterrupt:
                self.end()
                raise
            finally:
                _copy(output)
            output.seek(0)
            task.failures = FAILURE.findall(output.read().decode(errors="replace"))
        task.output.close()
        print(f"== {task.name} took {task.seconds:.0f} s", flush=True)


def _copy(output: BinaryIO) -> None:
    shutil.copyfileobj(output, sys.stdout.buffer)
    sys.stdout.flush()
