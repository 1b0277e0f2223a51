"""Watches one host: when to connect, when to probe, and what a failure says about the host."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import NOT_TRIED, Fault, FaultKind
from pgroute.core.model.stats import WatchSharing
from pgroute.core.schedule import CONNECT_GAP, CREDENTIALS_GAP, REJECTED_GAP
from pgroute.core.topology.observations import Answer, Failure
from pgroute.monitor.address_move import AddressMove
from pgroute.monitor.alarm import Alarm
from pgroute.monitor.dialer import Dialer
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.probe_login import ProbeLogin
from pgroute.monitor.subscribers import Subscribers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.dns_watch import Names
    from pgroute.monitor.probe import ProbeConnection
    from pgroute.monitor.subscribers import Subscriber
    from pgroute.runtime.credentials import CredentialSource

RENEW_AFTER = 60.0
"""Seconds after which the probe connection is replaced: an open one says little about new ones."""

_AFTER_FAULT = 1.0
_KICK_GAP = 0.005


class HostWatcher:
    """Watches one host for all routers that reach it with the same parameters. Used in the monitor's loop only.

    Args:
        key: the host.
        params: the connection parameters, without hostaddr where the name is to be resolved.
        names: give the addresses.
        source: calls the credentials function of the router; None: it has none.
        subscribers: the routers; None: nobody yet.
        alone: why other processes do not share this watch.

    Attributes:
        subscribers: the routers.
        sharing: whether and with whom this watch is shared.
    """

    def __init__(
        self,
        key: HostKey,
        params: Mapping[str, str],
        names: Names,
        source: CredentialSource | None = None,
        *,
        subscribers: Subscribers | None = None,
        alone: str = "",
    ) -> None:
        self.subscribers: Subscribers = Subscribers(key) if subscribers is None else subscribers
        self.sharing: WatchSharing = WatchSharing("alone", 0, alone)
        self._key = key
        self._login = ProbeLogin(key, params, source)
        self._dialer = Dialer(key, self._login, names)
        self._dialer.preferred = self.subscribers.home
        self._conn: ProbeConnection | None = None
        self._move = AddressMove(
            key,
            self._dialer,
            self.subscribers,
            current=lambda: None if self._conn is None else self._conn.address,
            on_arrival=self.nudge,
            on_loss=self._lost,
        )
        self._changed = Alarm()
        self._kicked = True
        self._fresh = False
        self._connected_at = -math.inf
        self._refused_at = -math.inf
        self._refused_until = -math.inf
        self._not_tried = False
        self._noted = ""
        self._asked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start; the first probe is sent at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pgroute-watch-{self._key}")

    async def stop(self) -> None:
        """Stop, and close the connections."""
        if tasks := self.cancel():
            await asyncio.wait(tasks)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Begin to stop; return the tasks that end."""
        tasks = [task for task in (self._move.cancel(), self._task) if task is not None]
        # Together: nothing may run here once there are no subscribers.
        for task in tasks:
            task.cancel()
        return tasks

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber. It is told the last observation at once, and a probe follows."""
        self.subscribers.join(subscriber)
        self.kick()

    def kick(self, *, fresh: bool = False) -> None:
        """Probe at once, on a new connection if *fresh*."""
        self._kicked = True
        self._fresh = self._fresh or fresh
        self._changed.ring()

    def ask(self, since: float, *, fresh: bool = False) -> None:
        """Probe at once for another process, unless a probe (if *fresh*, a connection attempt) was begun since then."""
        begun = self._connected_at if fresh else max(self._connected_at, self._asked_at)
        if begun < since:
            self.kick(fresh=fresh)

    def nudge(self) -> None:
        """Work out again when the next probe is due."""
        self._changed.ring()

    def refused(self) -> None:
        """Count a pool's refused login as a connection attempt, and keep trying new connections until one succeeds."""
        self._refused_at = time.monotonic()
        self._refused_until = self._refused_at + REJECTED_GAP
        self._not_tried = False
        self._fresh = True
        self._changed.ring()

    def renamed(self) -> None:
        """Take note that the name stands for other addresses, or that its lookup had another outcome."""
        if self._conn is None:
            self.kick()
        self._aim()

    @property
    def linked(self) -> bool:
        """Whether the probe connection is open."""
        return self._conn is not None and self._conn.lost is None

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._turn()
                except Exception as exc:  # noqa: BLE001  (logged by the subscriber)
                    # A bug in pgroute must not leave a host unwatched.
                    self.subscribers.log_error(f"watching {self._key} failed", exc)
                    await asyncio.sleep(_AFTER_FAULT)
        finally:
            self._move.cancel()
            self._replace(None)

    async def _turn(self) -> None:
        connect = await self._due()
        if self._move.arrival is not None:
            self._take_over()
            return
        if (fault := self._breach) is not None:
            self._replace(None)
            self.subscribers.observe(Failure(self._key, fault, time.monotonic()))
            self._aim()
            return
        self._kicked = False
        try:
            if connect:
                await self._connect()
            await self._ask()
        except ProbeFailed as exc:
            fault = exc.fault
            self._not_tried = fault.kind in NOT_TRIED
        else:
            return
        if fault.kind is FaultKind.REJECTED:
            # From its end, as for pools: credentials refused a moment ago would not be sent again.
            self._refused_until = time.monotonic() + REJECTED_GAP
        self._failed(fault)

    async def _due(self) -> bool:
        """Wait until the next probe is due; return whether it takes a new connection."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            when, connect = self._next(now)
            if when <= now:
                return connect
            if not await self._changed.wait(when):
                return self._next(time.monotonic())[1] if self._conn is None else connect

    def _next(self, now: float) -> tuple[float, bool]:
        """Return when the next probe is due, and whether it takes a new connection."""
        if self._move.arrival is not None or self._breach is not None:
            return now, False
        conn = self._conn
        if conn is None or conn.lost is not None:
            return self._connect_at(now), True
        ask_at = self._asked_at + _KICK_GAP
        if not self._kicked:
            ask_at = max(ask_at, self.subscribers.probe_at(self._asked_at, now))
        renew = self._fresh or now - conn.opened_at > RENEW_AFTER
        if renew and (connect_at := self._connect_at(now)) <= ask_at and self._has_credentials():
            return connect_at, True
        return ask_at, False

    def _connect_at(self, now: float) -> float:
        # What calls for a new connection is not served by a probe on the open one.
        hurry = self._kicked or self._fresh
        delay = self.subscribers.connect_delay(now, kicked=hurry)
        last = max(self._connected_at, self._refused_at)
        connect_at = last + (CREDENTIALS_GAP if self._not_tried else delay)
        # The snapshots of other routers and processes do not tell that a login was refused.
        return max(connect_at, self._refused_until)

    def _has_credentials(self) -> bool:
        """Return whether a new connection can be opened at once; otherwise say what it waits for, if that is long."""
        ready = self._login.ready(self.subscribers.timeout, self.nudge)
        if self._noted != self._login.trouble:
            self._noted = self._login.trouble
            self.subscribers.note(self._noted)
        return ready

    @property
    def _breach(self) -> Fault | None:
        """Why the connection was abandoned between two probes, unless it was lost: a new one would fare no better."""
        lost = self._conn and self._conn.lost
        return lost if lost and lost.kind is not FaultKind.LOST else None

    async def _connect(self) -> None:
        self._connected_at = time.monotonic()
        self._not_tried = False
        timeout = self.subscribers.timeout
        address = self._serving_at
        if self._dialer.has_left(address):
            # The old address still serves, though the name has left it.
            self._dialer.preferred = address
            conn = await self._dialer.open(address, timeout=timeout, on_loss=self._lost)
        else:
            conn = await self._dialer.connect(timeout=timeout, on_loss=self._lost)
        self._replace(conn)
        self._fresh = False
        self._aim()  # the name may have moved meanwhile

    @property
    def _serving_at(self) -> str | None:
        """Where the host serves as far as is known: perhaps only from another process, which has watched before."""
        if self._conn is not None:
            return self._conn.address
        last = self.subscribers.last
        return last.address if isinstance(last, Answer) else None

    def _aim(self) -> None:
        """Try to connect where the connection is not, if the host should be there."""
        if (
            self._conn is not None or self._move.arrival is None
        ):  # without one, the arrival is about to be used
            self._move.aim()

    async def _ask(self) -> None:
        self._asked_at = time.monotonic()
        assert self._conn is not None
        answer = await self._conn.ask(self.subscribers.timeout, on_slow=self._slow)
        self.subscribers.observe(answer)
        self._aim()

    def _slow(self, sent_at: float) -> None:
        fault = ProbeFailed.timed_out(f"no answer in {self.subscribers.timeout:g} s").fault
        self.subscribers.observe(Failure(self._key, fault, sent_at))

    def _take_over(self) -> None:
        """Use the connection to the address that the name has moved to."""
        conn, answer = self._move.take()
        self._replace(conn)
        self._dialer.preferred = conn.address
        self._connected_at = self._asked_at = answer.sent_at
        self.subscribers.observe(answer)
        self._aim()

    def _replace(self, conn: ProbeConnection | None) -> None:
        old, self._conn = self._conn, conn
        if old is not None:
            old.close()

    def _lost(self) -> None:
        """Connect again at once after a loss, or report it if that must wait."""
        if self._breach is not None:
            self.nudge()
            return
        self.kick()
        conn, now = self._conn, time.monotonic()
        if conn is not None and conn.lost is not None and self._next(now)[0] > now + CONNECT_GAP:
            self.subscribers.observe(Failure(self._key, conn.lost, now))

    def _failed(self, fault: Fault) -> None:
        """Tell what a failed turn says about the host."""
        conn = self._conn
        if fault.shut:
            # A server in smart shutdown waits for its sessions to end, idle ones included: also for this one.
            self._fresh = False
        elif conn is not None and conn.lost is None and self._connected_at > self._asked_at:
            # Only the attempt at a new connection failed. The open one goes on, and says nothing about that.
            self._fresh = True
            if fault.kind is FaultKind.SHORTAGE:
                return
            if fault.kind is not FaultKind.REJECTED:
                reason = f"takes no new connection: {fault.reason}"
                fault = Fault(FaultKind.BUSY, host_suspect=True, reason=reason)
            self.subscribers.observe(Failure(self._key, fault, self._connected_at, linked=True))
            return
        sent_at = max(self._connected_at, self._asked_at)
        if conn is not None:
            conn.close()
            if fault.kind is FaultKind.LOST and conn.answered and self._asked_at >= self._connected_at:
                # No evidence about the host yet: the new connection, tried at once, decides. It goes to the same
                # address, even if the name has left it meanwhile.
                self._lost()
                return
            self._conn = None
        self.subscribers.observe(Failure(self._key, fault, sent_at))
        self._aim()
