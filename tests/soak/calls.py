"""What the workers write down of each call: one JSON line, appended at once, so that it survives their death."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Call:
    """One call of `run()` with a key.

    Attributes:
        number: of the increment, which is in the key.
        worker: the number of the process that called.
        writer: who called, within its process.
        begun: seconds of CLOCK_MONOTONIC, which all processes share.
        attempts: how many there were.
        unknown: how many of them ended in a CommitUnknown.
        bodies: how often the body ran.
        value: the result, 0 if there is none.
        error: the class of the exception, "" if there is none.
        text: its first line.
    """

    number: int
    worker: int
    writer: int
    begun: float
    attempts: int = 1
    unknown: int = 0
    bodies: int = 0
    value: int = 0
    error: str = ""
    text: str = ""


class Calls:
    """The calls of all workers, in files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    @staticmethod
    def path(folder: Path, place: int, worker: int) -> Path:
        """Return the file of a worker, which fills a place."""
        return folder / f"{place}-{worker}.calls"

    def fresh(self, place: int | None = None) -> Iterator[Call]:
        """Yield the calls that were written since the last time, of one place or of all."""
        for path in sorted(self._folder.glob(f"{'*' if place is None else place}-*.calls")):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[path] = offset + len(whole)
            for line in whole.splitlines():
                yield Call(*json.loads(line))


def append(path: Path, call: Call) -> None:
    """Write down a call, from any thread."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, json.dumps(dataclasses.astuple(call)).encode() + b"\n")
    finally:
        os.close(fd)
