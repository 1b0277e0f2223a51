"""Asks the adviser of a cluster from time to time, once for all routers of the process that have the same one."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pgroute.core.config.discovery import PatroniDiscovery
from pgroute.core.discovery.timing import Heard, due_at, next_question
from pgroute.core.printable import printable
from pgroute.monitor.patroni import PatroniSource
from pgroute.monitor.sources import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.discovery import AuroraDiscovery, Discovery
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.monitor.sources import Source

_RNG = random.Random()
_AFTER_FAULT = 5.0


class Hearer(Protocol):
    """A router that wants to know what the adviser says. Its methods are called in the monitor's loop."""

    def heard(self, heard: Heard) -> None:
        """Take what the adviser said, or that it did not answer."""
        ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute."""
        ...


class Adviser:
    """Asks one adviser. Used in the monitor's loop only.

    Its task is one of its own: nothing that the API does, or fails to do, holds up a probe.

    Args:
        options: whom to ask, and how often.
        source: asks.
    """

    def __init__(self, options: Discovery, source: Source) -> None:
        self.options: Discovery = options
        self.hearers: list[Hearer] = []
        self.last: Heard = Heard()
        self._source = source
        self._misses = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name="pgroute-adviser")

    async def stop(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            try:
                self._tell(await self._ask())
                pause = next_question(self.last, self.options, time.monotonic(), _RNG.random())
            except Exception as exc:  # noqa: BLE001  (logged by a router)
                # A bug in pgroute must not end it.
                for hearer in self.hearers[:1]:
                    hearer.log_error("asking the adviser failed", exc)
                pause = _AFTER_FAULT
            await asyncio.sleep(pause)

    def _tell(self, heard: Heard) -> None:
        self.last = heard
        for hearer in tuple(self.hearers):
            hearer.heard(heard)

    async def _ask(self) -> Heard:
        try:
            told = await self._source.ask(self.last.scope(self.options, time.monotonic()))
        except NoAnswer as exc:
            self._misses += 1
            # One question that is lost is no news, unless nothing is known yet.
            lasting = self._misses > 1 or self.last.report is None
            error = printable(str(exc)) if lasting else self.last.error
            return replace(self.last, error=error, asked=self.last.asked + 1)
        self._misses = 0
        now = time.monotonic()
        last = self.last.report if self.last.current(self.options, now) else None
        report = told.report.after(last)
        due = due_at(report, now, time.time(), told.date)
        return Heard(report, now, due, told.source, "", self.last.asked + 1)


class Advisers:
    """The advisers of a process. Used in the monitor's loop only."""

    def __init__(self) -> None:
        self._shared: list[tuple[ResolverSpec, Adviser]] = []

    def join(
        self, options: Discovery, spec: ResolverSpec, hearer: Hearer, own: Callable[[AuroraDiscovery], Source]
    ) -> Adviser:
        """Have an adviser asked for a router.

        Patroni is asked once for all routers. An adviser that is asked with the login of a router is its own.

        Args:
            options: whom to ask, and how often.
            spec: who looks up the names of an API.
            hearer: the router.
            own: makes a source of the router's own.
        """
        match options:
            case PatroniDiscovery():
                adviser = self._find(options, spec)
            case _:
                adviser = Adviser(options, own(options))
        adviser.hearers.append(hearer)
        return adviser

    def _find(self, options: PatroniDiscovery, spec: ResolverSpec) -> Adviser:
        for resolver, adviser in self._shared:
            if adviser.options == options and resolver is spec:
                return adviser
        adviser = Adviser(options, PatroniSource(options, spec))
        self._shared.append((spec, adviser))
        return adviser

    async def leave(self, adviser: Adviser, hearer: Hearer) -> None:
        """Have it asked no more, unless for another router."""
        adviser.hearers.remove(hearer)
        if not adviser.hearers:
            self._shared = [(spec, other) for spec, other in self._shared if other is not adviser]
            await adviser.stop()
