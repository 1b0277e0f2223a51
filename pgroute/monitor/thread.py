"""The monitor's thread: one per process, with its own loop, from the first open router to the last."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pgroute.core.config.dns_names import is_name
from pgroute.monitor.dns_watch import Names
from pgroute.monitor.shared.sharing import Sharing
from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.dsn import Params
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.advisers import Advisers
    from pgroute.monitor.shared.sharing import AnyWatcher
    from pgroute.monitor.subscribers import Subscriber
    from pgroute.runtime.credentials import CredentialSource

_STOP_TIMEOUT = 5.0
_AFTER_FAULT = 0.1

WatchKey = tuple["HostKey", "Params", int, "CredentialSource | None", bool]


class Watch(Protocol):
    """The watch of one router. Its methods are called in the monitor's loop."""

    def begin(self, monitor: Monitor) -> None:
        """Join the watchers of the hosts."""
        ...

    async def end(self) -> None:
        """Leave the watchers; returns when the connections that no other router needs are closed."""
        ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute, in another thread: a log handler is the user's code, which must not run here."""
        ...


class _Loop(asyncio.SelectorEventLoop):
    """A loop that says nothing when it is collected half made: asyncio's fails then, in its `__del__`."""

    def __init__(self) -> None:
        self._made = False
        super().__init__()
        self._made = True

    def __del__(self) -> None:
        if self._made:
            super().__del__()


class Monitor:
    """The thread, its loop, and the watchers that run in it.

    It never runs the user's code, so no callback of an application can make hosts look dead.
    """

    # Reentrant: a signal handler may close a router while its thread opens another.
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _current: ClassVar[Monitor | None] = None
    _inherited: ClassVar[list[Monitor]] = []

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._advisers: Advisers | None = None
        self._names: dict[object, Names] = {}
        self._watchers: dict[WatchKey, AnyWatcher] = {}
        self._sharing = Sharing()
        self._watches: set[Watch] = set()
        self._leaving: dict[Watch, OneShotEvent] = {}
        self._ending: set[Watch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        self._ready = OneShotEvent()
        self._failure: Exception | None = None
        self._abandoned = False
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="pgroute-monitor", daemon=True)
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:
            self._abandoned = True
            if self._ready.is_set and self._failure is None:
                self.call(self._loop.stop)
            raise
        if self._failure is not None:
            raise RuntimeError(f"the monitor cannot be started: {self._failure}") from self._failure

    @classmethod
    def attach(cls, watch: Watch) -> Monitor:
        """Begin a watch; starts the thread if there is none.

        Raises:
            RuntimeError: the thread or its loop cannot be started.
        """
        forked.notice()
        with cls._lock:
            if cls._current is None or not cls._current.alive:
                cls._current = cls()
            cls._current.add(watch)
            return cls._current

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def add(self, watch: Watch) -> None:
        """Begin a watch; the caller has the lock."""
        try:
            self._watches.add(watch)
            self.call(watch.begin, self)
        except BaseException:
            self.release(watch)
            raise

    def detach(self, watch: Watch) -> None:
        """End a watch, and the thread if it was the last one.

        Waits until the connections are closed. After an interrupt the work goes on; call again to wait again.
        """
        leaving = self.release(watch)
        if leaving is None or self._thread is threading.current_thread():
            return
        leaving.wait(_STOP_TIMEOUT)
        if self._stopping:
            self._thread.join(_STOP_TIMEOUT)

    def release(self, watch: Watch) -> OneShotEvent | None:
        """Begin to end a watch, from any thread and without waiting.

        Returns the event that is set at its end, None if it has ended already.
        """
        forked.notice()
        with self._lock:
            if self._pid != os.getpid():
                return None  # the parent's
            if watch in self._watches and self._thread.is_alive():
                # The loop does it, so that an interrupt in this thread cannot leave it half done. Each caller asks
                # again: an interrupt may have stopped an earlier one on the next line.
                self._leaving.setdefault(watch, OneShotEvent())
                self.call(self._begin_end, watch)
            return self._leaving.get(watch)

    def _begin_end(self, watch: Watch) -> None:
        if watch in self._ending or watch not in self._watches:
            return
        self._ending.add(watch)
        task = self._loop.create_task(self._end(watch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, watch: Watch) -> None:
        try:
            await watch.end()
        finally:
            with self._lock:
                self._watches.discard(watch)
                self._ending.discard(watch)
                leaving = self._leaving.pop(watch, None)
                if not self._watches:
                    self._stopping = True
                    if Monitor._current is self:
                        Monitor._current = None
            if self._stopping:
                self._loop.stop()
            if leaving is not None:
                leaving.set()

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Run *fn* in the loop soon, from any thread. Does nothing after the end of the loop, or in a forked child."""
        if self._pid != os.getpid():
            return  # the pipe that wakes the loop is shared with the parent
        with contextlib.suppress(RuntimeError):
            # In no caller's context: the tasks that begin here would keep all of its values.
            self._loop.call_soon_threadsafe(fn, *args, context=contextvars.Context())

    def names(self, spec: ResolverSpec) -> Names:
        """Return the names that this resolver looks up, for all routers that share it; in the loop."""
        which = spec if isinstance(spec, str) else id(spec)
        if which not in self._names:
            self._names[which] = Names(spec)
        return self._names[which]

    @property
    def advisers(self) -> Advisers:
        """Those of all routers; for use in the loop."""
        if self._advisers is None:
            from pgroute.monitor.advisers import Advisers  # only then: it takes what few routers need

            self._advisers = Advisers()
        return self._advisers

    def forget(self, names: Names) -> None:
        """Drop the names of a resolver once none of them is watched; in the loop."""
        if names.unused:
            self._names = {which: kept for which, kept in self._names.items() if kept is not names}

    def join(
        self,
        key: HostKey,
        params: Params,
        names: Names,
        subscriber: Subscriber,
        *,
        resolver: ResolverSpec,
        options: ProbeOptions,
        source: CredentialSource | None = None,
    ) -> AnyWatcher:
        """Subscribe to a host; in the loop.

        Routers with the same parameters share one watcher, but not one that logs in as a credentials function of
        another router says. Other processes may share it too.
        """
        name = (key, params, id(names) if is_name(key) else 0, source, options.share)
        watcher = self._watchers.get(name)
        if watcher is None:
            watcher = self._watchers[name] = self._sharing.watcher(
                key, params, names, resolver=resolver, options=options, source=source
            )
            watcher.start()
        watcher.join(subscriber)
        return watcher

    async def leave(self, watcher: AnyWatcher, subscriber: Subscriber) -> None:
        """Unsubscribe; the last one to leave stops the watcher; in the loop."""
        watcher.subscribers.leave(subscriber)
        if not watcher.subscribers:
            self._watchers = {name: w for name, w in self._watchers.items() if w is not watcher}
            await watcher.stop()
            self._sharing.left(watcher)

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Have a router log a bug in pgroute: asyncio would call the user's log handlers in this thread."""
        for watch in tuple(self._watches)[:1]:
            watch.log_error(f"in the monitor's loop: {context['message']}", context.get("exception"))

    def _main(self) -> None:
        try:
            # Made in this thread, where no Ctrl-C arrives: an interrupt would leave half a loop, which warns later.
            self._loop = loop = _Loop()
        except Exception as exc:  # noqa: BLE001  (raised where the thread was started; no descriptor is left, say)
            self._failure = exc
            self._ready.set()
            return
        loop.set_exception_handler(self._on_fault)
        self._ready.set()
        if self._abandoned:
            loop.stop()
        try:
            self._run(loop)
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            # Transports close their sockets one turn of the loop later.
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._sharing.close()
            loop.close()
            for leaving in tuple(self._leaving.values()):
                leaving.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop until it is stopped, whatever is raised in it: without it no host would be watched any more."""
        while True:
            try:
                loop.run_forever()
            except BaseException as exc:  # noqa: BLE001  (out of memory, say)
                self._on_fault(loop, {"message": "it was interrupted, and goes on", "exception": exc})
                time.sleep(_AFTER_FAULT)
            else:
                return

    @classmethod
    def shut_down(cls) -> None:
        """End the thread whatever it watches; called at the interpreter's exit."""
        forked.notice()
        with cls._lock:
            monitor, cls._current = cls._current, None
        if monitor is not None:
            monitor.stop()

    def stop(self) -> None:
        """End the thread whatever it watches."""
        with self._lock:
            self._watches.clear()
        self.call(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT)

    @classmethod
    def forked(cls) -> None:
        """Start over in a forked child; nothing may close the parent's loop and sockets, which both share."""
        cls._lock = threading.RLock()
        if cls._current is not None:
            cls._inherited.append(cls._current)
            cls._current = None


forked.hook(Monitor.forked)
atexit.register(Monitor.shut_down)
