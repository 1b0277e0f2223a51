"""A plain relay at an address and port of loopback, so that a name can lead to another server under the same port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def relay(
    at: tuple[str, int],
    to: tuple[str, int] | Callable[[], tuple[str, int]],
    *,
    gate: threading.Event | None = None,
) -> Iterator[list[socket.socket]]:
    """Pass bytes between whoever connects and a server, for as long as the block lasts; only while *gate* is set.

    *to* may be a function, which is asked where each new connection leads.

    What is given is the list of the sockets so far, two for each connection.
    """
    links: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*arguments: socket.socket) -> None:
        thread = threading.Thread(target=pump, args=arguments, daemon=True)
        threads.append(thread)
        thread.start()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if gate is not None:
                    gate.wait(30)
                sink.sendall(data)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(to() if callable(to) else to)
                links.extend((client, server))
                start(client, server)
                start(server, client)

    with socket.create_server(at) as listener:
        acceptor = threading.Thread(target=serve, daemon=True)
        acceptor.start()
        try:
            yield links
        finally:
            if gate is not None:
                gate.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for link in links:
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for link in links:
                link.close()
