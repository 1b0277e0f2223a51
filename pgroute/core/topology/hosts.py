"""What is known of one host: the observations that arrive, the facts they leave, the view that users read."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.roles import HostKey, HostRole


class HostState(enum.Enum):
    """How a host stands: the last contact with it, overruled by the arbitration between hosts.

    Attributes:
        UNKNOWN: not heard from yet.
        UP: answers.
        SUSPECT: was up, and failed one probe; serves only if no other can.
        DOWN: refuses connections, or failed two probes in a row.
        STARTING: starting up or shutting down.
        BUSY: has no connection left for us, or takes no new one; serves only after hosts that are up.
        REJECTED: refuses the credentials, the database or TLS; serves on with the connections that were let in before.
        STALE: an old primary, on a lower timeline than one that was seen.
        CONFLICT: one of several primaries between which nothing decides.
        FOREIGN: belongs to another cluster than the others, or tells no system identifier where one is pinned.
        ALIAS: the same server as a host listed before.
        DRAINING: its name has left the address where sessions are still in flight; no host of a Topology is.
    """

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    STARTING = "starting"
    BUSY = "busy"
    REJECTED = "rejected"
    STALE = "stale"
    CONFLICT = "conflict"
    FOREIGN = "foreign"
    ALIAS = "alias"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Answer:
    """A host answered a probe.

    Attributes:
        host: which one.
        role: primary or standby.
        read_only: a fresh session there would be read-only by default.
        timeline: of a primary, the one it writes; of a standby, a lower bound; None if not told.
        lsn: bytes written (primary) or replayed (standby), None if not told.
        replay_age: seconds since the last transaction replayed, standbys only.
        system_id: the cluster's system identifier.
        started_at: the postmaster's start, seconds since the epoch.
        address: the numeric address or socket directory that answered.
        rtt: seconds that the probe took.
        sent_at: monotonic seconds at which it was sent.
        fresh: it was asked on a connection opened for it.
        server_version: as libpq gives it, 180001 for 18.1.
        untold: why it was asked for less than all, in the server's words; empty if it was not.
    """

    host: HostKey
    role: HostRole
    sent_at: float
    read_only: bool = False
    timeline: int | None = None
    lsn: int | None = None
    replay_age: float | None = None
    system_id: int | None = None
    started_at: float | None = None
    address: str | None = None
    rtt: float = 0.0
    fresh: bool = False
    server_version: int = 0
    untold: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe failed, or a pool's login was turned down; `sent_at` as in Answer, or when connecting began.

    A pool's attempt that nobody answered is no Failure but a reason to probe: many of them may end at once.
    `linked`: it was an attempt at a new connection, while the probe's open one goes on.
    """

    host: HostKey
    fault: Fault
    sent_at: float
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """How a host came to be listed.

    Attributes:
        origin: the name behind it, as "SRV _postgresql._tcp.example.com"; empty for one of the DSN itself.
        priority: hosts of the lowest are chosen as long as one of them can serve.
        weight: its share among those of equal priority.
        note: what is wrong with the lookup of its name, while the last good answer serves.
        addresses: how many of one family its name has, which are taken to be those of one server.
    """

    origin: str = ""
    priority: int = 0
    weight: float = 1.0
    note: str = ""
    addresses: int = 1


@dataclass(frozen=True, slots=True)
class Members:
    """The list of hosts is now this one; a host without a listing is one of the DSN itself."""

    hosts: tuple[HostKey, ...]
    listings: Mapping[HostKey, Listing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForgetTimeline:
    """The operator says that the highest timeline seen is no longer the truth."""


Observation = Answer | Failure | Members | ForgetTimeline


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
    listing: Listing = Listing()
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


@dataclass(frozen=True, slots=True)
class HostInfo:
    """One host of a Topology, as the router sees it.

    Attributes:
        key: its HostKey; `host` and `port` are parts of it.
        state: how it stands.
        reason: why it is not simply up, in words; empty if it is.
        usable: sessions may be sent there.
        since: monotonic seconds since when it is in this state.
        generation: grows whenever pooled connections to it must no longer be used.
        address: numeric address or socket directory last reached; None if none was.
        role: primary or standby; None while not known.
        read_only: a fresh session would be read-only by default.
        timeline: of a standby a lower bound; None if not told.
        lag_bytes: bytes of WAL written by the primary and not replayed here, at the last probes; None if not known.
        lag_seconds: age in seconds of the newest position of the primary, of those seen by the watch, that is replayed
            here; 0 when the last one is. None if not known.
        rtt: seconds the last probe took.
        last_seen: monotonic seconds of the last word from it, None if never.
        silent_since: monotonic seconds of the first attempt since its last word, None while it answers.
        system_id: the cluster's system identifier; None if not told.
        started_at: the postmaster's start, seconds since the epoch; None if not told.
        server_version: as libpq gives it, 180001 for 18.1; 0 if not known.
        origin: the name by which it came to be listed, empty for one of the DSN itself.
        untold: which of timeline and system identifier it has told once and does not tell any more, and why, in words;
            empty if there is nothing.
    """

    key: HostKey
    state: HostState
    reason: str
    usable: bool
    since: float
    generation: int
    address: str | None = None
    role: HostRole | None = None
    read_only: bool = False
    timeline: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    rtt: float | None = None
    last_seen: float | None = None
    silent_since: float | None = None
    system_id: int | None = None
    started_at: float | None = None
    server_version: int = 0
    origin: str = ""
    untold: str = ""

    @property
    def host(self) -> str:
        """The host name, address or socket directory as given in the DSN."""
        return self.key.host

    @property
    def port(self) -> int:
        """The port."""
        return self.key.port


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
