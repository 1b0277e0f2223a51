"""Asks the adviser of a cluster from time to time, once for all routers of the process that have the same one."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pgroute.core.config.rest_urls import target_of
from pgroute.core.discovery.patroni import read_cluster
from pgroute.core.discovery.report import Malformed
from pgroute.core.discovery.timing import Heard, due_at, next_question
from pgroute.core.printable import printable
from pgroute.monitor.resolver import make_resolver
from pgroute.monitor.rest import NoAnswer, get

if TYPE_CHECKING:
    import ssl

    from pgroute.core.config.discovery import PatroniDiscovery
    from pgroute.core.config.router_config import ResolverSpec

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
        spec: who looks names up.
    """

    def __init__(self, options: PatroniDiscovery, spec: ResolverSpec) -> None:
        self.options: PatroniDiscovery = options
        self.spec: ResolverSpec = spec
        self.hearers: list[Hearer] = []
        self.last: Heard = Heard()
        self._resolver = make_resolver(spec)
        self._context: ssl.SSLContext | None = None
        self._first = 0
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
        """Ask the URLs in turn, first the one that answered last."""
        urls = tuple(self.options.urls)
        errors: list[str] = []
        for number in range(len(urls)):
            at = (self._first + number) % len(urls)
            try:
                heard = await self._ask_at(urls[at])
            except (NoAnswer, Malformed) as exc:
                errors.append(f"{urls[at]}: {printable(str(exc))}")
            else:
                self._first, self._misses = at, 0
                return heard
        self._context = None  # its files may have changed
        self._misses += 1
        error = self.last.error
        # One question that is lost is no news, unless nothing is known yet.
        if self._misses > 1 or self.last.report is None:
            error = printable("; ".join(errors))
        return replace(self.last, error=error, asked=self.last.asked + 1)

    async def _ask_at(self, url: str) -> Heard:
        target = target_of(url)
        timeout = self.options.timeout
        context = self._tls() if target.tls else None
        answer = await get(target, "/cluster", resolver=self._resolver, context=context, timeout=timeout)
        report = read_cluster(answer.body, self.options)
        now = time.monotonic()
        due = due_at(report, now, time.time(), answer.date)
        return Heard(report, now, due, url, "", self.last.asked + 1)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            import ssl

            try:
                context = ssl.create_default_context(cafile=self.options.cafile)
                if self.options.certfile is not None:
                    # Without a function it would ask for the key's password at the terminal.
                    context.load_cert_chain(self.options.certfile, self.options.keyfile, password=str)
            except (OSError, ValueError) as exc:
                raise NoAnswer(f"the files for TLS cannot be used: {printable(str(exc))}") from None
            self._context = context
        return self._context


class Advisers:
    """The advisers of a process. Used in the monitor's loop only."""

    def __init__(self) -> None:
        self._all: list[Adviser] = []

    def join(self, options: PatroniDiscovery, spec: ResolverSpec, hearer: Hearer) -> Adviser:
        """Have an adviser asked for a router, which is told at once what is known already."""
        for adviser in self._all:
            if adviser.options == options and adviser.spec is spec:
                break
        else:
            adviser = Adviser(options, spec)
            self._all.append(adviser)
        adviser.hearers.append(hearer)
        return adviser

    async def leave(self, adviser: Adviser, hearer: Hearer) -> None:
        """Have it asked no more, unless for another router."""
        adviser.hearers.remove(hearer)
        if not adviser.hearers:
            self._all.remove(adviser)
            await adviser.stop()
