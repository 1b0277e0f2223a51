"""One history: clients of a router, and faults, and then calm, in which everything must come to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.core.options import PoolOptions
from pgroute.core.roles import HostRole
from pgroute.errors import RouteError
from pgroute.monitor.timers import Timers, timers
from tests.interleavings import servers
from tests.interleavings.faces import AsyncFace, Face, SyncFace
from tests.interleavings.loop import Stuck
from tests.interleavings.shims import replaced
from tests.interleavings.threads import Crew
from tests.interleavings.world import World

_FORGOTTEN_AFTER = 1.5
_LATE = 0.3
_ACQUIRE_TIMEOUT = 5.0


class Boom(Exception):
    """What a body raises."""


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


class History:
    """The clients, the faults, and the checks at the end."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.world = World(rng, rng.choice((1, 1, 2, 2, 3)))
        self._clients: dict[str, Any] = {}
        self._torn: set[str] = set()
        self._at_work: set[str] = set()
        self._wants: dict[str, tuple[str, float]] = {}
        self._moved_at = 0.0
        self._calm = False
        self._serial = 0

    @property
    def face(self) -> Face:
        return self.world.face

    async def main(self) -> None:
        """Play it."""
        rng, world, face = self.rng, self.world, self.face
        self._crowded = world.chance(0.5)
        world.careless = world.chance(0.25)
        self._options = {role: self._pool_options() for role in ("writer", "reader")}
        cls = getattr(face.modules.router, f"{face.prefix}Router")
        hosts = ",".join(key.host for key in world.servers)
        self.router = cls(
            f"host={hosts} user=app dbname=app",
            acquire_timeout=_ACQUIRE_TIMEOUT,
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
        for number in range(rng.randint(6, 12) if self._crowded else rng.randint(3, 10)):
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

    def _pool_options(self) -> PoolOptions:
        rng = self.rng
        most = 1 if self._crowded else rng.randint(1, 3)
        reset: Any = None
        if rng.random() < 0.3:
            reset = self.face.callback(self._reset)
        elif rng.random() < 0.1:
            reset = "discard"
        return PoolOptions(
            min_size=rng.randint(0, min(2, most)),
            max_size=most,
            max_waiting=rng.choice((0, 0, 0, 1, 3)),
            max_idle=rng.choice((600.0, 0.2)),
            max_lifetime=rng.choice((3600.0, 3600.0, 0.3)),
            reset=reset,
        )

    async def _reset(self, conn: Any) -> None:
        await self.world.nap()
        if self.world.chance(0.1):
            raise Boom("reset")
        await self.face.call(conn.execute, "read")
        if self.world.chance(0.95):
            await self.face.call(conn.rollback)

    # What clients do.

    def _spawn(self, fn: Any, name: str) -> None:
        async def work() -> None:
            self._at_work.add(name)
            try:
                await fn(name)
            except self.face.cancelled:
                # Not let out: its traceback would keep what the client has forgotten.
                self._torn.discard(name)
                self.world.note("ends as cancelled")
            except Exception as exc:  # noqa: BLE001  (a finding)
                self.world.violation("unexpected error", f"{name}: {type(exc).__name__}: {exc}")
            finally:
                self._at_work.discard(name)
                self._wants.pop(name, None)
                self._moved_at = self.face.now()

        worker = self.face.spawn(work, name)
        self._clients[name] = worker

    async def _client(self, name: str) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            await self.face.sleep(rng.choice((0.0, 0.0, rng.random() * 0.05, rng.random() * 0.5)))
            kind = rng.random()
            role = "writer" if rng.random() < (0.95 if self._crowded else 0.65) else "reader"
            timeout = rng.choice((0, 0.01, 0.3, 2, None, None, None))
            self.world.note(f"{role}, timeout {timeout}")
            try:
                if kind < 0.5:
                    await self._session(name, role, timeout)
                elif kind < 0.75 and not self.world.careless:
                    # Its earlier attempts' errors keep connections that others may forget.
                    await self._run(name, role, timeout)
                else:
                    await self._by_hand(name, role, timeout)
            except (RouteError, Boom, TimeoutError) as exc:
                self.world.note(f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}")
            except (PoolClosed, PoolTimeout, TooManyRequests) as exc:
                self.world.violation("unexpected error", f"{name}: {type(exc).__name__}: {exc}")
            except psycopg.Error as exc:
                self.world.note(f"{type(exc).__name__}: {exc}")

    @contextlib.contextmanager
    def _acquiring(self, name: str, role: str, timeout: float | None) -> Iterator[None]:
        begun = self.face.now()
        self._wants[name] = (role, begun)
        try:
            yield
        finally:
            self._wants.pop(name, None)
            now = self._moved_at = self.face.now()
            limit = _ACQUIRE_TIMEOUT if timeout is None else timeout
            if now - begun > limit + _LATE:
                self.world.violation("late", f"{name}: {now - begun:.3f} s for a timeout of {limit:g} s")

    def _took(self, conn: Any, name: str, *, begun: bool = False) -> None:
        self.world.note(f"has {conn.name}")
        if conn.holder:
            self.world.violation(
                "shared connection", f"{name} was given {conn.name}, which {conn.holder} has"
            )
        state = conn.pgconn.transaction_status
        if state not in (servers.INTRANS if begun else servers.IDLE, servers.UNKNOWN):
            self.world.violation("unclean connection", f"{name} was given {conn.name} in state {state.name}")
        if conn.autocommit:
            self.world.violation("unclean connection", f"{name} was given {conn.name} with autocommit on")
        conn.holder = name

    def _gave(self, conn: Any) -> None:
        conn.holder = ""
        self._moved_at = self.face.now()
        if self._crowded and self._wants and not self._calm and self.world.chance(0.3):
            self.face.spawn(self._stalker, "stalker")

    async def _stalker(self) -> None:
        """Tear out one who waits, just when a connection comes back."""
        for _ in range(self.rng.randint(0, 5)):
            await self.face.sleep(0)
        self._tear(list(self._wants))

    async def _body(self, conn: Any, role: str, *, whole: bool) -> str:
        """Work with a connection; return what was written, empty if nothing was."""
        rng, face, world = self.rng, self.face, self.world
        token = ""
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            await world.nap()
            kind = rng.random()
            if kind < 0.55 and role == "writer":
                self._serial += 1
                token = f"token-{self._serial}"
                await face.call(conn.execute, f"write {token}")
            elif kind < 0.8:
                await face.call(conn.execute, "read")
            elif kind < 0.84:
                raise Boom("body")
            elif kind < 0.88:
                with contextlib.suppress(psycopg.Error):
                    await face.call(conn.execute, "fail")
            elif kind < 0.91:
                await face.call(conn.execute, "fail")
            elif kind < 0.93:
                await face.call(conn.close)
            elif kind < 0.96 and not whole and conn.pgconn.transaction_status == servers.IDLE:
                await face.call(conn.set_autocommit, True)
            else:
                await face.sleep(rng.random() * 0.2)
        return token

    async def _session(self, name: str, role: str, timeout: float | None) -> None:
        face = self.face
        block = getattr(self.router, role)(timeout=timeout)
        with self._acquiring(name, role, timeout):
            conn = await face.enter(block)
        token, error = "", None
        try:
            self._took(conn, name)
            token = await self._body(conn, role, whole=False)
        except BaseException as exc:  # noqa: BLE001  (the session sees it)
            error = exc
        self._gave(conn)
        del conn
        try:
            if await face.leave(block, error):
                self.world.violation("unexpected error", f"{name}: a session took its error for good")
            if error is not None:
                raise error
        finally:
            error = None
        self._acknowledged(token)

    def _acknowledged(self, token: str) -> None:
        if token and token not in self.world.committed:
            self.world.violation("not committed", f"{token} was told to be committed")

    async def _run(self, name: str, role: str, timeout: float | None) -> None:
        face, world = self.face, self.world
        again = world.rng.choice((0, 0, 1, 2))

        async def body(conn: Any) -> str:
            nonlocal again
            self._wants.pop(name, None)
            self._took(conn, name, begun=True)
            try:
                token = await self._body(conn, role, whole=True)
                if again:
                    again -= 1
                    await face.call(conn.execute, "serialization")
                return token
            finally:
                self._gave(conn)

        self._acknowledged(await face.call(self.router.run, face.callback(body), role=role, timeout=timeout))

    async def _by_hand(self, name: str, role: str, timeout: float | None) -> None:
        face, world = self.face, self.world
        with self._acquiring(name, role, timeout):
            conn = await self._getconn(role, timeout)
        if world.careless and world.chance(0.1):
            world.note(f"forgets {conn.name}")
            return
        try:
            self._took(conn, name)
            token = await self._body(conn, role, whole=False)
            if world.chance(0.5):
                sound = conn.pgconn.transaction_status == servers.INTRANS
                await face.call(conn.commit)
                self._acknowledged(token if sound else "")
        finally:
            self._gave(conn)
            await face.call(self.router.putconn, conn)

    async def _getconn(self, role: str, timeout: float | None) -> Any:
        getconn = self.router.getconn
        if not self.face.prefix or self.world.chance(0.4):
            return await self.face.call(getconn, role, timeout=timeout)
        seconds = self.rng.choice((0.0, 0.01, 0.3, self.rng.random()))
        if self.world.careless:
            # It may throw the connection away, before Python 3.12.
            return await asyncio.wait_for(getconn(role, timeout=timeout), seconds)
        async with asyncio.timeout(seconds):
            return await getconn(role, timeout=timeout)

    # What is done to them.

    async def _closer(self) -> None:
        await self.face.sleep(self.rng.random() * 2.0)
        self.world.note("closes the router")
        await self.face.call(self.router.close, timeout=self.rng.choice((0.0, 0.3, 5.0)))

    async def _nemesis(self) -> None:
        rng, world = self.rng, self.world
        for _ in range(rng.randint(0, 12)):
            await self.face.sleep(rng.choice((0.0, rng.random() * 0.05, rng.random() * 0.5)))
            kind = rng.random()
            server = rng.choice(list(world.servers.values()))
            if kind < 0.35:
                self._tear(list(self._clients))
            elif kind < 0.5:
                if links := server.links:
                    conn = rng.choice(links)
                    world.note(f"breaks {conn.name}")
                    conn.lose()
                    del conn
                del links
            elif kind < 0.6:
                server.slow = rng.choice((0.01, 0.3))
                server.failing = rng.choice((0.0, 0.0, 0.5))
                world.note(f"connecting to {server.key.host}: {server.slow} s, fails {server.failing}")
            elif kind < 0.7:
                await self._restart(server)
            elif kind < 0.8:
                world.note(f"freezes {server.key.host}")
                server.frozen = server.up
                await self.face.sleep(rng.random())
                server.thaw()
            else:
                await self._fail_over()

    def _tear(self, names: list[str]) -> None:
        names = [name for name in names if name in self._at_work]
        if names:
            name = self.rng.choice(names)
            self.world.note(f"tears {name} out")
            if self.face.tear(self._clients[name]):
                self._torn.add(name)

    async def _restart(self, server: servers.Server) -> None:
        self.world.note(f"restarts {server.key.host}")
        server.crash()
        await self.face.sleep(self.rng.random() * 0.5)
        server.start(server.role, server.timeline)

    async def _fail_over(self) -> None:
        rng, world = self.rng, self.world
        old = next(s for s in world.servers.values() if s.role is HostRole.PRIMARY)
        others = [s for s in world.servers.values() if s is not old and s.up]
        if not others:
            return
        new = rng.choice(others)
        world.note(f"fails over from {old.key.host} to {new.key.host}")
        if rng.random() < 0.5:
            old.crash()
        else:
            old.frozen = old.up
        await self.face.sleep(rng.random() * 0.3)
        new.role, new.timeline = HostRole.PRIMARY, new.timeline + 1
        await self.face.sleep(rng.random() * 0.5)
        old.crash()
        old.start(HostRole.STANDBY, new.timeline)
        for server in world.servers.values():
            server.timeline = new.timeline

    # What must be true in the end.

    async def _calm_down(self) -> None:
        world, face = self.world, self.face
        world.note("calm")
        self._calm = True
        for server in world.servers.values():
            server.slow, server.failing = 0.01, 0.0
            server.thaw()
        begun = self._moved_at = face.now()
        while not all(face.ended(worker) for worker in self._clients.values()):
            await face.sleep(0.1)
            if world.careless and self._wants:
                gc.collect()
            now = face.now()
            held = any(conn.holder for server in world.servers.values() for conn in server.links)
            if self._wants and not held and now - max(begun, self._moved_at) > _FORGOTTEN_AFTER:
                waits = ", ".join(
                    f"{name} ({role}, {now - at:.2f} s)" for name, (role, at) in self._wants.items()
                )
                world.violation("forgotten", f"{waits} wait, and nobody has a connection")
                self._moved_at = now
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
            wanted = hosts * self._options[role].max_size
            had: list[Any] = []
            failures: list[str] = []

            async def take(role: str = role, had: list[Any] = had, failures: list[str] = failures) -> None:
                until = face.now() + 3.0
                while face.now() < until:
                    try:
                        had.append(await face.call(self.router.getconn, role, timeout=3.0))
                        return
                    except psycopg.Error as exc:
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
