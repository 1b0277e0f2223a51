"""What happens to sessions and to the processes that have them."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import psycopg

from pgroute.testing import Node
from tests.chaos.faults import Terms

if TYPE_CHECKING:
    from tests.chaos.stage import Stage


@dataclass(frozen=True, slots=True)
class Terminate:
    """Sessions are ended by the administrator.

    Attributes:
        target: at which nodes.
        shares: which session at each turn, as a share of their number; None: all at once.
        pause: seconds between two turns.
    """

    name: ClassVar[str] = "terminate"
    target: str
    shares: tuple[float | None, ...]
    pause: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        turns = rng.randint(5, 10 if terms.brisk else 60)
        return cls(
            target=rng.choice(("primary", "primary", "all")),
            shares=(None,) if rng.random() < 0.4 else tuple(round(rng.random(), 3) for _ in range(turns)),
            pause=round(rng.uniform(0.01, 0.1), 3),
        )

    def play(self, stage: Stage) -> None:
        for share in self.shares:
            for node in stage.nodes(self.target):
                stage.terminate(node, share=share)
            stage.pause(self.pause)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Somebody else takes all connections that a node has, while those of the workers are ended.

    Attributes:
        target: at which nodes.
        seconds: for how long.
        shares: which session of the workers is ended at each turn.
    """

    name: ClassVar[str] = "crowd"
    target: str
    seconds: float
    shares: tuple[float, ...]

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        shares = tuple(round(rng.random(), 3) for _ in range(rng.randint(2, 10)))
        return cls(rng.choice(("primary", "standby 1", "all")), terms.span(rng, 0.5, 4.0), shares)

    def play(self, stage: Stage) -> None:
        with contextlib.ExitStack() as stack:
            for share in self.shares:
                for node in stage.nodes(self.target):
                    self._fill(node, stack, stage)
                    stage.terminate(node, share=share)
                stage.pause(self.seconds / len(self.shares))

    @staticmethod
    def _fill(node: Node, stack: contextlib.ExitStack, stage: Stage) -> None:
        """Take what is left of a node's connections; as an overlay of another fault it may be away."""
        conninfo = stage.conninfo(node)
        while not stage.over.is_set() and node.running and not node.frozen:
            try:
                conn = psycopg.connect(f"{conninfo} application_name=pressure connect_timeout=2")
            except psycopg.OperationalError:
                return
            stack.callback(conn.close)


@dataclass(frozen=True, slots=True)
class Limit:
    """The workers' role is allowed few connections, and those that it has are ended.

    Attributes:
        connections: how many it is allowed.
        seconds: for how long.
    """

    name: ClassVar[str] = "limit"
    connections: int
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice((0, 1, 3, 6)), terms.span(rng, 0.3, 4.0))

    def play(self, stage: Stage) -> None:
        stage.limit_connections(self.connections)
        for node in stage.nodes("all"):
            stage.terminate(node)
        stage.pause(self.seconds)
        stage.limit_connections(-1)


@dataclass(frozen=True, slots=True)
class LockOut:
    """The workers' role may not log in any more, and the sessions that it has are ended.

    Attributes:
        seconds: for how long.
    """

    name: ClassVar[str] = "lock out"
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(terms.span(rng, 0.3, 4.0))

    def play(self, stage: Stage) -> None:
        stage.allow_login(allowed=False)
        for node in stage.nodes("all"):
            stage.terminate(node)
        stage.pause(self.seconds)
        stage.allow_login(allowed=True)


@dataclass(frozen=True, slots=True)
class StopWorker:
    """A worker process is stopped for some seconds and goes on.

    Attributes:
        place: which worker.
        seconds: for how long.
    """

    name: ClassVar[str] = "stop worker"
    place: int
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.randrange(terms.workers), terms.span(rng, 0.3, 5.0))

    def play(self, stage: Stage) -> None:
        stage.crew.stop(self.place)
        stage.pause(self.seconds)
        stage.crew.resume(self.place)


@dataclass(frozen=True, slots=True)
class KillWorker:
    """A worker process is killed, and another takes its place."""

    name: ClassVar[str] = "kill worker"
    place: int

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.randrange(terms.workers))

    def play(self, stage: Stage) -> None:
        stage.crew.replace(self.place)
