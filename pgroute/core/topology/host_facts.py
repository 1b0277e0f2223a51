"""The facts about one host: what its observations add up to, before it is compared with the others."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import NOT_TRIED, FaultKind
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.core.topology.observations import Answer, Listing
from pgroute.core.topology.wal_history import Promotion

if TYPE_CHECKING:
    from pgroute.core.model.advice import HostAdvice
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Failure

BUSY_FOR = 2.5
"""Seconds for which "too many connections" outlives answers on the open probe connection."""

UNPROVEN = 1
"""The tier of a standby that may not follow the primary; see `Facts.tier`."""

NOT_FOR_READS = 4
"""The tier for readers of a host that the adviser keeps them from: only one that may be dead comes later."""

_ALIVE = frozenset({HostState.UP, HostState.SUSPECT, HostState.BUSY})
_TIERS = {HostState.UP: 0, HostState.BUSY: 2, HostState.SUSPECT: 5}
_LOGINS_REFUSED = 3
_REFUSALS = {
    FaultKind.STARTING: HostState.STARTING,
    FaultKind.BUSY: HostState.BUSY,
    FaultKind.REJECTED: HostState.REJECTED,
    FaultKind.NO_CREDENTIALS: HostState.REJECTED,
    FaultKind.SHORTAGE: HostState.REJECTED,
}
"""The faults by which a host shows that it is alive, and the state that each means.

Where nothing was asked of the host, open connections go on, as after a refused login.
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the observations of one host add up to.

    Probes and logins are kept apart: a host that refuses logins may still report, on the probe connection that is
    open, that it is a primary.

    Attributes:
        key: the host.
        probe_state: the result of the last contact, one of the states from UNKNOWN to REJECTED.
        probe_reason: why that is not UP, in words; empty if it is.
        answer: the last answer to a probe.
        reached_timeline: the highest timeline that it told in this run of its postmaster. A standby never goes back to
            a lower one, but tells of it again while it does not stream: its control file is minutes late.
        left_timeline: the one that it told before that, if it has told two in this run.
        last_seen: monotonic seconds of the last answer or refusal, None if there was none.
        silent_since: monotonic seconds at which the first attempt since then was sent, None while the host answers.
        login_state: UP, or BUSY or REJECTED while new connections fail. Only a login that succeeds ends a rejection.
        login_reason: what the host said when it refused a connection; empty while it refuses none.
        login_failed_at: monotonic seconds of that.
        login_tried: the last new connection was not given up for want of credentials or descriptors.
        login_proven_at: monotonic seconds at which the newest probe on a new connection was sent that was answered.
        login_accepted: it has accepted a login at least once.
        sessions_possible: it accepted a login and was neither down nor starting since, so connections may be open.
        observable: the last answer came over a connection that was still open afterwards. False once that one is lost
            and a new one is refused: the host lives, but cannot be asked for its role.
        listing: how it came to be listed.
        missing: the names of the values that it reported once and does not report any more.
        promotion: how it became a primary, if that was seen.
        advice: what the adviser says of it; None: nothing.
    """

    key: HostKey
    probe_state: HostState = HostState.UNKNOWN
    probe_reason: str = "not heard from yet"
    answer: Answer | None = None
    reached_timeline: int | None = None
    left_timeline: int | None = None
    last_seen: float | None = None
    silent_since: float | None = None
    login_state: HostState = HostState.UP
    login_reason: str = ""
    login_failed_at: float = 0.0
    login_tried: bool = True
    login_proven_at: float = -math.inf
    login_accepted: bool = False
    sessions_possible: bool = False
    observable: bool = True
    listing: Listing = field(default_factory=Listing)
    missing: tuple[str, ...] = ()
    promotion: Promotion | None = None
    advice: HostAdvice | None = None

    @property
    def role(self) -> HostRole | None:
        """The role that it last reported."""
        return self.answer.role if self.answer else None

    @property
    def timeline(self) -> int | None:
        """The timeline that it last reported."""
        return self.answer.timeline if self.answer else None

    @property
    def system_id(self) -> int | None:
        """The system identifier that it last reported."""
        return self.answer.system_id if self.answer else None

    @property
    def checked(self) -> bool:
        """Whether the host answered, refused or timed out at least once."""
        return self.probe_state is not HostState.UNKNOWN

    @property
    def reporting(self) -> bool:
        """Whether its last answer is still true, whether it accepts logins or not."""
        return (
            self.answer is not None and self.observable and self.probe_state in (HostState.UP, HostState.BUSY)
        )

    @property
    def answering(self) -> bool:
        """Whether it is `reporting` and does not refuse logins."""
        return self.reporting and self.login_state is not HostState.REJECTED

    @property
    def state(self) -> HostState:
        """Its state as far as that depends on the host alone."""
        if self.login_state is HostState.REJECTED and self.probe_state in _ALIVE:
            return HostState.REJECTED
        if self.login_state is HostState.BUSY and self.probe_state is HostState.UP:
            return HostState.BUSY
        return self.probe_state

    @property
    def reason(self) -> str:
        """Why it is in this state, in words; empty if it is up."""
        if self.state is self.probe_state:
            return self.probe_reason
        return (
            self.login_reason
            if self.observable
            else f"{self.login_reason}; its role is not watched meanwhile"
        )

    @property
    def locked_out(self) -> bool:
        """Whether it has refused every login so far."""
        return self.state is HostState.REJECTED and self.login_tried and not self.login_accepted

    @property
    def degraded(self) -> str:
        """Which values it does not report any more, and why, in words; empty if none is missing."""
        if not self.missing or self.answer is None:
            return ""
        why = f": {self.answer.reduced}" if self.answer.reduced else ""
        return f"no longer tells its {' and '.join(self.missing)}{why}"

    @property
    def tier(self) -> int | None:
        """Its preference as far as that depends on the host alone: 0 first, None if it cannot serve.

        A host that refuses logins serves with the connections that are open.
        """
        if self.state is not HostState.REJECTED:
            return _TIERS.get(self.state)
        return max(_LOGINS_REFUSED, _TIERS[self.probe_state]) if self.sessions_possible else None


def repeats(facts: Facts, seen: Answer) -> bool:
    """Return whether an answer brings nothing but another position and other times to a host that is up."""
    last = facts.answer
    return (
        last is not None
        and facts.probe_state is facts.login_state is HostState.UP
        and facts.login_accepted
        and facts.sessions_possible
        and facts.observable
        and facts.silent_since is None
        and not facts.missing
        and alike(last, seen)
    )


def alike(last: Answer, seen: Answer) -> bool:
    """Return whether two answers of a host differ in nothing but positions and times."""
    return (
        last.role is seen.role
        and (last.role is HostRole.STANDBY or last.replayed == seen.replayed)
        and (last.read_only, last.timeline, last.system_id, last.started_at, last.address, last.reduced)
        == (seen.read_only, seen.timeline, seen.system_id, seen.started_at, seen.address, seen.reduced)
    )


def repeated(facts: Facts, seen: Answer, now: float) -> Facts:
    """Return the facts after an answer that `repeats` the last one.

    Args:
        facts: those before.
        seen: the answer.
        now: monotonic seconds.
    """
    return replace(facts, answer=seen, last_seen=now, login_proven_at=_proven_at(facts, seen))


def observe(facts: Facts, seen: Answer | Failure, now: float) -> Facts:
    """Return the facts after one more observation of that host.

    Args:
        facts: those before.
        seen: an answer or a failure.
        now: monotonic seconds.
    """
    if isinstance(seen, Answer):
        return _answered(facts, seen, now)
    refusal = _REFUSALS.get(seen.fault.kind)
    # An attempt of a pool may take long: a probe that was sent later may have been answered. An open connection says
    # nothing about new ones.
    if refusal is not None:
        return facts if seen.sent_at < facts.login_proven_at else _refused(facts, seen, refusal, now)
    if facts.answer is not None and seen.sent_at < facts.answer.sent_at:
        return facts
    return _silent(facts, seen)


def _proven_at(facts: Facts, seen: Answer) -> float:
    return max(facts.login_proven_at, seen.sent_at) if seen.fresh else facts.login_proven_at


def _answered(facts: Facts, seen: Answer, now: float) -> Facts:
    login_state, login_reason = facts.login_state, facts.login_reason
    # The open probe connection says nothing about new ones.
    if seen.fresh or (login_state is HostState.BUSY and seen.sent_at >= facts.login_failed_at + BUSY_FOR):
        login_state, login_reason = HostState.UP, ""
    accepts = login_state is not HostState.REJECTED
    same_server = facts.answer is not None and not reborn(facts.answer, seen)
    reached, left = _timelines(facts, seen)
    return replace(
        facts,
        probe_state=HostState.UP,
        probe_reason="",
        answer=seen,
        reached_timeline=reached,
        left_timeline=left,
        last_seen=now,
        silent_since=None,
        login_state=login_state,
        login_reason=login_reason,
        login_proven_at=_proven_at(facts, seen),
        login_accepted=facts.login_accepted or accepts,
        sessions_possible=accepts or (facts.sessions_possible and same_server),
        observable=True,
        missing=_missing(facts, seen),
        promotion=_promotion(facts, seen),
    )


def _timelines(facts: Facts, seen: Answer) -> tuple[int | None, int | None]:
    """Return `reached_timeline` and `left_timeline` after an answer."""
    known, told = facts.reached_timeline, seen.timeline
    if seen.role is HostRole.PRIMARY or known is None or told is None or not _same_run(facts.answer, seen):
        return told, None
    return (told, known) if told > known else (known, facts.left_timeline)


def _promotion(facts: Facts, seen: Answer) -> Promotion | None:
    last = facts.answer
    if seen.role is HostRole.STANDBY or last is None or not _same_run(last, seen):
        return None
    if last.role is HostRole.PRIMARY:
        return facts.promotion
    # A promotion writes the new timeline to the control file a moment before it ends recovery.
    during = facts.reached_timeline is not None and facts.reached_timeline == seen.timeline
    parent = facts.left_timeline if during else facts.reached_timeline
    return None if seen.replayed is None else Promotion(parent, seen.replayed)


def _same_run(last: Answer | None, seen: Answer) -> bool:
    """Return whether both answers are surely from one run of one postmaster."""
    if last is None or seen.started_at is None:
        return False
    return seen.started_at == last.started_at and not replaced(last, seen)


def _missing(facts: Facts, seen: Answer) -> tuple[str, ...]:
    last = facts.answer
    if last is None or None not in (seen.timeline, seen.system_id):
        return ()
    values = (
        ("timeline", last.timeline, seen.timeline),
        ("system identifier", last.system_id, seen.system_id),
    )
    return tuple(
        name
        for name, before, after in values
        if after is None and (before is not None or name in facts.missing)
    )


def _refused(facts: Facts, seen: Failure, state: HostState, now: float) -> Facts:
    login_state, login_reason = facts.login_state, facts.login_reason
    # "Too many connections" is said before the password is checked, so it does not end a rejection.
    if state is HostState.REJECTED or (state is HostState.BUSY and login_state is not HostState.REJECTED):
        login_state, login_reason = state, seen.fault.reason
    tried = seen.fault.kind not in NOT_TRIED
    facts = replace(
        facts,
        last_seen=now if tried else facts.last_seen,
        login_state=login_state,
        login_reason=login_reason,
        login_failed_at=now,
        login_tried=tried,
    )
    if seen.linked and facts.probe_state in _ALIVE:
        return facts
    if login_state is HostState.REJECTED and state is not HostState.STARTING:
        if facts.sessions_possible:
            # The host is alive, and only the connection of the probe is known to be gone.
            return replace(
                facts, probe_state=HostState.UP, probe_reason="", silent_since=None, observable=False
            )
        state = HostState.REJECTED
    return replace(
        facts,
        probe_state=state,
        probe_reason=seen.fault.reason,
        silent_since=None,
        sessions_possible=facts.sessions_possible and state in _ALIVE,
    )


def _silent(facts: Facts, seen: Failure) -> Facts:
    was_up = facts.probe_state in (HostState.UP, HostState.BUSY)
    state = HostState.SUSPECT if was_up and seen.fault.kind is not FaultKind.REFUSED else HostState.DOWN
    return replace(
        facts,
        probe_state=state,
        probe_reason=seen.fault.reason,
        silent_since=seen.sent_at if facts.silent_since is None else facts.silent_since,
        sessions_possible=facts.sessions_possible and state in _ALIVE,
    )


def replaced(was: HostInfo | Answer, seen: Answer) -> bool:
    """Return True if a different or restarted server answered, so that the sessions from before are dead.

    Only values that both report are compared.
    """
    return _differ(was.system_id, seen.system_id) or _differ(was.started_at, seen.started_at)


def _differ(before: object, after: object) -> bool:
    return before is not None and after is not None and before != after


def reborn(was: HostInfo | Answer, seen: Answer) -> bool:
    """Return True if connections made before must not be used any more: the server or what it is has changed."""
    moved = _differ(was.address, seen.address)
    return moved or replaced(was, seen) or (was.role, was.read_only) != (seen.role, seen.read_only)
