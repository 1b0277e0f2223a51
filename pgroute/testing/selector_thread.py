"""A thread with a selector: it waits for sockets and timers, and runs calls from other threads."""

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
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
READ_SIZE = 65536
PATIENCE = 10.0  # seconds for a round trip to the thread, which takes well below a millisecond

_threads: set[SelectorThread] = set()
_turnstile, _forking = threading.Lock(), threading.Lock()


@contextlib.contextmanager
def _no_fork() -> Iterator[None]:
    """Keep forks out, so that a child knows all sockets that it inherits."""
    with _turnstile:  # held by a waiting fork, which a busy thread would otherwise starve
        pass
    with _forking:
        yield


class SelectorThread:
    """One thread with its own selector. Only `call()` and `close()` may be used from other threads.

    A forked child closes the sockets that it inherits: they would outlive their end in this process.
    """

    def __init__(self, name: str) -> None:
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = itertools.count()
        self._calls: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        for end in (self._wake_receiver, self._wake_sender):
            end.setblocking(False)
        self.selector.register(self._wake_receiver, READ, lambda _: drain(self._wake_receiver))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        _threads.add(self)
        self._thread.start()

    def call(self, fn: Callable[[], T]) -> T:
        """Run `fn` in the thread and return its result. It sees everything that sockets did before the call."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._closed:
                raise ClusterError(f"{self._thread.name} is not running")
            self._calls.append((future, fn))
            with contextlib.suppress(BlockingIOError):  # full: the thread is about to wake anyway
                self._wake_sender.send(b"!")
        return future.result(PATIENCE)

    def close(self) -> None:
        """End the thread and release all that it holds."""

        def stop() -> None:
            self._closed = True

        with contextlib.suppress(ClusterError):
            self.call(stop)
        self._thread.join(PATIENCE)

    def call_at(self, when: float, fn: Callable[[float], None]) -> None:
        """Call `fn` with `when`, a time.monotonic() value, once that time has come."""
        heapq.heappush(self._timers, (when, next(self._serial), fn))

    def before_call(self) -> None:
        """Bring the state up to date before a call runs."""

    def stop(self) -> None:
        """End everything in progress; the thread is about to end."""

    def release(self) -> None:
        """Close the sockets, without telling their peers anything: a forked child does this too."""
        with contextlib.suppress(OSError):  # a kqueue is not inherited
            self.selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def leave(self) -> None:
        """Close what this process, a forked child, has inherited, leaving the kernel's shared epoll alone."""
        self._closed = True
        self._lock = threading.Lock()  # its holder may be a thread that does not exist here
        self.release()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn(max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None)
                while self._calls:
                    self._turn(0.0)
                    with _no_fork():
                        self.before_call()
                        self._answer(self._calls.popleft())
        finally:
            self._end()

    def _turn(self, wait: float | None) -> None:
        ready = self.selector.select(wait)
        with _no_fork():
            for key, events in ready:
                key.data(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                when, _, fn = heapq.heappop(self._timers)
                fn(when)

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
        self.stop()
        self.release()
        _threads.discard(self)


def drain(link: socket.socket) -> None:
    """Read what is there: the kernel answers the close of a socket with unread bytes by RST instead of FIN."""
    with contextlib.suppress(OSError):
        for _ in range(64):  # a sender may be as quick as we are
            if not link.recv(READ_SIZE):
                return


def _before_fork() -> None:
    _turnstile.acquire()
    _forking.acquire()


def _after_fork() -> None:
    _forking.release()
    _turnstile.release()


def _after_fork_in_child() -> None:
    for thread in _threads:
        thread.leave()
    _threads.clear()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
