"""A primary and two replicas in containers: what an operator does with them, and how they are broken and repaired."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.chaos.check import Row
from tests.docker.conftest import ports_free, project, put_application
from tests.docker.containers import Containers, DockerError, docker, script, until
from tests.docker.load import rows_of

NODES = ("db1", "db2", "db3")
HOSTS = ",".join(NODES)
NETWORKS = ("clients", "replication")
# A standby that is being copied has a stream, too.
WHOLE = """
    SELECT count(*) = 2 FROM pg_stat_replication
    WHERE state = 'streaming' AND application_name LIKE 'db_'
"""


class Cluster(Containers):
    """The three nodes, with the scripts that an operator has."""

    def script(self, name: str, *arguments: str) -> str:
        """Run a script of docker/primary-replica."""
        return script(self.project, f"primary-replica/{name}", *arguments).strip()

    def primary(self) -> str:
        """Return the node that is no standby."""
        found = [node for node in NODES if self.sql(node, "SELECT pg_is_in_recovery()") == [["f"]]]
        if len(found) != 1:
            raise DockerError(f"primaries: {found}")
        return found[0]

    def whole(self) -> str:
        """Wait until there is a primary with two standbys that stream, and return it."""
        found: list[str] = []

        def is_whole() -> bool:
            found[:] = [self.primary()]
            return self.sql(found[0], WHOLE) == [["t"]]

        try:
            until(is_whole, "a primary with two standbys")
        except AssertionError as exc:
            for node in NODES:
                exc.add_note(f"{node} {self.state(node)}:\n" + "\n".join(self.log(node).splitlines()[-15:]))
            raise
        return found[0]

    def promote(self, node: str = "") -> str:
        """Promote a standby, by default the one that has most, and return it."""
        return self.script("promote", *([node] if node else [])).split()[0]

    def rejoin(self, node: str) -> None:
        """Take a node back as a standby, on all its networks."""
        missing = [network for network in NETWORKS if network not in self.networks(node)]
        if missing and self.state(node) == "running":
            # What it still has to say must not reach anyone.
            self.kill(node)
        for network in missing:
            self.join(node, network, node if network == "clients" else f"{node}-peer")
        self.script("rejoin", node)
        self.whole()

    def synchronous(self, *, on: bool) -> None:
        self.script("synchronous", "on" if on else "off")
        names = [["ANY 1 (db1,db2,db3)" if on else ""]]
        until(
            lambda: all(self.sql(node, "SHOW synchronous_standby_names") == names for node in NODES),
            "the setting at all nodes",
        )

    @contextlib.contextmanager
    def dropping(self, node: str, hook: str, rule: str) -> Iterator[None]:
        """Have a node's kernel drop packets, while it lasts; in a table of its own, for others are Docker's."""
        table = f"add table inet cut; add chain inet cut cut {{ type filter hook {hook} priority 0; }};"
        self.execute(node, "nft", f"{table} add rule inet cut cut {rule}", user="root")
        try:
            yield
        finally:
            self.execute(node, "nft", "delete table inet cut", user="root")

    def slow_down(self, node: str) -> str:
        """Make what a node sends arrive late, and return by what means."""
        means = "netem delay 60ms 20ms", "tbf rate 400kbit burst 2kb latency 300ms"
        said = ""
        for qdisc in means:
            try:
                for device in self.devices(node):
                    self.execute(
                        node, "tc", "qdisc", "add", "dev", device, "root", *qdisc.split(), user="root"
                    )
            except DockerError as exc:
                said = str(exc)
            else:
                return qdisc
        pytest.skip(f"this kernel can slow down nothing: {said}")

    def speed_up(self, node: str) -> None:
        """Undo `slow_down`."""
        for device in self.devices(node):
            self.execute(node, "tc", "qdisc", "del", "dev", device, "root", user="root")

    def devices(self, node: str) -> list[str]:
        """Return the names of a node's interfaces."""
        names = self.execute(node, "ls", "/sys/class/net").split()
        return [name for name in names if name.startswith("eth")]

    def fill_disk(self, node: str) -> None:
        """Leave no room where a node's data is."""
        with contextlib.suppress(DockerError):  # that is how it ends
            self.execute(node, "dd", "if=/dev/zero", "of=/srv/postgresql/filler", "bs=64k")

    def empty_disk(self, node: str) -> None:
        """Undo `fill_disk`, though the node's container may have ended."""
        image = docker("inspect", "-f", "{{.Image}}", self.id(node)).strip()
        volumes = ["run", "--rm", "--network", "none", "--volumes-from", self.id(node)]
        docker(*volumes, image, "rm", "-f", "/srv/postgresql/filler")

    def switch_wal(self, node: str) -> bool:
        """Have a node begin another file of WAL; return whether it lived to tell."""
        try:
            self.sql(node, "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'fill', 'disk')")
        except DockerError:
            return False
        return True

    def waiting_for_standby(self, node: str) -> int:
        """Return how many commits wait at a node for synchronous replication."""
        return int(self.sql(node, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0])

    def rows_only_in(self, old: str, new: str) -> list[Row]:
        """Return what a deposed primary has and its successor has not."""
        have = {row.id for row in rows_of(self, new)}
        return [row for row in rows_of(self, old) if row.id not in have]


@contextlib.contextmanager
def running(command: str) -> Iterator[Cluster]:
    """Start a cluster with synchronous replication, with two places for applications."""
    environment = {"PGROUTE_SYNCHRONOUS": "on", **ports_free("DB1", "DB2", "DB3")}
    with project(command, "primary-replica", "primary-replica", environment=environment) as containers:
        cluster = Cluster(containers.project)
        put_application(cluster, cluster.whole(), HOSTS, "app", "app2")
        yield cluster


def repair(cluster: Cluster) -> None:
    """Wait until it is whole, with synchronous replication."""
    cluster.whole()
    cluster.synchronous(on=True)
