"""A relay in front of a server that counts the round trips of each connection."""

from __future__ import annotations

import contextlib
import socket
import threading

UNCOUNTED = b"application_name\x00uncounted\x00"
"""A connection that names itself so in its startup message is not counted: the probes."""


class Relay:
    """Passes everything on, and counts how often a client sends after the server did, by the client's port.

    Args:
        node: the server, a `Node`.

    Attributes:
        host, port: where to connect.
        turns: round trips so far, by the client's port.
    """

    def __init__(self, node):
        self.turns = {}
        self.passfile = node.passfile
        self._node = node
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, (_, port) = self._listener.accept()
                server = socket.create_connection((self._node.host, self._node.port))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                told = threading.Event()
                for work in (self._up, self._down):
                    threading.Thread(target=work, args=(client, server, port, told), daemon=True).start()

    def _up(self, client, server, port, told):
        counted, begun = True, False
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if UNCOUNTED in data:
                    counted = False
                    self.turns.pop(port, None)
                if counted and (told.is_set() or not begun):
                    self.turns[port] = self.turns.get(port, 0) + 1
                begun = True
                told.clear()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client, server, port, told):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                told.set()
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
