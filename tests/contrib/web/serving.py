"""Serves an ASGI application in a thread, and asks it over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from http.cookies import SimpleCookie
from typing import Any, NamedTuple, Self

import uvicorn

from tests.support import eventually


class Reply(NamedTuple):
    """What a request was answered."""

    status: int
    body: Any
    headers: http.client.HTTPMessage


class Served:
    """An application on a port of its own, for as long as the ``with`` statement lasts."""

    def __init__(self, app: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=3))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()

    def get(self, path: str, cookie: str | None = None) -> Reply:
        return self.ask("GET", path, cookie)

    def post(self, path: str, cookie: str | None = None) -> Reply:
        return self.ask("POST", path, cookie)

    def ask(self, method: str, path: str, cookie: str | None = None) -> Reply:
        """Send a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers={} if cookie is None else {"Cookie": cookie})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        told = (
            json.loads(text) if response.headers.get_content_type() == "application/json" else text.decode()
        )
        return Reply(response.status, told, response.headers)


def cookie_of(text: str | None) -> str | None:
    """Return the "name=value" of a Set-Cookie header; None: it has none, or deletes it."""
    if text is None:
        return None
    [(name, morsel)] = SimpleCookie(text).items()
    return f"{name}={morsel.value}" if morsel.value else None
