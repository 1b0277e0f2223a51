"""How much a server may send beyond its answers before it is let go: what libpq reads, it keeps in memory."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from typing import TYPE_CHECKING, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

MOST = 64 * 1024
"""Bytes that a login may take, and the answer to one of the router's own questions. Servers send some hundred."""

_PER_READ = 8192
"""Bytes that libpq reads at least, where so many are there (pqReadData). Counting no more never counts any twice."""

_BESIDES = 4 * 1024
"""Bytes beside an answer that are nothing odd: its columns, and the statement itself where a role has it logged to the
client (client_min_messages=log)."""

_WINDOW = 12 * 1024

T = TypeVar("T")


class TooMuch(psycopg.OperationalError):
    """A server sent far more than its answer can take."""

    def __init__(self) -> None:
        super().__init__(f"it sent more than {MOST // 1024} kB where some hundred bytes were to be expected")


class Allowance:
    """Counts what arrives on one socket."""

    __slots__ = ("_received",)

    def __init__(self) -> None:
        self._received = 0

    def count(self, fd: int) -> None:
        """Count what waits to be read, before libpq reads it (FIONREAD; about 1 us).

        Raises:
            TooMuch: it was too much.
        """
        waiting = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, waiting)
        self._received += min(waiting[0], _PER_READ)
        if self._received > MOST:
            raise TooMuch

    def answered(self, size: int) -> None:
        """Take note of an answer of that size, which was asked for; some kilobytes of notices may go with each."""
        self._received = max(0, self._received - size - _BESIDES)


def narrow(fd: int) -> None:
    """Let the kernel take in little at a time from a server that is only asked for little.

    A message that announces a gigabyte makes libpq read on, in one call, for as long as the sender keeps up.
    """
    link = socket.socket(fileno=fd)
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    finally:
        link.detach()


def bounded(steps: Generator[object, object, T], fd: int) -> Generator[object, object, T]:
    """Take psycopg's steps towards a result, and break off when the server sends too much.

    Raises:
        TooMuch: it did.
    """
    allowance = Allowance()
    try:
        step = next(steps)
        while True:
            ready = yield step
            allowance.count(fd)
            step = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
