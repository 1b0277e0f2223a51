"""Hosts that let everybody in and then drop the connection: a pooler without its server, a proxy in between."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import HostState, NoHostAvailable, Router
from pgroute.testing import LocalCluster, Node
from tests.support import Background, dsn_at, eventually

pytestmark = pytest.mark.cluster

ENCRYPTION = (80877103, 80877104)
"""What a client sends to ask for TLS and for GSSAPI (PostgreSQL: Message Formats)."""

WINDOW = 2.5
"""Seconds for which attempts are counted: only time shows how many there are in it."""

MOST = 7
"""Logins that a host may get in a second, probe and pools together."""


class Server(socketserver.ThreadingTCPServer):
    """Remembers when somebody got in."""

    def __init__(self, handler: type[socketserver.BaseRequestHandler], target: Node | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.logins: list[float] = []
        self.target = target
        self.broken = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def since(self, moment: float) -> int:
        return sum(login > moment for login in self.logins)


class DropsTheFirstQuery(socketserver.StreamRequestHandler):
    """Speaks PostgreSQL up to "ready for query", and hangs up on the query."""

    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                (length,) = struct.unpack("!i", self.rfile.read(4))
                (code,) = struct.unpack_from("!i", self.rfile.read(length - 4))
                if code not in ENCRYPTION:
                    break
                self.wfile.write(b"N")
            assert isinstance(self.server, Server)
            self.server.logins.append(time.monotonic())
            self.wfile.write(b"R" + struct.pack("!ii", 8, 0))  # AuthenticationOk
            self.wfile.write(b"K" + struct.pack("!iii", 12, 1, 1))  # BackendKeyData
            self.wfile.write(b"Z" + struct.pack("!ic", 5, b"I"))  # ReadyForQuery
            self.rfile.read(1)


class Forwards(socketserver.BaseRequestHandler):
    """Passes everything on to a node; while the server is broken, hangs up on each query."""

    def handle(self) -> None:
        server, client = self.server, self.request
        assert isinstance(server, Server)
        assert server.target is not None
        server.logins.append(time.monotonic())
        with (
            contextlib.suppress(OSError),
            socket.create_connection((server.target.host, server.target.port)) as node,
        ):
            while True:
                for sock, other in ((client, node), (node, client)):
                    if sock not in select.select([client, node], [], [])[0]:
                        continue
                    data = sock.recv(65536)
                    if not data or (sock is client and server.broken.is_set() and data[:1] in b"QP"):
                        return
                    other.sendall(data)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dsn_of(cluster: LocalCluster, *ports: int) -> str:
    return dsn_at(",".join(f"127.0.0.1:{port}" for port in ports), cluster)


def write_or_not(router: Router[Any], until: float) -> None:
    """Ask for writers until then, whether there are any or not."""
    while time.monotonic() < until:
        with contextlib.suppress(psycopg.OperationalError), router.writer(timeout=0.5) as conn:
            conn.execute("SELECT 1")


def test_a_host_that_drops_each_query_is_judged_and_the_primary_is_admitted(shared: LocalCluster) -> None:
    node = shared.primary
    with (
        serving(Server(DropsTheFirstQuery)) as broken,
        Router(dsn_of(shared, broken.port, node.port)) as router,
    ):
        with router.writer(timeout=2.0) as conn:
            assert conn.info.port == node.port
        host = router.topology.hosts[0]
        assert host.state is HostState.DOWN
        assert "closed the connection" in host.reason
        begun = time.monotonic()
        eventually(lambda: time.monotonic() > begun + WINDOW)
        assert 1 <= broken.since(begun) <= MOST * WINDOW
        assert router.topology.hosts[0].state is HostState.DOWN


def test_a_primary_that_drops_each_query_from_now_on_is_no_primary_until_it_answers(
    shared: LocalCluster,
) -> None:
    with serving(Server(Forwards, shared.primary)) as primary:
        dsn = dsn_of(shared, primary.port, *(node.port for node in shared.standbys))
        with Router(dsn) as router, Background() as background:
            router.wait()
            eventually(lambda: all(host.usable for host in router.topology.hosts))
            primary.broken.set()
            begun = time.monotonic()
            writers = [background.start(write_or_not, router, begun + WINDOW) for _ in range(5)]
            eventually(lambda: router.topology.hosts[0].state is HostState.DOWN, timeout=2.5)
            for writer in writers:
                writer.result()
            assert 1 <= primary.since(begun) <= MOST * WINDOW
            with pytest.raises(NoHostAvailable):
                router.wait(timeout=0.1)
            router.wait("reader", timeout=1.0)
            primary.broken.clear()
            router.wait(timeout=2.0)
