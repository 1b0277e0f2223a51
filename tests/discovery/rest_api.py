"""A stand-in for Patroni's REST API on the loopback interface, which answers as the test says."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self

Answering = Callable[[socket.socket, threading.Event], None]
"""Answers one request that was read, until the event."""


def raw(answer: bytes) -> Answering:
    """Send these bytes and end the connection."""
    return lambda conn, _: conn.sendall(answer)


def whole(told: object, status: str = "200 OK") -> Answering:
    """Send what is told as Patroni does: without a length."""
    head = f"HTTP/1.0 {status}\r\nServer: stand-in\r\nContent-Type: application/json\r\n\r\n"
    return raw(head.encode() + json.dumps(told).encode())


def silent(_: socket.socket, ended: threading.Event) -> None:
    """Say nothing, and keep the connection."""
    ended.wait()


def endless(conn: socket.socket, ended: threading.Event) -> None:
    """Send for ever, as fast as it is taken."""
    conn.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    while not ended.is_set():
        conn.sendall(b" " * 65536)


def slow(conn: socket.socket, ended: threading.Event) -> None:
    """Send a byte now and then: no single wait is long."""
    conn.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    while not ended.wait(0.02):
        conn.sendall(b" ")


class RestApi:
    """The stand-in; leaving the block ends it.

    Args:
        answer: how it answers at first.
        tls: its certificate; None: plain HTTP.

    Attributes:
        answer: how it answers; may be changed at any time.
        asked: the first line of each request.
    """

    def __init__(self, answer: Answering = silent, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self._tls = tls
        self._ended = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def port(self) -> int:
        port: int = self._server.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self._tls is None else f"https://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                conn, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(conn,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(10.0)
        with contextlib.suppress(OSError), conn:
            if self._tls is not None:
                conn = self._tls.wrap_socket(conn, server_side=True)
            with conn:
                request = b""
                while b"\r\n\r\n" not in request and (chunk := conn.recv(4096)):
                    request += chunk
                self.asked.append(request.partition(b"\r\n")[0].decode())
                self.answer(conn, self._ended)


def member(name: str, host: str, port: int, role: str = "replica", **more: Any) -> dict[str, Any]:
    """Return a member as Patroni tells of it."""
    return {"name": name, "role": role, "state": "streaming", "host": host, "port": port, **more}
