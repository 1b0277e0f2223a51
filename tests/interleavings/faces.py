"""What a history needs of each face: it is written once with `await`, which never suspends on the synchronous one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import threading
import time
from collections.abc import Callable, Coroutine
from random import Random
from types import SimpleNamespace
from typing import Any, Protocol

import tenacity  # noqa: F401  (pgroute imports it when it is needed, too late for its stand-ins)

from tests.interleavings.locks import SimEvent, namespace
from tests.interleavings.loop import ShuffledLoop
from tests.interleavings.shims import Chance, Time
from tests.interleavings.threads import Crew, Scheduler, SimThread

MODULES = ("pool.connector", "pool.host_pool", "router")


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("suspended on the synchronous face")


def blocking(cls: type, names: tuple[str, ...]) -> type:
    """Return a subclass whose coroutine methods of these names are plain ones."""

    def plain(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        return lambda *args, **kwargs: drive(method(*args, **kwargs))

    members = {name: plain(getattr(cls, name)) for name in names}
    return type(cls.__name__, (cls,), members)


class Face(Protocol):
    """What a history needs.

    Attributes:
        prefix: of the classes' names.
        package: of the face.
        modules: those that the history puts stand-ins into.
        cancelled: what a client that is torn out of its work ends with.
    """

    prefix: str
    package: str
    modules: SimpleNamespace
    cancelled: type[BaseException]

    def now(self) -> float: ...
    def play(self, main: Callable[[], Coroutine[Any, Any, None]]) -> list[str]: ...
    def stand_ins(self) -> list[tuple[object, object]]: ...
    def spawn(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> Any: ...
    def ended(self, worker: Any) -> bool: ...
    def tear(self, worker: Any) -> bool: ...
    def actor(self) -> str: ...
    def event(self) -> Any: ...
    def callback(self, fn: Callable[..., Coroutine[Any, Any, Any]]) -> Any: ...
    async def sleep(self, seconds: float) -> None: ...
    async def wait(self, event: Any, timeout: float | None) -> None: ...
    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...
    async def enter(self, block: Any) -> Any: ...
    async def leave(self, block: Any, exc: BaseException | None) -> bool: ...


def _modules(package: str) -> SimpleNamespace:
    return SimpleNamespace(
        **{name.rpartition(".")[2]: importlib.import_module(f"{package}.{name}") for name in MODULES}
    )


class AsyncFace:
    """The face for asyncio."""

    prefix = "Async"
    package = "pgroute._async"
    modules = _modules(package)
    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self, rng: Random, after: Callable[[], None]) -> None:
        self._rng = rng
        self._loop = ShuffledLoop(rng, after)

    def now(self) -> float:
        return self._loop.now

    def play(self, main: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
        """Run a history; return the names of tasks that it left behind."""
        loop = self._loop
        try:
            loop.run_until_complete(loop.create_task(main(), name="history"))
            return sorted(task.get_name() for task in asyncio.all_tasks(loop))
        finally:
            for _ in range(10):
                if tasks := asyncio.all_tasks(loop):
                    for task in tasks:
                        task.cancel()
                    loop.steps = 0
                    with contextlib.suppress(Exception):
                        loop.run_until_complete(asyncio.wait(tasks))
            loop.close()

    def stand_ins(self) -> list[tuple[object, object]]:
        loop = self._loop

        class Thread:
            """Runs its function at some time, as a callback: none of them waits for anything."""

            def __init__(self, target: Callable[[], None], name: str = "", daemon: bool = True) -> None:
                self._target = target

            def start(self) -> None:
                loop.call_soon(self._target)

        threads = SimpleNamespace(**{**vars(threading), "Thread": Thread})
        clock = Time(self.now, time.sleep)
        return [
            (time, clock),
            (time.monotonic, self.now),
            (random, Chance(self._rng)),
            (threading, threads),
        ]

    def spawn(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> Any:
        return self._loop.create_task(fn(), name=name)

    def ended(self, worker: Any) -> bool:
        return bool(worker.done())

    def tear(self, worker: Any) -> bool:
        """Cancel a client; return whether it then has to end as cancelled."""
        return bool(worker.cancel())

    def actor(self) -> str:
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task else ""
        return "task" if name.startswith("Task-") else name  # numbered through the process

    def event(self) -> Any:
        return asyncio.Event()

    def callback(self, fn: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        return fn

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: Any, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    async def enter(self, block: Any) -> Any:
        return await block.__aenter__()

    async def leave(self, block: Any, exc: BaseException | None) -> bool:
        return bool(
            await block.__aexit__(type(exc) if exc else None, exc, exc.__traceback__ if exc else None)
        )


class SyncFace:
    """The face for threads."""

    prefix = ""
    package = "pgroute._sync"
    modules = _modules(package)
    cancelled: type[BaseException] = KeyboardInterrupt

    def __init__(self, rng: Random, after: Callable[[], None], crew: Crew) -> None:
        self._rng = rng
        self._scheduler = Scheduler(rng, crew, after)
        self._threads = namespace(self._scheduler)

    def now(self) -> float:
        return self._scheduler.now

    def play(self, main: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
        """Run a history; return the names of threads that it left behind, or that failed."""
        left: list[str] = []

        def run() -> None:
            drive(main())
            names = {*self._scheduler.runnable, *self._scheduler._parked} - {self._scheduler.current}
            left.extend(sorted(thread.name for thread in names))

        self._scheduler.run(run)
        return left + self._scheduler.crashes

    def stand_ins(self) -> list[tuple[object, object]]:
        clock = Time(self.now, self._scheduler.sleep)
        return [
            (time, clock),
            (time.monotonic, self.now),
            (random, Chance(self._rng)),
            (threading, self._threads),
            (threading.Lock, self._threads.Lock),
            (threading.Thread, self._threads.Thread),
        ]

    def spawn(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> Any:
        thread = SimThread(self._scheduler, target=lambda: drive(fn()), name=name)
        thread.start()
        return thread

    def ended(self, worker: Any) -> bool:
        return not worker.is_alive()

    def tear(self, worker: Any) -> bool:
        """Interrupt a client where it waits; what it ends with is not told."""
        self._scheduler.interrupt(worker)
        return False

    def actor(self) -> str:
        return self._scheduler.current.name

    def event(self) -> Any:
        return SimEvent(self._scheduler)

    def callback(self, fn: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        return lambda *args: drive(fn(*args))

    async def sleep(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)

    async def wait(self, event: Any, timeout: float | None) -> None:
        event.wait(timeout)

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    async def enter(self, block: Any) -> Any:
        return block.__enter__()

    async def leave(self, block: Any, exc: BaseException | None) -> bool:
        return bool(block.__exit__(type(exc) if exc else None, exc, exc.__traceback__ if exc else None))
