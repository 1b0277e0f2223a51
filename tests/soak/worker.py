"""One process that does its share of the increments, each under a key of its own, until all are settled.

It hurries when its standard input ends, and dies with the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import tenacity

from pgroute import AsyncRouter, CommitUnknown, PoolOptions, ProbeOptions, RetryPolicy, Router
from tests.chaos.worker import PR_SET_PDEATHSIG, log_to_stderr, tell_state
from tests.soak.calls import Call, Calls, append

WRITERS = 3
INCREMENT = "UPDATE counter SET value = value + 1 RETURNING value"
TIMEOUTS = (None, 2.0, 5.0)
"""Seconds for a call, one for each writer."""

RETRYABLE = (psycopg.OperationalError, psycopg.InternalError)
"""What calls for another call: routes' errors, connections lost, serialization failures, hosts that are read-only."""

_PAUSE = tenacity.wait_random_exponential(multiplier=0.02, max=2)
_TOLD_AGAIN = 3


class Share:
    """The increments of one writer, and how its calls go."""

    def __init__(
        self, args: argparse.Namespace, writer: int, settled: set[int], hurry: threading.Event
    ) -> None:
        first = args.place * WRITERS + writer + 1
        mine = range(first, args.increments + 1, WRITERS * args.processes)
        # A predecessor may have been killed before it wrote down what it was told.
        done = next((at for at, number in enumerate(mine) if number not in settled), len(mine))
        self._all = mine
        self._todo = mine[max(0, done - _TOLD_AGAIN) :]
        self._worker, self._writer = args.worker, writer
        self._path = Calls.path(args.folder, args.place, args.worker)
        self._interval = args.interval
        self._hurry = hurry
        self.timeout = TIMEOUTS[writer]

    def __iter__(self) -> Iterator[int]:
        yield from self._todo
        # Through before the faults are: what is settled must stay as it is.
        while self._all and not self._hurry.is_set():
            yield random.choice(self._all)

    @property
    def pause(self) -> float:
        """Seconds until the next increment."""
        return 0.0 if self._hurry.is_set() else random.uniform(0, 2 * self._interval)

    def begin(self, number: int) -> Call:
        return Call(number, self._worker, self._writer, time.monotonic())

    def end(self, call: Call, result: Any) -> bool:
        """Write down how a call ended; return whether that settles it."""
        if isinstance(result, Exception):
            call.error, call.text = type(result).__name__, str(result).partition("\n")[0]
            # The policy is asked for a pause also where no time is left for it.
            noted = re.search(r"pgroute: (\d+) attempt", "\n".join(getattr(result, "__notes__", ())))
            call.attempts = int(noted[1]) if noted else call.attempts
        else:
            call.value = result
        append(self._path, call)
        return not call.error


def counting(call: Call) -> RetryPolicy:
    """Return the default policy, which takes note of how the attempts of a call go."""

    def wait(state: tenacity.RetryCallState) -> float:
        call.attempts = state.attempt_number + 1
        call.unknown += state.outcome is not None and isinstance(state.outcome.exception(), CommitUnknown)
        return _PAUSE(state)

    return RetryPolicy(wait=wait)


def increment(conn: psycopg.Connection[Any], call: Call) -> int:
    call.bodies += 1
    (value,) = conn.execute(INCREMENT).fetchone() or (0,)
    return int(value)


async def async_increment(conn: psycopg.AsyncConnection[Any], call: Call) -> int:
    call.bodies += 1
    cursor = await conn.execute(INCREMENT)
    (value,) = await cursor.fetchone() or (0,)
    return int(value)


def settle(router: Router[Any], share: Share, number: int) -> None:
    """Call until it is known that the increment is done."""
    result: Any = None
    while True:
        call = share.begin(number)
        try:
            result = router.run(
                increment, call, once=f"inc-{number}", timeout=share.timeout, retry=counting(call)
            )
        except RETRYABLE as exc:
            result = exc
        if share.end(call, result):
            return


async def async_settle(router: AsyncRouter[Any], share: Share, number: int) -> None:
    """Call until it is known that the increment is done."""
    result: Any = None
    while True:
        call = share.begin(number)
        try:
            result = await router.run(
                async_increment, call, once=f"inc-{number}", timeout=share.timeout, retry=counting(call)
            )
        except RETRYABLE as exc:
            result = exc
        if share.end(call, result):
            return


def run_sync(args: argparse.Namespace, shares: list[Share]) -> None:
    """Do the shares in threads."""
    failures: list[BaseException] = []

    def work(router: Router[Any], share: Share) -> None:
        try:
            for number in share:
                settle(router, share, number)
                time.sleep(share.pause)
        except BaseException as exc:
            failures.append(exc)
            raise

    with Router(args.dsn, **options(args)) as router:
        signal.signal(signal.SIGUSR1, lambda *_: tell_state(router))
        threads = [threading.Thread(target=work, args=(router, share)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


async def run_async(args: argparse.Namespace, shares: list[Share]) -> None:
    """Do the shares in tasks."""

    async def work(router: AsyncRouter[Any], share: Share) -> None:
        for number in share:
            await async_settle(router, share, number)
            await asyncio.sleep(share.pause)

    async with AsyncRouter(args.dsn, **options(args)) as router:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell_state, router)
        await asyncio.gather(*(work(router, share) for share in shares))


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the router's options: fewer connections than writers, and in every other process quick probes."""
    found: dict[str, Any] = {"writer": PoolOptions(max_size=2)}
    if args.place % 4 >= 2:
        found["probe"] = ProbeOptions(interval=0.2, timeout=0.5, abort_after=2.0, abort_stale=True)
    return found


def wait_for_the_end(hurry: threading.Event) -> None:
    """Set an event when standard input ends."""
    sys.stdin.read()
    hurry.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--face", choices=("sync", "async"), required=True)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    for name in ("worker", "place", "processes", "increments"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True)
    args = parser.parse_args()
    if sys.platform == "linux":
        # Stopped by a signal, it would not see the end of its standard input.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            return
    log_to_stderr()
    hurry = threading.Event()
    settled = {call.number for call in Calls(args.folder).fresh(args.place) if not call.error}
    shares = [Share(args, writer, settled, hurry) for writer in range(WRITERS)]
    threading.Thread(target=wait_for_the_end, args=(hurry,), daemon=True).start()
    if args.face == "sync":
        run_sync(args, shares)
    else:
        asyncio.run(run_async(args, shares))


if __name__ == "__main__":
    main()
