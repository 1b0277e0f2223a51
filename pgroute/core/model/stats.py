"""The counters of the pools."""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgroute.core.model.advice import AdviserInfo
    from pgroute.core.model.durations import DurationCounts
    from pgroute.core.model.roles import HostKey

MEASURES = frozenset({"pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting"})
"""The keys that describe this moment; all others count since the router was opened."""


@dataclass(frozen=True, slots=True)
class RoleStats:
    """The pools of one role.

    Attributes:
        totals: the sums over all hosts, including pools that are closed by now, under the keys of psycopg_pool.
        hosts: the open pool of each host, under the keys of psycopg_pool, `in_use` and `generation`.
    """

    totals: Mapping[str, int]
    hosts: Mapping[HostKey, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class RouterCounts:
    """What has happened since the router was opened.

    Attributes:
        sessions: how many sessions were begun, by role.
        session_errors: how many sessions could not be had, by role and by the name of the error: "NoHostAvailable",
            "PoolExhausted", "SplitBrainError", "PositionLost", "cancelled" if the caller was cancelled or interrupted
            meanwhile, or "other", such as an error of setup. A router that is not open counts none.
        retries: how often a transaction or statement was run again, by cause: "lost", "read-only", "serialization",
            "deadlock", "commit-unknown" or "other".
        commits_unknown: how often a COMMIT ended with an unknown outcome, whether or not ``once=`` found it out later.
        readers_on_primary: readers that the primary has served though a standby was preferred.
        position_waits: how often a standby was asked for its position until it was far enough ("met"), or not
            ("behind"); then the next host was taken.
        position_wait_seconds: seconds that this took.
        failovers: how often writers came to another host than before.
        failover_seconds: seconds without a host to write to in these.
        outages: how often there was no host to write to, and then there was one again.
        without_writer_seconds: seconds without one, in all, this moment included.
        sessions_aborted: sessions in flight that were cut because their host was beyond hope.
        events: how many, by the value of their EventKind.
    """

    sessions: Mapping[str, int] = field(default_factory=dict)
    session_errors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    commits_unknown: int = 0
    readers_on_primary: int = 0
    position_waits: Mapping[str, int] = field(default_factory=dict)
    position_wait_seconds: float = 0.0
    failovers: int = 0
    failover_seconds: float = 0.0
    outages: int = 0
    without_writer_seconds: float = 0.0
    sessions_aborted: int = 0
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchSharing:
    """Who watches a host.

    Attributes:
        mode: "alone": this process, for itself; "shared": this process, which tells others too; "told": another process
            of this user, which tells this one.
        others: how many processes are told by this one.
        reason: why the watch is not shared, in words; empty if it is.
    """

    mode: Literal["alone", "shared", "told"]
    others: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RouterStats:
    """The result of `Router.stats()`.

    Attributes:
        writer: the pools of writers.
        reader: the pools of readers.
        events_dropped: events that were not delivered because subscribers are too slow.
        counts: what has happened to sessions and to the writers' host.
        adviser: what is known of the adviser that `discovery` names; None if there is none.
        watches: who watches each host; empty while the router is not open.
    """

    writer: RoleStats
    reader: RoleStats
    events_dropped: int = 0
    counts: RouterCounts = field(default_factory=RouterCounts)
    adviser: AdviserInfo | None = None
    watches: Mapping[HostKey, WatchSharing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostCounts:
    """The pools of one role to one host, those of earlier generations too.

    Attributes:
        counters: under the keys of psycopg_pool, since the host was listed.
        sizes: of the open pool, likewise; "in_use" are the sessions of all.
        used: how long sessions had their connections.
        created: how long it took to open connections.
    """

    counters: dict[str, int]
    sizes: dict[str, int]
    used: DurationCounts
    created: DurationCounts

    def __add__(self, other: HostCounts) -> HostCounts:
        return HostCounts(
            total([self.counters, other.counters]),
            total([self.sizes, other.sizes]),
            self.used + other.used,
            self.created + other.created,
        )


def since(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Return the counts without those of an earlier moment; what describes this moment is left as it is."""
    left = {key: n if key in MEASURES else n - before.get(key, 0) for key, n in counts.items()}
    return {key: n for key, n in left.items() if n or key in MEASURES}


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of several pools' counters, key by key."""
    counter: Counter[str] = Counter()
    for part in parts:
        counter.update(part)
    return dict(counter)
