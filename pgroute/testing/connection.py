"""One proxied connection: a client, its server, and what happens to both."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .flow import READ_SIZE, End, Flow

if TYPE_CHECKING:
    from .flow import Deed, Trap
    from .relay import Relay

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection:
    """A client, its server and the two directions between them."""

    def __init__(self, relay: Relay, client: socket.socket) -> None:
        self._relay = relay
        self._client = _prepare(client)
        self._server: socket.socket | None = None
        self._linked = self._failed = False
        self._addresses = iter(relay.addresses)
        self._masks: dict[socket.socket, int] = {}
        self._timer: float | None = None
        self.flows = {name: Flow(name, relay.totals, flow) for name, flow in relay.template.items()}
        self._up, self._down = self.flows["to_server"], self.flows["to_client"]
        self._up.source = self._down.sink = self._client

    @property
    def open(self) -> bool:
        """Whether it has not ended; several events of one turn may concern it."""
        return self in self._relay.connections

    def pump(self) -> None:
        """Move on as far as possible, then wait for sockets and times."""
        now = time.monotonic()
        # A deaf network does not carry the connection request either.
        if self._server is None and not self._failed and self._up.conditions.mode == "forward":
            self._connect(now)
        for flow in self.flows.values():
            while (step := flow.flush(now)) is not None:
                self._obey(step, flow)
                if not self.open:
                    return
        self._wait(now)

    def end(self, *, reset_client: bool, reset_server: bool) -> None:
        """Close both sockets, with RST or with FIN."""
        self._relay.connections.remove(self)
        for flow in self.flows.values():
            flow.abandon()
        for link, reset in ((self._client, reset_client), (self._server, reset_server)):
            if link is None:
                continue
            self._listen_to(link, 0)
            if reset:
                with contextlib.suppress(OSError):  # macOS, when the peer has reset it
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            else:
                drain(link)
            link.close()

    def leave(self) -> None:
        """Close both sockets in this process alone: a forked child."""
        for link in (self._client, self._server):
            if link is not None:
                link.close()

    def hit(self, deed: Deed) -> None:
        """Apply a fault to this connection alone."""
        match deed:
            case "reset" | "disconnect":
                self.end(reset_client=deed == "reset", reset_server=deed == "reset")
            case mode:
                for flow in self.flows.values():
                    flow.conditions = replace(flow.conditions, mode=mode)

    def _obey(self, step: End | tuple[Trap, ...], flow: Flow) -> None:
        back = self._down if flow is self._up else self._up
        if step is End.RESET:
            self.end(reset_client=True, reset_server=True)
        elif isinstance(step, tuple):
            for trap in step:
                trap.hit()  # first, for whoever looks on seeing the fault
                if trap.do == "reset":
                    # An RST behind the last bytes could make the server's kernel forget them.
                    self.end(reset_client=True, reset_server=flow is self._down)
                else:
                    self.hit(trap.do)
                trap.in_force()
        else:
            flow.abandon()
            if step is End.LOST:
                back.receiver_lost = True
            elif flow.sink is not None:
                with contextlib.suppress(OSError):
                    flow.sink.shutdown(socket.SHUT_WR)
            if back.done:
                self.end(reset_client=step is End.LOST, reset_server=step is End.LOST)

    def _connect(self, now: float) -> None:
        """Turn to the next address that does not refuse at once."""
        for family, address in self._addresses:
            with contextlib.suppress(OSError):  # no descriptor is left, or no IPv6 here
                server = _prepare(socket.socket(family, socket.SOCK_STREAM))
                if server.connect_ex(address) in (0, errno.EINPROGRESS):
                    self._server = server
                    return
                server.close()
        self._failed = True
        self._down.end(End.RESET, now)

    def _connected(self, server: socket.socket) -> None:
        if server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._listen_to(server, 0)
            server.close()
            self._server = None
            return
        self._linked = True
        self._up.sink = self._down.source = server
        self._relay.connected += 1

    def _ready(self, link: socket.socket, events: int) -> None:
        if not self.open:
            return
        now = time.monotonic()
        if link is self._server and not self._linked:
            self._connected(link)
        elif events & READ:
            (self._up if link is self._client else self._down).read(now)
        self.pump()

    def _wait(self, now: float) -> None:
        self._listen_to(self._client, _mask(self._up.readable(now), self._down.blocked))
        if self._server is not None:
            if self._linked:
                self._listen_to(self._server, _mask(self._down.readable(now), self._up.blocked))
            else:
                self._listen_to(self._server, WRITE)
        for flow in self.flows.values():
            when = flow.wakes(now)
            if when is not None and (self._timer is None or when < self._timer):
                self._timer = when
                self._relay.call_at(when, self.ring)

    def ring(self, when: float) -> None:
        """Go on at a time that was waited for."""
        if not self.open or when != self._timer:
            return
        self._timer = None
        now = time.monotonic()
        for flow in self.flows.values():
            flow.read(now)
        self.pump()

    def _listen_to(self, link: socket.socket, mask: int) -> None:
        before = self._masks.get(link, 0)
        if mask == before:
            return
        self._masks[link] = mask
        if not mask:
            self._relay.selector.unregister(link)
        elif not before:
            self._relay.selector.register(link, mask, lambda events: self._ready(link, events))
        else:
            self._relay.selector.modify(link, mask, lambda events: self._ready(link, events))


def _prepare(link: socket.socket) -> socket.socket:
    link.setblocking(False)
    with contextlib.suppress(OSError):  # macOS, when the peer has reset it
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def _mask(read: bool, write: bool) -> int:
    return (READ if read else 0) | (WRITE if write else 0)


def drain(link: socket.socket) -> None:
    """Read what is there: the kernel answers the close of a socket with unread bytes by RST instead of FIN."""
    with contextlib.suppress(OSError):
        for _ in range(64):  # a sender may be as quick as we are
            if not link.recv(READ_SIZE):
                return
