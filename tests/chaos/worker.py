"""One client process: writers and readers through one router, each word they are told put down in a journal.

It ends in order when its standard input does, and dies with the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psycopg

from pgroute import AsyncRouter, PoolOptions, ProbeOptions, Router
from tests.chaos.account import Account, Write, put_read, window
from tests.chaos.journal import Journal, Left

TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
WRITE = "INSERT INTO chaos (id) VALUES (%s) RETURNING port, timeline"
READ = f"""
SELECT inet_server_port(), CASE WHEN NOT pg_is_in_recovery() THEN {TIMELINE} ELSE 0 END, pg_is_in_recovery(),
       current_setting('transaction_read_only')::bool, (SELECT count(*) FROM chaos WHERE id > %s AND id <= %s)
"""
TRESPASS = "INSERT INTO chaos (id) VALUES (0)"

WRITE_PAUSE = 0.03
READ_PAUSE = 0.05
TRESPASS_EVERY = 20
PR_SET_PDEATHSIG = 1


def write(router: Router[Any], work: Write) -> None:
    """Write once."""
    try:
        with router.writer(work.style.timeout) as conn:
            work.entered = True
            conn.autocommit = work.style.autocommit
            work.place = conn.execute(WRITE, (work.id,)).fetchone()
            time.sleep(work.hold)
    except Exception as exc:  # noqa: BLE001  (judged by the check)
        work.end(exc)
    else:
        work.end(None)


async def async_write(router: AsyncRouter[Any], work: Write) -> None:
    """Write once."""
    try:
        async with router.writer(work.style.timeout) as conn:
            work.entered = True
            await conn.set_autocommit(work.style.autocommit)
            work.place = await (await conn.execute(WRITE, (work.id,))).fetchone()
            await asyncio.sleep(work.hold)
    except Exception as exc:  # noqa: BLE001
        work.end(exc)
    else:
        work.end(None)


def run_once(router: Router[Any], work: Write) -> None:
    """Write once by `run`, with a key or without."""
    work.style = dataclasses.replace(work.style, autocommit=False)
    # The router's own statements under a key come before the body, and their connection may be lost as well.
    work.entered = work.key is not None

    def insert(conn: psycopg.Connection[Any]) -> list[int]:
        work.entered = True
        work.place = conn.execute(WRITE, (work.id,)).fetchone()
        return list(work.place)

    try:
        work.place = tuple(router.run(insert, timeout=work.style.timeout, once=work.key))
    except Exception as exc:  # noqa: BLE001
        work.end(exc)
    else:
        work.end(None)


async def async_run_once(router: AsyncRouter[Any], work: Write) -> None:
    """Write once by `run`, with a key or without."""
    work.style = dataclasses.replace(work.style, autocommit=False)
    work.entered = work.key is not None

    async def insert(conn: psycopg.AsyncConnection[Any]) -> list[int]:
        work.entered = True
        work.place = await (await conn.execute(WRITE, (work.id,))).fetchone()
        return list(work.place)

    try:
        work.place = tuple(await router.run(insert, timeout=work.style.timeout, once=work.key))
    except Exception as exc:  # noqa: BLE001
        work.end(exc)
    else:
        work.end(None)


def read(router: Router[Any], account: Account, number: int) -> None:
    """Read once, and now and then try to write."""
    begun, mark, entered, wrote, found = time.monotonic(), account.mark(), False, False, ()
    error = None
    try:
        with router.reader(5.0) as conn:
            entered = True
            found = conn.execute(READ, window(account.process, account.rng)).fetchone()
            if number % TRESPASS_EVERY == 0:
                conn.execute(TRESPASS)
                wrote = True
    except psycopg.errors.ReadOnlySqlTransaction:
        pass
    except Exception as exc:  # noqa: BLE001
        error = exc
    put_read(account, begun, mark, error, found, entered=entered, wrote=wrote)


async def async_read(router: AsyncRouter[Any], account: Account, number: int) -> None:
    """Read once, and now and then try to write."""
    begun, mark, entered, wrote, found = time.monotonic(), account.mark(), False, False, ()
    error = None
    try:
        async with router.reader(5.0) as conn:
            entered = True
            found = await (await conn.execute(READ, window(account.process, account.rng))).fetchone()
            if number % TRESPASS_EVERY == 0:
                await conn.execute(TRESPASS)
                wrote = True
    except psycopg.errors.ReadOnlySqlTransaction:
        pass
    except Exception as exc:  # noqa: BLE001
        error = exc
    put_read(account, begun, mark, error, found, entered=entered, wrote=wrote)


def run_sync(args: argparse.Namespace, journal: Journal) -> None:
    """Work in threads until told to stop."""
    stop = threading.Event()
    work = run_once if args.run else write
    with Router(args.dsn, **options(args)) as router:
        account = Account(args.process, journal, router)
        signal.signal(signal.SIGUSR1, lambda *_: tell_state(router))

        def keep_writing(writer: int) -> None:
            number = 0
            while not stop.wait(WRITE_PAUSE * args.pause * account.rng.random()):
                number += 1
                work(router, account.begin(writer, number))

        def keep_reading(_reader: int) -> None:
            number = 0
            while not stop.wait(READ_PAUSE * args.pause * account.rng.random()):
                number += 1
                read(router, account, number)

        threads = [
            threading.Thread(target=keep_writing, args=(n,), name=f"writer {n}") for n in range(args.writers)
        ]
        threads += [
            threading.Thread(target=keep_reading, args=(n,), name=f"reader {n}") for n in range(args.readers)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()


async def run_async(args: argparse.Namespace, journal: Journal) -> None:
    """Work in tasks until told to stop."""
    stop = asyncio.Event()
    work = async_run_once if args.run else async_write
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    async with AsyncRouter(args.dsn, **options(args)) as router:
        account = Account(args.process, journal, router)
        loop.add_signal_handler(signal.SIGUSR1, tell_state, router)

        async def keep_writing(writer: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await work(router, account.begin(writer, number))
                await asyncio.sleep(WRITE_PAUSE * args.pause * account.rng.random())

        async def keep_reading() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await async_read(router, account, number)
                await asyncio.sleep(READ_PAUSE * args.pause * account.rng.random())

        async with asyncio.TaskGroup() as tasks:
            for writer in range(args.writers):
                tasks.create_task(keep_writing(writer), name=f"writer {writer}")
            for reader in range(args.readers):
                tasks.create_task(keep_reading(), name=f"reader {reader}")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the router's options: the defaults, or quick probes, no patience and fewer connections than users."""
    if not args.quick:
        return {}
    return {
        "probe": ProbeOptions(interval=0.2, timeout=0.5, abort_after=2.0, abort_stale=True),
        "writer": PoolOptions(max_size=2),
        "reader": PoolOptions(max_size=1),
    }


def tell_state(router: Router[Any] | AsyncRouter[Any]) -> None:
    """Write down, for whoever looks for the reason of a hang, what the router knows and where everybody is."""
    print(f"{time.monotonic():.3f}\n{router.topology}\n{router.stats()}", file=sys.stderr)
    frames = sys._current_frames()
    for thread in threading.enumerate():
        print(f"-- {thread.name}", file=sys.stderr)
        traceback.print_stack(frames.get(thread.ident or 0), file=sys.stderr)
    if isinstance(router, AsyncRouter):
        for task in asyncio.all_tasks(asyncio.get_running_loop()):
            task.print_stack(file=sys.stderr)
    sys.stderr.flush()


def log_to_stderr() -> None:
    """Log what the router tells, on the clock of the journals."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(monotonic).3f %(threadName)s %(message)s"
    )
    logging.getLogger("pgroute").setLevel(logging.DEBUG)
    make = logging.getLogRecordFactory()

    def stamped(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.monotonic = time.monotonic()
        return record

    logging.setLogRecordFactory(stamped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--face", choices=("sync", "async"), required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=1.0, help="between two sessions, as a multiple")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--run", action="store_true", help="write by Router.run(), every other writer with a key"
    )
    args = parser.parse_args()
    if sys.platform == "linux" and os.getppid():  # none inside a container
        # Stopped by a signal, it would not see the end of its standard input.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            return
    log_to_stderr()
    with Journal(args.journal) as journal:
        if args.face == "sync":
            run_sync(args, journal)
        else:
            asyncio.run(run_async(args, journal))
        journal.write(Left(args.process, time.monotonic()))


if __name__ == "__main__":
    main()
