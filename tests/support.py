"""What the tests of both faces share: background work and waiting for conditions, under names the generator maps."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self
from unittest.mock import AsyncMock
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

_TICK = 0.01


class Stalls:
    """Measures how long this process has stood still, by a thread that wakes up every 10 ms."""

    def __init__(self) -> None:
        self._ended = threading.Lock()
        self._worst = 0.0
        self._due = math.inf

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measure during the block."""
        thread = threading.Thread(target=self._run, name="stalls", daemon=True)
        self._ended.acquire()
        thread.start()
        try:
            yield
        finally:
            self._ended.release()
            thread.join()

    def forget(self) -> None:
        """Begin anew."""
        self._worst = 0.0

    def worst(self) -> float:
        """Return the seconds of the longest one, which may not be over yet."""
        return max(self._worst, time.monotonic() - self._due)

    def _run(self) -> None:
        self._due = time.monotonic() + _TICK
        while not self._ended.acquire(timeout=_TICK):
            self._worst = self.worst()
            self._due = time.monotonic() + _TICK
        self._due = math.inf
        self._ended.release()


STALLS = Stalls()
"""Of this process since the test began."""


def of_a_core(seconds: float) -> float:
    """Return a bound of processor time: *seconds*, and on a busy machine more, as others use the same caches.

    At most four times as much, so that what takes ten times as long is found on any machine.
    """
    return seconds * min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def within(seconds: float) -> float:
    """Return a bound that says *seconds* on a machine with time to spare, and more on a busy one.

    There whatever a test times waits for a core in between, once for each process and thread on its way. If this
    process has stood still since the test began, so may have each of them.
    """
    return of_a_core(seconds) + 4 * STALLS.worst()


class HasPassfile(Protocol):
    """A cluster, a node, or a proxy in front of one."""

    @property
    def passfile(self) -> Path | None: ...


def password_of(server: HasPassfile) -> str:
    """Return the password that the file of a cluster says for every role."""
    assert server.passfile is not None
    return server.passfile.read_text().strip().removeprefix("*:*:*:*:")


def passfile_of(server: HasPassfile) -> str:
    """Return the path of the password file of a cluster, as a URI takes it."""
    return quote(str(server.passfile), safe="/")


def dsn_at(hosts: str, server: HasPassfile, user: str = "postgres", dbname: str = "postgres") -> str:
    """Return a URI that leads to *hosts* with the password of a cluster."""
    return f"postgresql://{user}@{hosts}/{dbname}?password=&passfile={passfile_of(server)}"


def dsn_with(dsn: str, *, dbname: str | None = None, **params: str) -> str:
    """Return a URI with another database and other parameters, of which `user` and `password` are two."""
    url = urlsplit(dsn)
    if (user := params.pop("user", None)) is not None:
        url = url._replace(netloc=f"{quote(user)}@{url.netloc.rpartition('@')[2]}")
    if dbname is not None:
        url = url._replace(path=f"/{quote(dbname, safe='')}")
    query = dict(parse_qsl(url.query, keep_blank_values=True)) | params
    return urlunsplit(url._replace(query=urlencode(query, quote_via=quote)))


def eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait until *condition()* is true and return it; AssertionError after *timeout* seconds."""
    until = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < until, f"not true within {timeout} s: {condition}"
        time.sleep(0.005)
    return result


async def async_eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """As `eventually`, without blocking the loop; *condition* itself is a plain function."""
    until = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < until, f"not true within {timeout} s: {condition}"
        await asyncio.sleep(0.005)
    return result


def call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a blocking function."""
    return fn(*args, **kwargs)


async def async_call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a blocking function without blocking the loop."""
    return await asyncio.to_thread(fn, *args, **kwargs)


class Handle:
    """Work in the background."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def result(self, timeout: float = 30.0) -> Any:
        """Return what the work returned, or raise what it raised."""
        return self._future.result(timeout)


class AsyncHandle:
    """Work in the background."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task

    def done(self) -> bool:
        return self.task.done()

    async def result(self, timeout: float = 30.0) -> Any:
        """Return what the work returned, or raise what it raised."""
        return await asyncio.wait_for(self.task, timeout)


class Background:
    """Runs functions in threads; leaving the block waits for all of them."""

    def __enter__(self) -> Self:
        self._pool = concurrent.futures.ThreadPoolExecutor(256)
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        # After a failure nobody will tell them to stop, but the router that is closed then.
        self._pool.shutdown(wait=exc_type is None, cancel_futures=exc_type is not None)

    def start(self, fn: Callable[..., Any], *args: Any) -> Handle:
        return Handle(self._pool.submit(fn, *args))


class AsyncBackground:
    """Runs coroutine functions in tasks; leaving the block waits for all of them."""

    async def __aenter__(self) -> Self:
        self._tasks: list[asyncio.Task[Any]] = []
        return self

    async def __aexit__(self, exc_type: object, *_: object) -> None:
        if exc_type is not None:
            # Nobody will tell them to stop.
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> AsyncHandle:
        async def work() -> Any:
            return await fn(*args)

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.append(task)
        return AsyncHandle(task)


def as_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is; see `as_coroutine`."""
    return fn


def as_coroutine(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that does the same, in the tests of both faces."""

    async def function(*args: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args)

    return function


async def hang(*_: object) -> Any:
    """Never return, as a coroutine function in the tests of both faces."""
    await asyncio.Event().wait()


async def coroutine_function(*_: object) -> None:
    """Do nothing, as a coroutine function in the tests of both faces."""


class Coroutines:
    """Has coroutine methods, among them __call__, those of a policy, and one for anything else."""

    async def __call__(self, *_: object) -> None: ...

    async def method(self, *_: object) -> None: ...

    async def pick(self, *_: object) -> None: ...


def coroutine_mock() -> Any:
    """Return what stands in for a coroutine function."""
    return AsyncMock()


class AcquiredByCoroutine:
    """A policy that could never be told of sessions."""

    def pick(self, candidates: Any, *_: object) -> Any:
        """Return the first one."""
        return candidates[0]

    async def acquired(self, *_: object) -> None: ...


class Undecided:
    """An object that cannot be compared, as an array of numpy."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Undecided()"
