"""The cluster of the whole run, as the pools of all libraries are given it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pgroute
from pgroute._sync.router import manager_of
from tests.certificates import Authority
from tests.coming_from.ours import OursSync
from tests.coming_from.rows import Observation
from tests.coming_from.sides import CHANNEL, Place, Side
from tests.coming_from.theirs import Psqlpy, is_installed
from tests.conftest import INSPECTORS, Inspector
from tests.support import eventually, password_of
from tests.tlsfront import TLSFront

SESSIONS = (
    f"SELECT pid FROM pg_stat_activity WHERE application_name IN ('{Side.name}', '{OursSync.name}', 'shop')"
)
NO_CONNECTIONS = pgroute.PoolOptions(min_size=0)


class Probes:
    """The connections of a router's probes, which are renewed while tests run: no test's leak."""

    def __init__(self, router: pgroute.Router[Any]) -> None:
        monitor: Any = manager_of(router).watch._monitor
        self._monitor = monitor
        self._keys = set(monitor._watchers)

    def descriptors(self) -> set[int]:
        """Return those that are no test's leak."""
        watchers = [self._monitor._watchers.get(key) for key in self._keys]
        probing = [
            getattr(each, "_own", each) for each in watchers
        ]  # nobody, if another process tells this one
        return {each._conn._fd for each in probing if each is not None and each._conn is not None}


@pytest.fixture(scope="module")
def lasting(inspector: Inspector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A table to write to, a router with which the others share their probes, and what psqlpy never gives up."""
    inspector.execute(inspector.cluster.nodes[0], "CREATE TABLE items (number int)")
    place = Place(inspector.cluster, inspector.execute, tmp_path_factory.mktemp("lasting"))
    if is_installed("psqlpy"):
        asyncio.run(listen(Psqlpy(place)))
    with pgroute.Router(OursSync(place).make_dsn(), writer=NO_CONNECTIONS, reader=NO_CONNECTIONS) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        probes = Probes(router)
        INSPECTORS.append(probes)  # type: ignore[arg-type]  # nothing else is asked of it
        yield
        INSPECTORS.remove(probes)  # type: ignore[arg-type]
    inspector.execute(inspector.cluster.nodes[0], "DROP TABLE items")


async def listen(side: Side) -> None:
    """Make psqlpy start all that it starts once for the process."""
    async with side:
        listener = side.pool.listener()
        await listener.add_callback(CHANNEL, side.names["callback"])
        await listener.startup()
        await side.read(listener)
        await listener.shutdown()


@pytest.fixture
def place(
    lasting: None, inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """The cluster of the whole run, in which no session may be left."""
    cluster = inspector.cluster
    place = Place(cluster, inspector.execute, tmp_path)
    password, node = password_of(cluster), cluster.nodes[0]
    place.services.write_text(
        f"[shop]\nhost={node.host}\nport={node.port}\nuser=postgres\npassword={password}\ndbname=postgres\n"
    )
    (tmp_path / "password").write_text(password + "\n")
    monkeypatch.setenv("PGSERVICEFILE", str(place.services))
    monkeypatch.setenv("PASSWORD", password)
    yield place

    def none_left() -> bool:
        return not any(place.execute(node, SESSIONS) for node in cluster.nodes)

    if not none_left():
        gc.collect()  # psqlpy's pool keeps the connection that a caller has waited for, and was cancelled
        eventually(none_left)


@pytest.fixture
def hosts(place: Place, tmp_path: Path) -> Iterator[Callable[[Observation], Place]]:
    """Return the place for an observation, with other hosts if it wants them."""
    with contextlib.ExitStack() as stack:

        def tls(*, mutual: bool) -> Place:
            authority = Authority(tmp_path, "root")
            issued, mine = authority.issue("server", "127.0.0.1"), authority.issue("postgres")
            front = TLSFront(place.cluster.nodes[0], issued, clients=authority.root if mutual else None)
            stack.enter_context(front)
            files = {
                "ca_file": str(authority.root),
                "certificate": str(mine.certificate),
                "key": str(mine.key),
            }
            context = ssl.create_default_context(cafile=str(authority.root))
            return replace(place, hosts=((front.host, front.port),), names={**files, "context": context})

        def choose(observation: Observation) -> Place:
            known = tuple((node.host, node.port) for node in place.cluster.nodes)
            match observation.hosts:
                case "all":
                    return replace(place, hosts=known)
                case "standby first":
                    return replace(place, hosts=known[::-1])
                case "primary":
                    return replace(place, hosts=known[:1])
                case "standby":
                    return replace(place, hosts=known[1:2])
                case "nowhere":
                    return replace(place, hosts=((known[0][0], 1),))
                case "tls" | "mutual tls":
                    return tls(mutual=observation.hosts == "mutual tls")
            return place

        yield choose
