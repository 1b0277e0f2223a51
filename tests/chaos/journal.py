"""What the workers write down: one JSON line for each fact, appended at once, so that it survives their death."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROCESS, _WRITER = 10**10, 10**8


class Outcome(enum.StrEnum):
    """What a writer was told of its write.

    FAILED is a promise: it is not committed, anywhere. UNKNOWN promises nothing.
    """

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Begun:
    """A write is about to be tried; times are seconds of CLOCK_MONOTONIC, which all processes share."""

    id: int
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A write was told of.

    Attributes:
        mark: the highest timeline that this process' router had seen before it was asked.
        entered: a session was given, so the error is not one of the waiting for it.
        error: class of the exception with its module, "" if none.
        sqlstate: its SQLSTATE.
        text: its first line.
        port, timeline: of the server, as the session itself was told; 0 if it never was.
    """

    id: int
    at: float
    outcome: Outcome
    mark: int
    entered: bool
    error: str = ""
    sqlstate: str = ""
    text: str = ""
    port: int = 0
    timeline: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A reader's session, ended well or not; fields as in `Ended`.

    Attributes:
        recovering: the server was a standby.
        read_only: the server called the transaction read-only.
        wrote: an INSERT that was tried was not refused.
        count: rows found.
    """

    begun: float
    at: float
    mark: int
    entered: bool
    error: str = ""
    sqlstate: str = ""
    text: str = ""
    port: int = 0
    timeline: int = 0
    recovering: bool = False
    read_only: bool = False
    wrote: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """The worker ended in order: whatever it began has an end."""

    process: int
    at: float


Record = Begun | Ended | Read | Left
_TAGS: dict[str, type[Record]] = {"begun": Begun, "ended": Ended, "read": Read, "left": Left}
_NAMES = {cls: tag for tag, cls in _TAGS.items()}


def make_id(process: int, writer: int, number: int) -> int:
    """Return the id of a write, unique in a run; its decimal digits show where it is from."""
    return process * _PROCESS + writer * _WRITER + number


def writer_of(id_: int) -> tuple[int, int]:
    """Return the process and the writer of an id."""
    return id_ // _PROCESS, id_ % _PROCESS // _WRITER


def encode(record: Record) -> bytes:
    """Return the line of a record."""
    return json.dumps([_NAMES[type(record)], *dataclasses.astuple(record)]).encode() + b"\n"


def decode(line: bytes) -> Record:
    """Return the record of a line."""
    tag, *values = json.loads(line)
    record = _TAGS[tag](*values)
    return (
        dataclasses.replace(record, outcome=Outcome(record.outcome)) if isinstance(record, Ended) else record
    )


class Journal:
    """The writing end, for any thread: each record is one write() to a file opened for appending.

    Args:
        path: the file; "-" stands for the standard output.
    """

    def __init__(self, path: Path) -> None:
        if str(path) == "-":
            self._fd = os.dup(1)
        else:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, record: Record) -> None:
        os.write(self._fd, encode(record))


class Follower:
    """The reading end, while it grows and afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Record]:
        """Return the records written since the last call; half a line is left for the next."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [decode(line) for line in whole.splitlines()]
