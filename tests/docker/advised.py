"""Routers on this machine that ask the REST API of a cluster in containers, and what they make of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from pgroute import Event, HostState, PatroniDiscovery, Router
from tests.docker.containers import docker, until
from tests.docker.patroni import ASKED, NODES, Patroni

CONFIGURATION = "/etc/pgroute/patroni.yml"


@dataclass(slots=True)
class Outcome:
    """What became of writers."""

    written: int = 0
    errors: list[str] = field(default_factory=list)


class Advised:
    """The nodes as this machine reaches them: at ports of its own, while Patroni knows their names in its networks.

    Args:
        cluster: whole; no node may get another port meanwhile.
    """

    def __init__(self, cluster: Patroni) -> None:
        self._cluster = cluster
        self._places = {node: self._port(node, 5432) for node in NODES}
        self._nodes = {place: node for node, place in self._places.items()}

    def _port(self, node: str, port: int) -> str:
        return docker("port", self._cluster.id(node), f"{port}/tcp").split()[0]

    def router(self, *nodes: str, asked: Iterable[str] = NODES, **more: Any) -> Router:
        """Return a router whose DSN has some nodes, and whose Patroni is asked at some."""
        hosts = ",".join(self._places[node] for node in nodes)
        urls = [f"http://{self._port(node, 8008)}" for node in asked]
        discovery = PatroniDiscovery(
            urls=urls, hosts=self._places, interval=0.5, timeout=1.0, drain_before=2.0
        )
        dsn = f"postgresql://app:{self._cluster.password}@{hosts}/app"
        return Router(dsn, discovery=discovery, **more)

    def node(self, key: object) -> str:
        return self._nodes[str(key)]

    def where(self, router: Router, role: str) -> str:
        """Return the node at which a session of a role is."""
        with router.writer() if role == "writer" else router.reader() as conn:
            return self._nodes[f"{conn.info.host}:{conn.info.port}"]

    def said(self, router: Router, node: str) -> str:
        """Return what the adviser says of a node."""
        told = {self.node(host.key): host.advice for host in router.topology.hosts}[node]
        return "" if told is None else told.text

    def until_members(self, router: Router, *nodes: str) -> None:
        """Wait until these nodes are the hosts of a router, all up."""

        def there() -> bool:
            up = {self.node(h.key) for h in router.topology.hosts if h.state is HostState.UP}
            return {*nodes} == up and len(nodes) == len(router.topology.hosts)

        until(there, f"hosts: {nodes}", every=0.02)

    def drained(self, router: Router) -> Callable[[], list[str]]:
        """Return what tells which nodes were drained since now."""
        events: list[Event] = []
        unsubscribe = router.subscribe(events.append)

        def told() -> list[str]:
            unsubscribe()
            return [
                self.node(event.host)
                for event in events
                if event.after is not None
                and event.before is not None
                and event.after.state is HostState.DRAINED
                and event.before.state is not HostState.DRAINED
            ]

        return told

    def schedule(self, leader: str, candidate: str, seconds: float) -> None:
        """Schedule a switchover."""
        at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        body = {"leader": leader, "candidate": candidate, "scheduled_at": at}
        status, text = self._cluster.ask(leader, "/switchover", body, "POST", ASKED)
        assert status == 202, text

    @contextlib.contextmanager
    def writers(self, router: Router, count: int = 4) -> Iterator[Outcome]:
        """Have plain sessions write one row after the other, which nothing repeats."""
        outcome, stop = Outcome(), threading.Event()

        def write() -> None:
            while not stop.is_set():
                try:
                    with router.writer() as conn:
                        conn.execute("INSERT INTO probe (host) VALUES ('advised')")
                    outcome.written += 1
                except psycopg.Error as exc:
                    outcome.errors.append(repr(exc))

        threads = [threading.Thread(target=write) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield outcome
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def zone_and_no_reads(cluster: Patroni, node: str) -> Iterator[None]:
    """Give a node two tags."""
    tags = "tags:\\n  noloadbalance: true\\n  zone: east\\n"
    add = f"cp {CONFIGURATION} /tmp/patroni.yml && printf '{tags}' >> {CONFIGURATION}"
    cluster.execute(node, "sh", "-c", add, user="root")
    cluster.ask(node, "/reload", {}, "POST")
    try:
        yield
    finally:
        cluster.execute(node, "cp", "/tmp/patroni.yml", CONFIGURATION, user="root")
        cluster.ask(node, "/reload", {}, "POST")
