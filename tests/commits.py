"""Commits one after the other, with the times between which each was made: the truth about what a standby misses."""

from __future__ import annotations

import threading
import time
from typing import Any, Self

import psycopg

from pgroute.testing import Node


class Commits:
    """Writes a number in each transaction in a thread of its own, until its block ends.

    Args:
        node: the primary.
        pause: seconds between two.
        first: the first number.
        settings: for the session, such as ``synchronous_commit=off``.

    Attributes:
        begun: when the COMMIT of each was sent (monotonic seconds).
        acknowledged: when it was answered.
    """

    def __init__(self, node: Node, pause: float = 0.005, *, first: int = 1, **settings: str) -> None:
        self.begun: dict[int, float] = {}
        self.acknowledged: dict[int, float] = {}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._conn = psycopg.connect(
            node.conninfo, autocommit=True, application_name="pgroute-testing", options=options
        )
        self._pause = pause
        self._first = first
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._conn.close()

    def missing_at_latest(self, number: int) -> float:
        """Return when a number was surely committed; after that a standby without it misses it."""
        return self.acknowledged[number]

    def before(self, moment: float) -> set[int]:
        """Return the numbers surely committed before a moment."""
        return {number for number, at in tuple(self.acknowledged.items()) if at < moment}

    def _run(self) -> None:
        number = self._first
        while not self._ending.is_set():
            self.begun[number] = time.monotonic()
            try:
                self._conn.execute("INSERT INTO written VALUES (%s)", [number])
            except psycopg.OperationalError:
                return  # the test has ended the server
            self.acknowledged[number] = time.monotonic()
            number += 1
            self._ending.wait(self._pause)


def seen(node: Node) -> set[int]:
    """Return the numbers found at a node."""
    rows: list[tuple[Any, ...]] = node.execute("SELECT number FROM written")
    return {number for (number,) in rows}
