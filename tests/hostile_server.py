"""A server that speaks PostgreSQL's protocol 3 and answers what a test wants: too much, nonsense, or nothing.

It answers as an honest primary where it is not told otherwise. Loopback only; a thread for each connection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Self

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
LINGER = struct.pack("ii", 1, 0)
SYSTEM_ID = 7_000_000_000_000_000_001
START = 1_700_000_000_000_000

Value = bytes | None


def message(kind: bytes, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a message; *length* lies about what follows."""
    return kind + struct.pack("!I", len(payload) + 4 if length is None else length) + payload


def columns(count: int, *, format_code: int = 0) -> bytes:
    """Return a RowDescription of text columns."""
    fields = b"".join(b"c\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, format_code) for _ in range(count))
    return message(b"T", struct.pack("!h", count) + fields)


def row(values: Iterable[Value]) -> bytes:
    """Return a DataRow."""
    cells = [struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values]
    return message(b"D", struct.pack("!h", len(cells)) + b"".join(cells))


def complete(tag: bytes = b"SELECT 1") -> bytes:
    return message(b"C", tag + b"\0")


def result(values: Iterable[Value]) -> bytes:
    """Return a result of one row."""
    cells = list(values)
    return columns(len(cells)) + row(cells) + complete()


def diagnostics(severity: bytes, sqlstate: bytes, text: bytes) -> bytes:
    return b"S%b\0V%b\0C%b\0M%b\0\0" % (severity, severity, sqlstate, text)


def error(sqlstate: bytes, text: bytes) -> bytes:
    return message(b"E", diagnostics(b"ERROR", sqlstate, text))


def notice(text: bytes) -> bytes:
    return message(b"N", diagnostics(b"NOTICE", b"00000", text))


def notification(payload: bytes) -> bytes:
    return message(b"A", struct.pack("!i", 1) + b"channel\0" + payload + b"\0")


def parameter(name: bytes, value: bytes) -> bytes:
    return message(b"S", name + b"\0" + value + b"\0")


READY = message(b"Z", b"I")
SETTINGS = complete(b"SET") * 3
"""What a probe's SELECT comes behind."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What a whole probe is answered with.

    Attributes:
        lsn: what a primary has inserted and flushed, or a standby replayed.
    """

    recovering: Value = b"f"
    read_only: Value = b"off"
    wal_file: Value = b"000000010000000000000001"
    standby_timeline: Value = None
    lsn: Value = b"0/1000000"
    system_id: Value = b"%d" % SYSTEM_ID
    started_at: Value = b"%d" % START
    defaults: Value = None

    @classmethod
    def standby(cls, timeline: int = 1, **more: Value) -> Told:
        return cls(b"t", wal_file=None, standby_timeline=b"%d" % timeline, **more)

    def values(self) -> list[Value]:
        """Return the columns in their order."""
        standby = self.recovering == b"t"
        positions = (None, None, self.lsn, None) if standby else (self.lsn, self.lsn, None, b"200ms")
        return [
            self.recovering,
            self.read_only,
            self.wal_file,
            self.standby_timeline,
            *positions,
            self.system_id,
            self.started_at,
            self.defaults,
        ]

    def answer(self, visitor: Visitor, sql: bytes) -> None:
        """Answer the router's own questions, and any other with one row of one column."""
        if visitor.is_probe and b"pg_is_in_recovery" in sql:
            visitor.send(SETTINGS + result(self.values()))
        elif b"pg_is_in_recovery" in sql:
            visitor.send(complete() + result([self.recovering, self.system_id, self.wal_file, b"100"]))
        elif sql.split(maxsplit=1)[0] in (b"BEGIN", b"COMMIT", b"ROLLBACK", b"SET"):
            visitor.send(complete(sql.split(maxsplit=1)[0]))
        else:
            visitor.send(result([b"1"]))


class Gone(Exception):
    """The client has closed the connection."""


class Visitor:
    """One connection, as the server sees it.

    Attributes:
        parameters: of its startup message.
        passwords: what it has sent when it was asked for one.
    """

    def __init__(self, link: socket.socket) -> None:
        self.parameters: dict[bytes, bytes] = {}
        self.passwords: list[bytes] = []
        self._link = link
        self._lines = link.makefile("rb")

    @property
    def is_probe(self) -> bool:
        return self.parameters.get(b"application_name", b"").endswith(b"pgroute-monitor")

    def send(self, data: bytes) -> None:
        try:
            self._link.sendall(data)
        except OSError:
            raise Gone from None

    def flood(self, pieces: Iterable[bytes]) -> None:
        """Send until the client goes; Gone is the only way out."""
        pieces = iter(pieces)
        while block := b"".join(itertools.islice(pieces, 256)):
            self.send(block)
        self.hang()

    def hang(self) -> None:
        """Say nothing more, and wait for the client to go."""
        while self._read(1):
            pass

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next message."""
        kind = self._read(1)
        (length,) = struct.unpack("!I", self._read(4))
        return kind, self._read(length - 4)

    def startup(self) -> None:
        """Read the startup message; TLS and GSSAPI are not offered."""
        while True:
            (length,) = struct.unpack("!I", self._read(4))
            body = self._read(length - 4)
            (code,) = struct.unpack_from("!I", body)
            if code == CANCEL_REQUEST:
                raise Gone
            if code not in (SSL_REQUEST, GSS_REQUEST):
                break
            self.send(b"N")
        words = body[4:].split(b"\0")
        self.parameters = dict(zip(words[::2], words[1::2], strict=False))

    def ask_for_password(self, request: int = 3, more: bytes = b"") -> None:
        """Ask in clear text (3) or otherwise, and remember the answer."""
        self.send(message(b"R", struct.pack("!I", request) + more))
        kind, body = self.receive()
        assert kind == b"p"
        self.passwords.append(body.rstrip(b"\0"))

    def ask_for_scram(self) -> None:
        self.ask_for_password(10, b"SCRAM-SHA-256\0\0")

    def let_in(self) -> None:
        """End the login."""
        settings = {
            b"server_version": b"18.0",
            b"client_encoding": b"UTF8",
            b"standard_conforming_strings": b"on",
            b"default_transaction_read_only": b"off",
        }
        said = b"".join(parameter(name, value) for name, value in settings.items())
        self.send(
            message(b"R", struct.pack("!I", 0)) + said + message(b"K", struct.pack("!II", 1, 1)) + READY
        )

    def queries(self) -> Iterator[bytes]:
        """Yield each query, simple or extended, and say that the server is ready after it."""
        sql = b""
        while True:
            kind, body = self.receive()
            match kind:
                case b"Q":
                    yield body.rstrip(b"\0")
                    self.send(READY)
                case b"P":
                    sql = body.split(b"\0")[1]
                    self.send(message(b"1"))
                case b"B":
                    self.send(message(b"2"))
                case b"E":
                    yield sql
                case b"S":
                    self.send(READY)
                case b"X":
                    return

    def _read(self, count: int) -> bytes:
        try:
            data = self._lines.read(count)
        except OSError:
            raise Gone from None
        if len(data) < count:
            raise Gone
        return data

    def close(self) -> None:
        self._lines.close()


Login = Callable[[Visitor], None]
Answer = Callable[[Visitor, bytes], None]


class HostileServer(socketserver.ThreadingTCPServer):
    """The server.

    Args:
        answer: called with each query; it sends what it likes, but for the last message ("ready").
        login: called instead of letting everybody in.

    Attributes:
        visitors: all that have come, the latest last.
    """

    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, answer: Answer | None = None, login: Login = Visitor.let_in) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = answer or Told().answer
        self.login = login
        self.visitors: list[Visitor] = []
        self._links: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=[0.01], name="hostile-server")

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def passwords(self) -> list[bytes]:
        return [password for visitor in self.visitors for password in visitor.passwords]

    def serve(self, link: socket.socket) -> None:
        visitor = Visitor(link)
        self._links.add(link)
        try:
            with contextlib.suppress(Gone):
                visitor.startup()
                self.visitors.append(visitor)
                self.login(visitor)
                for sql in visitor.queries():
                    self.answer(visitor, sql)
        finally:
            self._links.discard(link)
            visitor.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        for link in tuple(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        link: socket.socket = self.request
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert isinstance(self.server, HostileServer)
        self.server.serve(link)


def dsn_of(*servers: HostileServer | int, user: str = "app", **parameters: str) -> str:
    """Return a DSN of these servers, or ports."""
    ports = ",".join(str(s if isinstance(s, int) else s.port) for s in servers)
    hosts = ",".join(["127.0.0.1"] * len(servers))
    more = " ".join(f"{name}={value}" for name, value in parameters.items())
    return f"host={hosts} port={ports} user={user} dbname=postgres {more}"
