"""`pgroute demo`: a throw-away cluster under load loses its primary, and every acknowledged row is looked for."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg

from pgroute import EventKind, HostState, PoolOptions, Router
from pgroute.cli.errors import CommandError
from pgroute.cli.report import Outcome, show_outcome
from pgroute.cli.terminal import open_console, silence_libraries
from pgroute.cli.workload import SETUP, TABLE, Workload
from pgroute.testing import ClusterError, LocalCluster, Node, ServerNotFound

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.status import Status

    from pgroute import Event

KILL_AT = 0.25
"""The share of the duration after which the primary is killed."""

PROMOTE_AFTER = 1.0
REJOIN_AFTER = 1.5
GIVE_UP_AFTER = 15.0
_POLL = 0.01
_WITNESS_POLL = 0.002
_STYLES = {
    EventKind.PRIMARY_CHANGED: "green",
    EventKind.PRIMARY_LOST: "red",
    EventKind.SPLIT_BRAIN: "red",
    EventKind.STALE_PRIMARY: "red",
}


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    console = open_console()
    clients = args.writers + args.readers
    try:
        cluster = LocalCluster(
            standbys=2,
            version=args.pg_version,
            synchronous=True,
            settings={"max_connections": str(clients + 20)},
        )
        try:
            with console.status("starting a primary and two standbys"):
                cluster.start()
            outcome = Demo(console, cluster, args).play()
        finally:
            cluster.stop()
    except (ServerNotFound, ClusterError) as exc:
        raise CommandError(str(exc)) from exc
    show_outcome(console, outcome)
    return 0 if outcome.kept else 1


class Demo:
    """One run: the load, the fault, the repair and the count."""

    def __init__(self, console: Console, cluster: LocalCluster, args: argparse.Namespace) -> None:
        self._console = console
        self._cluster = cluster
        self._args = args
        self._begun = time.monotonic()
        self._names = {f"{node.host}:{node.port}": node.name for node in cluster.nodes}
        self._promoted_at: float | None = None

    def play(self) -> Outcome:
        """Run it and return what came of it."""
        cluster, args = self._cluster, self._args
        old = cluster.primary
        ports = ", ".join(f"{node.name} :{node.port}" for node in cluster.nodes)
        self._console.print(f"PostgreSQL {cluster.server.version} on {old.host}: {ports}", style="bold")
        router = Router(
            cluster.dsn,
            writer=PoolOptions(max_size=args.writers),
            reader=PoolOptions(max_size=max(1, args.readers)),
        )
        with router:
            with router.writer() as conn:
                conn.execute(SETUP)
            cluster.catch_up()
            self._begun = time.monotonic()
            self._say(f"{args.writers} writers and {args.readers} readers start on primary {old.name}")
            router.subscribe(self._tell)
            with (
                Workload(router, writers=args.writers, readers=args.readers) as load,
                self._console.status("") as status,
            ):
                new = self._break_and_mend(old, router, load, status)
            hosts = router.topology.hosts
        found = cluster.primary.execute(f"SELECT id, count(*) FROM {TABLE} GROUP BY id")  # noqa: S608
        return Outcome(
            load=load,
            found=dict(found),
            old_port=old.port,
            new_port=new.port,
            promoted_at=self._promoted_at,
            hosts=tuple((self._names[str(h.key)], h) for h in hosts),
        )

    def _break_and_mend(self, old: Node, router: Router, load: Workload, status: Status) -> Node:
        wait = self._waiter(load, status)

        def pause(until: float) -> None:
            wait(lambda: time.monotonic() >= until, math.inf)

        begun = self._begun
        pause(begun + self._args.duration * KILL_AT)
        standbys = self._cluster.standbys
        with self._witness(standbys):
            self._say(f"killing {old.name}: SIGKILL to all its processes", "bold red")
            old.kill()
            killed_at = time.monotonic()
            new = self._most_advanced(standbys)
            # Synchronous commits need a standby of the new primary: have it in place before the promotion.
            for other in standbys:
                if other is not new:
                    other.follow(new)
            pause(killed_at + PROMOTE_AFTER)
            self._say(f"promoting {new.name}", "bold")
            self._cluster.promote(new, repoint=False)
            if wait(lambda: self._promoted_at is not None):
                self._say(f"{new.name} has left recovery, says a session outside the router")
            resumed = wait(lambda: any(ack.port == new.port for ack in load.acknowledged))
        if resumed:
            resumed_at = min(ack.at for ack in load.acknowledged if ack.port == new.port)
            self._say(f"first write on {new.name} acknowledged", "green", resumed_at)
            pause(resumed_at + min(REJOIN_AFTER, self._args.duration / 5))
            self._say(f"{old.name} comes back as a standby (pg_rewind)", "bold")
            old.rejoin(new)
            wait(lambda: all(host.state is HostState.UP for host in router.topology.hosts))
            pause(begun + self._args.duration)
        return new

    @staticmethod
    def _most_advanced(standbys: tuple[Node, ...]) -> Node:
        """Return the standby that received most: of the acknowledged writes, which one standby has each, it has all."""
        received = {
            node: node.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0][0] for node in standbys
        }
        return max(received, key=lambda node: received[node])

    @contextmanager
    def _witness(self, standbys: tuple[Node, ...]) -> Iterator[None]:
        """Note when a promotion can be seen by a client, through sessions that no router knows of.

        The moment noted is the last one at which the node still was asked and answered that it is in recovery, so
        what is measured from there is an upper bound.
        """
        end = threading.Event()

        def watch() -> None:
            with ExitStack() as stack:
                conns = {
                    node: stack.enter_context(psycopg.connect(node.conninfo, autocommit=True))
                    for node in standbys
                }
                still = dict.fromkeys(standbys, time.monotonic())
                while not end.wait(_WITNESS_POLL):
                    for node, conn in conns.items():
                        asked_at = time.monotonic()
                        if conn.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                            self._promoted_at = still[node]
                            return
                        still[node] = asked_at

        thread = threading.Thread(target=watch, name="pgroute-demo-witness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    @staticmethod
    def _waiter(load: Workload, status: Status) -> Callable[..., bool]:
        """Return a function that waits for a condition while the last line of the screen tells of the load."""

        def wait(condition: Callable[[], bool], timeout: float = GIVE_UP_AFTER) -> bool:
            deadline = time.monotonic() + timeout
            while not condition():
                if time.monotonic() > deadline:
                    return False
                status.update(f"{len(load.acknowledged)} writes, {len(load.reads)} reads")
                time.sleep(_POLL)
            return True

        return wait

    def _tell(self, event: Event) -> None:
        text = event.text
        for address, name in self._names.items():
            text = text.replace(address, name)
        self._say(f"  router: {text}", _STYLES.get(event.kind, "dim"), event.at)

    def _say(self, text: str, style: str | None = None, at: float | None = None) -> None:
        moment = (time.monotonic() if at is None else at) - self._begun
        self._console.print(
            f"{moment:6.2f} s  {text}", style=style, no_wrap=True, overflow="ellipsis", crop=False
        )
