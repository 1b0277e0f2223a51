"""What happens to servers that stay what they are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tests.chaos.faults import Ending, Terms, end

if TYPE_CHECKING:
    from tests.chaos.stage import Stage


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
