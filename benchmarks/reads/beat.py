"""A steady writer, and what a standby is truly missing of it."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg

TABLE = "CREATE TABLE beat (number int NOT NULL); INSERT INTO beat VALUES (-1)"
PACE = 0.005


class Beat:
    """Commits the numbers 0, 1, 2, ... on a primary in a thread, and keeps when each was acknowledged.

    It ends by itself when the primary is gone.
    """

    def __init__(self, primary):
        self.acknowledged = []
        self._conninfo = primary.conninfo
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _work(self):
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self._conninfo, autocommit=True) as conn,
        ):
            while not self._stop.wait(PACE):
                conn.execute("UPDATE beat SET number = %s", [len(self.acknowledged)])
                self.acknowledged.append(time.monotonic())

    def missing_since(self, number):
        """Return when the first commit after this one was acknowledged; None if it was not yet."""
        found = self.acknowledged
        return found[number + 1] if number + 1 < len(found) else None


def truth(beat, conn, now):
    """Return the seconds since the first acknowledged commit that a standby does not have; 0 if it has all.

    The standby is asked after *now*, so that it had no more by then than it tells.
    """
    (number,) = conn.execute("SELECT number FROM beat").fetchone()
    since = beat.missing_since(number)
    return 0.0 if since is None or since > now else now - since
