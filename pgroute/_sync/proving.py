# Generated from pgroute/_async/proving.py by .ci/unasync.py: edit that file, not this one.
"""Proves that a host satisfies what a session demands of its data; asks it where the last probes do not tell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import Watchdog
from pgroute._sync.pool.lease import lease_of
from pgroute._sync.progress import Question, ask_progress
from pgroute.core.faults.classify import one_line
from pgroute.core.routing.demand import Proof
from pgroute.runtime.meter import BEHIND, MET

if TYPE_CHECKING:
    from pgroute._sync.open_state import OpenState
    from pgroute._sync.progress import Progress
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.routing.acquisition import Acquisition
    from pgroute.core.routing.demand import Demand
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.meter import Meter

_FIRST_ASK, _SLOWEST_ASK = 0.001, 0.02
"""Seconds between two questions to a standby that is behind; the pause doubles."""

_LEAST_ANSWER = 0.2
"""Seconds that a standby has for an answer, even with a timeout of 0: the question takes a round trip."""


class Behind(psycopg.OperationalError):
    """A standby was asked, and does not satisfy the demand."""


class Prover:
    """Proves hosts fresh enough for the sessions of a router.

    Args:
        watch: on the hosts.
        meter: counts the waits.
        timeout: seconds that a probe may take.
    """

    def __init__(self, watch: ClusterWatch, meter: Meter, timeout: float) -> None:
        self._watch = watch
        self._meter = meter
        self._timeout = timeout

    def prove(
        self,
        conn: psycopg.Connection[Any],
        router: OpenState,
        candidate: Candidate,
        demand: Demand,
        acquisition: Acquisition,
    ) -> None:
        """Return if a host satisfies the demand at this moment.

        Args:
            conn: to the host, without a transaction.
            router: ends the wait by closing.
            candidate: the host.
            demand: of the session.
            acquisition: how much time there is.

        Raises:
            Behind: it does not.
            psycopg.OperationalError: the connection was lost, or it does not answer.
            ConfigError, PositionLost: no host can satisfy the demand.
        """
        begun = time.monotonic()  # the wait for the connection may have been long
        topology = self._watch.topology
        demand.check(topology)
        proof = demand.proof(topology, candidate, begun, self._watch.replayed)
        if proof is Proof.PROVEN:
            return
        until = acquisition.ask_until(topology, begun)
        met = proof is Proof.ASK and self._gets_there(
            conn, router, candidate, demand, acquisition, until=until
        )
        now = time.monotonic()
        self._meter.position_waited(MET if met else BEHIND, now - begun)
        if not met:
            raise Behind(f"{candidate.key} is not as far as demanded")

    def _gets_there(
        self,
        conn: psycopg.Connection[Any],
        router: OpenState,
        candidate: Candidate,
        demand: Demand,
        acquisition: Acquisition,
        *,
        until: float,
    ) -> bool:
        """Return whether a standby satisfies the demand before *until* (monotonic seconds), by asking it."""
        pause = _FIRST_ASK
        while True:
            topology = self._watch.topology
            host = topology.host(candidate.key)
            if host is None or host.generation != candidate.generation:
                return False
            # The rest of the time is for the next host.
            most = max(_LEAST_ANSWER, min(self._timeout, acquisition.left(time.monotonic()) / 2))
            told = self._ask(conn, Question(topology, host), most)
            now = time.monotonic()
            if told is None:
                self._watch.kick(candidate.key)  # it may have been promoted
                return False
            self._watch.replayed.note(candidate.key, candidate.generation, told.timeline, told.lsn)
            topology = self._watch.topology
            if demand.met_by(topology, told.timeline, told.lsn, now):
                return True
            hopeless = not demand.may_get_there(topology, told.timeline, told.lsn)
            if now >= until or hopeless or router.closing:
                return False
            time.sleep(min(pause, until - now))
            pause = min(2 * pause, _SLOWEST_ASK)

    def _ask(
        self, conn: psycopg.Connection[Any], question: Question, seconds: float
    ) -> Progress | None:
        """Return how far a standby is. If it does not answer in time, as a frozen one, its connection is cut.

        Raises:
            psycopg.OperationalError: the connection was lost or cut.
        """
        lease = lease_of(conn)
        try:
            with Watchdog(seconds, lease.abort):
                return ask_progress(conn, question)
        except psycopg.Error as exc:
            self._watch.kick(lease.pool.key)
            text = f"asking for its position failed: {one_line(str(exc))}"
            raise psycopg.OperationalError(text) from exc
