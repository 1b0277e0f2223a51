"""Clients of app.py: `python load.py URL`, until Ctrl-C.

Some place orders, each with an Idempotency-Key, some count them. Each second one line tells what they saw.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 90.0
"""Seconds that a client waits for an answer: longer than the application waits for a primary."""


@dataclass
class Second:
    """What happened in one second."""

    orders: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    errors: int = 0
    written_to: set[str] = field(default_factory=set)


class Load:
    """The clients and what they saw.

    Args:
        url: of the application.
        pause: seconds between two requests of a client, on average.
    """

    def __init__(self, url: str, pause: float) -> None:
        self.acknowledged: list[str] = []
        self.answered_at: list[float] = []
        self.errors: list[str] = []
        self.latencies: list[float] = []
        self.reads = 0
        self.stop = threading.Event()
        self._name = secrets.token_hex(4)  # keys are permanent, so each run needs its own
        self._url = urlsplit(url)
        self._pause = pause
        self._lock = threading.Lock()
        self._second = Second()
        self._waiting: dict[str, float] = {}

    def write(self, client: int) -> None:
        """Place orders, each until it is acknowledged: sent again with its key, it is written once."""
        for number in itertools.count(1):
            item, begun = f"{self._name}-{client}-{number}", time.monotonic()
            with self._lock:
                self._waiting[item] = begun
            while (answer := self._request("POST", "/orders", item)) is None and not self.stop.wait(1):
                pass
            with self._lock:
                del self._waiting[item]
                if answer is not None:
                    now = time.monotonic()
                    self.acknowledged.append(item)
                    self.answered_at.append(now)
                    self.latencies.append(now - begun)
                    self._second.orders.append(now - begun)
                    self._second.written_to.add(answer["written_to"])
            if self.stop.wait(2 * self._pause * random.random()):
                return

    def read(self) -> None:
        """Count orders."""
        while not self.stop.wait(2 * self._pause * random.random()):
            begun = time.monotonic()
            if self._request("GET", "/orders/count") is not None:
                with self._lock:
                    self.reads += 1
                    self._second.reads.append(time.monotonic() - begun)

    def take(self) -> tuple[Second, list[float]]:
        """Return what happened since the last call, and since when orders are waited for."""
        with self._lock:
            second, self._second = self._second, Second()
            return second, sorted(self._waiting.values())

    def _request(self, method: str, path: str, item: str = "") -> dict[str, Any] | None:
        """Return the answer; count an error and return None."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": item} if item else {}
        body = json.dumps({"item": item}) if item else None
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=TIMEOUT)
        try:
            with contextlib.closing(connection):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                text = response.read().decode()
                if response.status < 400:
                    return dict(json.loads(text))
                error = f"{response.status} {text}"
        except (OSError, http.client.HTTPException) as exc:
            error = f"{type(exc).__name__}: {exc}"
        with self._lock:
            self.errors.append(f"{method} {path}: {error}")
            self._second.errors += 1
        return None


def milliseconds(values: list[float], share: float) -> str:
    """Return the value below which that share of them lies."""
    if not values:
        return "-"
    return f"{1000 * sorted(values)[min(int(share * len(values)), len(values) - 1)]:.0f}"


def show(load: Load, seconds: float | None) -> None:
    """Print a line each second, until told to stop."""
    print("   s  orders/s  reads/s  errors   p50   p95   max ms   written to, waiting", flush=True)
    begun = time.monotonic()
    for number in itertools.count(1):
        over = load.stop.wait(begun + number - time.monotonic())
        second, waiting = load.take()
        counts = f"{number:4}  {len(second.orders):8}  {len(second.reads):7}  {second.errors:6}"
        times = (milliseconds(second.orders, share) for share in (0.5, 0.95, 1.0))
        told = ", ".join(sorted(second.written_to))
        late = [since for since in waiting if time.monotonic() - since > 0.5]
        if late:
            told += f"{'; ' if told else ''}{len(late)} orders wait, for {time.monotonic() - late[0]:.1f} s"
        print("{}  {:>4}  {:>4}  {:>7}   {}".format(counts, *times, told).rstrip(), flush=True)
        if over or (seconds is not None and number >= seconds):
            return


def summary(load: Load) -> str:
    """Return the totals."""
    times = sorted(load.answered_at)
    gap = max((late - early for early, late in itertools.pairwise(times)), default=0.0)
    p50, p95, most = (milliseconds(load.latencies, share) for share in (0.5, 0.95, 1.0))
    lines = [
        f"{len(load.acknowledged)} orders acknowledged, {load.reads} reads, {len(load.errors)} errors",
        f"orders took {p50} ms (p50), {p95} ms (p95), {most} ms (max)",
        f"longest time without an acknowledged order: {gap:.1f} s",
        *sorted(set(load.errors))[:10],
    ]
    return "\n".join(lines)


def follow_input(load: Load) -> None:
    """Stop when the standard input ends."""
    sys.stdin.read()
    load.stop.set()


def main() -> int:
    """Run the command line and return the exit status: 1 if there were errors."""
    parser = argparse.ArgumentParser(description="Clients of app.py.")
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--writers", type=int, default=8, help="(default: 8)")
    parser.add_argument("--readers", type=int, default=2, help="(default: 2)")
    parser.add_argument(
        "--pause", type=float, default=0.05, help="seconds between two requests (default: 0.05)"
    )
    parser.add_argument("--seconds", type=float, help="how long (default: until Ctrl-C)")
    parser.add_argument("--until-eof", action="store_true", help="until the standard input ends")
    parser.add_argument(
        "--acknowledged", type=Path, metavar="FILE", help="for the orders that were acknowledged"
    )
    args = parser.parse_args()
    load = Load(args.url, args.pause)
    threads = [
        threading.Thread(target=load.write, args=(client,), daemon=True) for client in range(args.writers)
    ]
    threads += [threading.Thread(target=load.read, daemon=True) for _ in range(args.readers)]
    for thread in threads:
        thread.start()
    if args.until_eof:
        threading.Thread(target=follow_input, args=(load,), daemon=True).start()
    try:
        show(load, args.seconds)
    except KeyboardInterrupt:
        print()
    load.stop.set()
    for thread in threads:
        thread.join()
    print(summary(load), flush=True)
    if args.acknowledged is not None:
        args.acknowledged.write_text("".join(f"{item}\n" for item in load.acknowledged))
    return 1 if load.errors else 0


if __name__ == "__main__":
    sys.exit(main())
