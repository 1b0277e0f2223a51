"""The watch on an address that a name has left, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from pgroute import ProbeOptions
from pgroute.core.config.dsn import Params
from pgroute.core.model.host import HostInfo
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.observations import Answer
from pgroute.core.topology.snapshot import Rules
from pgroute.monitor.cluster_watch import ClusterWatch

KEY = HostKey("db.test", 5432)
PLACE = HostKey("db.test", 5432, "10.0.0.1")


async def test_a_server_that_a_name_led_to_meanwhile_is_not_taken_for_the_one_before() -> None:
    aborted: list[str] = []

    async def leave(*_: Any) -> None:
        """Nobody watches."""

    def told(key: HostKey, address: str, timeline: int, started_at: float) -> Answer:
        return Answer(key, HostRole.PRIMARY, 0.0, timeline=timeline, started_at=started_at, address=address)

    def seen() -> HostInfo:
        host = watch.topology.host(KEY)
        assert host is not None
        return host

    watch = ClusterWatch(
        (KEY,), lambda _: Params({}), ProbeOptions(), Rules(), resolver="system", mode="one-host"
    )
    watch._home = SimpleNamespace(join=lambda *_: object(), leave=leave)  # type: ignore[assignment]
    watch._names = SimpleNamespace()  # type: ignore[assignment]
    watch.sessions_at = lambda *_: 1
    watch.abort = lambda _key, _address, why: aborted.append(why)
    for started_at in (1.0, 2.0):
        watch.observe(told(KEY, "10.0.0.1", 1, started_at))
        watch._keep_vigil(seen())
    watch.observe(told(KEY, "10.0.0.2", 2, 3.0))
    vigil = watch._vigils[PLACE]
    vigil.observe(told(PLACE, "10.0.0.1", 1, 2.0))
    assert not aborted
    vigil.observe(told(PLACE, "10.0.0.1", 1, 1.0))
    assert [why.split(" has ")[0] for why in aborted] == ["the server that was db.test:5432 (10.0.0.1)"]
    assert not watch._vigils
    await asyncio.wait(watch._parting)
