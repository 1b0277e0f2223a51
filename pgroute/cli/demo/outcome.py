"""The outcome of a demo run, and whether the rows match the results of the writers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute import HostInfo
    from pgroute.cli.demo.load import Account


@dataclass(frozen=True, slots=True)
class Moment:
    """An event on the timeline.

    Attributes:
        at: in time.monotonic() seconds.
        mark: its letter.
        label: a short description.
    """

    at: float
    mark: str
    label: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run. Times are in time.monotonic() seconds.

    Attributes:
        fault: the name of the fault.
        account: the results of the writers and readers.
        found: the number of rows with each id, in the table of the last primary.
        began_at, ended_at: the begin and end of the load.
        fault_at: the time of the fault.
        old_port, new_port: the ports of the primaries at the start and at the end.
        promoted_at: when the promoted node was last seen in recovery; None if nothing was promoted.
        moments: the events, in order.
        hosts: the hosts as the router sees them at the end, with the names of the nodes.
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
        """Whether another node is the primary at the end."""
        return self.old_port != self.new_port

    @property
    def missing(self) -> list[int]:
        """Ids of acknowledged rows that were not found."""
        return sorted({ack.id for ack in self.account.acknowledged} - self.found.keys())

    @property
    def duplicated(self) -> list[int]:
        """Ids that were found more than once."""
        return sorted(row for row, count in self.found.items() if count > 1)

    @property
    def unexpected(self) -> list[int]:
        """Ids that were found although the write failed."""
        expected = {ack.id for ack in self.account.acknowledged} | set(self.account.unknown)
        return sorted(self.found.keys() - expected)

    @property
    def last_before(self) -> float | None:
        """The time of the last acknowledged write to the old primary; None if the primary stayed."""
        if not self.moved:
            return None
        return max((ack.at for ack in self.account.acknowledged if ack.port == self.old_port), default=None)

    @property
    def first_session(self) -> float | None:
        """The time at which a writer first got a session at the new primary."""
        return min(
            (at for at, port in self.account.sessions if port == self.new_port and at > self.fault_at),
            default=None,
        )

    @property
    def first_after(self) -> float | None:
        """The time of the first acknowledged write after the fault, on the primary of the end."""
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
        """Whether writes continued and the rows match the results of the writers."""
        wrong = self.missing or self.duplicated or self.unexpected
        return self.first_after is not None and not wrong

    def longest_pause(self, moments: list[float]) -> float | None:
        """Return the longest gap between two moments after the fault, in seconds; None for fewer than two."""
        behind = sorted(at for at in moments if at > self.fault_at)
        ahead = [at for at in moments if at <= self.fault_at]
        all_ = [*([max(ahead)] if ahead else []), *behind]
        return max((b - a for a, b in pairwise(all_)), default=None)
