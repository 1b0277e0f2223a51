"""A thousand idle connections, a server restart, then a thousand callers: how many fail, and how long they wait."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time

from pgroute.testing import LocalCluster

from .application import PAUSE
from .contenders import ALL, PATIENCE
from .field import Field

POOLS = 10
EACH = 100
NOTICE = 2.0
_FILLED = 90.0


class Runner:
    """The commands in the process of one contender: open the pools, have every caller served, close them."""

    def __init__(self, name):
        self._contender = ALL[name]
        self._opened = threading.Event()
        self._asked = threading.Event()
        self._served = threading.Event()
        self._over = threading.Event()
        self._errors = []
        self._waits = []

    def open(self, dsn):
        """Open the pools; they fill by themselves."""
        self._dsn = dsn
        work = self._live_async if self._contender.face == "async" else self._live
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        if not self._opened.wait(_FILLED):
            raise RuntimeError("the pools did not open")
        return True

    def call(self, bound):
        """Have EACH callers at each pool served and return how it went, the waits in seconds."""
        self._begun_at = time.monotonic()
        self._asked.set()
        self._served.wait(bound)
        errors, waits = tuple(self._errors), tuple(self._waits)
        failed = {caller for caller, _ in errors}
        return {
            "callers": POOLS * EACH,
            "served": len(waits),
            "all_served_after": max(waits) if len(waits) == POOLS * EACH else None,
            "failed_calls": len(errors),
            "callers_failed": len(failed),
            "errors": dict(collections.Counter(error for _, error in errors)),
        }

    def close(self):
        """Close the pools."""
        self._over.set()
        self._thread.join(10.0)
        return True

    def _live(self):
        sizes = {"min_size": EACH, "max_size": EACH}
        with contextlib.ExitStack() as stack:
            pools = [stack.enter_context(self._contender.open(self._dsn, sizes, False)) for _ in range(POOLS)]
            threads = [
                threading.Thread(target=self._caller, args=(sessions, (number, caller)), daemon=True)
                for number, sessions in enumerate(pools)
                for caller in range(EACH)
            ]
            self._opened.set()
            self._asked.wait()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._served.set()
            self._over.wait()

    def _caller(self, sessions, me):
        while not self._over.is_set():
            try:
                with sessions.writer() as conn:
                    conn.execute("SELECT 1")
            except Exception as exc:  # noqa: BLE001  (a caller that must be served)
                self._errors.append((me, type(exc).__name__))
                time.sleep(PAUSE)
            else:
                self._waits.append(time.monotonic() - self._begun_at)
                return

    def _live_async(self):
        asyncio.run(self._live_in_loop())

    async def _live_in_loop(self):
        sizes = {"min_size": EACH, "max_size": EACH}
        async with contextlib.AsyncExitStack() as stack:
            pools = [
                await stack.enter_async_context(self._contender.open(self._dsn, sizes, False))
                for _ in range(POOLS)
            ]
            self._opened.set()
            await asyncio.to_thread(self._asked.wait)
            callers = [
                self._caller_async(sessions, (number, caller))
                for number, sessions in enumerate(pools)
                for caller in range(EACH)
            ]
            await asyncio.gather(*callers)
            self._served.set()
            await asyncio.to_thread(self._over.wait)

    async def _caller_async(self, sessions, me):
        while not self._over.is_set():
            try:
                async with asyncio.timeout(PATIENCE), sessions.writer() as conn:
                    await conn.execute("SELECT 1")
                    if not sessions.commits:
                        await conn.commit()
            except Exception as exc:  # noqa: BLE001  (a caller that must be served)
                self._errors.append((me, type(exc).__name__))
                await asyncio.sleep(PAUSE)
            else:
                self._waits.append(time.monotonic() - self._begun_at)
                return


def wait_until_full(node):
    """Return when so many sessions are open as the pools hold."""
    until = time.monotonic() + _FILLED
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    while node.execute(query)[0][0] <= POOLS * EACH:
        if time.monotonic() > until:
            raise TimeoutError(f"fewer than {POOLS * EACH} sessions after {_FILLED:g} s")
        time.sleep(0.1)


def run(_scenario, names, args, deadline):
    """Yield the results of the callers, by round and contender."""
    rounds = []
    settings = {"max_connections": str(POOLS * (EACH + 5) + 50)}
    with LocalCluster(standbys=0, settings=settings) as cluster:
        node = cluster.primary
        for number in range(args.restarts):
            mine = {}
            for name in names:
                if time.monotonic() > deadline:
                    break
                print(f"  stale, restart {number + 1} of {args.restarts}, {name}", flush=True)
                with Field([name], Runner) as field:
                    if name not in field.ask("open", cluster.dsn, timeout=_FILLED + 10.0):
                        continue
                    wait_until_full(node)
                    node.stop("fast")
                    node.start()
                    time.sleep(NOTICE)
                    mine |= field.ask("call", args.stale_bound, timeout=args.stale_bound + 10.0)
                    field.ask("close", timeout=20.0)
            rounds.append(mine)
    yield {
        "scenario": "stale",
        "pools": POOLS,
        "connections": POOLS * EACH,
        "bound": args.stale_bound,
        "rounds": rounds,
    }
