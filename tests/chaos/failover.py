"""What moves the primary: each ends with the old one as a standby of the new."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from tests.chaos.faults import Ending, Terms, end

if TYPE_CHECKING:
    from tests.chaos.stage import Stage


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
