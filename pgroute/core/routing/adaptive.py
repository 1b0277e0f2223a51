"""The policy "adaptive": near hosts first, and of two of them the less busy one."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey

WINDOW = 2.0
SLACK = 0.001
"""A host is near if its latency is at most WINDOW times that of the fastest, and SLACK seconds.

Measured on three equal standbys on one machine, smoothed as below: the slowest took 1.2 times as long as the fastest
(1.7 times in one of 100 samples), 1.3 times under load (2.2 times), and none ever left this window. Only with both
processors saturated one did, in 16 % of the samples, and there the load decides anyway. The slack is what a second data
centre of the same region is further away: that alone is no reason to leave a host idle.
"""

_PROBE_SHARE = 0.3
"""What the newest probe counts for. One probe that takes six times as long changes nothing; a host that slows down
tenfold has left the window after one or two."""

_ACQUIRE_SHARE = 0.05
"""What the newest session counts for: one that waited 10 ms for its connection to be opened adds 0.5 ms."""

_FORGET = 0.5
"""What is left of the time that sessions waited with each probe. A host that is no longer near gets no sessions that
could show that it is better now, so its past fades."""

_ROOM = 16
"""Hosts that are remembered although they are not candidates; beyond that they are taken to have left for good."""


class _Latency:
    """What is known of one host, in seconds.

    Attributes:
        generation: of the host, when this was learned.
        rtt: its last probe.
        probed: it was not the first one.
        probes: the smoothed time of its probes.
        waits: the smoothed time that sessions took to get there.
    """

    __slots__ = ("generation", "probed", "probes", "rtt", "waits")

    def __init__(self, candidate: Candidate) -> None:
        self.generation = candidate.generation
        self.rtt = self.probes = candidate.rtt
        self.probed = False
        self.waits = 0.0


class _Near(NamedTuple):
    """The hosts inside the window.

    Attributes:
        of: the candidates that they are of.
        hosts: the near ones, and of weight above 0 if there is any.
        weights: theirs.
        bounds: the sums of the weights up to each host.
    """

    of: tuple[Candidate, ...]
    hosts: tuple[Candidate, ...]
    weights: tuple[float, ...]
    bounds: tuple[float, ...]


class Adaptive:
    """Draws two random hosts among the near ones, and takes the one with fewer sessions in use per weight.

    The latency of a host is what its probes take, plus what sessions waited for a connection to it; both are smoothed.
    It only decides who takes part: among the near hosts the load decides, because small differences in latency say
    little, and all clients would follow them to the same host. Of two random hosts, not of all, for the same reason:
    the counts are those of this router alone, and many routers that each take the least busy host may meet there.

    The two are drawn in proportion to the weights. With few sessions, when most hosts are idle and the counts decide
    nothing, the shares follow the weights because of that; with many, because the counts are compared per weight. As in
    "least-busy", a random part of a session is added to each, unless both are idle.

    There is no lock. What is shared by threads is replaced as a whole, or is a smoothed number, where an update that is
    lost is one sample less.
    """

    def __init__(self) -> None:
        self._latencies: dict[HostKey, _Latency] = {}
        self._near = _Near((), (), (), ())
        self._picks = 0

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return a near candidate; one of weight 0 only if all have weight 0."""
        if len(candidates) == 1:
            return candidates[0]
        near = self._near
        self._picks += 1
        # The candidates are the same object until the next snapshot. In between, the sessions change the latencies.
        if near.of is not candidates or self._picks >= len(candidates):
            self._picks = 0
            near = self._near = self._look(candidates)
        hosts, weights, bounds = near.hosts, near.weights, near.bounds
        last = len(hosts) - 1
        if not last:
            return hosts[0]
        one = min(bisect_right(bounds, rng.random() * bounds[-1]), last)
        point = rng.random() * (bounds[-1] - weights[one])
        if point >= bounds[one] - weights[one]:
            point += weights[one]
        two = min(bisect_right(bounds, point), last)
        here, there = load(hosts[one].key), load(hosts[two].key)
        if not (here or there):
            return hosts[one]
        swap = (there + rng.random()) / weights[two] < (here + rng.random()) / weights[one]
        return hosts[two] if swap else hosts[one]

    def acquired(self, candidate: Candidate, seconds: float) -> None:
        """Learn how long a session waited for its connection."""
        known = self._latencies.get(candidate.key)
        if known is not None:
            known.waits += _ACQUIRE_SHARE * (seconds - known.waits)

    def _look(self, candidates: tuple[Candidate, ...]) -> _Near:
        alike = not any(c.weight for c in candidates)
        latencies = [(c, self._latency(c)) for c in candidates if alike or c.weight]
        furthest = WINDOW * min(latency for _, latency in latencies) + SLACK
        hosts = tuple(c for c, latency in latencies if latency <= furthest)
        weights = tuple(1.0 if alike else c.weight for c in hosts)
        if len(self._latencies) > 2 * len(candidates) + _ROOM:
            present = {c.key for c in candidates}
            self._latencies = {k: v for k, v in tuple(self._latencies.items()) if k in present}
        return _Near(candidates, hosts, weights, tuple(accumulate(weights)))

    def _latency(self, candidate: Candidate) -> float:
        known = self._latencies.get(candidate.key)
        if known is None or known.generation != candidate.generation:
            known = self._latencies[candidate.key] = _Latency(candidate)
        elif known.rtt != candidate.rtt:
            known.rtt = candidate.rtt
            # The first probe of a host that has just started finds its caches empty.
            known.probes += (candidate.rtt - known.probes) * (
                _PROBE_SHARE if known.probed or candidate.rtt > known.probes else 1.0
            )
            known.probed = True
            known.waits *= _FORGET
        return known.probes + known.waits
