"""What the clients of a router do in a history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.core.config.options import PoolOptions
from pgroute.errors import RouteError
from tests.interleavings import servers
from tests.interleavings.faces import Face
from tests.interleavings.world import World

ACQUIRE_TIMEOUT = 5.0
_LATE = 0.3


class Boom(Exception):
    """What a body raises."""


class Clients:
    """The clients of one router.

    Attributes:
        router: theirs.
        most: the max_size of each role.
        crowded: many want one connection, and are torn out just when it comes back.
        calm: there are no more faults.
        moved_at: when somebody had, or did not get, or gave back a connection last.
    """

    router: Any
    most: dict[str, int]
    crowded = False
    calm = False

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.world = World(rng, rng.choice((1, 1, 2, 2, 3)))
        self._clients: dict[str, Any] = {}
        self._torn: set[str] = set()
        self._at_work: set[str] = set()
        self._wants: dict[str, tuple[str, float]] = {}
        self.moved_at = 0.0
        self._serial = 0

    @property
    def face(self) -> Face:
        return self.world.face

    def _pool_options(self) -> PoolOptions:
        rng = self.rng
        most = 1 if self.crowded else rng.randint(1, 3)
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
            setup=self.face.callback(self._setup) if rng.random() < 0.2 else None,
            max_uses=rng.choice((None, None, None, 1, 3)),
        )

    async def _setup(self, conn: Any) -> None:
        await self.world.nap()
        if self.world.chance(0.1):
            raise Boom("setup")
        await self.face.call(conn.execute, "read")
        if self.world.chance(0.95):
            await self.face.call(conn.rollback)

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
                self.moved_at = self.face.now()

        worker = self.face.spawn(work, name)
        self._clients[name] = worker

    async def _client(self, name: str) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            await self.face.sleep(rng.choice((0.0, 0.0, rng.random() * 0.05, rng.random() * 0.5)))
            kind = rng.random()
            role = "writer" if rng.random() < (0.95 if self.crowded else 0.65) else "reader"
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
            now = self.moved_at = self.face.now()
            limit = ACQUIRE_TIMEOUT if timeout is None else timeout
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
        self.moved_at = self.face.now()
        if self.crowded and self._wants and not self.calm and self.world.chance(0.3):
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

    def _tear(self, names: list[str]) -> None:
        names = [name for name in names if name in self._at_work]
        if names:
            name = self.rng.choice(names)
            self.world.note(f"tears {name} out")
            if self.face.tear(self._clients[name]):
                self._torn.add(name)
