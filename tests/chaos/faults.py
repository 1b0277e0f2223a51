"""What can happen to servers and workers: each fault is drawn from a Random, and played with its repair."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

import psycopg

from pgroute.testing import Node

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

Ending = Literal["kill", "immediate", "fast"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What faults are drawn from besides the Random.

    Attributes:
        brisk: all waiting is short, for a run of seconds.
        workers: how many there are.
    """

    brisk: bool = False
    workers: int = 2

    def span(self, rng: random.Random, low: float, high: float) -> float:
        """Return a number of seconds between the two; in a brisk run from the lowest tenth."""
        return round(rng.uniform(low, low + (high - low) * (0.1 if self.brisk else 1.0)), 2)


class Fault(Protocol):
    """A fault and its repair; equal ones do the same. When `play` returns, all is as it should be."""

    name: ClassVar[str]

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self: ...

    def play(self, stage: Stage) -> None: ...


@dataclass(frozen=True, slots=True)
class Crash:
    """The primary dies, a standby is promoted, the old one comes back as a standby.

    Attributes:
        how: SIGKILL of all processes, or SIGQUIT.
        promoted: seconds until the promotion.
        held: the numbers of standbys that nothing reaches any more before the crash.
        lag: seconds before the crash from which that is so.
        frozen: the number of a standby that is frozen meanwhile and thawed before the choice, 0 for none.
        back: seconds until the old one comes back.
    """

    name: ClassVar[str] = "crash"
    how: Ending
    promoted: float
    held: tuple[int, ...]
    lag: float
    frozen: int
    back: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(
            how=rng.choice(("kill", "immediate")),
            promoted=terms.span(rng, 0.2, 5.0),
            held=rng.choice(((), (), (1,), (2,), (1, 2))),
            lag=terms.span(rng, 0.1, 1.0),
            frozen=rng.choice((0, 0, 1, 2)),
            back=terms.span(rng, 0, 3.0),
        )

    def play(self, stage: Stage) -> None:
        frozen = stage.standbys[self.frozen - 1] if self.frozen else None
        if self.held:
            stage.hold_back(*(stage.standbys[number - 1] for number in self.held))
            stage.pause(self.lag)
        if frozen is not None:
            frozen.freeze()
            stage.pause(0.1)
        end(stage.primary, self.how)
        if frozen is not None:
            # It may be the one that has everything.
            frozen.thaw()
        old = stage.fail_over(after=self.promoted)
        stage.pause(self.back)
        stage.take_back(old)


@dataclass(frozen=True, slots=True)
class Switchover:
    """The primary is shut down in order, a standby promoted, and the old one is a standby then.

    Attributes:
        promoted: seconds until the promotion.
    """

    name: ClassVar[str] = "switchover"
    promoted: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(promoted=terms.span(rng, 0, 1.0))

    def play(self, stage: Stage) -> None:
        stage.primary.stop("fast")
        stage.take_back(stage.fail_over(after=self.promoted))


@dataclass(frozen=True, slots=True)
class Freeze:
    """The primary hangs, a standby is promoted, and the old one goes on beside it as a stale primary.

    Attributes:
        postmaster_only: its sessions go on all the time, it is new ones that hang.
        promoted: seconds until the promotion.
        thawed: seconds from there until it goes on.
        beside: seconds that it then goes on, 0: it never does, and is killed.
    """

    name: ClassVar[str] = "freeze"
    postmaster_only: bool
    promoted: float
    thawed: float
    beside: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(
            postmaster_only=rng.random() < 0.4,
            promoted=terms.span(rng, 0.2, 4.0),
            thawed=terms.span(rng, 0, 3.0),
            beside=rng.choice((0, terms.span(rng, 0.3, 3.0), terms.span(rng, 0.3, 3.0))),
        )

    def play(self, stage: Stage) -> None:
        stage.primary.freeze(postmaster_only=self.postmaster_only)
        old = stage.fail_over(after=self.promoted)
        stage.pause(self.thawed)
        if self.beside:
            old.thaw()
            stage.pause(self.beside)
        stage.take_back(old)


@dataclass(frozen=True, slots=True)
class Overtake:
    """A standby is promoted beside a primary that lives, which gets no synchronous acknowledgement any more.

    Attributes:
        lag: seconds from the last acknowledgement to the promotion.
        beside: seconds that both live.
    """

    name: ClassVar[str] = "overtake"
    lag: float
    beside: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(lag=terms.span(rng, 0, 1.0), beside=terms.span(rng, 0.3, 4.0))

    def play(self, stage: Stage) -> None:
        old = stage.fail_over(after=self.lag)
        stage.pause(self.beside)
        stage.take_back(old)


@dataclass(frozen=True, slots=True)
class Restart:
    """The primary goes and comes back as what it was.

    Attributes:
        how: of its end.
        down: seconds until it is started again.
    """

    name: ClassVar[str] = "restart"
    how: Ending
    down: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(how=rng.choice(("kill", "immediate", "fast")), down=terms.span(rng, 0, 3.0))

    def play(self, stage: Stage) -> None:
        end(stage.primary, self.how)
        stage.pause(self.down)
        stage.primary.start()
        stage.settle()


@dataclass(frozen=True, slots=True)
class Hang:
    """The primary hangs and goes on, and nobody is promoted.

    Attributes:
        postmaster_only: only new sessions hang.
        seconds: for how long.
    """

    name: ClassVar[str] = "hang"
    postmaster_only: bool
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(postmaster_only=rng.random() < 0.4, seconds=terms.span(rng, 0.3, 5.0))

    def play(self, stage: Stage) -> None:
        stage.primary.freeze(postmaster_only=self.postmaster_only)
        stage.pause(self.seconds)
        stage.primary.thaw()
        stage.settle()


@dataclass(frozen=True, slots=True)
class Replica:
    """A standby goes or hangs, and comes back.

    Attributes:
        number: which, from 1.
        how: of its end, or "freeze".
        seconds: for how long.
        times: how often, with a moment between.
    """

    name: ClassVar[str] = "replica"
    number: int
    how: Ending | Literal["freeze"]
    seconds: float
    times: int = 1

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        how: Ending | Literal["freeze"] = rng.choice(("kill", "immediate", "fast", "freeze", "freeze"))
        return cls(number=rng.choice((1, 2)), how=how, seconds=terms.span(rng, 0.2, 4.0))

    def play(self, stage: Stage) -> None:
        node = stage.standbys[self.number - 1]
        for turn in range(self.times):
            if turn:
                stage.pause(self.seconds)
            if self.how == "freeze":
                node.freeze()
                stage.pause(self.seconds)
                node.thaw()
            else:
                end(node, self.how)
                stage.pause(self.seconds)
                node.start()
        stage.settle()


class Flapping(Replica):
    """A standby goes and comes back again and again."""

    __slots__ = ()
    name: ClassVar[str] = "flapping"

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        times = rng.randint(2, 2 if terms.brisk else 6)
        how: Ending = rng.choice(("kill", "immediate", "fast"))
        return cls(number=rng.choice((1, 2)), how=how, seconds=terms.span(rng, 0.1, 0.5), times=times)


@dataclass(frozen=True, slots=True)
class NoReplica:
    """Both standbys hang, so no commit is acknowledged; whoever waits for that may be interrupted.

    Attributes:
        interrupted: what is done to them every moment.
        seconds: for how long.
    """

    name: ClassVar[str] = "no replica"
    interrupted: Literal["not", "cancel", "terminate"]
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice(("not", "cancel", "terminate")), terms.span(rng, 0.3, 3.0))

    def play(self, stage: Stage) -> None:
        for node in stage.standbys:
            node.freeze()
        stage.pause(self.seconds / 2)
        if self.interrupted != "not":
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            stage.primary.execute(f"SELECT pg_{self.interrupted}_backend(pid) FROM ({waiting}) w")
        stage.pause(self.seconds / 2)
        for node in stage.standbys:
            node.thaw()
        stage.settle()


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
class ReadOnly:
    """The primary is told that transactions are read-only by default, and told otherwise later."""

    name: ClassVar[str] = "read-only"
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(terms.span(rng, 0.3, 4.0))

    def play(self, stage: Stage) -> None:
        stage.primary.execute("ALTER SYSTEM SET default_transaction_read_only TO on")
        stage.primary.execute("SELECT pg_reload_conf()")
        stage.pause(self.seconds)
        stage.primary.execute("ALTER SYSTEM RESET default_transaction_read_only")
        stage.primary.execute("SELECT pg_reload_conf()")


@dataclass(frozen=True, slots=True)
class AllDown:
    """All servers end and come back as what they were.

    Attributes:
        how: of their end.
        down: seconds until they are started again.
        last: the primary is started last, not first.
    """

    name: ClassVar[str] = "all down"
    how: Ending
    down: float
    last: bool

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice(("kill", "immediate", "fast")), terms.span(rng, 0.2, 5.0), rng.random() < 0.5)

    def play(self, stage: Stage) -> None:
        order = [stage.primary, *stage.standbys]
        for node in order:
            end(node, self.how)
        stage.pause(self.down)
        for node in reversed(order) if self.last else order:
            node.start()
        stage.settle()


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


SERVER_FAULTS: tuple[type[Fault], ...] = (
    Crash,
    Switchover,
    Freeze,
    Overtake,
    Restart,
    Hang,
    Replica,
    Flapping,
    NoReplica,
    Terminate,
    ReadOnly,
    AllDown,
    Crowd,
    Limit,
    StopWorker,
    KillWorker,
)


def end(node: Node, how: Ending) -> None:
    """End a server in one of three ways."""
    if how == "kill":
        node.kill()
    else:
        node.stop(how)
