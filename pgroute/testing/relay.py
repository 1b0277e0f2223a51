"""The thread of a proxy: it listens, waits for sockets and times, and takes calls from other threads."""

from __future__ import annotations

import concurrent.futures
import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .connection import READ, Connection, drain
from .errors import ClusterError
from .flow import Flow, Watch
from .ports import HOST, Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .flow import Deed, Trap

T = TypeVar("T")

BACKLOG = 1024
BREATHER = 0.05  # seconds until the next try when no file descriptor is left
PATIENCE = 10.0  # seconds for a round trip to the thread, which takes well below a millisecond


_relays: set[Relay] = set()
_turnstile, _forking = threading.Lock(), threading.Lock()


@contextlib.contextmanager
def _undivided() -> Iterator[None]:
    """Let no fork come between, so that a child knows all sockets that it inherits."""
    with _turnstile:  # held by a fork that waits, which a busy thread would not let in for long
        pass
    with _forking:
        yield


class Relay:
    """One thread with its own selector. Everything but `call()` belongs to that thread.

    A forked child closes what it inherits: a socket that it held would outlive its end here.
    """

    def __init__(self, name: str, addresses: Iterable[tuple[socket.AddressFamily, Any]]) -> None:
        self.port = Port()
        self.addresses = tuple(addresses)
        self.selector = selectors.DefaultSelector()
        self.connections: set[Connection] = set()
        self.totals = {"to_server": 0, "to_client": 0}
        self.template = {name: Flow(name, self.totals) for name in self.totals}
        self.welcome: Literal["reset", "disconnect"] | None = None
        self.attempts = self.connected = 0
        self._traps: list[Trap] = []
        self._listener: socket.socket | None = None
        self._plug: socket.socket | None = None
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = itertools.count()
        self._calls: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._ear, self._mouth = socket.socketpair()
        for end in (self._ear, self._mouth):
            end.setblocking(False)
        self.selector.register(self._ear, READ, lambda _: drain(self._ear))
        self.listen()
        _relays.add(self)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, fn: Callable[[], T]) -> T:
        """Run `fn` in the thread and return its result. What sockets did before the call is known to it."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._closed:
                raise ClusterError(f"{self._thread.name} is not running")
            self._calls.append((future, fn))
            with contextlib.suppress(BlockingIOError):  # full, so it is about to wake anyway
                self._mouth.send(b"!")
        return future.result(PATIENCE)

    def close(self) -> None:
        """End the thread, reset what is open and give the port back."""

        def stop() -> None:
            self._closed = True

        with contextlib.suppress(ClusterError):
            self.call(stop)
        self._thread.join(PATIENCE)

    def call_at(self, when: float, ring: Callable[[float], None]) -> None:
        """Call `ring` with its time, a monotonic one, when that has come."""
        heapq.heappush(self._timers, (when, next(self._serial), ring))

    def change(self, fn: Callable[[Flow], None], names: Iterable[str], *, existing: bool, new: bool) -> None:
        """Apply `fn` to these directions of connections."""
        if new:
            for name in names:
                fn(self.template[name])
        for connection in tuple(self.connections) if existing else ():
            for name in names:
                fn(connection.flows[name])
            connection.pump()

    def set(self, trap: Trap, name: str, *, existing: bool, new: bool) -> None:
        """Set a trap in this direction of connections."""
        self._traps.append(trap)
        self.change(lambda flow: flow.watches.append(Watch(trap)), (name,), existing=existing, new=new)

    def mend(self) -> None:
        """End all faults and take back all traps."""
        self.welcome = None
        self._disarm()
        self.change(Flow.mend, self.template, existing=True, new=True)
        self.listen()

    def hit_all(self, deed: Deed) -> None:
        """Apply a fault to all connections that exist."""
        for connection in tuple(self.connections):
            connection.hit(deed)

    def listen(self) -> None:
        """Accept connections, if not yet so."""
        self._unplug()
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port.number), backlog=BACKLOG)
            self._listener.setblocking(False)
            self._attend()

    def refuse(self) -> None:
        """Stop listening, so that the kernel refuses."""
        self._unplug()
        if self._listener is not None:
            self._ignore()
            self._hang_up(self._listener)
            self._listener = None

    def plug(self) -> None:
        """Let connection attempts hang: the kernel drops their SYN while the queue of a listener is full."""
        self.listen()
        assert self._listener is not None
        if self._plug is None:
            self._plug = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._plug.setblocking(False)
            self._ignore()
            self._listener.listen(0)
            self._plug.connect_ex((HOST, self.port.number))

    def accept(self) -> None:
        """Take all connections that the kernel has ready."""
        while self._listener is not None and self._plug is None:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor is left, and the next turn would come at once, to no avail
                self._ignore()
                self.call_at(time.monotonic() + BREATHER, lambda _: self._attend())
                return
            self._adopt(client)

    def _attend(self) -> None:
        """Let connections wake the thread."""
        if (
            self._listener is not None
            and self._plug is None
            and self._listener not in self.selector.get_map()
        ):
            self.selector.register(self._listener, READ, lambda _: self.accept())

    def _ignore(self) -> None:
        """Let them wait."""
        if self._listener is not None and self._listener in self.selector.get_map():
            self.selector.unregister(self._listener)

    def _adopt(self, client: socket.socket) -> None:
        self.attempts += 1
        connection = Connection(self, client)
        self.connections.add(connection)
        if self.welcome is not None:
            connection.hit(self.welcome)
            return
        connection.pump()

    def _disarm(self) -> None:
        for trap in self._traps:
            trap.disarm()
        self._traps.clear()

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
                self._adopt(client)
        self._listener.listen(BACKLOG)
        self._attend()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn(max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None)
                while self._calls:
                    self._turn(0.0)
                    with _undivided():
                        self.accept()
                        self._answer(self._calls.popleft())
        finally:
            self._end()

    def _turn(self, wait: float | None) -> None:
        ready = self.selector.select(wait)
        with _undivided():
            for key, events in ready:
                key.data(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                when, _, ring = heapq.heappop(self._timers)
                ring(when)

    @staticmethod
    def _answer(call: tuple[concurrent.futures.Future[T], Callable[[], T]]) -> None:
        future, fn = call
        try:
            future.set_result(fn())
        except Exception as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)

    def _end(self) -> None:
        with self._lock:
            self._closed = True
        for future, _ in self._calls:
            future.set_exception(ClusterError(f"{self._thread.name} has stopped"))
        self._disarm()
        for connection in tuple(self.connections):
            connection.end(reset_client=True, reset_server=True)
        if self._listener is not None:
            self._hang_up(self._listener)
        self._close()
        _relays.discard(self)

    def leave(self) -> None:
        """Close what this process, a forked child, has inherited, without a word to the kernel's shared epoll."""
        self._closed = True
        self._lock = threading.Lock()  # its holder may be a thread that is not here
        for connection in self.connections:
            connection.leave()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # a kqueue is not inherited
            self.selector.close()
        for link in (self._listener, self._plug, self._ear, self._mouth):
            if link is not None:
                link.close()
        self.port.release()

    @staticmethod
    def _hang_up(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # for a child about to leave; macOS does not know it
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _before_fork() -> None:
    _turnstile.acquire()
    _forking.acquire()


def _after_fork() -> None:
    _forking.release()
    _turnstile.release()


def _after_fork_in_child() -> None:
    for relay in _relays:
        relay.leave()
    _relays.clear()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
