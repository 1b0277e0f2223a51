"""What a fault is: drawn from a Random, and played with its repair."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

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


def end(node: Node, how: Ending) -> None:
    """End a server in one of three ways."""
    if how == "kill":
        node.kill()
    else:
        node.stop(how)
