"""`python -m tests.docker.chaos`: a seeded run against Patroni in synchronous mode, which decides who is primary."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from rich.console import Console

from tests.chaos.check import History, Violation, Wrong, check
from tests.chaos.faults import Terms
from tests.chaos.nemesis import Step
from tests.chaos.report import show
from tests.chaos.run import Game, Plan, Result
from tests.docker.containers import BUILD, NO_COMPOSE, ROOT, DockerError, find_compose
from tests.docker.load import Workers, rows_of
from tests.docker.patroni import ETCD, HOSTS, NETWORKS, NODES, Patroni, running

FACES = ("sync", "async", "sync", "async")
"""The first two use plain sessions, the others `run`; the first and the last have the default options."""

WRITERS, READERS = 3, 2

RECOVERY = 30.0
"""Seconds after a repair within which every writer must have written again."""

OVERLAID = 0.2
"""The share of faults beside which another one strikes."""

Place = Literal["leader", "replica 1", "replica 2"]
"""Replica 1 is the synchronous standby."""

PLACES: tuple[Place, ...] = ("leader", "leader", "replica 1", "replica 2")
WORKERS = "usename = 'app' AND application_name NOT LIKE '%monitor'"
STEPS = 1000
"""More than any run plays."""


class Scene:
    """What a fault acts on.

    Args:
        cluster: whole.
        crew: the workers.
        say: told what is done, one line each.
    """

    def __init__(self, cluster: Patroni, crew: Workers, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.crew = crew
        self.say = say
        self.over = threading.Event()

    def node(self, place: Place) -> str:
        """Return the node that a fault names, of a cluster that is whole."""
        nodes = self.cluster.leader(), *self.cluster.standbys()
        return nodes[("leader", "replica 1", "replica 2").index(place)]

    def pause(self, seconds: float) -> None:
        """Let time pass, unless the run is over."""
        self.over.wait(seconds)

    def ask(self, do: Callable[..., str], *arguments: str) -> None:
        """Ask Patroni for something, which it may refuse."""
        try:
            self.say(do(*arguments))
        except DockerError as exc:
            self.say(str(exc))

    def repair(self) -> None:
        """Undo what was done, and wait until the cluster is whole."""
        begun = time.monotonic()
        self.cluster.repair()
        leader = self.cluster.settle()
        timeline = self.cluster.timeline(leader)
        self.say(f"whole after {time.monotonic() - begun:.1f} s: {leader} leads, timeline {timeline}")


class Fault(Protocol):
    """A fault and its repair; equal ones do the same. When `play` returns, the cluster is whole."""

    name: ClassVar[str]

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self: ...

    def play(self, scene: Scene) -> None: ...


@dataclass(frozen=True, slots=True)
class Kill:
    """A node's container is killed, and started again some seconds later, before or after a failover."""

    name: ClassVar[str] = "kill"
    place: Place
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice(PLACES), terms.span(rng, 0.5, 30.0))

    def play(self, scene: Scene) -> None:
        scene.cluster.kill(scene.node(self.place))
        scene.pause(self.seconds)
        scene.repair()


@dataclass(frozen=True, slots=True)
class KillEtcd:
    """Members of etcd are killed: one, its leader perhaps, or all."""

    name: ClassVar[str] = "etcd"
    which: Literal["leader", "another", "all"]
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        which: Literal["leader", "another", "all"] = rng.choice(("leader", "another", "all"))
        return cls(which, terms.span(rng, 0.5, 12.0))

    def play(self, scene: Scene) -> None:
        leader = scene.cluster.etcd_leader()
        another = ETCD[(ETCD.index(leader) + 1) % len(ETCD)]
        scene.cluster.kill(*{"leader": [leader], "another": [another], "all": ETCD}[self.which])
        scene.pause(self.seconds)
        scene.repair()


@dataclass(frozen=True, slots=True)
class Pause:
    """A node stands still, sometimes until another has taken over, and goes on as if nothing had been."""

    name: ClassVar[str] = "pause"
    place: Place
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        long = rng.random() < 0.5
        return cls(rng.choice(PLACES), terms.span(rng, 21.0, 30.0) if long else terms.span(rng, 0.5, 8.0))

    def play(self, scene: Scene) -> None:
        scene.cluster.pause(scene.node(self.place))
        scene.pause(self.seconds)
        scene.repair()


@dataclass(frozen=True, slots=True)
class Switchover:
    """The leader hands over in order."""

    name: ClassVar[str] = "switchover"
    chosen: bool

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:  # noqa: ARG003
        return cls(rng.random() < 0.5)

    def play(self, scene: Scene) -> None:
        scene.ask(scene.cluster.switch_over, *([scene.node("replica 1")] if self.chosen else []))
        scene.repair()


@dataclass(frozen=True, slots=True)
class Failover:
    """The synchronous standby is told to take over."""

    name: ClassVar[str] = "failover"

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:  # noqa: ARG003
        return cls()

    def play(self, scene: Scene) -> None:
        scene.ask(scene.cluster.fail_over, scene.node("replica 1"))
        scene.repair()


@dataclass(frozen=True, slots=True)
class Partition:
    """A node is cut off from some networks, and comes back with whatever address it is given."""

    name: ClassVar[str] = "partition"
    place: Place
    networks: tuple[str, ...]
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        networks = rng.choice([*((network,) for network in NETWORKS), ("dcs", "replication"), NETWORKS])
        return cls(rng.choice(PLACES), networks, terms.span(rng, 1.0, 30.0))

    def play(self, scene: Scene) -> None:
        scene.cluster.cut(scene.node(self.place), *self.networks)
        scene.pause(self.seconds)
        scene.repair()


@dataclass(frozen=True, slots=True)
class OneWay:
    """What comes to a node from a network is lost, or what it sends there, while the other direction works."""

    name: ClassVar[str] = "one way"
    place: Place
    network: str
    direction: Literal["in", "out"]
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        direction: Literal["in", "out"] = rng.choice(("in", "out"))
        return cls(rng.choice(PLACES), rng.choice(NETWORKS), direction, terms.span(rng, 1.0, 30.0))

    def play(self, scene: Scene) -> None:
        scene.cluster.deafen(scene.node(self.place), self.network, self.direction)
        scene.pause(self.seconds)
        scene.repair()


@dataclass(frozen=True, slots=True)
class Restart:
    """A node's PostgreSQL is restarted."""

    name: ClassVar[str] = "restart"
    place: Place

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:  # noqa: ARG003
        return cls(rng.choice(PLACES))

    def play(self, scene: Scene) -> None:
        scene.ask(scene.cluster.restart, scene.node(self.place))
        scene.repair()


@dataclass(frozen=True, slots=True)
class Terminate:
    """The workers' sessions are ended, all at each node, some times."""

    name: ClassVar[str] = "terminate"
    times: int
    pause: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.randint(1, 5), terms.span(rng, 0.1, 1.0))

    def play(self, scene: Scene) -> None:
        for _ in range(self.times):
            for node in NODES:
                # It may be out because of another fault.
                with contextlib.suppress(DockerError):
                    scene.cluster.sql(
                        node, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {WORKERS}"
                    )
            scene.pause(self.pause)


FAULTS: tuple[type[Fault], ...] = (
    Kill,
    KillEtcd,
    Pause,
    Switchover,
    Failover,
    Partition,
    OneWay,
    Restart,
    Terminate,
)


def schedule(seed: int, terms: Terms, faults: Sequence[type[Fault]] = FAULTS) -> Iterator[Step]:
    """Yield steps for ever: every fault once in each round, in an order and with figures drawn from the seed."""
    rng = random.Random(seed)
    numbers = itertools.count(1)
    while True:
        for kind in rng.sample(faults, len(faults)):
            calm, fault = terms.span(rng, 0.1, 1.5), kind.draw(rng, terms)
            overlay, after = Terminate.draw(rng, terms), terms.span(rng, 0, 5.0)
            shown = rng.random() < OVERLAID and kind is not Terminate
            # They play on another stage than those that the step was made for.
            yield Step(next(numbers), calm, fault, overlay if shown else None, after if shown else 0.0)  # type: ignore[arg-type]


class Clients(Workers):
    """The worker processes: with plain sessions and with `run`, with the default options and with quick ones."""

    def _command(self, number: int, place: int) -> list[str]:
        command = ["tests.chaos.worker", "--process", str(number), "--journal", "-"]
        command += ["--writers", str(self._writers), "--readers", str(self._readers)]
        return [*command, *(["--run"] if place >= 2 else []), *(["--quick"] if place in (1, 2) else [])]


def play(cluster: Patroni, plan: Plan, folder: Path, say: Callable[[str], None]) -> Result:
    """Play a plan with a cluster that is whole, whose tables are empty, and judge it."""
    begun = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun:7.2f} s  {text}")

    dsn = f"postgresql://app:{cluster.password}@{HOSTS}/app"
    with Clients(cluster, "app", dsn, folder, plan.faces, writers=plan.writers, readers=plan.readers) as crew:
        game = Game(plan, Scene(cluster, crew, tell))  # type: ignore[arg-type]  # another stage, for faults of its own
        game.play()
        late = crew.dismiss(plan.recovery)
    history = History.of(crew.records, rows_of(cluster, cluster.settle()), (), zero_loss=True)
    verdict = check(history)
    stuck = [*game.stuck, *(Violation(Wrong.STUCK, text) for text in late)]
    verdict = replace(verdict, violations=(*stuck, *verdict.violations))
    return Result(history, verdict, tuple(game.played), time.monotonic() - begun)


def plan_of(
    seed: int,
    seconds: float,
    *,
    faults: Sequence[type[Fault]] = FAULTS,
    steps: int = STEPS,
    brisk: bool = False,
) -> Plan:
    """Return what to run."""
    script = tuple(itertools.islice(schedule(seed, Terms(brisk=brisk), faults), steps))
    return Plan(
        seed=seed,
        seconds=seconds,
        faces=FACES,
        writers=WRITERS,
        readers=READERS,
        script=script,
        recovery=RECOVERY,
    )


def keep(target: Path, folder: Path, cluster: Patroni) -> None:
    """Copy the workers' journals and logs, and the servers' logs."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.copy(path, target)
    for service in (*NODES, *ETCD):
        (target / f"{service}.log").write_text(cluster.log(service))


def main() -> int:
    by_name = {fault.name: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(prog="python -m tests.docker.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="no fault begins later (default: 600)")
    parser.add_argument("--steps", type=int, default=STEPS, help="faults, at most (default: any number)")
    parser.add_argument("--seed", type=int, help="of the sequence of faults (default: a random one)")
    parser.add_argument("--fault", action="append", choices=tuple(by_name), help="only this kind; repeatable")
    parser.add_argument("--brisk", action="store_true", help="all waiting is short")
    parser.add_argument("--keep", type=Path, help="a folder for journals and logs (default: none are kept)")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleared away
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    faults = tuple(by_name[name] for name in args.fault) if args.fault else FAULTS
    plan = plan_of(seed, args.seconds, faults=faults, steps=args.steps, brisk=args.brisk)
    console = Console(width=120)
    console.print(f"seed {seed}: {' '.join(sys.argv[1:])}", markup=False, highlight=False)
    command = find_compose()
    if command is None:
        parser.error(NO_COMPOSE)
    subprocess.run([ROOT / "docker" / "build"], check=True, capture_output=True, timeout=BUILD)
    try:
        with tempfile.TemporaryDirectory(prefix="pgroute-chaos-") as name, running(command) as cluster:
            folder = Path(name)
            try:
                result = play(cluster, plan, folder, lambda text: print(text, flush=True))
            finally:
                if args.keep is not None:
                    keep(args.keep, folder, cluster)
    except KeyboardInterrupt:
        return 130
    show(console, result)
    console.print(f"seed {seed}", highlight=False)
    return 1 if result.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
