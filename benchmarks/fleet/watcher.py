"""The probes of one client at one host, at the pace of pgroute/core/schedule.py; as pgroute/monitor/host_watcher.py."""

from __future__ import annotations

import math

from benchmarks.fleet.world import LATENCY, SYSTEM_ID
from pgroute.core.config.options import ProbeOptions
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostRole
from pgroute.core.schedule import CONNECT_GAP, connect_delay, probe_delay, steady
from pgroute.core.topology.observations import Answer, Failure

OPTIONS = ProbeOptions()
_KICK_GAP = 0.005
_RENEW_AFTER = 60.0


class Watcher:
    """Probes one host."""

    def __init__(self, client, server):
        self.client, self.server, self.sim = client, server, client.sim
        self.conn = None
        self.connected_at = self.asked_at = -math.inf
        self.opened_at = -math.inf
        self.tried = []
        self._kicked, self._fresh, self._busy = True, False, False
        self._turn_id = self._ask_id = 0

    def adopt(self, conn, asked_at):
        """Begin with a connection that is open."""
        self.conn, self._kicked = conn, False
        conn.answered, conn.on_lost = True, self._lost
        self.asked_at = self.connected_at = asked_at
        self.opened_at = self.sim.now
        self.nudge()

    @property
    def linked(self):
        return self.conn is not None and not self.conn.lost

    def kick(self, *, fresh=False):
        self._kicked = True
        self._fresh = self._fresh or fresh
        self.nudge()

    def nudge(self):
        """Plan the next turn."""
        if not self._busy:
            self._turn_id += 1
            when, connect = self._next()
            self.sim.at(max(when, self.sim.now), self._turn, self._turn_id, connect)

    def _next(self):
        topology, now, rng = self.client.topology, self.sim.now, self.client.rng
        slots = self.client.slots if self.client.fleet.paced else 0
        hurry = self._kicked or self._fresh
        delay = connect_delay(topology, self.server.key, OPTIONS, now, rng, kicked=hurry, slots=slots)
        connect_at = self.connected_at + delay
        if not self.linked:
            return connect_at, True
        ask_at = self.asked_at + _KICK_GAP
        if not self._kicked:
            ask_at = max(ask_at, self._ask_at(topology, now, rng, slots))
        renew = self._fresh or now - self.opened_at > _RENEW_AFTER
        if renew and connect_at <= ask_at:
            return connect_at, True
        return ask_at, False

    def _ask_at(self, topology, now, rng, slots):
        interval = OPTIONS.interval
        if steady(topology, self.server.key, now):
            return self.client.beat.next(self.asked_at, interval, rng)
        delay = probe_delay(topology, self.server.key, interval, now, rng, slots=slots, processes=1)
        return self.asked_at + delay

    def _turn(self, turn_id, connect):
        if self._busy or turn_id != self._turn_id:
            return
        self._busy, self._kicked = True, False
        if connect or not self.linked:
            self.connected_at = self.sim.now
            self.tried.append(self.sim.now)
            self.server.connect(self.client, OPTIONS.timeout, self._connected)
        else:
            self._ask()

    def _connected(self, conn, kind):
        if conn is None:
            self._failed(kind)
            return
        if self.conn is not None:
            self.conn.on_lost = None
            self.conn.close()
        self.conn, self._fresh, self.opened_at = conn, False, self.sim.now
        conn.on_lost = self._lost
        self._ask()

    def _ask(self):
        self.asked_at = self.sim.now
        self._ask_id += 1
        self.sim.after(self.sim.latency(), self._asked, self._ask_id, self.conn)

    def _asked(self, ask_id, conn):
        server, sim = self.server, self.sim
        if not server.reachable(self.client):
            sim.at(self.asked_at + OPTIONS.timeout, self._answered, ask_id, conn, None)
            return
        server.probes[int(sim.now * 100)] += 1
        told = None
        if not conn.dead:
            told = (server.role, server.timeline, float(server.run))
        sim.after(sim.latency(), self._answered, ask_id, conn, told)

    def _answered(self, ask_id, conn, told):
        if ask_id != self._ask_id or conn is not self.conn or not self._busy:
            return
        if told is None or conn.lost:
            self._failed(FaultKind.LOST if conn.lost or conn.dead else FaultKind.TIMEOUT)
            return
        role, timeline, started_at = told
        answer = Answer(
            self.server.key,
            role,
            sent_at=self.asked_at,
            timeline=timeline,
            system_id=SYSTEM_ID,
            started_at=started_at + 1000.0 * self.server.key.port,
            rtt=2 * LATENCY,
            fresh=not conn.answered,
        )
        conn.answered = True
        if role is HostRole.PRIMARY:
            self.client.seen = max(self.client.seen, timeline)
        self._done()
        self.client.observe(answer)

    def _done(self):
        self._busy = False
        self._ask_id += 1
        self.nudge()

    def _lost(self):
        """The connection has ended."""
        if self._busy:
            if self.asked_at >= self.connected_at and self.conn is not None:
                self._failed(FaultKind.LOST)
            return
        self._kicked = True
        self.nudge()
        if self._next()[0] > self.sim.now + CONNECT_GAP:
            self._tell(FaultKind.LOST, self.sim.now)

    def _failed(self, kind):
        conn = self.conn
        if conn is not None and not conn.lost and self.connected_at > self.asked_at:
            # Only the attempt at a new connection failed.
            self._fresh = True
            self._done()
            self._tell(FaultKind.BUSY, self.connected_at, linked=True)
            return
        sent_at = max(self.connected_at, self.asked_at)
        answered = conn is not None and conn.answered
        if conn is not None:
            conn.on_lost = None
            conn.close()
            self.conn = None
        if kind is FaultKind.LOST and answered and self.asked_at >= self.connected_at:
            self._kicked = True  # the new connection, tried at once, decides
            self._done()
            return
        self._done()
        self._tell(kind, sent_at)

    def _tell(self, kind, sent_at, *, linked=False):
        fault = Fault(kind, host_suspect=True, reason=kind.value)
        self.client.observe(Failure(self.server.key, fault, sent_at, linked))
