"""The demo's load: writers and readers on one router, and a record of their results."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pgroute import AsyncRouter, CommitUnknown, Router

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from pgroute import Event, Topology

TABLE = "pgroute_demo"
# No unique constraint: a row written twice must be detected, not refused.
SETUP = f"""
CREATE TABLE {TABLE} (id bigint NOT NULL, writer int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON {TABLE} (id);
"""
WRITE = f"INSERT INTO {TABLE} (id, writer) VALUES (%s, %s)"  # noqa: S608
READ = f"SELECT max(id) FROM {TABLE}"  # noqa: S608
WRITE_PAUSE = 0.01
READ_PAUSE = 0.005
_FINISH = 5.0
"""Seconds that writers and readers have to finish."""


class Acknowledged(NamedTuple):
    """A write whose COMMIT returned: its id, when (monotonic seconds), and the port of the server that it went to."""

    id: int
    at: float
    port: int


class Account:
    """The results of the writers and readers.

    Attributes:
        acknowledged: the writes whose COMMIT returned.
        unknown: the ids of writes that may be committed (CommitUnknown).
        sessions: the time at which a writer got a session, and its port.
        writes, reads: the times of successful writes and reads.
        errors: the times of errors.
        write_errors, read_errors: errors by class; a write with such an error must not be found.
    """

    def __init__(self) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.unknown: list[int] = []
        self.sessions: list[tuple[float, int]] = []
        self.writes: list[float] = []
        self.reads: list[float] = []
        self.errors: list[float] = []
        self.write_errors: Counter[str] = Counter()
        self.read_errors: Counter[str] = Counter()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def next_row(self) -> int:
        """Return a new id."""
        return next(self._ids)

    def began(self, port: int) -> None:
        """Record that a writer got a session."""
        self.sessions.append((time.monotonic(), port))

    def wrote(self, row: int, port: int) -> None:
        """Record a write whose COMMIT returned."""
        now = time.monotonic()
        self.acknowledged.append(Acknowledged(row, now, port))
        self.writes.append(now)

    def has_read(self) -> None:
        """Record a read."""
        self.reads.append(time.monotonic())

    def failed(self, exc: Exception, row: int | None = None) -> None:
        """Record an error of the write of *row*, or of a read if *row* is None."""
        with self._lock:
            self.errors.append(time.monotonic())
            if isinstance(exc, CommitUnknown) and row is not None:
                self.unknown.append(row)
            else:
                (self.read_errors if row is None else self.write_errors)[type(exc).__name__] += 1


class Load(Protocol):
    """Writers and readers: start() starts them, leaving the block stops them."""

    account: Account

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    @property
    def topology(self) -> Topology: ...

    def subscribe(self, fn: Callable[[Event], object]) -> None: ...

    def prepare(self) -> None:
        """Create the table."""

    def start(self) -> None:
        """Start the writers and readers."""


class ThreadLoad:
    """Threads on a Router.

    Args:
        dsn: the DSN of the cluster.
        writers, readers: the number of each.
        options: options of the router.
    """

    def __init__(self, dsn: str, writers: int, readers: int, options: Mapping[str, Any]) -> None:
        self.account: Account = Account()
        self._router = Router(dsn, **options)
        self._end = threading.Event()
        self._threads = [self._thread(self._write, number) for number in range(writers)]
        self._threads += [self._thread(self._read, number) for number in range(readers)]

    def __enter__(self) -> Self:
        self._router.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end.set()
        begun = [thread for thread in self._threads if thread.ident is not None]
        until = time.monotonic() + (_FINISH if kind is None else 0.0)
        for thread in begun:
            thread.join(max(0.0, until - time.monotonic()))
        # The remaining threads wait for a host: closing the router wakes them.
        self._router.close(timeout=0.5)
        for thread in begun:
            thread.join()

    @property
    def topology(self) -> Topology:
        return self._router.topology

    def subscribe(self, fn: Callable[[Event], object]) -> None:
        self._router.subscribe(fn)

    def prepare(self) -> None:
        with self._router.writer() as conn:
            conn.execute(SETUP)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _thread(self, work: Callable[[int], None], number: int) -> threading.Thread:
        return threading.Thread(target=work, args=(number,), name=f"pgroute-demo-{number}", daemon=True)

    def _write(self, number: int) -> None:
        account = self.account
        while not self._end.wait(WRITE_PAUSE):
            row = account.next_row()
            try:
                with self._router.writer() as conn:
                    port = conn.info.port
                    account.began(port)
                    conn.execute(WRITE, (row, number))
                account.wrote(row, port)
            except Exception as exc:  # noqa: BLE001  (counted, and shown at the end)
                account.failed(exc, row)

    def _read(self, _number: int) -> None:
        while not self._end.wait(READ_PAUSE):
            try:
                with self._router.reader() as conn:
                    conn.execute(READ).fetchone()
                self.account.has_read()
            except Exception as exc:  # noqa: BLE001
                self.account.failed(exc)


class TaskLoad:
    """Tasks on an AsyncRouter, in an event loop with a thread of its own; arguments as ThreadLoad."""

    def __init__(self, dsn: str, writers: int, readers: int, options: Mapping[str, Any]) -> None:
        self.account: Account = Account()
        self._router = AsyncRouter(dsn, **options)
        self._counts = writers, readers
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []
        # Not the default loop, which may differ: psycopg needs one that can watch sockets.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgroute-demo-loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._do(self._router.open())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self._do(self._finish(_FINISH if kind is None else 0.0))
        finally:
            self._stop_loop()

    @property
    def topology(self) -> Topology:
        return self._router.topology

    def subscribe(self, fn: Callable[[Event], object]) -> None:
        self._router.subscribe(fn)

    def prepare(self) -> None:
        self._do(self._make_table())

    def start(self) -> None:
        self._do(self._begin())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _make_table(self) -> None:
        async with self._router.writer() as conn:
            await conn.execute(SETUP)

    async def _begin(self) -> None:
        writers, readers = self._counts
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(writers)]
        self._tasks += [asyncio.create_task(self._read()) for _ in range(readers)]

    async def _finish(self, timeout: float) -> None:
        self._ended = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self._router.close(timeout=0.5)
        await asyncio.gather(*self._tasks)

    async def _write(self, number: int) -> None:
        account = self.account
        while not self._ended:
            row = account.next_row()
            try:
                async with self._router.writer() as conn:
                    port = conn.info.port
                    account.began(port)
                    await conn.execute(WRITE, (row, number))
                account.wrote(row, port)
            except Exception as exc:  # noqa: BLE001
                account.failed(exc, row)
            await asyncio.sleep(WRITE_PAUSE)

    async def _read(self) -> None:
        while not self._ended:
            try:
                async with self._router.reader() as conn:
                    await (await conn.execute(READ)).fetchone()
                self.account.has_read()
            except Exception as exc:  # noqa: BLE001
                self.account.failed(exc)
            await asyncio.sleep(READ_PAUSE)
