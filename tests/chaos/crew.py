"""The worker processes of a run: started, stopped by signals, replaced, and ended in whatever state they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from tests.chaos.journal import Begun, Ended, Follower, Outcome, Record, writer_of

ROOT = Path(__file__).parents[2]
LAST_WORDS = 1.0
"""Seconds that a worker has to write down its state when asked."""


@dataclass
class Worker:
    """One process: its number, the place it fills among the workers, and its journal."""

    number: int
    place: int
    face: str
    process: subprocess.Popen[bytes]
    journal: Follower
    dismissed: bool = False


class Crew:
    """The workers, one for each entry of `faces`, each with so many writers and readers.

    Args:
        faces: "sync" or "async", one for each process.
        dsn: what their routers are given.
        folder: where journals and logs go.
        writers: in each process.
        readers: in each process.
    """

    def __init__(self, faces: Sequence[str], dsn: str, folder: Path, *, writers: int, readers: int) -> None:
        self.records: list[Record] = []
        self.killed: set[int] = set()
        self._faces = tuple(faces)
        self._dsn = dsn
        self._folder = folder
        self._writers = writers
        self._readers = readers
        self._workers: list[Worker] = []
        self._acknowledged: dict[tuple[int, int], float] = {}
        self._starts: dict[int, float] = {}

    def __enter__(self) -> Self:
        try:
            for place in range(len(self._faces)):
                self._start(place)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def size(self) -> int:
        """How many there are at a time."""
        return len(self._faces)

    def stop(self, place: int) -> None:
        """SIGSTOP a worker."""
        self._at(place).process.send_signal(signal.SIGSTOP)

    def resume(self, place: int) -> None:
        """SIGCONT a worker."""
        self._at(place).process.send_signal(signal.SIGCONT)

    def replace(self, place: int) -> None:
        """SIGKILL a worker and start another; by the thread that started them, whose death would be theirs."""
        worker = self._at(place)
        worker.process.kill()
        worker.process.wait()
        self._start(place)

    def dead(self) -> list[str]:
        """Return the workers that ended by themselves."""
        return [
            f"worker {worker.number} ended with status {worker.process.returncode}:\n{self._tail(worker)}"
            for worker in self._current()
            if worker.process.poll() is not None
        ]

    def waiting(self, since: float) -> list[str]:
        """Return the writers that no write has been acknowledged to that they began after a moment."""
        self.follow()
        return [
            f"writer {writer} of worker {worker.number} ({worker.face})"
            for worker in self._current()
            for writer in range(self._writers)
            if self._acknowledged.get((worker.number, writer), 0.0) <= since
        ]

    def follow(self) -> None:
        """Take up what the journals have gained."""
        for worker in self._workers:
            fresh = worker.journal.read()
            self.records += fresh
            for record in fresh:
                if isinstance(record, Begun):
                    self._starts[record.id] = record.at
                elif isinstance(record, Ended) and record.outcome is Outcome.ACKNOWLEDGED:
                    self._acknowledged[writer_of(record.id)] = self._starts[record.id]

    def ask_state(self) -> None:
        """Have every worker write down what it does, for whoever reads its log."""
        for worker in self._current():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGUSR1)
        time.sleep(LAST_WORDS)

    def dismiss(self, timeout: float) -> list[str]:
        """Have all end in order, and return those that did not."""
        for worker in self._current():
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        until = time.monotonic() + timeout
        late = []
        for worker in self._current():
            try:
                status = worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(f"worker {worker.number} ({worker.face}) did not end within {timeout:g} s")
            else:
                if status:
                    late.append(f"worker {worker.number} ended with status {status}:\n{self._tail(worker)}")
        if late:
            self.ask_state()
        self.end()
        self.follow()
        return late

    def end(self) -> None:
        """Kill those that are left, stopped ones too. Idempotent."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
            if worker.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    worker.process.stdin.close()

    def _command(self, number: int, place: int) -> list[str]:
        """Return the module that a worker runs, and its arguments."""
        command = ["tests.chaos.worker", "--process", str(number), "--journal", str(self._journal(number))]
        command += ["--writers", str(self._writers), "--readers", str(self._readers)]
        if place >= 2:  # so that a short run has the defaults in both faces
            command.append("--quick")
        return command

    def _journal(self, number: int) -> Path:
        return self._folder / f"worker{number}.journal"

    def _start(self, place: int) -> None:
        number = self._number()
        face = self._faces[place]
        command = [*self._command(number, place), "--face", face, "--dsn", self._dsn]
        with (self._folder / f"worker{number}.log").open("wb") as log:
            process = self._launch(number, command, log)
        self._workers.append(Worker(number, place, face, process, Follower(self._journal(number))))

    def _number(self) -> int:
        """Return the number of the next worker."""
        return len(self._workers) + 1

    def _launch(self, number: int, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start a worker: a module with its arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            # Where they meet to share their watch: a killed one leaves its files, and they go with this folder.
            env={**os.environ, "TMPDIR": str(self._folder), "XDG_RUNTIME_DIR": ""},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )

    def _current(self) -> list[Worker]:
        """The last worker started in each place."""
        return list({worker.place: worker for worker in self._workers}.values())

    def _at(self, place: int) -> Worker:
        return self._current()[place]

    def _tail(self, worker: Worker) -> str:
        lines = (self._folder / f"worker{worker.number}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-30:])
