"""The listener of a proxy and its connections, with the faults that are in force on them."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Literal

from .connection import Connection
from .flow import Flow
from .ports import HOST, Port
from .selector_thread import READ, SelectorThread
from .trigger import TriggerSearch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .trigger import Action, Trigger

BACKLOG = 1024
RETRY_ACCEPT = 0.05  # seconds until the next try when no file descriptor is left


class Relay(SelectorThread):
    """Listens on a port of its own and connects each client with the target.

    Args:
        name: of the thread.
        addresses: of the target, as socket.getaddrinfo() gives them; the first that answers is used.
    """

    def __init__(self, name: str, addresses: Iterable[tuple[socket.AddressFamily, Any]]) -> None:
        super().__init__(name)
        self.port: Port = Port()
        self.connections: set[Connection] = set()
        self.totals: dict[str, int] = {"to_server": 0, "to_client": 0}
        self.on_accept: Literal["reset", "disconnect"] | None = None
        self.attempts: int = 0
        self.connected: int = 0
        self._addresses = tuple(addresses)
        self._template = {name: Flow(name, self.totals) for name in self.totals}
        self._triggers: list[Trigger] = []
        self._listener: socket.socket | None = None
        self._plug: socket.socket | None = None
        self.listen()
        self.start()

    def change(self, fn: Callable[[Flow], None], names: Iterable[str], *, existing: bool, new: bool) -> None:
        """Apply `fn` to these directions of connections."""
        if new:
            for name in names:
                fn(self._template[name])
        for connection in tuple(self.connections) if existing else ():
            for name in names:
                fn(connection.flows[name])
            connection.pump()

    def set_trigger(self, trigger: Trigger, name: str, *, existing: bool, new: bool) -> None:
        """Set a trigger in this direction of connections."""
        self._triggers.append(trigger)
        self.change(
            lambda flow: flow.searches.append(TriggerSearch(trigger)), (name,), existing=existing, new=new
        )

    def clear_faults(self) -> None:
        """End all faults and disarm all triggers."""
        self.on_accept = None
        self._disarm()
        self.change(Flow.clear_faults, self.totals, existing=True, new=True)
        self.listen()

    def hit_all(self, action: Action) -> None:
        """Apply a fault to all connections that exist."""
        for connection in tuple(self.connections):
            connection.hit(action)

    def listen(self) -> None:
        """Accept connections."""
        self._unplug()
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port.number), backlog=BACKLOG)
            self._listener.setblocking(False)
            self._resume_accepting()

    def refuse(self) -> None:
        """Stop listening, so that the kernel refuses connections."""
        self._unplug()
        if self._listener is not None:
            self._pause_accepting()
            self._close_listener(self._listener)
            self._listener = None

    def plug(self) -> None:
        """Let connection attempts hang: the kernel drops their SYN while the queue of a listener is full."""
        self.listen()
        assert self._listener is not None
        if self._plug is None:
            self._plug = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._plug.setblocking(False)
            self._pause_accepting()
            self._listener.listen(0)
            self._plug.connect_ex((HOST, self.port.number))

    def before_call(self) -> None:
        self._accept()

    def stop(self) -> None:
        self._disarm()
        for connection in tuple(self.connections):
            connection.end(reset_client=True, reset_server=True)
        if self._listener is not None:
            self._close_listener(self._listener)

    def release(self) -> None:
        for connection in self.connections:
            connection.close_sockets()
        super().release()
        for link in (self._listener, self._plug):
            if link is not None:
                link.close()
        self.port.release()

    def _accept(self) -> None:
        """Take all connections that the kernel has ready."""
        while self._listener is not None and self._plug is None:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor is left: trying again at once would fail too
                self._pause_accepting()
                self.call_at(time.monotonic() + RETRY_ACCEPT, lambda _: self._resume_accepting())
                return
            self._add(client)

    def _resume_accepting(self) -> None:
        if (
            self._listener is not None
            and self._plug is None
            and self._listener not in self.selector.get_map()
        ):
            self.selector.register(self._listener, READ, lambda _: self._accept())

    def _pause_accepting(self) -> None:
        if self._listener is not None and self._listener in self.selector.get_map():
            self.selector.unregister(self._listener)

    def _add(self, client: socket.socket) -> None:
        self.attempts += 1
        flows = {name: Flow(name, self.totals, flow) for name, flow in self._template.items()}
        connection = Connection(
            self,
            client,
            self._addresses,
            flows,
            on_connected=self._count_connected,
            on_end=self.connections.remove,
        )
        self.connections.add(connection)
        if self.on_accept is not None:
            connection.hit(self.on_accept)
            return
        connection.pump()

    def _count_connected(self) -> None:
        self.connected += 1

    def _disarm(self) -> None:
        for trigger in self._triggers:
            trigger.disarm()
        self._triggers.clear()

    def _unplug(self) -> None:
        if self._plug is None or self._listener is None:
            return
        own = self._plug.getsockname()
        self._plug.close()
        self._plug = None
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                break
            if address == own:
                client.close()
            else:
                self._add(client)
        self._listener.listen(BACKLOG)
        self._resume_accepting()

    @staticmethod
    def _close_listener(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # for a child about to leave; macOS does not know it
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
