"""FaultProxy on plain sockets and on PostgreSQL: what each fault does, what it leaves alone, what mend() undoes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from pgroute.testing import ClusterError, ClusterTimeout, FaultProxy, LocalCluster, Trigger
from tests.conftest import backends
from tests.support import Undecided, eventually, within

SILENCE = 0.1  # seconds: on loopback anything that comes at all comes within one
PATIENCE = 10.0
FAR_TOO_MUCH = 64 * 1024 * 1024  # bytes, more than all kernel buffers on the way hold


class Server:
    """A listening socket that hands out its ends of connections."""

    def __init__(self) -> None:
        self._links: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address: tuple[str, int] = self._listener.getsockname()

    def accept(self) -> socket.socket:
        self._listener.settimeout(PATIENCE)
        link, _ = self._listener.accept()
        return self._keep(link)

    def has_visitor(self) -> bool:
        return bool(select.select([self._listener], [], [], SILENCE)[0])

    def connect(self, proxy: FaultProxy) -> socket.socket:
        """Connect a client, without looking at what becomes of it."""
        return self._keep(socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE))

    def pair(self, proxy: FaultProxy) -> tuple[socket.socket, socket.socket]:
        """Connect a client through the proxy; return its end and ours."""
        return self.connect(proxy), self.accept()

    def drop_visitors(self) -> None:
        """Close what nobody has accepted."""
        while self.has_visitor():
            self.accept().close()

    def stop_listening(self) -> None:
        self._listener.close()

    def listen_again(self) -> None:
        self._listener = socket.create_server(self.address)

    def close(self) -> None:
        for link in (self._listener, *self._links):
            link.close()

    def _keep(self, link: socket.socket) -> socket.socket:
        link.settimeout(PATIENCE)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(link)
        return link


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.address) as proxy:
        yield proxy


def receive(link: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes, or what came before the end."""
    data = b""
    while len(data) < size and (chunk := link.recv(size - len(data))):
        data += chunk
    return data


def silent(link: socket.socket) -> bool:
    """Whether neither bytes nor an end arrive."""
    return not select.select([link], [], [], SILENCE)[0]


def end_of(link: socket.socket) -> str:
    try:
        return "data" if link.recv(1) else "disconnect"
    except ConnectionResetError:
        return "reset"


def was_reset(link: socket.socket) -> bool:
    return end_of(link) == "reset"


def was_closed(link: socket.socket) -> bool:
    return end_of(link) == "disconnect"


def fate_of_new(proxy: FaultProxy) -> str:
    """How a new connection ends; a reset may be quicker than connect()."""
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE) as link:
            return end_of(link)
    except ConnectionResetError:
        return "reset"


def passes(sender: socket.socket, receiver: socket.socket) -> bool:
    sender.sendall(b"hello")
    return receive(receiver, 5) == b"hello"


def works(pair: tuple[socket.socket, socket.socket]) -> bool:
    client, peer = pair
    return passes(client, peer) and passes(peer, client)


def push(link: socket.socket, limit: int = FAR_TOO_MUCH) -> int:
    """Send until nothing is taken for a while, and return how much was."""
    link.settimeout(0.3)
    sent, block = 0, b"x" * 65536
    with contextlib.suppress(TimeoutError):
        while sent < limit:
            sent += link.send(block)
    link.settimeout(PATIENCE)
    return sent


def refused(proxy: FaultProxy) -> bool:
    with socket.socket() as link:
        link.settimeout(PATIENCE)
        try:
            link.connect((proxy.host, proxy.port))
        except ConnectionRefusedError:
            return True
        return False


def test_new_proxy_passes_everything_on(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    big = os.urandom(3_000_000)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for sender, receiver in ((client, peer), (peer, client)):
            sending = pool.submit(sender.sendall, big)
            assert receive(receiver, len(big)) == big
            sending.result()
    client.shutdown(socket.SHUT_WR)
    assert was_closed(peer)
    assert passes(peer, client), "the other direction of a half-closed connection goes on"
    peer.close()
    assert was_closed(client)
    eventually(lambda: proxy.connections == 0)


def test_reset_by_one_side_reaches_the_other(proxy: FaultProxy, server: Server) -> None:
    for near in (0, 1):
        pair = server.pair(proxy)
        assert works(pair)
        pair[near].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        pair[near].close()
        assert was_reset(pair[1 - near])
    eventually(lambda: proxy.connections == 0)


def test_reset_of_a_client_reaches_a_server_that_went_on_sending(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.blackhole("to_server")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    peer.sendall(b"answer")
    assert silent(peer)
    proxy.clear_faults()
    assert was_reset(peer)


def test_small_messages_are_not_held_together(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    started = time.monotonic()
    for _ in range(50):  # Nagle's algorithm would hold each second byte until a delayed ACK of 40 ms
        client.sendall(b"a")
        assert receive(peer, 1) == b"a"
        client.sendall(b"b")
        assert receive(peer, 1) == b"b"
        assert passes(peer, client)
    assert time.monotonic() - started < within(1.0)


def test_refused_connections_leave_existing_ones_and_the_port_comes_back(
    proxy: FaultProxy, server: Server
) -> None:
    pair, port = server.pair(proxy), proxy.port
    waiting = server.connect(proxy)  # made before, whether the proxy has seen it or not
    proxy.refuse()
    assert refused(proxy)
    proxy.refuse()
    assert refused(proxy)
    assert works(pair)
    assert works((waiting, server.accept()))
    proxy.clear_faults()
    assert proxy.port == port
    assert works(server.pair(proxy))
    assert works(pair)


def test_refusing_may_end_existing_connections(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    proxy.refuse(existing="reset")
    assert [was_reset(link) for link in pair] == [True, True]
    proxy.clear_faults()
    pair = server.pair(proxy)
    proxy.refuse(existing="disconnect")
    assert [was_closed(link) for link in pair] == [True, True]
    assert refused(proxy)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops the SYN for a full queue")
def test_hanging_connection_attempts_succeed_after_mend(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    proxy.hang()
    proxy.hang()
    with socket.socket() as link:
        link.setblocking(False)
        link.connect_ex((proxy.host, proxy.port))
        assert not select.select([], [link], [], 0.3)[1], "the connection was made"
        assert works(pair)
        proxy.clear_faults()
        assert select.select([], [link], [], PATIENCE)[1]
        link.settimeout(PATIENCE)
        assert works((link, server.accept()))
    assert works(server.pair(proxy))
    assert proxy.attempts == 3, "its own plug is not counted"


def test_queue_is_long_again_after_hanging(proxy: FaultProxy) -> None:
    proxy.hang()
    proxy.clear_faults()
    with contextlib.ExitStack() as stack:
        waiting = {stack.enter_context(socket.socket()) for _ in range(100)}
        started = time.monotonic()
        for link in waiting:
            link.setblocking(False)
            link.connect_ex((proxy.host, proxy.port))
        while waiting:
            waiting -= set(select.select([], waiting, [], PATIENCE)[1])
        assert time.monotonic() - started < within(0.9), "a SYN was dropped, and sent again after a second"


def test_hanging_turns_into_refusing_and_back(proxy: FaultProxy, server: Server) -> None:
    proxy.hang()
    proxy.refuse()
    assert refused(proxy)
    proxy.hang()
    with pytest.raises(TimeoutError):
        socket.create_connection((proxy.host, proxy.port), timeout=0.3)
    proxy.clear_faults()
    assert works(server.pair(proxy))


@pytest.mark.parametrize("fault", ["reset", "disconnect"])
def test_ending_existing_connections_leaves_new_ones(proxy: FaultProxy, server: Server, fault: str) -> None:
    pairs = [server.pair(proxy) for _ in range(3)]
    getattr(proxy, fault)()
    assert {end_of(link) for pair in pairs for link in pair} == {fault}
    assert proxy.connections == 0
    assert works(server.pair(proxy))


@pytest.mark.parametrize("fault", ["reset", "disconnect"])
def test_ending_new_connections_leaves_existing_ones(proxy: FaultProxy, server: Server, fault: str) -> None:
    pair = server.pair(proxy)
    getattr(proxy, fault)("new")
    assert {fate_of_new(proxy) for _ in range(3)} == {fault}
    assert not server.has_visitor()
    assert works(pair)
    assert (proxy.attempts, proxy.connected, proxy.connections) == (4, 1, 1)
    getattr(proxy, fault)("all")
    assert end_of(pair[0]) == fate_of_new(proxy) == fault
    proxy.clear_faults()
    assert works(server.pair(proxy))


def test_clean_end_is_clean_with_unread_bytes(proxy: FaultProxy, server: Server) -> None:
    client, _peer = server.pair(proxy)
    proxy.blackhole()
    client.sendall(b"unread")
    proxy.disconnect()
    assert was_closed(client)


def test_deaf_proxy_holds_everything_until_mend(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.blackhole()
    client.sendall(b"question")
    peer.sendall(b"answer")
    assert silent(peer)
    assert silent(client)
    proxy.clear_faults()
    assert receive(peer, 8) == b"question"
    assert receive(client, 6) == b"answer"


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_one_direction_is_deaf_and_the_other_works(proxy: FaultProxy, server: Server, direction) -> None:
    client, peer = server.pair(proxy)
    sender, receiver = (client, peer) if direction == "to_server" else (peer, client)
    proxy.blackhole(direction)
    sender.sendall(b"held")
    assert passes(receiver, sender)
    assert silent(receiver)
    proxy.clear_faults()
    assert receive(receiver, 4) == b"held"


def test_deaf_proxy_hides_the_end_of_a_client(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.blackhole()
    client.sendall(b"last words")
    client.close()
    assert silent(peer)
    proxy.clear_faults()
    assert receive(peer, 100) == b"last words"


def test_deaf_to_new_connections_leaves_existing_ones(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    proxy.blackhole(connections="new")
    client = server.connect(proxy)
    client.sendall(b"question")
    assert silent(client)
    assert not server.has_visitor(), "the request for a connection got through"
    assert works(pair)
    proxy.clear_faults()
    assert receive(server.accept(), 8) == b"question"


def test_deaf_to_existing_connections_leaves_new_ones(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.blackhole(connections="existing")
    assert works(server.pair(proxy))
    client.sendall(b"x")
    assert silent(peer)


@pytest.mark.parametrize(
    "fault",
    [
        lambda proxy: proxy.blackhole(),
        lambda proxy: proxy.delay(3600),
        lambda proxy: proxy.throttle(1),
        lambda _: None,
    ],
    ids=["blackhole", "delayed", "throttled", "slow reader"],
)
def test_sender_blocks_and_nothing_is_lost(
    proxy: FaultProxy, server: Server, fault: Callable[[FaultProxy], None]
) -> None:
    client, peer = server.pair(proxy)
    fault(proxy)
    sent = push(client)
    assert sent < FAR_TOO_MUCH
    proxy.clear_faults()
    client.shutdown(socket.SHUT_WR)
    received = 0
    while chunk := peer.recv(1 << 20):
        received += len(chunk)
    assert received == sent


def test_discarding_loses_bytes_while_the_sender_goes_on(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.discard("to_server")
    assert push(client) == FAR_TOO_MUCH
    assert passes(peer, client)
    assert silent(peer)
    assert proxy.bytes_to_server == 0
    client.sendall(b"lost")
    eventually(lambda: not pending(client))
    client.close()
    assert silent(peer), "the end of the stream is a packet too"
    proxy.clear_faults()
    assert was_closed(peer)


def pending(link: socket.socket) -> bool:
    """Whether the other side has not read all that was sent."""
    import fcntl
    import struct
    import termios

    port = link.getsockname()[1]
    unsent = struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, b"\0" * 4))[0]
    if unsent:
        return True
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, _, queues, *_ = line.split()
        if int(remote.partition(":")[2], 16) == port and int(queues.partition(":")[2], 16):
            return True
    return False


def test_discarding_replies_keeps_requests(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.discard("to_client")
    assert passes(client, peer)
    peer.sendall(b"lost")
    assert silent(client)
    assert not pending(peer)
    proxy.clear_faults()
    assert passes(peer, client)


def test_discarding_loses_what_is_delayed_and_springs_no_trap(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(3600)
    push(client)
    trigger = proxy.when(b"COMMIT")
    proxy.discard()
    client.sendall(b"COMMIT")
    assert push(client) == FAR_TOO_MUCH
    assert trigger.hits == 0
    assert silent(client)
    assert silent(peer)


def test_delay_holds_bytes_and_the_end_for_its_time(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(0.2)
    for sender, receiver in ((client, peer), (peer, client)):
        started = time.monotonic()
        assert passes(sender, receiver)
        assert time.monotonic() - started >= 0.2
    started = time.monotonic()
    client.shutdown(socket.SHUT_WR)
    assert was_closed(peer)
    assert time.monotonic() - started >= 0.2


def test_delay_of_one_direction_leaves_the_other(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(3600, "to_server")
    client.sendall(b"delayed")
    assert passes(peer, client)
    assert silent(peer)


def test_jitter_spreads_delays_and_keeps_the_order(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(0.05, jitter=0.05)
    times = []
    for _ in range(20):
        started = time.monotonic()
        assert passes(client, peer)
        times.append(time.monotonic() - started)
    assert max(times) - min(times) > 0.02
    for number in range(100):
        client.sendall(bytes([number]))
    assert receive(peer, 100) == bytes(range(100))


def test_mend_passes_on_what_is_delayed_at_once(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(3600)
    client.sendall(b"one")
    assert silent(peer)
    proxy.clear_faults()
    assert receive(peer, 3) == b"one"
    assert works((client, peer))


def test_throttle_limits_the_rate_of_its_direction(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)

    def seconds(sender: socket.socket, receiver: socket.socket) -> float:
        started = time.monotonic()
        sender.sendall(b"x" * 50_000)
        assert len(receive(receiver, 50_000)) == 50_000
        return time.monotonic() - started

    proxy.throttle(100_000, "to_client")
    assert 0.4 < seconds(peer, client) < 5
    proxy.throttle(1000, "to_client")
    assert seconds(client, peer) < 5
    peer.sendall(b"y")
    proxy.clear_faults()
    assert receive(client, 1) == b"y"
    assert seconds(peer, client) < 5


def test_faults_add_up(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(0.2, "to_client")
    proxy.blackhole("to_server")
    client.sendall(b"held")
    started = time.monotonic()
    assert passes(peer, client)
    assert time.monotonic() - started >= 0.2
    assert silent(peer)


@pytest.mark.parametrize(
    ("action", "ended"),
    [("reset", was_reset), ("disconnect", was_closed), ("blackhole", silent), ("discard", silent)],
)
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_stream_is_cut_at_the_byte(
    proxy: FaultProxy, server: Server, action, ended: Callable[[socket.socket], bool], direction
) -> None:
    client, peer = server.pair(proxy)
    sender, receiver = (client, peer) if direction == "to_server" else (peer, client)
    assert passes(sender, receiver), "bytes before the trigger do not count"
    trigger = proxy.cut_after(7, direction, action)
    sender.sendall(b"1234")
    assert receive(receiver, 4) == b"1234"
    assert trigger.hits == 0
    sender.sendall(b"5678")
    assert receive(receiver, 3) == b"567"
    trigger.wait()
    assert trigger.hits == 1
    assert ended(client)
    if action != "reset":  # the server gets FIN behind what it was to receive
        assert ended(peer)
    assert works(server.pair(proxy)), "it hits one connection"
    proxy.clear_faults()
    if action == "blackhole":
        assert receive(receiver, 1) == b"8"
    if action == "discard":
        assert works((client, peer))


@pytest.mark.parametrize("after_forwarding", [True, False])
def test_pattern_in_one_piece_springs_the_trap(
    proxy: FaultProxy, server: Server, after_forwarding: bool
) -> None:
    client, peer = server.pair(proxy)
    proxy.when(b"COMMIT", after_forwarding=after_forwarding)
    client.sendall(b"before COMMIT\0")
    assert was_reset(client)
    assert peer_received(peer) == (b"before COMMIT\0" if after_forwarding else b"before ")


@pytest.mark.parametrize("after_forwarding", [True, False])
def test_pattern_in_pieces_springs_the_trap(
    proxy: FaultProxy, server: Server, after_forwarding: bool
) -> None:
    client, peer = server.pair(proxy)
    trigger = proxy.when(b"COMMIT", after_forwarding=after_forwarding)
    for piece in (b"COM COMM", b"I", b"T;"):
        assert trigger.hits == 0
        client.sendall(piece)
        if piece != b"T;":
            assert receive(peer, len(piece)) == piece, "what may become the pattern is not kept back"
    assert was_reset(client)
    assert peer_received(peer) == (b"T;" if after_forwarding else b"")


def peer_received(peer: socket.socket) -> bytes:
    """What has arrived before the end, clean or not."""
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := peer.recv(1 << 20):
            chunks.append(chunk)
    return b"".join(chunks)


def test_pattern_of_other_bytes_or_direction_springs_nothing(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    trigger = proxy.when(b"COMMIT", "to_server")
    for sender, receiver in ((peer, client), (client, peer)):
        text = b"COMMIT" if sender is peer else b"COMMI"
        sender.sendall(text)
        assert receive(receiver, len(text)) == text
    client.sendall(b"t")
    assert receive(peer, 1) == b"t"
    assert works((client, peer))
    assert trigger.hits == 0
    with pytest.raises(ClusterTimeout, match="COMMIT"):
        trigger.wait(0.01)


def test_deaf_after_a_pattern_holds_the_reply_until_mend(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    proxy.when(b"COMMIT", action="blackhole")
    client.sendall(b"COMMIT\0")
    assert receive(peer, 7) == b"COMMIT\0"
    peer.sendall(b"done")
    client.sendall(b"more")
    assert silent(client)
    assert silent(peer)
    proxy.clear_faults()
    assert receive(client, 4) == b"done"
    assert receive(peer, 4) == b"more"


def test_deaf_before_a_pattern_holds_it_until_mend(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    trigger = proxy.when(b"COMMIT", action="blackhole", after_forwarding=False)
    client.sendall(b"INSERT;COMMIT\0")
    assert receive(peer, 7) == b"INSERT;"
    trigger.wait()
    assert silent(peer)
    proxy.clear_faults()
    assert receive(peer, 7) == b"COMMIT\0"


def test_bytes_before_a_trigger_are_delivered_although_the_receiver_is_slow(
    proxy: FaultProxy, server: Server
) -> None:
    client, peer = server.pair(proxy)
    sent = push(client)
    trigger = proxy.when(b"COMMIT")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sending = pool.submit(client.sendall, b"COMMIT\0")
        assert silent(client)
        received = bytearray()
        while not trigger.hits:
            received += peer.recv(65536)
        received += peer_received(peer)
        sending.result()
    assert len(received) == sent + 7
    assert received.endswith(b"COMMIT\0")
    assert was_reset(client)


def test_trigger_hits_as_many_connections_as_told(proxy: FaultProxy, server: Server) -> None:
    two, every = (
        proxy.when(b"two", times=2, action="disconnect"),
        proxy.when(b"every", times=None, action="disconnect"),
    )
    for word, trigger, expected in ((b"two", two, [True, True, False, False]), (b"every", every, [True] * 4)):
        hit: list[bool] = []
        for _ in range(4):
            client, peer = server.pair(proxy)
            client.sendall(word)
            assert receive(peer, len(word)) == word
            hit.append(was_closed(peer) if len(hit) < expected.count(True) else not silent(peer))
        assert hit == expected
        assert trigger.hits == expected.count(True)


@pytest.mark.parametrize("which", ["existing", "new"])
def test_trigger_is_set_for_the_chosen_connections(proxy: FaultProxy, server: Server, which) -> None:
    old = server.pair(proxy)
    trigger = proxy.cut_after(3, "to_server", connections=which)
    new = server.pair(proxy)
    spared, chosen = (new, old) if which == "existing" else (old, new)
    assert works(spared)
    assert trigger.hits == 0
    chosen[0].sendall(b"hello")
    assert was_reset(chosen[0])


def test_mend_takes_triggers_back(proxy: FaultProxy, server: Server) -> None:
    old = server.pair(proxy)
    triggers = proxy.when(b"hello"), proxy.cut_after(3, "to_client")
    proxy.clear_faults()
    assert works(old)
    assert works(server.pair(proxy))
    assert [trigger.hits for trigger in triggers] == [0, 0]


def test_mend_takes_a_trigger_back_that_is_under_way(proxy: FaultProxy, server: Server) -> None:
    pair = client, peer = server.pair(proxy)
    proxy.delay(3600, "to_server")
    trigger = proxy.when(b"COMMIT")
    client.sendall(b"COMMIT")
    eventually(lambda: not pending(client))
    proxy.clear_faults()
    assert receive(peer, 6) == b"COMMIT"
    assert works(pair)
    assert trigger.hits == 0


def test_two_triggers_in_one_chunk_spring_in_their_order(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    late, early = proxy.cut_after(8, "to_server"), proxy.cut_after(3, "to_server", "blackhole")
    client.sendall(b"123456789")
    assert receive(peer, 3) == b"123"
    early.wait()
    assert silent(peer)
    assert (early.hits, late.hits) == (1, 0)


@pytest.mark.parametrize("swap", [False, True])
def test_patterns_in_one_chunk_are_hit_together(proxy: FaultProxy, server: Server, swap: bool) -> None:
    client, peer = server.pair(proxy)
    faults: list[tuple[bytes, Any]] = [(b"BEGIN", "blackhole"), (b"INSERT", "reset")]
    triggers = [
        proxy.when(pattern, action=action) for pattern, action in (reversed(faults) if swap else faults)
    ]
    client.sendall(b"BEGIN INSERT COMMIT")
    assert was_reset(client)
    assert peer_received(peer) == b"BEGIN INSERT COMMIT"
    assert [trigger.hits for trigger in triggers] == [1, 1]
    assert [trigger.armed for trigger in triggers] == [False, False]


@pytest.mark.parametrize(
    ("cut", "received"),
    [
        (lambda proxy: proxy.cut_after(5, "to_server"), b"BEGIN"),
        (lambda proxy: proxy.when(b"BEGIN"), b"BEGIN INSERT COMMIT"),
        (lambda proxy: proxy.when(b"BEGIN", after_forwarding=False), b""),
    ],
    ids=["before", "same place", "nothing"],
)
def test_trigger_behind_one_that_ends_the_connection_stays_armed(
    proxy: FaultProxy, server: Server, cut: Callable[[FaultProxy], Trigger], received: bytes
) -> None:
    client, peer = server.pair(proxy)
    behind, first = proxy.when(b"INSERT", action="disconnect"), cut(proxy)
    client.sendall(b"BEGIN INSERT COMMIT")
    assert was_reset(client)
    assert peer_received(peer) == received
    assert [(trigger.hits, trigger.armed) for trigger in (first, behind)] == [(1, False), (0, True)]
    client, peer = server.pair(proxy)
    client.sendall(b"INSERT")
    assert was_closed(client)


def test_pattern_before_a_cut_in_its_chunk_springs_its_trap(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    cut = proxy.cut_after(8, "to_server", "reset")
    trigger = proxy.when(b"GIN", action="blackhole", after_forwarding=False)
    client.sendall(b"BEGIN INSERT")
    trigger.wait()
    assert receive(peer, 2) == b"BE"
    assert silent(peer)
    assert (trigger.hits, cut.hits) == (1, 0)


@pytest.mark.parametrize("end", ["reset", "absence", "discard"])
def test_trigger_is_armed_again_when_the_connection_that_sprang_it_is_not_hit(
    proxy: FaultProxy, server: Server, end: str
) -> None:
    client, peer = server.pair(proxy)
    proxy.delay(3600, "to_server", connections="existing")
    trigger = proxy.when(b"COMMIT")
    client.sendall(b"COMMIT")
    eventually(lambda: not trigger.armed)
    if end == "absence":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        eventually(lambda: proxy.connections == 0)
    else:
        getattr(proxy, end)(connections="existing")
    assert (trigger.hits, trigger.armed) == (0, True)
    client, _ = server.pair(proxy)
    client.sendall(b"COMMIT")
    trigger.wait()
    assert was_reset(client)
    assert (trigger.hits, trigger.armed) == (1, False)


@pytest.mark.parametrize(
    "set_trigger",
    [lambda proxy: proxy.when(b"COMMIT"), lambda proxy: proxy.cut_after(3, "to_server")],
    ids=["when", "cut_after"],
)
def test_connection_is_watched_while_another_has_sprung_the_trap(
    proxy: FaultProxy, server: Server, set_trigger: Callable[[FaultProxy], Trigger]
) -> None:
    first, first_peer = server.pair(proxy)
    proxy.delay(3600, "to_server", connections="existing")
    second, second_peer = server.pair(proxy)
    trigger = set_trigger(proxy)
    first.sendall(b"COMMIT")
    eventually(lambda: not trigger.armed)
    second.sendall(b"COMM")
    assert receive(second_peer, 4) == b"COMM"
    first_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    first_peer.close()
    eventually(lambda: trigger.armed)
    second.sendall(b"IT")
    assert was_reset(second)
    assert trigger.hits == 1


def test_trigger_behind_discarded_bytes_does_not_spring(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    lossy, late = proxy.cut_after(3, "to_server", "discard"), proxy.cut_after(8, "to_server")
    client.sendall(b"123456789")
    assert receive(peer, 3) == b"123"
    lossy.wait()
    assert silent(client)
    assert (late.hits, late.armed) == (0, True)


def test_trigger_is_not_armed_once_it_is_taken_back(proxy: FaultProxy, server: Server) -> None:
    client, peer = server.pair(proxy)
    triggers = [proxy.when(b"x", times=None, connections=which) for which in ("existing", "new", "all")]
    assert [trigger.armed for trigger in triggers] == [True] * 3
    client.close()
    peer.close()
    eventually(lambda: proxy.connections == 0)
    proxy.clear_faults()
    assert [trigger.armed for trigger in triggers] == [False] * 3
    trigger = proxy.when(b"x")
    proxy.stop()
    assert not trigger.armed


def test_counts_tell_attempts_connections_and_bytes(proxy: FaultProxy, server: Server) -> None:
    assert (proxy.attempts, proxy.connected, proxy.connections) == (0, 0, 0)
    client, peer = server.pair(proxy)
    server.pair(proxy)
    client.sendall(b"12345")
    receive(peer, 5)
    peer.sendall(b"123")
    receive(client, 3)
    assert (proxy.bytes_to_server, proxy.bytes_to_client) == (5, 3)
    assert (proxy.attempts, proxy.connected, proxy.connections) == (2, 2, 2)
    client.close()
    peer.close()
    eventually(lambda: proxy.connections == 1)
    waiting = server.connect(proxy)
    assert (proxy.attempts, proxy.connections) == (3, 2), "known although nobody has looked at it"
    waiting.close()
    server.accept().close()
    server.stop_listening()
    assert fate_of_new(proxy) == "reset"
    eventually(lambda: proxy.connections == 1)
    assert (proxy.attempts, proxy.connected) == (4, 3)


def test_absent_target_resets_clients_until_it_is_back(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    server.stop_listening()
    assert fate_of_new(proxy) == "reset"
    assert works(pair)
    server.listen_again()
    assert works(server.pair(proxy))


def test_deaf_proxy_hides_that_the_target_is_absent(proxy: FaultProxy, server: Server) -> None:
    server.stop_listening()
    proxy.blackhole("to_client")
    client = server.connect(proxy)
    assert silent(client)
    proxy.clear_faults()
    assert was_reset(client)


def test_many_connections_at_once(proxy: FaultProxy, server: Server) -> None:
    pairs = []
    for number in range(1, 201):
        pairs.append(server.pair(proxy))
        assert proxy.connected == number, "what the server has accepted is counted"
    assert proxy.connections == 200
    for client, _ in pairs:
        client.sendall(b"hello")
    assert all(receive(peer, 5) == b"hello" for _, peer in pairs)
    proxy.reset()
    assert all(was_reset(link) for pair in pairs for link in pair)
    assert proxy.connections == 0


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open no further file; there may be gaps below what is open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_wait_while_no_descriptor_is_left(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        with no_descriptor_left():
            client.connect((proxy.host, proxy.port))
            before = time.process_time()
            time.sleep(0.5)
            assert time.process_time() - before < 0.2, "the thread spins"
            assert works(pair)
            assert proxy.attempts == 1
        assert works((client, server.accept()))
    proxy.refuse()
    assert refused(proxy)


def test_refusing_and_hanging_while_no_descriptor_is_left(proxy: FaultProxy, server: Server) -> None:
    with socket.socket() as first, socket.socket() as second, no_descriptor_left():
        first.connect((proxy.host, proxy.port))
        assert proxy.attempts == 0
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            second.connect((proxy.host, proxy.port))
        assert was_reset(first)
    proxy.clear_faults()
    with no_descriptor_left(), pytest.raises(OSError, match="Too many"):
        proxy.hang()
    assert works(server.pair(proxy))


def test_client_is_reset_when_no_descriptor_is_left_for_its_server(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    proxy.blackhole(connections="new")
    client = server.connect(proxy)
    assert proxy.connections == 2
    with no_descriptor_left():
        proxy.clear_faults()
        assert was_reset(client)
    assert works(pair)
    assert works(server.pair(proxy))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_call_is_told_that_the_thread_has_failed(
    proxy: FaultProxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy._running, "before_call", lambda: 1 / 0)
    with pytest.raises(ClusterError, match="has stopped"):
        proxy.reset()
    with pytest.raises(ClusterError, match="not running"):
        proxy.reset()


def test_sockets_that_take_no_options_are_no_obstacle(
    proxy: FaultProxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS answers when the peer has reset the connection."""
    set_option = socket.socket.setsockopt

    def refuse(link: socket.socket, level: int, option: int, value: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            set_option(link, level, option, value)
        else:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    pair = server.pair(proxy)
    assert works(pair)
    proxy.reset()
    assert proxy.connections == 0
    assert works(server.pair(proxy))


@contextlib.contextmanager
def proxy_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> Iterator[FaultProxy]:
    """A proxy to a name of several addresses."""
    proxy = FaultProxy(("localhost", 5432))
    with monkeypatch.context() as patch:
        found = [(socket.AF_INET6 if len(to) == 4 else socket.AF_INET, 1, 6, "", to) for to in addresses]
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        proxy.start()
    yield proxy
    proxy.stop()


def test_addresses_of_a_name_are_tried_in_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.address[1]
    with proxy_to(monkeypatch, ("::1", port, 0, 0), ("127.0.0.2", port), server.address) as proxy:
        for _ in range(2):
            assert works(server.pair(proxy))
        assert (proxy.attempts, proxy.connected) == (2, 2)
        server.stop_listening()
        assert fate_of_new(proxy) == "reset"


@pytest.mark.skipif(sys.platform != "linux", reason="hang() works on Linux only")
def test_address_that_refuses_late_is_followed_by_the_next(
    proxy: FaultProxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_to(monkeypatch, (proxy.host, proxy.port), server.address) as outer:
        proxy.hang()
        client = server.connect(outer)
        assert not server.has_visitor()
        proxy.refuse()
        assert works((client, server.accept()))


def fork(run: Callable[[], object]) -> int:
    """Start a process that has inherited everything; it exits with 0 when `run()` is true."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on, about forks beside threads
        child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        code = 0 if run() else 1
    os._exit(code)


def succeeded(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextlib.contextmanager
def idle_fork() -> Iterator[None]:
    said, say = os.pipe()

    def idle() -> None:
        os.write(say, b"!")
        time.sleep(60)

    child = fork(idle)
    try:
        os.read(said, 1)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(said)
        os.close(say)


def test_faults_are_in_force_although_the_process_has_forked(proxy: FaultProxy, server: Server) -> None:
    for end in (proxy.reset, proxy.disconnect, lambda: proxy.refuse(existing="reset"), proxy.stop):
        client, peer = server.pair(proxy)
        address = proxy.host, proxy.port
        with idle_fork():
            assert works((client, peer))
            end()
            assert end_of(client) == ("disconnect" if end == proxy.disconnect else "reset")
            assert end_of(peer) == ("disconnect" if end == proxy.disconnect else "reset")
            if end == proxy.stop:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address)
            else:
                proxy.refuse()
                assert refused(proxy)
                proxy.clear_faults()
                assert works(server.pair(proxy))


def test_listener_that_another_process_holds_refuses(proxy: FaultProxy, server: Server) -> None:
    listener = proxy._running._listener
    assert listener is not None
    with listener.dup():
        proxy.refuse()
        assert refused(proxy)
        proxy.clear_faults()
        assert works(server.pair(proxy))


def test_forked_process_leaves_the_proxy_to_its_parent(proxy: FaultProxy, server: Server) -> None:
    pair = server.pair(proxy)
    proxy.hang()

    def use() -> bool:
        with pytest.raises(ClusterError, match="not running"):
            proxy.clear_faults()
        proxy.stop()
        with FaultProxy(server.address) as own:
            server.connect(own)
            return own.attempts == 1

    started = time.monotonic()
    assert succeeded(fork(use))
    assert time.monotonic() - started < 5.0
    assert works(pair)
    proxy.clear_faults()
    server.drop_visitors()
    assert works(server.pair(proxy))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_forked_process_has_nothing_of_the_proxy_whenever_it_forks(proxy: FaultProxy, server: Server) -> None:
    done = threading.Event()

    def visit() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError), socket.create_connection((proxy.host, proxy.port)) as link:
                link.sendall(b"hello")

    def receive_visitors() -> None:
        while not done.is_set():
            server.drop_visitors()

    def free_of_it() -> bool:
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as link:
                assert link.getsockname()[1:2] != (proxy.port,)
                assert link.getpeername() != server.address
        return True

    with concurrent.futures.ThreadPoolExecutor() as pool:
        background = [pool.submit(visit), pool.submit(receive_visitors)]
        try:
            assert all(succeeded(fork(free_of_it)) for _ in range(20))
        finally:
            done.set()
        for future in background:
            future.result(PATIENCE)


def test_stop_leaves_nothing_whatever_is_going_on(server: Server) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = held()
    proxy = FaultProxy(server.address)
    proxy.start()
    assert held() != before
    client, peer = server.pair(proxy)
    push(client, 1 << 20)
    proxy.delay(3600)
    peer.sendall(b"delayed")
    proxy.blackhole(connections="new")
    waiting = server.connect(proxy)
    proxy.hang()
    proxy.stop()
    assert was_reset(waiting)
    peer_received(peer)
    for link in (client, peer, waiting):
        link.close()
    assert held() == before


def test_stopped_proxy_refuses_says_so_and_starts_again(server: Server) -> None:
    proxy = FaultProxy(server.address)
    assert "stopped" in repr(proxy)
    for use in (
        lambda: proxy.port,
        proxy.clear_faults,
        proxy.refuse,
        lambda: proxy.attempts,
        proxy.blackhole,
    ):
        with pytest.raises(ClusterError, match="not started"):
            use()
    proxy.stop()
    for _ in range(2):
        with proxy:
            assert repr(proxy) == f"<FaultProxy 127.0.0.1:{proxy.port} to 127.0.0.1:{server.address[1]}>"
            with pytest.raises(ClusterError, match="started already"):
                proxy.start()
            assert works(server.pair(proxy))
            address = proxy.host, proxy.port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_unknown_name_of_a_target_is_told() -> None:
    with pytest.raises(ClusterError, match=r"no-such-host\.invalid"):
        FaultProxy(("no-such-host.invalid", 5432)).start()


def test_name_is_resolved_and_a_proxy_may_be_a_target(proxy: FaultProxy, server: Server) -> None:
    with FaultProxy(("localhost", proxy.port)) as outer, FaultProxy(outer) as outermost:
        assert works(server.pair(outermost))
        assert proxy.attempts == outer.attempts == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: FaultProxy(("localhost", 0)), "target .*1 to 65535.*'localhost', 0"),
        (lambda _: FaultProxy(cast("Any", "localhost")), "target .*'localhost'"),
        (
            lambda proxy: proxy.refuse(existing="drop"),
            "existing must be one of keep, reset, disconnect.*'drop'",
        ),
        (lambda proxy: proxy.reset("old"), "connections must be one of existing, new, all, not 'old'"),
        (lambda proxy: proxy.reset(cast("Any", Undecided())), "connections must be one of existing"),
        (
            lambda proxy: proxy.blackhole("up"),
            "direction must be one of to_server, to_client, both, not 'up'",
        ),
        (lambda proxy: proxy.blackhole(connections="old"), "connections must be"),
        (lambda proxy: proxy.delay(-1), "seconds must be a number from 0 .*not -1"),
        (lambda proxy: proxy.delay(float("nan")), "seconds must be"),
        (lambda proxy: proxy.delay("1"), "seconds must be a number .*not '1'"),
        (lambda proxy: proxy.delay(1, jitter=2), "jitter must be a number from 0 to 1, not 2"),
        (lambda proxy: proxy.throttle(0), "bytes_per_second must be a number from 1 .*not 0"),
        (lambda proxy: proxy.cut_after(0, "to_server"), "count must be an integer of at least 1, not 0"),
        (
            lambda proxy: proxy.cut_after(1, "both"),
            "direction must be one of to_server, to_client, not 'both'",
        ),
        (lambda proxy: proxy.cut_after(1, "to_server", "kill"), "action must be one of reset, .*not 'kill'"),
        (lambda proxy: proxy.when(b""), "pattern must be bytes, at least one, not b''"),
        (lambda proxy: proxy.when("COMMIT"), "pattern must be"),
        (lambda proxy: proxy.when(b"x", times=0), "times must be an integer of at least 1, not 0"),
    ],
)
def test_argument_that_makes_no_sense_is_refused(
    proxy: FaultProxy, server: Server, call: Callable[[FaultProxy], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(proxy)
    assert works(server.pair(proxy))


def test_faults_from_several_threads_under_traffic(proxy: FaultProxy, server: Server) -> None:
    done = threading.Event()

    def echo() -> None:
        while not done.is_set():
            if server.has_visitor():
                with contextlib.suppress(OSError), server.accept() as link:
                    link.settimeout(0.05)
                    while data := link.recv(100):
                        link.sendall(data)

    def talk() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError), server.connect(proxy) as link:
                link.settimeout(0.05)
                while not done.is_set() and passes(link, link):
                    pass

    def break_and_mend() -> None:
        faults: list[Callable[[], object]] = [
            proxy.reset,
            proxy.disconnect,
            proxy.refuse,
            proxy.blackhole,
            proxy.discard,
            lambda: proxy.delay(0.001, jitter=0.001),
            lambda: proxy.throttle(1000),
            lambda: proxy.cut_after(20, "to_client", times=None),
            lambda: proxy.when(b"lo"),
        ]
        for fault in faults * 20:
            fault()
            proxy.clear_faults()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        traffic = [pool.submit(echo), pool.submit(talk)]
        eventually(lambda: proxy.bytes_to_client > 0)
        for breaker in [pool.submit(break_and_mend) for _ in range(3)]:
            breaker.result(30)
        done.set()
        for future in traffic:
            future.result(PATIENCE)
    server.drop_visitors()
    eventually(lambda: proxy.connections == 0)
    assert works(server.pair(proxy))


@pytest.fixture
def proxies(pgroute_shared_cluster: LocalCluster) -> Iterator[list[FaultProxy]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FaultProxy(node)) for node in pgroute_shared_cluster.nodes]


def test_a_dsn_of_proxies_leads_to_the_database_of_the_cluster(server: Server) -> None:
    with (
        LocalCluster(0, dbname="shop") as cluster,
        FaultProxy(server.address) as stranger,
        FaultProxy(cluster.primary) as inner,
        FaultProxy(inner) as outer,
    ):
        stranger.refuse()
        for proxies in ([inner], [outer], [stranger, outer]):
            with psycopg.connect(FaultProxy.dsn(proxies)) as connection:
                assert connection.info.dbname == "shop"
        assert "/other?" in FaultProxy.dsn([inner], dbname="other")
        assert stranger.dbname is None
        assert FaultProxy.dsn([stranger]).endswith("/postgres")


def test_one_dsn_reaches_the_cluster_through_its_proxies(
    pgroute_shared_cluster: LocalCluster, proxies: list[FaultProxy]
) -> None:
    hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    dsn = FaultProxy.dsn(proxies)
    login = f"?password=&passfile={pgroute_shared_cluster.passfile}"
    assert dsn == f"postgresql://postgres@{hosts}/postgres{login}"
    assert FaultProxy.dsn(proxies, user="me", dbname="mine") == f"postgresql://me@{hosts}/mine{login}"
    primary = pgroute_shared_cluster.nodes.index(pgroute_shared_cluster.primary)
    with psycopg.connect(dsn, target_session_attrs="read-write") as connection:
        assert connection.info.port == proxies[primary].port
    proxies[primary].refuse()
    with psycopg.connect(dsn, target_session_attrs="any") as connection:
        assert connection.info.port != proxies[primary].port
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(dsn, target_session_attrs="read-write")


@pytest.mark.parametrize("after_forwarding", [True, False])
def test_connection_lost_around_commit(
    table: str, pgroute_shared_cluster: LocalCluster, after_forwarding: bool
) -> None:
    node = pgroute_shared_cluster.primary
    with FaultProxy(node) as proxy:
        for number in range(5):
            with psycopg.connect(FaultProxy.dsn([proxy])) as connection:
                connection.execute(f"INSERT INTO {table} VALUES (%s)", [number])
                trigger = proxy.when(b"COMMIT", after_forwarding=after_forwarding)
                with pytest.raises(psycopg.OperationalError):
                    connection.commit()
                assert trigger.hits == 1
        rows = f"SELECT count(*) FROM {table}"
        eventually(lambda: not backends(pgroute_shared_cluster))
        assert node.execute(rows) == [(5 if after_forwarding else 0,)]


def test_acknowledgement_of_a_commit_is_lost(table: str, pgroute_shared_cluster: LocalCluster) -> None:
    node = pgroute_shared_cluster.primary
    with (
        FaultProxy(node) as proxy,
        psycopg.connect(FaultProxy.dsn([proxy])) as connection,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        proxy.when(b"COMMIT", action="discard")
        committing = pool.submit(connection.commit)
        eventually(lambda: node.execute(f"SELECT number FROM {table}") == [(1,)])
        with pytest.raises(TimeoutError):
            committing.result(SILENCE)
        proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            committing.result(PATIENCE)


def test_late_acknowledgement_of_a_commit_arrives_after_mend(
    table: str, pgroute_shared_cluster: LocalCluster
) -> None:
    with (
        FaultProxy(pgroute_shared_cluster.primary) as proxy,
        psycopg.connect(FaultProxy.dsn([proxy])) as connection,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        trigger = proxy.when(b"COMMIT", action="blackhole")
        committing = pool.submit(connection.commit)
        trigger.wait()
        with pytest.raises(TimeoutError):
            committing.result(SILENCE)
        proxy.clear_faults()
        committing.result(PATIENCE)


def test_result_is_cut_in_the_middle_of_a_row(pgroute_shared_cluster: LocalCluster) -> None:
    with (
        FaultProxy(pgroute_shared_cluster.primary) as proxy,
        psycopg.connect(FaultProxy.dsn([proxy])) as connection,
    ):
        trigger = proxy.cut_after(5000, "to_client", "disconnect")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT repeat('x', 10000)")
        assert trigger.hits == 1


def test_restarted_node_is_reached_again() -> None:
    with LocalCluster(0) as cluster, FaultProxy(cluster.primary) as proxy:
        [node] = cluster.nodes
        node.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(FaultProxy.dsn([proxy]))
        node.start()
        with psycopg.connect(FaultProxy.dsn([proxy])) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_faults_fit_into_a_coroutine(
    pgroute_shared_cluster: LocalCluster, pgroute_proxy_factory
) -> None:
    proxy = pgroute_proxy_factory(pgroute_shared_cluster.primary)
    async with await psycopg.AsyncConnection.connect(FaultProxy.dsn([proxy])) as connection:
        await connection.execute("SELECT 1")
        proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")


def test_trigger_tells_what_it_waits_for() -> None:
    assert (
        repr(Trigger("blackhole", times=1, pattern=b"COMMIT")) == "<Trigger blackhole when b'COMMIT', 0 hits>"
    )
    assert repr(Trigger("reset", times=1, count=5)) == "<Trigger reset after 5 bytes, 0 hits>"
