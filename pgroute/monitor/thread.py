"""The one background thread of the process and its loop; it starts with the first router and ends with the last."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from pgroute.core.names import is_name
from pgroute.monitor.names import Names
from pgroute.monitor.watcher import HostWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.plan import ResolverSpec
    from pgroute.core.roles import HostKey
    from pgroute.monitor.cluster import ClusterWatch
    from pgroute.monitor.watcher import Subscriber

_STOP_TIMEOUT = 5.0

WatchKey = tuple["HostKey", tuple[tuple[str, str], ...], int]


class Monitor:
    """The thread, its loop and the watchers that run in it.

    It never runs a user's code, so nothing an application does in its callbacks can make hosts look dead.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _current: ClassVar[Monitor | None] = None
    _inherited: ClassVar[list[Monitor]] = []

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._names: dict[object, Names] = {}
        self._watchers: dict[WatchKey, HostWatcher] = {}
        self._clusters: set[ClusterWatch] = set()
        self._ready = threading.Event()
        self._unwanted = False
        self._thread = threading.Thread(target=self._main, name="pgroute-monitor", daemon=True)
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:
            self._unwanted = True
            if self._ready.is_set():
                self.call(self._loop.stop)
            raise

    @classmethod
    def attach(cls, cluster: ClusterWatch) -> Monitor:
        """Begin to watch the hosts of *cluster*; starts the thread if there is none."""
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            monitor = cls._current
            monitor._clusters.add(cluster)
        monitor.call(cluster.begin, monitor)
        return monitor

    def detach(self, cluster: ClusterWatch) -> None:
        """Stop watching for *cluster*, and end the thread when it was the last. Waits for the connections to close."""
        done = threading.Event()
        ending: list[asyncio.Task[None]] = []

        def begin() -> None:
            ending.append(self._loop.create_task(cluster.end(self)))
            ending[0].add_done_callback(lambda _: done.set())

        # Each step may be taken again: an interrupt leaves the rest to the next call.
        self.call(begin)
        until = time.monotonic() + _STOP_TIMEOUT
        while self._thread.is_alive() and time.monotonic() < until and not done.wait(0.1):
            pass
        with self._lock:
            self._clusters.discard(cluster)
            last = not self._clusters
            if last and Monitor._current is self:
                Monitor._current = None
        if last:
            self._stop()

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Run *fn* in the loop soon; from any thread. After the end of the loop nothing happens."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)

    def names(self, spec: ResolverSpec) -> Names:
        """Return the names that are looked up by this resolver, for all routers that have it; in the loop."""
        which = spec if isinstance(spec, str) else id(spec)
        if which not in self._names:
            self._names[which] = Names(spec)
        return self._names[which]

    def forget(self, names: Names) -> None:
        """Let names go that nobody has watched any more; in the loop."""
        if names.unused:
            self._names = {which: kept for which, kept in self._names.items() if kept is not names}

    def join(
        self, key: HostKey, params: Mapping[str, str], names: Names, subscriber: Subscriber
    ) -> HostWatcher:
        """Subscribe somebody to a host, beginning to watch it if nobody does so with these parameters; in the loop."""
        name = (key, tuple(sorted(params.items())), id(names) if is_name(key) else 0)
        watcher = self._watchers.get(name)
        if watcher is None:
            watcher = self._watchers[name] = HostWatcher(key, params, names)
            watcher.start()
        watcher.join(subscriber)
        return watcher

    async def leave(self, watcher: HostWatcher, subscriber: Subscriber) -> None:
        """Unsubscribe somebody; a host that nobody watches any more is let go; in the loop only."""
        watcher.subscribers.remove(subscriber)
        if not watcher.subscribers:
            self._watchers = {name: w for name, w in self._watchers.items() if w is not watcher}
            await watcher.stop()

    def _stop(self) -> None:
        self.call(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT)

    def _main(self) -> None:
        # Made here, where no Ctrl-C can come: it would leave half a loop, which complains when it is collected.
        self._loop = loop = asyncio.SelectorEventLoop()
        self._ready.set()
        if self._unwanted:
            loop.stop()
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            # Transports close their sockets a turn of the loop after they were told to.
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()

    @classmethod
    def shut_down(cls) -> None:
        """End the thread whatever it watches; for the interpreter's exit."""
        monitor, cls._current = cls._current, None
        if monitor is not None:
            monitor._stop()

    @classmethod
    def forked(cls) -> None:
        """Leave the parent's thread alone: its loop and sockets are shared with it, so nothing here may close them."""
        cls._lock = threading.Lock()
        if cls._current is not None:
            cls._inherited.append(cls._current)
            cls._current = None


os.register_at_fork(after_in_child=Monitor.forked)
atexit.register(Monitor.shut_down)
