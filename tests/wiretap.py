"""A proxy in front of a server that notes what clients send, to count round trips."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path
from typing import NamedTuple, Self

from pgroute.testing import Node

_ENCRYPTION = (80877103, 80877104)
_CANCEL = 80877102
_MONITOR = b"pgroute-monitor"


class Message(NamedTuple):
    """A message of a client's.

    Attributes:
        kind: of PostgreSQL's protocol: b"Q" is a simple query, b"P" parses, b"S" ends a round trip of the others.
        body: what it says.
    """

    kind: bytes
    body: bytes


class Wiretap:
    """Passes everything on, as a context manager, and notes the messages of all clients but probes, after their login.

    Args:
        node: the server.
    """

    def __init__(self, node: Node) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.passfile: Path | None = node.passfile
        self._target = (node.host, node.port)
        self._messages: list[Message] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def take(self) -> list[Message]:
        """Return the messages since the last call."""
        with self._lock:
            messages, self._messages = self._messages, []
        return messages

    def round_trips(self) -> int:
        """Return the number of round trips since the last call or `take`."""
        return sum(message.kind in (b"Q", b"S") for message in self.take())

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="wiretap")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                self._start(self._relay, client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        back: threading.Thread | None = None
        try:
            while True:
                head = _exactly(client, 8)
                length, code = struct.unpack("!ii", head)
                startup = head + _exactly(client, length - 8)
                server.sendall(startup)
                if code not in _ENCRYPTION:
                    break
                client.sendall(_exactly(server, 1))
            back = threading.Thread(target=_copy, args=(server, client), name="wiretap")
            back.start()
            if code == _CANCEL or _MONITOR in startup:
                _copy(client, server)
                return
            while True:
                head = _exactly(client, 5)
                body = _exactly(client, struct.unpack("!i", head[1:])[0] - 4)
                if head[:1] not in (b"p", b"X"):  # a password, the end
                    with self._lock:
                        self._messages.append(Message(head[:1], body))
                server.sendall(head + body)
        except OSError:
            pass
        finally:
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            if back is not None:
                back.join()


def _exactly(end: socket.socket, count: int) -> bytes:
    """Return so many bytes.

    Raises:
        OSError: the connection has ended.
    """
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        if not piece:
            raise OSError("the connection has ended")
        data += piece
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
