"""One history: clients of a router, and faults, and then calm, in which everything must come to its end."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from pgroute.runtime.timers import Timers, timers
from tests.interleavings.clients import ACQUIRE_TIMEOUT, Boom
from tests.interleavings.faces import AsyncFace, SyncFace
from tests.interleavings.loop import Stuck
from tests.interleavings.nemesis import Nemesis
from tests.interleavings.shims import replaced
from tests.interleavings.threads import Crew

_FORGOTTEN_AFTER = 1.5


@dataclass
class Found:
    """What one history came to.

    Attributes:
        violations: (kind, words).
        journal: (seconds, who, what).
    """

    seed: int
    face: str
    violations: list[tuple[str, str]]
    journal: list[tuple[float, str, str]] = field(repr=False)

    def __str__(self) -> str:
        lines = [f"{self.face} seed {self.seed}:"]
        lines += [f"  {kind}: {text}" for kind, text in self.violations]
        return "\n".join(lines)

    def tell(self) -> str:
        """Return the journal as text."""
        begun = self.journal[0][0] if self.journal else 0.0
        return "\n".join(f"{at - begun:9.5f}  {who:<14} {what}" for at, who, what in self.journal)


def play(seed: int, face: str, crew: Crew) -> Found:
    """Play the history of a seed on one face, "sync" or "async".

    Args:
        seed: of every choice.
        face: which.
        crew: the threads for the synchronous one.
    """
    rng = Random(f"{face} {seed}")
    history = History(rng)
    with contextlib.ExitStack() as stack:
        if face == "async":
            history.world.face = AsyncFace(rng, history.world.check_books)
        else:
            history.world.face = SyncFace(rng, history.world.check_books, crew)
        stack.enter_context(_quiet())
        stack.enter_context(replaced(history.face.stand_ins(), history.world.stand_ins()))
        stack.enter_context(replaced([(timers, Timers())], {}))  # made of what stands for threads now
        try:
            left = history.face.play(history.main)
        except Stuck as exc:
            history.world.found.append(("stuck", str(exc)))
        except Exception as exc:  # noqa: BLE001  (a finding)
            history.world.found.append(("broken history", f"{type(exc).__name__}: {exc}"))
        else:
            if left:
                history.world.found.append(("left behind", ", ".join(left)))
    return Found(seed, face, history.world.found, history.world.journal)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is logged, and nothing collected but where a history says so: each run of it is to be the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()
        logging.disable(before)


class History(Nemesis):
    """The clients, the faults, and the checks at the end."""

    async def main(self) -> None:
        """Play it."""
        rng, world, face = self.rng, self.world, self.face
        self.crowded = world.chance(0.5)
        world.careless = world.chance(0.25)
        self._options = {role: self._pool_options() for role in ("writer", "reader")}
        self.most = {role: options.max_size for role, options in self._options.items()}
        cls = getattr(face.modules.router, f"{face.prefix}Router")
        hosts = ",".join(key.host for key in world.servers)
        self.router = cls(
            f"host={hosts} user=app dbname=app",
            acquire_timeout=ACQUIRE_TIMEOUT,
            balance=rng.choice(("ordered", "random")),
            **self._options,
        )
        for role, options in self._options.items():
            reset = "with reset" if callable(options.reset) else options.reset
            world.note(
                f"hosts {hosts}; {role}s: {options.min_size} to {options.max_size}, idle {options.max_idle} s, "
                f"lifetime {options.max_lifetime} s, {options.max_waiting} may wait, {reset}"
            )
        await face.call(self.router.open)
        for number in range(rng.randint(6, 12) if self.crowded else rng.randint(3, 10)):
            self._spawn(self._client, f"client-{number}")
        nemesis = face.spawn(self._nemesis, "nemesis")
        closer = face.spawn(self._closer, "closer") if world.chance(0.15) else None
        while not face.ended(nemesis):
            await face.sleep(0.05)
        await self._calm_down()
        if closer is not None:
            while not face.ended(closer):
                await face.sleep(0.05)
        else:
            await self._check_returned()
            await self._check_slots()
        await self._end()

    async def _calm_down(self) -> None:
        world, face = self.world, self.face
        world.note("calm")
        self.calm = True
        for server in world.servers.values():
            server.slow, server.failing = 0.01, 0.0
            server.thaw()
        begun = self.moved_at = face.now()
        while not all(face.ended(worker) for worker in self._clients.values()):
            await face.sleep(0.1)
            if world.careless and self._wants:
                gc.collect()
            now = face.now()
            held = any(conn.holder for server in world.servers.values() for conn in server.links)
            if self._wants and not held and now - max(begun, self.moved_at) > _FORGOTTEN_AFTER:
                waits = ", ".join(
                    f"{name} ({role}, {now - at:.2f} s)" for name, (role, at) in self._wants.items()
                )
                world.violation("forgotten", f"{waits} wait, and nobody has a connection")
                self.moved_at = now
            if now - begun > 60.0:
                world.violation("stuck", "clients are not at their end after a minute of calm")
                return
        self._check_torn()

    def _check_torn(self) -> None:
        for name in sorted(self._torn):
            if not self.world.careless:
                self.world.violation("swallowed", f"{name} was cancelled, and went on")

    async def _collect(self) -> None:
        """Have found what clients have forgotten."""
        gc.collect()
        await self.face.sleep(0.02)

    async def _check_returned(self) -> None:
        await self._collect()
        for pool in self.world.pools:
            for _ in range(50):
                if pool.closed or not pool.in_use:
                    break
                await self.face.sleep(0.05)  # the worker may be connecting
            else:
                self.world.violation("lost slot", f"{pool.name}: {pool.in_use} in use, by nobody")

    async def _check_slots(self) -> None:
        """Have as many sessions at once as there may be."""
        face, world = self.face, self.world
        for role in ("writer", "reader"):
            hosts = max(1, len(world.servers) - 1) if role == "reader" else 1
            wanted = hosts * self.most[role]
            had: list[Any] = []
            failures: list[str] = []

            async def take(role: str = role, had: list[Any] = had, failures: list[str] = failures) -> None:
                until = face.now() + 3.0
                while face.now() < until:
                    try:
                        had.append(await face.call(self.router.getconn, role, timeout=3.0))
                        return
                    except (psycopg.Error, Boom) as exc:
                        failures.append(f"{type(exc).__name__}: {exc}")
                    await face.sleep(0.05)  # the queue may be full

            takers = [face.spawn(take, f"taker-{number}") for number in range(wanted)]
            while not all(face.ended(taker) for taker in takers):
                await face.sleep(0.02)
            if len(had) < wanted:
                world.violation(
                    "lost slot", f"{len(had)} of {wanted} {role} sessions at once: {failures[-1]}"
                )
            while had:
                await face.call(self.router.putconn, had.pop())

    async def _end(self) -> None:
        """Close the router while it is used, and look what is left."""
        face, world = self.face, self.world
        self._clients.clear()
        for number in range(self.rng.choice((0, 2, 5))):
            self._spawn(self._client, f"late-{number}")
        await face.sleep(self.rng.random() * 0.1)
        world.note("closes the router")
        begun = face.now()
        timeout = self.rng.choice((0.0, 0.2, 5.0))
        await face.call(self.router.close, timeout=timeout)
        if face.now() - begun > timeout + 5.0:
            world.violation("late", f"close({timeout:g}) took {face.now() - begun:.2f} s")
        for _ in range(200):
            if all(face.ended(worker) for worker in self._clients.values()):
                break
            await face.sleep(0.05)
        else:
            world.violation("forgotten", "clients wait at a closed router")
        await face.sleep(0.05)
        await self._collect()
        for server in world.servers.values():
            for conn in server.links:
                world.violation("open connection", f"{conn.name} is open after close()")
