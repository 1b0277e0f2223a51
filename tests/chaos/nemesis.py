"""The sequence of faults: a function of the seed and a few terms, so that a run can be played again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.clients import Crowd, KillWorker, Limit, LockOut, StopWorker, Terminate
from tests.chaos.failover import Crash, Freeze, Overtake, Switchover
from tests.chaos.faults import Fault, Terms
from tests.chaos.network import NETWORK_FAULTS, Blackhole, Cut, Refuse, Reset, Slow
from tests.chaos.servers import AllDown, Flapping, Hang, NoReplica, ReadOnly, Replica, Restart

FAULTS: tuple[type[Fault], ...] = (
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
    LockOut,
    StopWorker,
    KillWorker,
    *NETWORK_FAULTS,
)
OVERLAYS: tuple[type[Fault], ...] = (StopWorker, Terminate, Crowd)
NETWORK_OVERLAYS: tuple[type[Fault], ...] = (Refuse, Reset, Blackhole, Slow, Cut)
"""Faults that may strike while another is played: none touches a server or the replication. Those of the network
not while another of the network is played: the repair of one is the repair of both, and it could come too early.
"""

OVERLAID = 0.3
"""The share of faults that have one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault, from the moment at which all was well.

    Attributes:
        number: from 1.
        calm: seconds that pass before it.
        fault: what happens.
        overlay: what happens at the same time, from `overlay_after` seconds later.
    """

    number: int
    calm: float
    fault: Fault
    overlay: Fault | None = None
    overlay_after: float = 0.0

    def __str__(self) -> str:
        text = f"{self.number:3} {self.fault}"
        return text if self.overlay is None else f"{text} + {self.overlay} after {self.overlay_after:g} s"


def schedule(seed: int, terms: Terms, faults: Sequence[type[Fault]] = FAULTS) -> Iterator[Step]:
    """Yield steps for ever: every fault once in each round, in an order and with figures drawn from the seed."""
    rng = random.Random(seed)
    number = 0
    while True:
        for kind in rng.sample(faults, len(faults)):
            number += 1
            calm = terms.span(rng, 0.1, 1.5)
            fault = kind.draw(rng, terms)
            overlay, overlay_after = None, 0.0
            if rng.random() < OVERLAID:
                others = OVERLAYS if kind in NETWORK_FAULTS else OVERLAYS + NETWORK_OVERLAYS
                overlay = rng.choice([other for other in others if other is not kind]).draw(rng, terms)
                overlay_after = terms.span(rng, 0, 1.0)
            yield Step(number, calm, fault, overlay, overlay_after)
