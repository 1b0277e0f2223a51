"""Limits what a server may send beyond its answers, because libpq keeps all that it reads in memory."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from typing import TYPE_CHECKING, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MOST = 64 * 1024
"""Bytes that a login may take, or the answer to one of the router's own queries. Servers send a few hundred."""

_PER_READ = 8192
"""Bytes that libpq reads at once at least, if there are so many (pqReadData). Counting no more counts none twice."""

_BESIDES = 4 * 1024
"""Bytes that may come with an answer: its columns, and the statement itself where a role has it logged to the client
(client_min_messages=log)."""

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
        """Count the bytes that wait to be read, before libpq reads them (FIONREAD; about 1 us).

        Raises:
            TooMuch: it was too much.
        """
        waiting = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, waiting)
        self._received += min(waiting[0], _PER_READ)
        if self._received > MOST:
            raise TooMuch

    def answered(self, size: int) -> None:
        """Allow for a requested answer of *size* bytes, and for some kilobytes of notices with it."""
        self._received = max(0, self._received - size - _BESIDES)


def narrow(fd: int) -> None:
    """Make the receive buffer of a socket small.

    A message that announces a gigabyte makes libpq read on, in one call, for as long as the sender keeps up.
    """
    link = socket.socket(fileno=fd)
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    finally:
        link.detach()


def bounded(
    steps: Generator[object, object, T],
    fd: int,
    allowance: Allowance | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> Generator[object, object, T]:
    """Run psycopg's steps towards a result, and stop when the server sends too much.

    Args:
        steps: what is run.
        fd: the socket.
        allowance: what it may still send; None: as much as any answer.
        meanwhile: called whenever something has arrived; None: nothing is.

    Raises:
        TooMuch: it did.
    """
    allowance = allowance or Allowance()
    try:
        step = next(steps)
        while True:
            ready = yield step
            if meanwhile is not None:
                meanwhile()
            allowance.count(fd)
            step = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
