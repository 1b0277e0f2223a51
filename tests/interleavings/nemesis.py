"""What befalls the servers, the clients and the router of a history."""

from __future__ import annotations

import contextlib

from pgroute.core.model.roles import HostRole
from pgroute.errors import RouteError
from tests.interleavings.clients import Clients
from tests.interleavings.servers import Server


class Nemesis(Clients):
    """The faults."""

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
            if kind < 0.1:
                await self._operate()
            elif kind < 0.35:
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

    async def _operate(self) -> None:
        """Change the pools in use."""
        rng, role = self.rng, self.rng.choice(("writer", "reader"))
        with contextlib.suppress(RouteError):  # closed meanwhile
            if rng.random() < 0.5:
                most = rng.randint(1, 3)
                self.world.note(f"resizes the {role}s to {most}")
                self.most[role] = most
                await self.face.call(self.router.resize, role, min_size=rng.randint(0, most), max_size=most)
            else:
                self.world.note(f"expires the {role}s")
                await self.face.call(self.router.expire, role)

    async def _restart(self, server: Server) -> None:
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
