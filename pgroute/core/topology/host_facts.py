"""The facts about one host: what its observations add up to, before it is compared with the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.host import HostState
from pgroute.core.topology.observations import Answer, Listing

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Failure


@dataclass(frozen=True, slots=True)
class Facts:
    """What the observations of one host add up to, before it is compared with the others.

    What it tells of itself and whether it lets anybody in are two things: a host that refuses logins may still tell, on
    the connection that was open before, that it is a primary.

    Attributes:
        contact: how the last contact went, one of the states from UNKNOWN to REJECTED.
        silent_since: monotonic seconds at which the first attempt since the host's last word was sent.
        door: UP, or BUSY or REJECTED while new connections fail; only one that succeeds takes a rejection back.
        refusal: the host's words at the door.
        refusal_at: when they were told.
        let_in: it has ever let us in.
        inside: it let us in, and has not been down or started since: connections of then may be open.
        watched: what it last told of itself came over a connection that was still there afterwards. False once that one
            is lost and a new one is refused: the host lives, but nobody can ask it what it is.
        listing: how it came to be listed.
        lost: what it has told once and does not tell any more.
    """

    key: HostKey
    contact: HostState = HostState.UNKNOWN
    reason: str = "not heard from yet"
    answer: Answer | None = None
    last_seen: float | None = None
    silent_since: float | None = None
    door: HostState = HostState.UP
    refusal: str = ""
    refusal_at: float = 0.0
    let_in: bool = False
    inside: bool = False
    watched: bool = True
    listing: Listing = field(default_factory=Listing)
    lost: tuple[str, ...] = ()

    @property
    def heard(self) -> bool:
        """Whether the host answered, refused or timed out at least once."""
        return self.contact is not HostState.UNKNOWN

    @property
    def speaking(self) -> bool:
        """Whether what it last told of itself can be taken as true now, let in or not."""
        return self.answer is not None and self.watched and self.contact in (HostState.UP, HostState.BUSY)

    @property
    def answering(self) -> bool:
        """As `speaking`, and new connections are not refused."""
        return self.speaking and self.door is not HostState.REJECTED

    @property
    def standing(self) -> HostState:
        """Its state as far as it depends on itself alone."""
        if self.door is HostState.REJECTED and self.contact in _TELLING:
            return HostState.REJECTED
        if self.door is HostState.BUSY and self.contact is HostState.UP:
            return HostState.BUSY
        return self.contact

    @property
    def why(self) -> str:
        """The reason of that."""
        if self.standing is self.contact:
            return self.reason
        return self.refusal if self.watched else f"{self.refusal}; its role is not watched meanwhile"

    @property
    def loss(self) -> str:
        """What it does not tell any more, and why, in words."""
        if not self.lost or self.answer is None:
            return ""
        why = f": {self.answer.untold}" if self.answer.untold else ""
        return f"no longer tells its {' and '.join(self.lost)}{why}"


_TELLING = frozenset({HostState.UP, HostState.SUSPECT, HostState.BUSY})

_BUSY_FOR = 2.5
"""Seconds for which "too many connections" outlives answers on the open probe connection."""

_CONTACT = {
    FaultKind.STARTING: HostState.STARTING,
    FaultKind.BUSY: HostState.BUSY,
    FaultKind.REJECTED: HostState.REJECTED,
}


def observe(facts: Facts, seen: Answer | Failure, now: float) -> Facts:
    """Return the facts after one more observation of that host."""
    if isinstance(seen, Answer):
        return _answered(facts, seen, now)
    told = _CONTACT.get(seen.fault.kind)
    last = facts.answer
    if last is not None and seen.sent_at < last.sent_at and (told is None or last.fresh):
        # A pool's attempt that took long: what was asked after it has been answered.
        return facts
    return _silent(facts, seen) if told is None else _refused(facts, seen, told, now)


def _answered(facts: Facts, seen: Answer, now: float) -> Facts:
    door, refusal = facts.door, facts.refusal
    # The open probe connection says nothing about new ones.
    if seen.fresh or (door is HostState.BUSY and seen.sent_at >= facts.refusal_at + _BUSY_FOR):
        door, refusal = HostState.UP, ""
    open_door = door is not HostState.REJECTED
    same = facts.answer is not None and not reborn(facts.answer, seen)
    return replace(
        facts,
        contact=HostState.UP,
        reason="",
        answer=seen,
        last_seen=now,
        silent_since=None,
        door=door,
        refusal=refusal,
        let_in=facts.let_in or open_door,
        inside=open_door or (facts.inside and same),
        watched=True,
        lost=_lost(facts, seen),
    )


def _lost(facts: Facts, seen: Answer) -> tuple[str, ...]:
    """Return what a host has told once and not now."""
    last = facts.answer
    if last is None or None not in (seen.timeline, seen.system_id):
        return ()
    told = (
        ("timeline", last.timeline, seen.timeline),
        ("system identifier", last.system_id, seen.system_id),
    )
    return tuple(
        name for name, before, after in told if after is None and (before is not None or name in facts.lost)
    )


def _refused(facts: Facts, seen: Failure, told: HostState, now: float) -> Facts:
    door, refusal = facts.door, facts.refusal
    # "Too many connections" is said before the password is looked at, and so takes no rejection back.
    if told is HostState.REJECTED or (told is HostState.BUSY and door is not HostState.REJECTED):
        door, refusal = told, seen.fault.reason
    facts = replace(facts, last_seen=now, door=door, refusal=refusal, refusal_at=now)
    if seen.linked and facts.contact in _TELLING:
        return facts
    if door is HostState.REJECTED and told is not HostState.STARTING:
        if facts.inside:
            # Alive, and no word about the connections that are there, but for the probe's, which is gone.
            return replace(facts, contact=HostState.UP, reason="", silent_since=None, watched=False)
        told = HostState.REJECTED
    return replace(
        facts, contact=told, reason=seen.fault.reason, silent_since=None, inside=_stays(facts, told)
    )


def _silent(facts: Facts, seen: Failure) -> Facts:
    missed = seen.fault.kind is not FaultKind.REFUSED and facts.contact in (HostState.UP, HostState.BUSY)
    contact = HostState.SUSPECT if missed else HostState.DOWN
    return replace(
        facts,
        contact=contact,
        reason=seen.fault.reason,
        silent_since=seen.sent_at if facts.silent_since is None else facts.silent_since,
        inside=_stays(facts, contact),
    )


def _stays(facts: Facts, contact: HostState) -> bool:
    """Whether connections that were let in may still be there after a contact that went so."""
    return facts.inside and contact in _TELLING


def replaced(was: HostInfo | Answer, seen: Answer) -> bool:
    """Whether not the server answered that did before, or not since the same start: the sessions of then are dead.

    What one of the two does not tell is not compared.
    """
    told = ((was.system_id, seen.system_id), (was.started_at, seen.started_at))
    return any(None not in pair and pair[0] != pair[1] for pair in told)


def reborn(was: HostInfo | Answer, seen: Answer) -> bool:
    """Whether connections made before can no longer be trusted to be what they were."""
    moved = None not in (was.address, seen.address) and was.address != seen.address
    return replaced(was, seen) or moved or (was.role, was.read_only) != (seen.role, seen.read_only)
