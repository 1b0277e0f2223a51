"""A connection between two processes of one user, used in the monitor's loop: whole messages, and never a wait."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING

from pgroute.core.topology.wire import MOST_BYTES, BadMessage, decode, encode
from pgroute.runtime.fork import Inherited, forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.wire import Message

_CREDENTIALS = struct.Struct("3i")
_AT_ONCE = 64
"""Messages that are read before others in the loop have their turn."""


class LinkEnded(Exception):
    """The connection is of no use any more; the text says why."""


class Link:
    """One end of the connection.

    Args:
        sock: connected, not blocking.
        key: the host that it is about.
        on_message: called with each message.
        on_end: called once if the connection ends, but not by `close`: with the reason, and whether the other process
            sends nonsense.

    Raises:
        LinkEnded: the process at the other end is another user's.
    """

    def __init__(
        self,
        sock: socket.socket,
        key: HostKey,
        *,
        on_message: Callable[[Message], None],
        on_end: Callable[[str, bool], None],
    ) -> None:
        uid = peer_of(sock)
        if uid != os.geteuid():
            sock.close()
            raise LinkEnded(f"the process at the other end is of user id {uid}")
        self._sock = sock
        self._key = key
        self._on_message = on_message
        self._on_end = on_end
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)
        self._inherited = Inherited(sock.fileno())
        forked.register(self)

    def send(self, message: Message) -> None:
        """Send a message, or end the connection if the other process does not read."""
        self.send_encoded(encode(message))

    def send_encoded(self, data: bytes) -> None:
        """Send an encoded message, likewise."""
        if not self._open:
            return
        try:
            self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._end("the process at the other end does not read")
        except OSError as exc:
            self._end(f"the connection is lost: {exc.strerror}")

    def close(self) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def after_fork(self) -> None:
        """Close what a forked child has inherited: the other process would not notice the end of this one."""
        if self._open:
            self._open = False
            self._sock.detach()
            self._inherited.close()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                data, _, flags, _ = self._sock.recvmsg(MOST_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                self._end(f"the connection is lost: {exc.strerror}")
                return
            if not data:
                self._end("the process at the other end is gone")
                return
            try:
                if flags & socket.MSG_TRUNC:
                    raise BadMessage("too long")
                message = decode(data, self._key)
            except BadMessage as exc:
                self._end(f"a message is malformed: {exc}", nonsense=True)
                return
            self._on_message(message)

    def _end(self, why: str, *, nonsense: bool = False) -> None:
        self.close()
        # Later: whoever sends is in the midst of something else.
        self._loop.call_soon(self._on_end, why, nonsense)


def peer_of(sock: socket.socket) -> int:
    """Return the user id of the process that made the other end of a Unix socket, from the kernel (unix(7))."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(found)[1]
    return uid
