"""Watches DNS names: looks each up again when its answer expires, sooner in an outage, and never in a storm."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Protocol

from pgroute.core.config.dns_names import Found, Question, is_name
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.resolver import LookupFailed, Resolver, make_resolver

if TYPE_CHECKING:
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey

_RNG = random.Random()


class Reader(Protocol):
    """One router's interest in a name. Its methods are called in the monitor's loop."""

    @property
    def options(self) -> ProbeOptions:
        """The router's probe options."""
        ...

    def renamed(self, question: Question) -> None:
        """Take note that what is known of a name has changed."""
        ...

    def name_gap(self) -> float | None:
        """Return the seconds between two lookups during an outage, None while there is none."""
        ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute, in another thread: a log handler is the user's code, which must not run here."""
        ...


class NameWatcher:
    """Watches one name. Used in the monitor's loop only.

    Args:
        question: what is asked for.
        resolver: answers it.

    Attributes:
        readers: the routers that want to know.
        found: what is known of the name.
    """

    def __init__(self, question: Question, resolver: Resolver) -> None:
        self.question = question
        self.readers: list[Reader] = []
        self.found: Found = Found()
        self._resolver = resolver
        self._hurry: float | None = None
        self._chance = 0.0
        self._changed = asyncio.Event()
        self._answered = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pgroute-name-{question.name}")

    async def stop(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def nudge(self) -> None:
        """Work out again when the next lookup is due."""
        self._changed.set()

    def hurry(self, gap: float) -> None:
        """Look the name up again, *gap* seconds after the last lookup at the earliest."""
        if self._hurry is None or gap < self._hurry:
            self._hurry = gap
            self._changed.set()

    async def first_answer(self, timeout: float) -> None:
        """Return after the first lookup, or after *timeout* seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._answered.wait()

    async def _run(self) -> None:
        while True:
            await self._due()
            self._hurry = None
            self._chance = _RNG.random()
            try:
                found = await self._ask()
            except Exception as exc:  # noqa: BLE001  (logged by the reader)
                # A bug in pgroute or in the given resolver counts as a failed lookup, and does not end the watch.
                for reader in self.readers[:1]:  # one log entry is enough
                    reader.log_error(f"looking up {self.question.name} failed", exc)
                found = self.found.failed(
                    f"could not resolve {self.question.name!r}: {exc!r}", time.monotonic()
                )
            self._tell(found)

    async def _due(self) -> None:
        while True:
            self._changed.clear()
            options = [reader.options for reader in self.readers]
            gaps = [gap for reader in self.readers if (gap := reader.name_gap()) is not None]
            hurry = min([*gaps, *([] if self._hurry is None else [self._hurry])], default=None)
            cap = min((o.max_ttl for o in options), default=1.0)
            floor = min((o.min_ttl for o in options), default=1.0)
            left = (
                self.found.next_at(floor=floor, cap=cap, hurry=hurry, chance=self._chance) - time.monotonic()
            )
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def _ask(self) -> Found:
        timeout = min((reader.options.lookup_timeout for reader in self.readers), default=1.0)
        try:
            records, ttl, error = await self._resolver.look_up(self.question, timeout)
        except LookupFailed as exc:
            return self.found.failed(str(exc), time.monotonic())
        return self.found.answered(records, ttl, time.monotonic(), error=error)

    def _tell(self, found: Found) -> None:
        before, self.found = self.found, found
        self._answered.set()
        if (found.records, found.error) != (before.records, before.error):
            for reader in tuple(self.readers):
                try:
                    reader.renamed(self.question)
                except Exception as exc:  # noqa: BLE001  (logged by the reader)
                    # A bug in one router must neither end the watch nor keep the news from the others.
                    reader.log_error(f"following {self.question.name} failed", exc)


class Names:
    """All names that one resolver looks up. Used in the monitor's loop only.

    Args:
        spec: the resolver.
    """

    def __init__(self, spec: ResolverSpec) -> None:
        self._resolver = make_resolver(spec)
        self._watchers: dict[Question, NameWatcher] = {}

    def join(self, question: Question, reader: Reader) -> None:
        """Watch a name for a reader. `found` returns what is known already."""
        watcher = self._watchers.get(question)
        if watcher is None:
            watcher = self._watchers[question] = NameWatcher(question, self._resolver)
        watcher.readers.append(reader)
        watcher.nudge()

    async def leave(self, question: Question, reader: Reader) -> None:
        """Stop watching a name, unless another reader wants it."""
        watcher = self._watchers[question]
        watcher.readers.remove(reader)
        if not watcher.readers:
            del self._watchers[question]
            await watcher.stop()

    @property
    def unused(self) -> bool:
        """Whether no name is watched."""
        return not self._watchers

    def nudge(self, question: Question) -> None:
        """Work out again when a name is looked up next: an outage has begun, or is over."""
        if question in self._watchers:
            self._watchers[question].nudge()

    def found(self, question: Question) -> Found | None:
        """Return what is known of a name, None if it is not watched."""
        watcher = self._watchers.get(question)
        return None if watcher is None else watcher.found

    def known(self, key: HostKey) -> tuple[str, ...]:
        """Return the addresses that a host's name stands for now, as far as known; none if the host is not named."""
        found = self.found(Question(key.host)) if is_name(key) else None
        return tuple(r for r in (found and found.records) or () if isinstance(r, str))

    def hurry(self, question: Question, gap: float) -> None:
        """Look a name up again, *gap* seconds after the last lookup at the earliest: it may have moved."""
        watcher = self._watchers.get(question)
        if watcher is not None:
            watcher.hurry(gap)

    async def addresses(self, key: HostKey, *, timeout: float, prefer: str | None = None) -> list[str | None]:
        """Return the numeric addresses to connect to, in order; [None] for a socket directory.

        Args:
            key: the host. A hostaddr or a numeric host needs no lookup.
            timeout: seconds to wait for the first answer.
            prefer: the address to put first, if it is among them.

        Raises:
            ProbeFailed: the name has no address and never had one.
        """
        if key.is_socket:
            return [None]
        if not is_name(key):
            return [key.hostaddr or key.host]
        watcher = self._watchers[Question(key.host)]
        await watcher.first_answer(timeout)
        found = watcher.found
        if not found.records:
            reason = found.error or f"could not resolve {key.host!r} in {timeout:g} s"
            raise ProbeFailed(Fault(FaultKind.UNRESOLVED, host_suspect=True, reason=reason))
        return sorted((r for r in found.records if isinstance(r, str)), key=lambda address: address != prefer)
