"""A server on loopback that says what it is told to say: to logins, to probes, to the statements of sessions."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from typing import Self

ENCRYPTION = (80877103, 80877104)
"""What a client sends to ask for TLS and for GSSAPI (PostgreSQL docs, "Message Formats")."""

PRIMARY = [b"f", b"off", b"000000010000000000000001", None, b"0/1000000", None, None, None, b"7", b"1", None]
"""What a primary answers to a probe."""
MONITOR = b"pgroute-monitor"


class Refusing:
    """Refuses with a text: a message each, in severities and SQLSTATEs of its own.

    Args:
        login: said to logins; None: they are let in.
        pools: said to logins of pools alone; those of the watch are let in.
        probe: said to probes; None: they are answered as a primary would.
        statement: said to the statements of sessions, after which the connection is closed; None: they are answered.
        sqlstate: of every refusal.
        encoding: of the client, as the server has it.
        version: of the server, as it has it.
    """

    def __init__(
        self,
        *,
        login: bytes | None = None,
        pools: bytes | None = None,
        probe: bytes | None = None,
        statement: bytes | None = None,
        sqlstate: bytes = b"28000",
        encoding: bytes = b"UTF8",
        version: bytes = b"18.0",
    ) -> None:
        outer = self
        self.login, self.pools, self.probe, self.statement = login, pools, probe, statement
        self.sqlstate = sqlstate
        self.encoding, self.version = encoding, version

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, struct.error):
                    outer._serve(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.dsn = f"postgresql://app@127.0.0.1:{self.port}/shop"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, peer: socketserver.StreamRequestHandler) -> None:
        while True:
            (length,) = struct.unpack("!i", peer.rfile.read(4))
            startup = peer.rfile.read(length - 4)
            if struct.unpack_from("!i", startup)[0] not in ENCRYPTION:
                break
            peer.wfile.write(b"N")
        watch = MONITOR in startup
        if self.login is not None or (self.pools is not None and not watch):
            peer.wfile.write(self._error(b"FATAL", self.login or self.pools or b""))
            return
        peer.wfile.write(_message(b"R", struct.pack("!i", 0)) + _message(b"K", struct.pack("!ii", 1, 1)))
        for name, value in ((b"client_encoding", self.encoding), (b"server_version", self.version)):
            peer.wfile.write(_message(b"S", name + b"\0" + value + b"\0"))
        peer.wfile.write(_message(b"Z", b"I"))
        while kind := peer.rfile.read(1):
            (length,) = struct.unpack("!i", peer.rfile.read(4))
            text = peer.rfile.read(length - 4)
            if kind == b"Q":
                self._answer(peer, text, watch)

    def _answer(self, peer: socketserver.StreamRequestHandler, text: bytes, watch: bool) -> None:
        if watch and self.probe is not None:
            peer.wfile.write(self._error(b"ERROR", self.probe) + _message(b"Z", b"I"))
        elif watch:
            peer.wfile.write(_row(PRIMARY))
        elif b"pg_is_in_recovery" in text:
            peer.wfile.write(_row([b"f", b"7", b"000000010000000000000001", b"100"]))
        elif self.statement is not None:
            peer.wfile.write(self._error(b"FATAL", self.statement))
            raise OSError  # as a backend that ends
        else:
            peer.wfile.write(_row([b"1"]))

    def _error(self, severity: bytes, text: bytes) -> bytes:
        fields = (
            b"S" + severity,
            b"V" + severity,
            b"C" + self.sqlstate,
            b"M" + text,
            b"D" + text,
            b"H" + text,
        )
        return _message(b"E", b"".join(field + b"\0" for field in fields) + b"\0")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _row(values: list[bytes | None]) -> bytes:
    columns = b"".join(b"c\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for _ in values)
    cells = b"".join(
        struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values
    )
    count = struct.pack("!h", len(values))
    return (
        _message(b"T", count + columns)
        + _message(b"D", count + cells)
        + _message(b"C", b"SELECT 1\0")
        + _message(b"Z", b"I")
    )
