"""A cluster under Patroni in containers: what its nodes say, what can be asked of it, how it is broken and repaired."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from tests.docker.conftest import ports_free, project, put_application
from tests.docker.containers import Containers, DockerError, docker, script, until

NODES = ("pg1", "pg2", "pg3")
HOSTS = ",".join(NODES)
ETCD = ("etcd1", "etcd2", "etcd3")
NETWORKS = ("clients", "replication", "dcs")

SETTINGS = {"ttl": 20, "loop_wait": 1, "retry_timeout": 6, "synchronous_mode": True}
"""The shortest times that Patroni takes: a leader that is gone is replaced after 20 s."""

WHOLE = 90.0
"""Seconds within which a cluster that nothing ails any more must be whole."""

HELPED = 45.0
"""Seconds after which a node that has not come back by itself is made anew from the leader."""

ANSWER = 2.0
"""Seconds for an answer of the REST API, from what is not paused."""

ASKED = 60.0
"""Seconds that it may take to do what was asked for."""

TABLE = "pgroute_test"
"""Of nftables, in a node's own namespace; Docker has others there."""


class Patroni(Containers):
    """Three nodes and three members of etcd.

    The REST API is asked from this machine, at the ports that Docker has published on the loopback interface; it moves
    them to another network, and to other numbers, when a node loses the one that had them.
    """

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._published: dict[str, str] = {}

    def say(self, node: str) -> dict[str, Any]:
        """Return what a node says of itself; "leader" is whether it holds the lock.

        Raises:
            DockerError: it does not answer.
        """
        status, text = self.ask(node, "/primary", cached=True)
        try:
            said = json.loads(text)
            name = said["patroni"]["name"]
        except (ValueError, LookupError, TypeError):
            self._published.pop(node, None)
            raise DockerError(f"{node} says {status} {text!r}") from None
        if name != node:
            self._published.pop(node, None)
            raise DockerError(f"{name} has the port now that {node} had")
        return {**said, "leader": status == 200}

    def ask(
        self,
        node: str,
        path: str,
        body: dict[str, Any] | None = None,
        method: str = "GET",
        timeout: float = ANSWER,
        *,
        cached: bool = False,
    ) -> tuple[int, str]:
        """Return status and text of an answer of a node's REST API.

        With *cached*, another node may answer, at the port that this one had before.

        Raises:
            DockerError: none came.
        """
        address = (cached and self._published.get(node)) or self._look_up(node)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{address}{path}", data, method=method)
        try:
            with _open(request, timeout) as answer:
                return answer.status, answer.read().decode()
        except OSError as exc:
            self._published.pop(node, None)
            raise DockerError(f"{node}: {exc}") from None

    def _look_up(self, node: str) -> str:
        published = docker("port", self.id(node), "8008/tcp").split()
        if not published:
            raise DockerError(f"{node} has no published port")
        self._published[node] = published[0]
        return published[0]

    def leader(self, *, synchronous: bool | None = True) -> str:
        """Return the leader of a cluster that is whole: it alone holds the lock, and the others stream from it.

        Args:
            synchronous: that one of them is a synchronous standby, by the word of both, or that none is; None: either.

        Raises:
            DockerError: it is not whole.
        """
        said = {node: self.say(node) for node in NODES}
        leaders = [node for node in NODES if said[node]["leader"]]
        standbys = [node for node in NODES if not said[node]["leader"]]
        if len(leaders) != 1 or said[leaders[0]]["state"] != "running":
            raise DockerError(f"leaders: {leaders}")
        leader = said[leaders[0]]
        if "timeline" not in leader:  # its own query took too long
            raise DockerError(f"{leaders[0]} does not tell its timeline")
        for node in standbys:
            state = said[node]["state"], said[node].get("replication_state"), said[node].get("timeline")
            if state != ("running", "streaming", leader["timeline"]):
                raise DockerError(f"{node} is {state}")
        receivers = {
            receiver["application_name"]: receiver["sync_state"]
            for receiver in leader.get("replication", ())
            if receiver["state"] == "streaming"
        }
        if not receivers.keys() >= {*standbys}:
            raise DockerError(f"{leaders[0]} sends to {receivers}")
        sync = {node for node in standbys if receivers[node] == "sync"}
        if sync != {node for node in standbys if said[node].get("sync_standby")} or (
            synchronous is not None and bool(sync) is not synchronous
        ):
            raise DockerError(f"{leaders[0]} waits for {sync}")
        return leaders[0]

    def timeline(self, node: str) -> int:
        """Return a node's timeline, once it tells: Patroni leaves it out when its own query took too long."""
        found: list[int] = []

        def told() -> bool:
            found[:] = [self.say(node).get("timeline", 0)]
            return bool(found[0])

        until(told, f"{node} tells its timeline")
        return found[0]

    def sync_standby(self) -> str:
        """Return the synchronous standby."""
        found = [node for node in NODES if self.say(node).get("sync_standby")]
        if len(found) != 1:
            raise DockerError(f"synchronous standbys: {found}")
        return found[0]

    def pair(self) -> tuple[str, str]:
        """Wait until the cluster is whole; return the leader, and the standby that takes over if that goes."""
        return self.whole(), self.sync_standby()

    def standbys(self) -> tuple[str, ...]:
        """Return the other nodes of a cluster that is whole, the synchronous standby first."""
        leader, sync = self.leader(), self.sync_standby()
        return sync, *(node for node in NODES if node not in (leader, sync))

    def whole(self, *, synchronous: bool | None = True, timeout: float = WHOLE) -> str:
        """Wait until the cluster is whole, etcd's three members too, and return its leader."""
        found: list[str] = []

        def is_whole() -> bool:
            found[:] = [self.leader(synchronous=synchronous)]
            return bool(self.etcd_leader())

        until(is_whole, "a leader with two standbys and three members of etcd", timeout)
        return found[0]

    def etcd_leader(self, members: Iterable[str] = ETCD) -> str:
        """Return the leader of etcd, which is one of some members by the word of each.

        Raises:
            DockerError: there is none, or one does not answer.
        """
        told = {}
        for name in members:
            text = self.execute(name, "etcdctl", "endpoint", "status", "-w", "json", "--dial-timeout=1s")
            told[name] = json.loads(text)[0]["Status"]
        leaders = {status.get("leader") for status in told.values()}
        found = [name for name, status in told.items() if {status["header"]["member_id"]} == leaders]
        if len(found) != 1:
            raise DockerError(f"leaders of etcd: {leaders}")
        return found[0]

    def commits_waiting(self, node: str) -> int:
        """Return how many commits wait at a node for a standby."""
        return int(self.sql(node, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0])

    def configure(self, **settings: object) -> bool:
        """Change Patroni's dynamic configuration, once there is one; return whether that was so."""
        found = False
        # All are told, for who is told looks at once; else a replica waits for the next look of the default, 10 s.
        for node in NODES:
            with contextlib.suppress(DockerError):
                found |= self.ask(node, "/config", settings, "PATCH")[0] == 200
        return found

    def switch_over(self, candidate: str = "") -> str:
        """Have the leader hand over to a standby in order, by the REST API; return what that says."""
        body = {"leader": self.whole(), **({"candidate": candidate} if candidate else {})}
        return self._do(body["leader"], "/switchover", body)

    def fail_over(self, candidate: str) -> str:
        """Have a standby take over, by the REST API; return what that says."""
        return self._do(candidate, "/failover", {"candidate": candidate})

    def restart(self, node: str) -> str:
        """Restart a node's PostgreSQL, by the REST API."""
        return self._do(node, "/restart", {})

    def synchronous(self, mode: str) -> None:
        """Run docker/patroni/synchronous."""
        script(self.project, "patroni/synchronous", mode)

    def rejoin(self, node: str) -> None:
        """Put a node back on the networks that it was taken off."""
        for network in NETWORKS:
            if network not in self.networks(node):
                self.join(node, network, f"{node}-peer" if network == "replication" else node)

    def deafen(self, node: str, network: str, direction: str) -> None:
        """Drop what comes "in" from a network, or goes "out" to it."""
        form = f'{{{{(index .NetworkSettings.Networks "{self.project}_{network}").IPAddress}}}}'
        address = docker("inspect", "-f", form, self.id(node)).strip()
        hook, side = ("input", "daddr") if direction == "in" else ("output", "saddr")
        rules = f"""
            table ip {TABLE} {{
                chain {hook} {{
                    type filter hook {hook} priority 0
                    ip {side} {address} drop
                }}
            }}
        """
        self.execute(node, "nft", "-f", "-", user="root", stdin=rules)

    def hear(self, node: str) -> None:
        """Drop nothing any more."""
        # The first line makes the table if there is none, so that the second cannot fail.
        self.execute(
            node, "nft", "-f", "-", user="root", stdin=f"table ip {TABLE} {{}}\ndelete table ip {TABLE}\n"
        )

    def repair(self) -> None:
        """Undo whatever was done to containers and networks."""
        for service in (*ETCD, *NODES):
            if (state := self.state(service)) == "paused":
                self.unpause(service)
            elif state != "running":
                self.start(service)
        for node in NODES:
            self.rejoin(node)
            self.hear(node)

    def settle(self, *, timeout: float = WHOLE) -> str:
        """Wait until the cluster is whole, with some help at last, and return its leader."""
        with contextlib.suppress(AssertionError):
            return self.whole(timeout=HELPED)
        for node in NODES:
            with contextlib.suppress(DockerError):
                said = self.say(node)
                if not said["leader"] and said.get("replication_state") != "streaming":
                    self.ask(node, "/reinitialize", {"force": True}, "POST", ASKED)
        return self.whole(timeout=timeout)

    def _do(self, node: str, path: str, body: dict[str, Any]) -> str:
        status, text = self.ask(node, path, body, "POST", ASKED)
        if status != 200:
            raise DockerError(f"{path} {body}: {status} {text}")
        return text


def _open(request: urllib.request.Request, timeout: float) -> Any:
    """Return the answer to a request, whatever its status."""
    try:
        return urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as exc:
        return exc


@contextlib.contextmanager
def running(command: str) -> Iterator[Patroni]:
    """Start a cluster in synchronous mode, with the place for applications; `command` is that of Compose."""
    environment = ports_free(*(f"{node.upper()}{port}" for node in NODES for port in ("", "_API")))
    with project(command, "patroni", "patroni", environment=environment) as containers:
        cluster = Patroni(containers.project)
        try:
            until(lambda: cluster.configure(**SETTINGS), "a configuration to change")
            put_application(cluster, cluster.whole(), HOSTS, "app")
            yield cluster
        finally:
            # Compose would stop them in order, one after the other.
            with contextlib.suppress(DockerError):
                docker("rm", "-f", "-v", *map(cluster.id, (*NODES, *ETCD)))
