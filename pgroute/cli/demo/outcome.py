"""What a run of the demo came to: the facts, and whether the rows agree with what the writers were told."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute import HostInfo
    from pgroute.cli.demo.load import Account


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, for the timeline.

    Attributes:
        at: monotonic seconds.
        mark: one letter for it.
        label: what it was, in few words.
    """

    at: float
    mark: str
    label: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The facts after a run.

    Attributes:
        fault: its name.
        account: what writers and readers were told.
        found: how often each id is in the table of the last primary.
        began_at, ended_at: of the load (monotonic seconds).
        fault_at: when the fault was caused.
        old_port, new_port: of the primary before, and of the one at the end.
        promoted_at: when a session of nobody's last found it in recovery, None if nothing was promoted.
        moments: what happened, in order.
        hosts: the router's view at the end, with the nodes' names.
    """

    fault: str
    account: Account
    found: Mapping[int, int]
    began_at: float
    ended_at: float
    fault_at: float
    old_port: int
    new_port: int
    promoted_at: float | None
    moments: tuple[Moment, ...]
    hosts: tuple[tuple[str, HostInfo], ...]

    @property
    def moved(self) -> bool:
        """Whether another node is the primary now."""
        return self.old_port != self.new_port

    @property
    def missing(self) -> list[int]:
        """Ids that were acknowledged and are not there."""
        return sorted({ack.id for ack in self.account.acknowledged} - self.found.keys())

    @property
    def doubled(self) -> list[int]:
        """Ids that are there more than once."""
        return sorted(row for row, count in self.found.items() if count > 1)

    @property
    def unaccounted(self) -> list[int]:
        """Ids that are there though their writer was told that they are not."""
        told = {ack.id for ack in self.account.acknowledged} | set(self.account.unknown)
        return sorted(self.found.keys() - told)

    @property
    def last_before(self) -> float | None:
        """When the last write to the old primary was acknowledged, None where the primary stayed."""
        if not self.moved:
            return None
        return max((ack.at for ack in self.account.acknowledged if ack.port == self.old_port), default=None)

    @property
    def first_session(self) -> float | None:
        """When a writer first got a session at the new primary."""
        return min(
            (at for at, port in self.account.sessions if port == self.new_port and at > self.fault_at),
            default=None,
        )

    @property
    def first_after(self) -> float | None:
        """When the first write after the fault was acknowledged, by the new primary where there is one."""
        return min(
            (
                ack.at
                for ack in self.account.acknowledged
                if ack.port == self.new_port and ack.at > self.fault_at
            ),
            default=None,
        )

    @property
    def kept(self) -> bool:
        """Whether writing went on and the rows are those that the writers were told of."""
        wrong = self.missing or self.doubled or self.unaccounted
        return self.first_after is not None and not wrong

    def longest_pause(self, moments: list[float]) -> float | None:
        """Return the longest time between two of the moments, seconds, from the fault on; None for fewer than two."""
        behind = sorted(at for at in moments if at > self.fault_at)
        ahead = [at for at in moments if at <= self.fault_at]
        all_ = [*([max(ahead)] if ahead else []), *behind]
        return max((b - a for a, b in pairwise(all_)), default=None)
