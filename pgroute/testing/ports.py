"""Finds free TCP ports on the loopback address and reserves them."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
# Linux lets a server listen where another socket is merely bound, if both have SO_REUSEADDR; BSD does not.
_CAN_HOLD = sys.platform == "linux"
_given: set[tuple[str, int]] = set()


class Port:
    """A free port. On Linux it is reserved until `release()`, even while no server listens there.

    The reserving socket is bound but does not listen: connections are refused as usual, and the kernel gives the port
    to no other program. A client that retries in a loop cannot get it as its own source port and connect to itself.
    """

    def __init__(self, host: str = HOST, number: int = 0) -> None:
        while True:
            holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            # Without SO_REUSEADDR at bind time, two processes cannot both take the port this way.
            try:
                holder.bind((host, number))
            except OSError:
                holder.close()
                raise
            self.number: int = holder.getsockname()[1]
            self._name = host, self.number
            if self._name not in _given:
                break
            holder.close()
        _given.add(self._name)
        self._holder = holder
        if _CAN_HOLD:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            holder.close()

    def release(self) -> None:
        """Release the port. Idempotent."""
        with contextlib.suppress(OSError):
            self._holder.close()
        _given.discard(self._name)


def same_port(hosts: Sequence[str]) -> list[Port]:
    """Return a port with the same free number on each of these addresses.

    Raises:
        OSError: one of them is not an address of this machine.
    """
    while True:
        ports = [Port(hosts[0])]
        try:
            ports += [Port(host, ports[0].number) for host in hosts[1:]]
        except OSError as exc:
            for port in ports:
                port.release()
            if exc.errno != errno.EADDRINUSE:
                raise
        else:
            return ports
