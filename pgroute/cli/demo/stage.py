"""One run of the demo: the cluster, the load, the screen, and the steps that faults are made of."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from pgroute import PoolOptions
from pgroute.cli.demo.load import TABLE, TaskLoad, ThreadLoad
from pgroute.cli.demo.outcome import Moment, Outcome
from pgroute.cli.watch import EVENT_STYLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console

    from pgroute import Event, HostState, Topology
    from pgroute.cli.demo.load import Account, Load
    from pgroute.cli.demo.screen import Screen
    from pgroute.testing import LocalCluster, Node

PATIENCE = 15.0
_POLL = 0.01
_WITNESS_POLL = 0.002


class Fault(NamedTuple):
    """A fault of the demo.

    Attributes:
        play: causes and repairs it; returns the primary at the end.
        options: options for the router, besides the sizes of its pools.
    """

    play: Callable[[Stage], Node]
    options: Mapping[str, Any]


class Stage:
    """One run.

    Args:
        console: the console that shows it.
        cluster: the cluster to break; started.
        args: the command's arguments.
        fault: the fault to play.

    Attributes:
        cluster: as given.
        primary: the primary at the start.
        duration: seconds of load.
        promoted_at: when the witness last found the promoted node in recovery, in time.monotonic() seconds.
    """

    def __init__(
        self, console: Console, cluster: LocalCluster, args: argparse.Namespace, fault: Fault
    ) -> None:
        self.cluster = cluster
        self.primary: Node = cluster.primary
        self.duration: float = args.duration
        self.promoted_at: float | None = None
        self._console = console
        self._args = args
        self._fault = fault
        self._names = {f"{node.host}:{node.port}": node.name for node in cluster.nodes}
        self._moments: list[Moment] = []
        self._fault_at = math.inf
        self._began = time.monotonic()
        self._load: Load
        self._screen: Screen

    @property
    def topology(self) -> Topology:
        """The topology of the router."""
        return self._load.topology

    @property
    def account(self) -> Account:
        """The results of the writers and readers."""
        return self._load.account

    def play(self) -> Outcome:
        """Play the run and return its outcome."""
        from pgroute.cli.demo.screen import open_screen

        args, cluster = self._args, self.cluster
        options: dict[str, Any] = {
            **self._fault.options,
            "writer": PoolOptions(max_size=args.writers),
            "reader": PoolOptions(max_size=max(1, args.readers)),
        }
        kind = TaskLoad if args.asynchronous else ThreadLoad
        with kind(cluster.dsn, args.writers, args.readers, options) as load:
            self._load = load
            load.prepare()
            cluster.catch_up()
            self._began = time.monotonic()
            with open_screen(self._console, load, self._names, args, cluster.server.version) as self._screen:
                ways = "tasks" if args.asynchronous else "threads"
                self.say(
                    f"{args.writers} writers and {args.readers} readers ({ways}) start on primary {self.primary.name}"
                )
                load.subscribe(self._tell)
                load.start()
                last = self._fault.play(self)
            hosts = load.topology.hosts
            ended_at = time.monotonic()
        found = last.execute(f"SELECT id, count(*) FROM {TABLE} GROUP BY id")  # noqa: S608
        return Outcome(
            fault=args.fault,
            account=load.account,
            found=dict(found),
            began_at=self._began,
            ended_at=ended_at,
            fault_at=self._fault_at,
            old_port=self.primary.port,
            new_port=last.port,
            promoted_at=self.promoted_at,
            moments=tuple(sorted(self._moments, key=lambda moment: moment.at)),
            hosts=tuple((self._names[str(h.key)], h) for h in hosts),
        )

    def share(self, part: float) -> float:
        """Return the time at which a share of the duration is over."""
        return self._began + self.duration * part

    def state(self, node: Node) -> HostState | None:
        """Return the state of a node in the router's topology."""
        return next((h.state for h in self.topology.hosts if h.port == node.port), None)

    def wait(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> bool:
        """Wait for a condition; return False after the timeout."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def pause(self, *, until: float) -> None:
        """Wait until a time."""
        self.wait(lambda: time.monotonic() >= until, math.inf)

    def most_advanced(self) -> Node:
        """Return the standby that received most WAL: it has all acknowledged writes."""
        received = {
            node: node.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0][0]
            for node in self.cluster.standbys
        }
        return max(received, key=lambda node: received[node])

    @contextmanager
    def witness(self, standbys: tuple[Node, ...]) -> Iterator[None]:
        """Record when a promotion becomes visible to clients, through sessions outside the router.

        The recorded time is the last one at which the node answered that it is in recovery, so durations measured from
        there are upper bounds.
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
                            self.promoted_at = still[node]
                            return
                        still[node] = asked_at

        thread = threading.Thread(target=watch, name="pgroute-demo-witness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def say(self, text: str, style: str | None = None, at: float | None = None) -> None:
        """Show an event."""
        moment = (time.monotonic() if at is None else at) - self._began
        self._screen.tell(f"{moment:6.2f} s", text, style)

    def mark(
        self, label: str, text: str, *, mark: str, style: str | None = "bold", at: float | None = None
    ) -> None:
        """Show an event, and put it on the timeline with a letter and a short label."""
        at = time.monotonic() if at is None else at
        self._moments.append(Moment(at, mark, label))
        self.say(text, style, at)

    def fault(self, label: str, text: str) -> None:
        """Announce the fault, just before causing it."""
        self.mark(label, text, mark="F", style="bold red")
        self._fault_at = self._moments[-1].at

    def _tell(self, event: Event) -> None:
        text = event.text
        for address, name in self._names.items():
            text = text.replace(address, name)
        self.say(f"  router: {text}", EVENT_STYLES.get(event.kind, "dim"), event.at)
