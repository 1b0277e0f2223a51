"""The one background thread of the process and its loop; it starts with the first router and ends with the last."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from pgroute.core.config.dns_names import is_name
from pgroute.monitor.dns_watch import Names
from pgroute.monitor.host_watcher import HostWatcher
from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.dsn import Params
    from pgroute.core.config.router_config import ResolverSpec
    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.monitor.host_watcher import Subscriber

_STOP_TIMEOUT = 5.0

WatchKey = tuple["HostKey", "Params", int]


class Monitor:
    """The thread, its loop and the watchers that run in it.

    It never runs a user's code, so nothing an application does in its callbacks can make hosts look dead.
    """

    # Reentrant: a signal handler may close a router while its thread opens another.
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _current: ClassVar[Monitor | None] = None
    _inherited: ClassVar[list[Monitor]] = []

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._names: dict[object, Names] = {}
        self._watchers: dict[WatchKey, HostWatcher] = {}
        self._clusters: set[ClusterWatch] = set()
        self._leaving: dict[ClusterWatch, OneShotEvent] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        self._ready = OneShotEvent()
        self._unwanted = False
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="pgroute-monitor", daemon=True)
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:
            self._unwanted = True
            if self._ready.is_set:
                self.call(self._loop.stop)
            raise

    @classmethod
    def attach(cls, cluster: ClusterWatch) -> Monitor:
        """Begin to watch the hosts of *cluster*; starts the thread if there is none.

        Raises:
            RuntimeError: it cannot be started.
        """
        forked.notice()
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            monitor = cls._current
            try:
                monitor._clusters.add(cluster)
                monitor.call(cluster.begin, monitor)
            except BaseException:
                monitor.release(cluster)
                raise
        return monitor

    def detach(self, cluster: ClusterWatch) -> None:
        """Stop watching for *cluster*, and end the thread when it was the last.

        Waits for the connections to close. Who is interrupted may call again, to wait again: the work goes on.
        """
        leaving = self.release(cluster)
        if leaving is None or self._thread is threading.current_thread():
            return
        leaving.wait(_STOP_TIMEOUT)
        if self._stopping:
            self._thread.join(_STOP_TIMEOUT)

    def release(self, cluster: ClusterWatch) -> OneShotEvent | None:
        """Begin to stop watching for *cluster*, and return what tells the end; None: there is nothing to do any more.

        From any thread, and never blocks for long.
        """
        forked.notice()
        with self._lock:
            if self._pid != os.getpid():
                return None  # the parent's
            if cluster in self._clusters and cluster not in self._leaving and self._thread.is_alive():
                # The loop's work, so that nobody who is interrupted can leave it half done.
                self._leaving[cluster] = OneShotEvent()
                self.call(self._begin_end, cluster)
            return self._leaving.get(cluster)

    def _begin_end(self, cluster: ClusterWatch) -> None:
        task = self._loop.create_task(self._end(cluster))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, cluster: ClusterWatch) -> None:
        try:
            await cluster.end(self)
        finally:
            with self._lock:
                self._clusters.discard(cluster)
                leaving = self._leaving.pop(cluster, None)
                if not self._clusters:
                    self._stopping = True
                    if Monitor._current is self:
                        Monitor._current = None
            if self._stopping:
                self._loop.stop()
            if leaving is not None:
                leaving.set()

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Run *fn* in the loop soon; from any thread. After the end of the loop, or in a fork, nothing happens."""
        if self._pid != os.getpid():
            return  # the pipe that wakes the loop is shared with the parent
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

    def join(self, key: HostKey, params: Params, names: Names, subscriber: Subscriber) -> HostWatcher:
        """Subscribe somebody to a host, beginning to watch it if nobody does so with these parameters; in the loop."""
        name = (key, params, id(names) if is_name(key) else 0)
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

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Have a fault of ours logged by a router: asyncio would call the user's log handlers here."""
        for cluster in tuple(self._clusters)[:1]:
            cluster.complain(f"in the monitor's loop: {context['message']}", context.get("exception"))

    def _main(self) -> None:
        # Made here, where no Ctrl-C can come: it would leave half a loop, which complains when it is collected.
        self._loop = loop = asyncio.SelectorEventLoop()
        loop.set_exception_handler(self._on_fault)
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
            for leaving in tuple(self._leaving.values()):
                leaving.set()

    @classmethod
    def shut_down(cls) -> None:
        """End the thread whatever it watches; for the interpreter's exit."""
        forked.notice()
        with cls._lock:
            monitor, cls._current = cls._current, None
            if monitor is None:
                return
            monitor._clusters.clear()
        monitor.call(monitor._loop.stop)
        monitor._thread.join(_STOP_TIMEOUT)

    @classmethod
    def forked(cls) -> None:
        """Leave the parent's thread alone: its loop and sockets are shared with it, so nothing here may close them."""
        cls._lock = threading.RLock()
        if cls._current is not None:
            cls._inherited.append(cls._current)
            cls._current = None


forked.hook(Monitor.forked)
atexit.register(Monitor.shut_down)
