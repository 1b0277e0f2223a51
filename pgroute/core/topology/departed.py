"""What is known of a server whose address its name has left, and whether the sessions that it has are beyond hope."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.core.schedule import overdue
from pgroute.core.topology.host_facts import Facts, observe, replaced
from pgroute.core.topology.observations import Answer, Failure

if TYPE_CHECKING:
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology


@dataclasses.dataclass(frozen=True, slots=True)
class Departed:
    """A server at an address that its name has left.

    Attributes:
        was: the host as it was when it left, or when its name moved away.
        facts: what was observed of the server since.
        replaced: the last to answer at its address was another one.
    """

    was: HostInfo
    facts: Facts
    replaced: bool = False

    @classmethod
    def start(cls, was: HostInfo) -> Departed:
        """Return what is known before anything was observed: it answered last."""
        return cls(was, Facts(was.key._replace(hostaddr=was.address), HostState.UP))

    @property
    def place(self) -> HostKey:
        """Its name and its address."""
        return self.facts.key

    def observe(self, seen: Answer | Failure, now: float) -> Departed:
        """Return what is known after one more observation at its address.

        Where another server was the last to answer, a refusal is that one's word. The server itself is silent.
        """
        other = replaced(self.was, seen) if isinstance(seen, Answer) else self.replaced
        if other:
            fault = Fault(FaultKind.REFUSED, reason="another server is there")
            seen = Failure(self.place, fault, seen.sent_at)
        return Departed(self.was, observe(self.facts, seen, now), other)

    def hopeless(self, topology: Topology, options: ProbeOptions, now: float) -> str:
        """Return why the sessions in flight there should be aborted now, empty if they should not.

        The rules are those for listed hosts.

        Args:
            topology: tells who serves.
            options: tell `abort_after` and `abort_stale`.
            now: monotonic seconds.
        """
        silent_since = self.facts.silent_since
        if silent_since is not None:
            why = overdue(self.was, silent_since, topology, options, now)
            who = f"the server that was {self.place}" if self.replaced else str(self.place)
            return why and f"{who} {why}"
        primary, answer = topology.primary, self.facts.answer
        if not options.abort_stale or primary is None or answer is None:
            return ""
        theirs, ours = answer.timeline, primary.timeline
        if answer.role is HostRole.PRIMARY and theirs is not None and ours is not None and theirs < ours:
            return f"{self.place} is a stale primary and {primary.key} is the primary"
        return ""
