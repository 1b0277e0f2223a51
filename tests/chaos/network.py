"""What can happen between the workers and the servers: the proxies' faults, which never touch the replication."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tests.chaos.faults import Fault, Terms

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

Direction = Literal["to_server", "to_client", "both"]
TARGETS = ("primary", "primary", "standby 1", "standby 2", "standbys", "all")
DIRECTIONS: tuple[Direction, ...] = ("to_server", "to_client", "both")


@dataclass(frozen=True, slots=True)
class Refuse:
    """New connections are refused, and those there are go on, or are ended too."""

    name: ClassVar[str] = "refuse"
    target: str
    existing: Literal["keep", "reset", "disconnect"]
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        existing: Literal["keep", "reset", "disconnect"] = rng.choice(("keep", "reset", "disconnect"))
        return cls(rng.choice(TARGETS), existing, terms.span(rng, 0.2, 4.0))

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for proxy in proxies:
                proxy.refuse(existing=self.existing)
            stage.pause(self.seconds)


@dataclass(frozen=True, slots=True)
class Reset:
    """All connections are reset, or closed, again and again."""

    name: ClassVar[str] = "reset"
    target: str
    cleanly: bool
    times: int
    pause: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        times = rng.randint(1, 3 if terms.brisk else 10)
        return cls(rng.choice(TARGETS), rng.random() < 0.3, times, terms.span(rng, 0.05, 0.5))

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for _ in range(self.times):
                for proxy in proxies:
                    if self.cleanly:
                        proxy.disconnect()
                    else:
                        proxy.reset()
                stage.pause(self.pause)


@dataclass(frozen=True, slots=True)
class Blackhole:
    """Nothing passes in one or both directions; afterwards what was held comes through, or is lost for ever."""

    name: ClassVar[str] = "blackhole"
    target: str
    direction: Direction
    lost: bool
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice(TARGETS), rng.choice(DIRECTIONS), rng.random() < 0.4, terms.span(rng, 0.3, 5.0))

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for proxy in proxies:
                if self.lost:
                    proxy.discard(self.direction)
                else:
                    proxy.blackhole(self.direction)
            stage.pause(self.seconds)
            if self.lost:
                # No stream with a hole in it may go on, which TCP would never deliver.
                for proxy in proxies:
                    proxy.refuse(existing="reset")


@dataclass(frozen=True, slots=True)
class Unreachable:
    """New connection attempts get no answer, as from a host that is switched off; those there are go on or hang."""

    name: ClassVar[str] = "unreachable"
    target: str
    blackhole: bool
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.choice(TARGETS), rng.random() < 0.5, terms.span(rng, 0.3, 5.0))

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for proxy in proxies:
                proxy.hang()
                if self.blackhole:
                    proxy.blackhole()
            stage.pause(self.seconds)


@dataclass(frozen=True, slots=True)
class Slow:
    """Everything comes late, or trickles.

    Attributes:
        delay: seconds in each direction, give or take a half.
        rate: bytes per second, 0 for any number.
    """

    name: ClassVar[str] = "slow"
    target: str
    delay: float
    rate: int
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        delay = rng.choice((0.0, round(rng.uniform(0.005, 0.3), 3)))
        rate = rng.randint(500, 20000) if not delay or rng.random() < 0.3 else 0
        return cls(rng.choice(TARGETS), delay, rate, terms.span(rng, 0.5, 5.0))

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for proxy in proxies:
                if self.delay:
                    proxy.delay(self.delay, jitter=self.delay / 2)
                if self.rate:
                    proxy.throttle(self.rate)
            stage.pause(self.seconds)


@dataclass(frozen=True, slots=True)
class Cut:
    """Connections break in the middle of a message, each after another number of bytes."""

    name: ClassVar[str] = "cut"
    target: str
    direction: Literal["to_server", "to_client"]
    counts: tuple[int, ...]
    pause: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        turns = rng.randint(3, 5 if terms.brisk else 30)
        return cls(
            rng.choice(("primary", "primary", "primary", "all")),
            rng.choice(("to_server", "to_client")),
            tuple(rng.randint(1, 400) for _ in range(turns)),
            round(rng.uniform(0.02, 0.1), 3),
        )

    def play(self, stage: Stage) -> None:
        with stage.faulty(self.target) as proxies:
            for count in self.counts:
                for proxy in proxies:
                    proxy.cut_after(count, self.direction, "reset", times=2)
                stage.pause(self.pause)


@dataclass(frozen=True, slots=True)
class LostCommit:
    """Connections break at a COMMIT: before it reaches the server, after it did, or at its answer."""

    name: ClassVar[str] = "lost commit"
    where: Literal["before", "after", "answer"]
    times: int
    seconds: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        where: Literal["before", "after", "answer"] = rng.choice(("before", "after", "answer"))
        return cls(where, rng.randint(2, 12), terms.span(rng, 0.3, 2.0))

    def play(self, stage: Stage) -> None:
        with stage.faulty("primary") as (proxy,):
            if self.where == "answer":
                # The tag of the CommandComplete that answers it.
                proxy.when(b"COMMIT\0", "to_client", "reset", after_forwarding=False, times=self.times)
            else:
                after = self.where == "after"
                proxy.when(b"COMMIT", "to_server", "reset", after_forwarding=after, times=self.times)
            stage.pause(self.seconds)


@dataclass(frozen=True, slots=True)
class Partition:
    """The workers lose sight of a primary that lives, a standby is promoted, and the old one comes into sight again.

    Attributes:
        blackhole: its connections hang, else they are refused.
        promoted: seconds until the promotion.
        beside: seconds that both are to be seen.
    """

    name: ClassVar[str] = "partition"
    blackhole: bool
    promoted: float
    beside: float

    @classmethod
    def draw(cls, rng: random.Random, terms: Terms) -> Self:
        return cls(rng.random() < 0.6, terms.span(rng, 0.2, 4.0), terms.span(rng, 0, 3.0))

    def play(self, stage: Stage) -> None:
        with contextlib.ExitStack() as stack:
            (proxy,) = stack.enter_context(stage.faulty("primary"))
            if self.blackhole:
                proxy.blackhole()
            else:
                proxy.refuse(existing="reset")
            old = stage.fail_over(after=self.promoted)
            if self.beside:
                stack.close()
                stage.pause(self.beside)
            stage.take_back(old)


NETWORK_FAULTS: tuple[type[Fault], ...] = (
    Refuse,
    Reset,
    Blackhole,
    Unreachable,
    Slow,
    Cut,
    LostCommit,
    Partition,
)
