"""The demo's load: threads that write and read through one router, and the account of what they were told."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pgroute import CommitUnknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from pgroute import Router

TABLE = "pgroute_demo"
# No unique constraint: a row written twice must be seen, not refused.
SETUP = f"""
CREATE TABLE {TABLE} (id bigint NOT NULL, writer int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON {TABLE} (id);
"""
WRITE = f"INSERT INTO {TABLE} (id, writer) VALUES (%s, %s)"  # noqa: S608
READ = f"SELECT max(id) FROM {TABLE}"  # noqa: S608
WRITE_PAUSE = 0.01
READ_PAUSE = 0.005


class Acknowledged(NamedTuple):
    """A write whose COMMIT returned: its id, when (monotonic seconds), and the port of the server that it went to."""

    id: int
    at: float
    port: int


class Workload:
    """Writers and readers in threads of their own, from entering the block to leaving it.

    Attributes:
        acknowledged: the writes that were told to be committed.
        unknown: the ids of writes that may have been (CommitUnknown).
        sessions: when a writer was given a session, and on which port.
        reads: when each read ended.
        write_errors, read_errors: other errors by class; such a write must not be found.
    """

    def __init__(self, router: Router, *, writers: int, readers: int) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.unknown: list[int] = []
        self.sessions: list[tuple[float, int]] = []
        self.reads: list[float] = []
        self.write_errors: Counter[str] = Counter()
        self.read_errors: Counter[str] = Counter()
        self._router = router
        self._ids = itertools.count(1)
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [self._thread(self._write, number) for number in range(writers)]
        self._threads += [self._thread(self._read, number) for number in range(readers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end.set()
        if kind is not None:
            # Some may wait for a host: closing the router wakes them.
            self._router.close(timeout=0.5)
        for thread in self._threads:
            thread.join()

    def _thread(self, work: Callable[[int], None], number: int) -> threading.Thread:
        return threading.Thread(target=work, args=(number,), name=f"pgroute-demo-{number}", daemon=True)

    def _write(self, number: int) -> None:
        while not self._end.wait(WRITE_PAUSE):
            row = next(self._ids)
            try:
                with self._router.writer() as conn:
                    port = conn.info.port
                    self.sessions.append((time.monotonic(), port))
                    conn.execute(WRITE, (row, number))
                self.acknowledged.append(Acknowledged(row, time.monotonic(), port))
            except CommitUnknown:
                self.unknown.append(row)
            except Exception as exc:  # noqa: BLE001  (counted, and shown at the end)
                self._count(self.write_errors, exc)

    def _read(self, _number: int) -> None:
        while not self._end.wait(READ_PAUSE):
            try:
                with self._router.reader() as conn:
                    conn.execute(READ).fetchone()
                self.reads.append(time.monotonic())
            except Exception as exc:  # noqa: BLE001
                self._count(self.read_errors, exc)

    def _count(self, errors: Counter[str], exc: Exception) -> None:
        with self._lock:
            errors[type(exc).__name__] += 1
