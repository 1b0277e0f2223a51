"""One proxied connection: a client, its server, and the faults between them."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .flow import End
from .selector_thread import READ, WRITE, drain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .flow import Flow
    from .selector_thread import SelectorThread
    from .trigger import Action, Trigger

RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection:
    """A client, its server and the two directions between them.

    Args:
        thread: waits for its sockets and timers.
        client: the accepted socket.
        addresses: of the server; the first that answers is used.
        flows: the two directions, by name.
        on_connected: called when the server has accepted.
        on_end: called when both sockets are about to be closed.

    Attributes:
        flows: as given.
        open: False once it has ended; several events of one turn may concern it.
    """

    def __init__(
        self,
        thread: SelectorThread,
        client: socket.socket,
        addresses: Iterable[tuple[socket.AddressFamily, Any]],
        flows: dict[str, Flow],
        *,
        on_connected: Callable[[], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self.flows = flows
        self.open: bool = True
        self._thread = thread
        self._client = _prepare(client)
        self._server: socket.socket | None = None
        self._linked = self._failed = False
        self._addresses = iter(addresses)
        self._masks: dict[socket.socket, int] = {}
        self._timer: float | None = None
        self._on_connected = on_connected
        self._on_end = on_end
        self._up, self._down = flows["to_server"], flows["to_client"]
        self._up.source = self._down.sink = self._client

    def pump(self) -> None:
        """Pass on all that can be passed on, then wait for sockets and timers."""
        now = time.monotonic()
        # A blackhole swallows the connection request too.
        if self._server is None and not self._failed and self._up.conditions.mode == "forward":
            self._connect(now)
        for flow in self.flows.values():
            while (step := flow.flush(now)) is not None:
                self._carry_out(step, flow)
                if not self.open:
                    return
        self._wait(now)

    def end(self, *, reset_client: bool, reset_server: bool) -> None:
        """Close both sockets, with RST or with FIN."""
        self.open = False
        self._on_end(self)
        for flow in self.flows.values():
            flow.abandon()
        for link, reset in ((self._client, reset_client), (self._server, reset_server)):
            if link is None:
                continue
            self._watch(link, 0)
            if reset:
                with contextlib.suppress(OSError):  # macOS, when the peer has reset it
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            else:
                drain(link)
            link.close()

    def close_sockets(self) -> None:
        """Close both sockets in this process alone, a forked child."""
        for link in (self._client, self._server):
            if link is not None:
                link.close()

    def hit(self, action: Action) -> None:
        """Apply a fault to this connection alone."""
        match action:
            case "reset" | "disconnect":
                self.end(reset_client=action == "reset", reset_server=action == "reset")
            case mode:
                for flow in self.flows.values():
                    flow.conditions = replace(flow.conditions, mode=mode)

    def _carry_out(self, step: End | tuple[Trigger, ...], flow: Flow) -> None:
        back = self._down if flow is self._up else self._up
        if step is End.RESET:
            self.end(reset_client=True, reset_server=True)
        elif isinstance(step, tuple):
            for trigger in step:
                trigger.record_hit()  # first: a test that sees the fault may look at the count at once
                if trigger.action == "reset":
                    # An RST behind the last bytes could make the server's kernel forget them.
                    self.end(reset_client=True, reset_server=flow is self._down)
                else:
                    self.hit(trigger.action)
                trigger.set_in_force()
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
        """Connect to the next address that does not refuse at once."""
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
            self._watch(server, 0)
            server.close()
            self._server = None
            return
        self._linked = True
        self._up.sink = self._down.source = server
        self._on_connected()

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
        self._watch(self._client, _mask(self._up.readable(now), self._down.blocked))
        if self._server is not None:
            if self._linked:
                self._watch(self._server, _mask(self._down.readable(now), self._up.blocked))
            else:
                self._watch(self._server, WRITE)
        for flow in self.flows.values():
            when = flow.next_wakeup(now)
            if when is not None and (self._timer is None or when < self._timer):
                self._timer = when
                self._thread.call_at(when, self._on_timer)

    def _on_timer(self, when: float) -> None:
        if not self.open or when != self._timer:
            return
        self._timer = None
        now = time.monotonic()
        for flow in self.flows.values():
            flow.read(now)
        self.pump()

    def _watch(self, link: socket.socket, mask: int) -> None:
        before = self._masks.get(link, 0)
        if mask == before:
            return
        self._masks[link] = mask
        if not mask:
            self._thread.selector.unregister(link)
        elif not before:
            self._thread.selector.register(link, mask, lambda events: self._ready(link, events))
        else:
            self._thread.selector.modify(link, mask, lambda events: self._ready(link, events))


def _prepare(link: socket.socket) -> socket.socket:
    link.setblocking(False)
    with contextlib.suppress(OSError):  # macOS, when the peer has reset it
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def _mask(read: bool, write: bool) -> int:
    return (READ if read else 0) | (WRITE if write else 0)
