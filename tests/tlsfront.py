"""TLS in front of a server that was built without: the servers of the wheel are.

libpq sees what it sees of a server with `ssl = on`: a handshake after its SSLRequest, with the certificate that is in
use at that moment. The login goes through; what binds it to the TLS connection (SCRAM-SHA-256-PLUS) does not.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pgroute.testing import Node
from tests.certificates import Issued

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
HANDSHAKE = b"\x16"


@dataclass(frozen=True)
class Handshake:
    """One that both sides have agreed to.

    Attributes:
        certificate: the server's serial number.
        client: the client's serial number; None: it has no certificate.
    """

    certificate: int
    client: int | None


class TLSFront:
    """Serves TLS on 127.0.0.1, or another address of loopback, for a node; as a context manager.

    Attributes:
        handshakes: those that have succeeded. A client that does not accept the certificate may still be among them: in
            TLS 1.3 the server finishes before it knows.
        refused: how many have failed.
        told: bytes that clients have said inside TLS.
    """

    def __init__(
        self, node: Node, credentials: Issued, *, host: str = "127.0.0.1", clients: Path | None = None
    ) -> None:
        self.passfile = node.passfile
        self.host = host
        self.port = 0
        self.handshakes: list[Handshake] = []
        self.refused = 0
        self.told = 0
        self._node = node
        self._clients = clients
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._links: set[socket.socket] = set()
        self._ended = False
        self.use(credentials)

    def use(self, credentials: Issued, *, clients: Path | None = None) -> None:
        """Take this certificate for new connections, and demand one signed by *clients* if that is given."""
        self._clients = clients or self._clients
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(credentials.certificate, credentials.key)
        context.set_alpn_protocols(["postgresql"])
        if self._clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._clients)
        self._context, self._serial = context, credentials.serial

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            for link in (self._listener, *self._links):
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name=f"tls-{self._node.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was shut down
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.enter_context(client)
            stack.enter_context(self._known(client))
            client.settimeout(10)
            if client.recv(1, socket.MSG_PEEK) != HANDSHAKE:  # sslnegotiation=direct begins with it
                if client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) != SSL_REQUEST:
                    return  # a login in the clear: not here
                client.sendall(b"S")
            context, serial = self._context, self._serial
            try:
                inside = stack.enter_context(context.wrap_socket(client, server_side=True))
            except OSError:
                self.refused += 1
                raise
            stack.enter_context(self._known(inside))
            shown: Any = inside.getpeercert()
            self.handshakes.append(Handshake(serial, int(shown["serialNumber"], 16) if shown else None))
            server = stack.enter_context(socket.create_connection((self._node.host, self._node.port)))
            self._relay(inside, server)

    @contextlib.contextmanager
    def _known(self, link: socket.socket) -> Iterator[None]:
        """Have the socket shut down in the end, if it is open then."""
        with self._lock:
            if self._ended:
                link.shutdown(socket.SHUT_RDWR)
            self._links.add(link)
        try:
            yield
        finally:
            with self._lock:
                self._links.discard(link)

    def _relay(self, inside: ssl.SSLSocket, server: socket.socket) -> None:
        while True:
            ready = [inside] if inside.pending() else select.select((inside, server), (), ())[0]
            for source in ready:
                source.setblocking(False)
                try:
                    data = source.recv(65536)
                except ssl.SSLWantReadError:  # a record of TLS that holds no data, or a part of one
                    continue
                finally:
                    source.settimeout(10)
                if not data:
                    return
                if source is inside:
                    self.told += len(data)
                (server if source is inside else inside).sendall(data)
