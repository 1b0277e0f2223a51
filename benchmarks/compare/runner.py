"""The process of one contender in a failover: starts the application, watches it recover, closes it."""

from __future__ import annotations

import collections
import time

from .application import Application

_WARM = 20.0
_CLOSE = 10.0


class Runner:
    """The commands, by name; the times are those of CLOCK_MONOTONIC, which all processes share."""

    def __init__(self, name):
        self._name = name
        self._application = None

    def start(self, dsn, writers, reader):
        """Start the application and return when every writer has written a few times."""
        self._application = application = Application(self._name, dsn, writers, reader=reader)
        until = time.monotonic() + _WARM
        while not application.warm:
            if application.failure is not None or time.monotonic() > until:
                raise RuntimeError(application.failure or f"not warm within {_WARM:g} s")
            time.sleep(0.01)
        return True

    def watch(self, port, broken_at, seen_at, bound):
        """Return how long after the promotion was seen each writer wrote there, None for not within the bound."""
        application = self._application
        while True:
            # First the clock: what is written after the bound does not count.
            now = time.monotonic()
            firsts = application.first_writes(port)
            if None not in firsts or now > seen_at + bound:
                break
            time.sleep(0.005)
        until = max(now, seen_at)
        application.still()
        errors = collections.Counter(
            name for at, name in tuple(application.errors) if broken_at <= at <= until
        )
        return {
            "recovered_after": [None if at is None or at > until else at - seen_at for at in firsts],
            "errors": dict(errors),
        }

    def close(self):
        """Close the application; return whether its last read was on the primary, None where nothing was read."""
        on_primary = self._application.read_on_primary
        if not self._application.close(_CLOSE):
            raise RuntimeError(f"did not close within {_CLOSE:g} s")
        self._application = None
        return {"reader_on_primary": on_primary}
