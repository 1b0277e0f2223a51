"""Which of the listed hosts form the cluster: its system identifier, and the hosts that do not count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.host_facts import Facts
    from pgroute.core.topology.observations import Answer

RELEARN_AFTER = 30.0
"""Seconds of silence from all hosts of the known cluster after which another one may take its place."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The cluster that the hosts belong to.

    Attributes:
        system_id: its system identifier, None until it is learned.
        id_confirmed: more than half of the hosts have reported it.
        last_seen: monotonic seconds at which one of its hosts was last heard.
    """

    system_id: int | None = None
    id_confirmed: bool = False
    last_seen: float = 0.0


class Exclusion(NamedTuple):
    """A host that does not count, and why."""

    state: HostState
    reason: str


def identify(hosts: Sequence[Facts], known: Identity, now: float, *, scanned: bool) -> Identity:
    """Return which cluster the hosts are, by the system identifiers that they report.

    More than half of the hosts decide at any time, a plurality once every host was checked. What was learned stays
    until none of its hosts has been heard for `RELEARN_AFTER`: another cluster at the same names is a mistake, until
    it is all that there is. What a few hosts reported while the others were down gives way to a majority.

    Args:
        hosts: the facts of every listed host.
        known: what was learned before.
        now: monotonic seconds.
        scanned: every host was checked once.
    """
    votes = _votes(hosts, now)
    ranking = votes.most_common(2)
    first, count = ranking[0] if ranking else (None, 0)
    majority = count * 2 > len(hosts)
    tie = len(ranking) > 1 and ranking[1][1] == count
    chosen = first if majority or (scanned and not tie) else None
    last_seen = 0.0
    if known.system_id is not None:
        last_seen = max(known.last_seen, _last_seen(hosts, known.system_id))
        answering = any(f.answering and f.system_id == known.system_id for f in hosts)
        gone = not answering and now - last_seen >= RELEARN_AFTER
        if not (gone or (majority and not known.id_confirmed)):
            chosen = known.system_id
    if chosen is None:
        return known
    same = chosen == known.system_id
    return Identity(
        system_id=chosen,
        id_confirmed=(same and known.id_confirmed) or votes[chosen] * 2 > len(hosts),
        last_seen=last_seen if same else _last_seen(hosts, chosen),
    )


def _votes(hosts: Sequence[Facts], now: float) -> Counter[int]:
    return Counter(
        f.system_id
        for f in hosts
        if f.system_id is not None and (f.answering or now - (f.last_seen or 0.0) < RELEARN_AFTER)
    )


def _last_seen(hosts: Sequence[Facts], system_id: int) -> float:
    return max((f.last_seen or 0.0 for f in hosts if f.system_id == system_id), default=0.0)


def foreign(
    hosts: Sequence[Facts], system_id: int | None, *, scanned: bool, pinned: bool
) -> dict[HostKey, Exclusion]:
    """Return the hosts of other clusters. While two clusters have equal votes, every host that reports one.

    Args:
        hosts: the facts of every listed host.
        system_id: that of the cluster, None if none could be chosen.
        scanned: every host was checked once.
        pinned: the user gave the identifier, so a host that reports none does not count either.
    """
    reporting = [f for f in hosts if f.system_id is not None]
    if system_id is None:
        if not scanned:
            return {}
        names = ", ".join(f"{f.key} is {f.system_id}" for f in reporting)
        text = f"two clusters and no majority ({names}); pin one with ProbeOptions(system_id=...)"
        return {f.key: Exclusion(HostState.FOREIGN, text) for f in reporting}
    out = {}
    for f in hosts:
        if f.answer is None or f.system_id == system_id:
            continue
        if f.system_id is not None:
            text = f"another cluster: system identifier {f.system_id}, expected {system_id}"
        elif pinned:
            text = f"tells no system identifier, expected {system_id}"
            text += f" ({f.answer.reduced})" if f.answer.reduced else ""
        else:
            continue
        out[f.key] = Exclusion(HostState.FOREIGN, text)
    return out


def aliases(hosts: Sequence[Facts]) -> dict[HostKey, Exclusion]:
    """Return the hosts that are a server listed before under another name: one server must not be two primaries.

    The name that counts is the first one through which the server can be used best.
    """
    out: dict[HostKey, Exclusion] = {}
    servers: list[Answer] = []
    for f in sorted(hosts, key=_reluctance):
        if f.answer is None:
            continue
        canonical = next((a for a in servers if _same_server(a, f.answer)), None)
        if canonical is None:
            servers.append(f.answer)
        else:
            out[f.key] = Exclusion(HostState.ALIAS, f"the same server as {canonical.host}")
    return out


def _reluctance(f: Facts) -> int:
    """Return 0 for a host that serves, 1 for one that serves but refuses logins, 2 for one that does not serve."""
    return 2 if f.tier is None else int(f.state is HostState.REJECTED)


def _same_server(a: Answer, b: Answer) -> bool:
    """Return True if the postmaster's start, in microseconds, is the same; if neither reports it, the address.

    Not every role may read the identifier or the start. If the start is known, only that counts: a proxy serves several
    servers at one address, by name (SNI). Copies of a running machine share the start until one of them is promoted.
    """
    if a.role is not b.role or (a.system_id != b.system_id and None not in (a.system_id, b.system_id)):
        return False
    if a.role is HostRole.PRIMARY and a.timeline != b.timeline and None not in (a.timeline, b.timeline):
        return False
    if a.started_at is not None or b.started_at is not None:
        return a.started_at == b.started_at
    return a.address is not None and (a.address, a.host.port) == (b.address, b.host.port)
