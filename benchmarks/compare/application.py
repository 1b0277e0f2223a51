"""The application, the same for all contenders: writers that retry at once after any error."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from .contenders import ALL, PATIENCE, SIZES

INSERT = "INSERT INTO written DEFAULT VALUES"
ROLE = "SELECT NOT pg_is_in_recovery()"
BURST = 10
PACE = 0.25
PAUSE = 0.01
READ_PACE = 0.05


class Application:
    """So many writers and perhaps a reader, in threads, or in tasks of a loop in a thread, over one contender's pools.

    A writer notes when and at which port each write was acknowledged: BURST of them at once, then one each PACE
    seconds, so that eight applications leave a small machine idle. After an error it tries again PAUSE seconds later.
    """

    def __init__(self, name, dsn, writers, *, reader=False):
        self.contender = ALL[name]
        self.writes = [[] for _ in range(writers)]
        self.errors = []
        self.read_on_primary = None
        self.failure = None
        self._dsn = dsn
        self._reader = reader
        self._still = threading.Event()
        self._over = threading.Event()
        work = self._work_async if self.contender.face == "async" else self._work
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def warm(self):
        return all(len(mine) > BURST for mine in self.writes)

    def still(self):
        """Stop the writers after their current write; the pools stay."""
        self._still.set()

    def close(self, timeout):
        """Close the pools; return whether everything has ended in time."""
        self._still.set()
        self._over.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def first_writes(self, port):
        """Return when each writer's first write at a port was acknowledged, None for one that has none."""
        return [next((at for at, where in tuple(mine) if where == port), None) for mine in self.writes]

    def _note_error(self, exc):
        self.errors.append((time.monotonic(), type(exc).__name__))

    def _work(self):
        try:
            with self.contender.open(self._dsn, SIZES, self._reader) as sessions:
                works = [(self._write, sessions, mine) for mine in self.writes]
                works += [(self._read, sessions)] if self._reader else []
                threads = [threading.Thread(target=fn, args=args, daemon=True) for fn, *args in works]
                for thread in threads:
                    thread.start()
                self._over.wait()
                for thread in threads:
                    thread.join()
        except Exception as exc:  # noqa: BLE001  (told to whoever waits for it to be warm)
            self.failure = f"{type(exc).__name__}: {exc}"

    def _write(self, sessions, mine):
        while not self._still.is_set():
            try:
                with sessions.writer() as conn:
                    conn.execute(INSERT)
                    port = conn.info.port
            except Exception as exc:  # noqa: BLE001  (an application that must go on)
                self._note_error(exc)
                time.sleep(PAUSE)
            else:
                mine.append((time.monotonic(), port))
                if len(mine) > BURST:
                    self._still.wait(PACE)

    def _read(self, sessions):
        while not self._over.is_set():
            with contextlib.suppress(Exception), sessions.reader() as conn:
                (self.read_on_primary,) = conn.execute(ROLE).fetchone()
            self._over.wait(READ_PACE)

    def _work_async(self):
        try:
            asyncio.run(self._live())
        except Exception as exc:  # noqa: BLE001  (as above)
            self.failure = f"{type(exc).__name__}: {exc}"

    async def _live(self):
        async with self.contender.open(self._dsn, SIZES, self._reader) as sessions:
            tasks = [asyncio.create_task(self._write_async(sessions, mine)) for mine in self.writes]
            if self._reader:
                tasks.append(asyncio.create_task(self._read_async(sessions)))
            await asyncio.to_thread(self._over.wait)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _write_async(self, sessions, mine):
        while not self._still.is_set():
            try:
                async with asyncio.timeout(PATIENCE), sessions.writer() as conn:
                    await conn.execute(INSERT)
                    port = conn.info.port
                    if not sessions.commits:
                        await conn.commit()
            except Exception as exc:  # noqa: BLE001  (an application that must go on)
                self._note_error(exc)
                await asyncio.sleep(PAUSE)
            else:
                mine.append((time.monotonic(), port))
                await asyncio.sleep(PACE if len(mine) > BURST else 0)

    async def _read_async(self, sessions):
        while not self._over.is_set():
            with contextlib.suppress(Exception):
                async with asyncio.timeout(PATIENCE), sessions.reader() as conn:
                    (self.read_on_primary,) = await (await conn.execute(ROLE)).fetchone()
            await asyncio.sleep(READ_PACE)
