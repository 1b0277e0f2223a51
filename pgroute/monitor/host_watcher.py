"""The watch on one host: when to connect, when to ask, and whom to tell."""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, Protocol

from psycopg.conninfo import make_conninfo

from pgroute.core.config.dns_names import Question, is_name
from pgroute.core.config.dsn import Params
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.printable import printable
from pgroute.core.schedule import CONNECT_GAP, REJECTED_GAP, connect_delay, probe_delay
from pgroute.core.topology.observations import Answer, Failure
from pgroute.monitor.probe import ProbeConnection, ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.dns_watch import Names

RENEW_AFTER = 60.0
"""Seconds after which the probe connection is replaced: an open one says little about new ones."""

_AFTER_FAULT = 1.0
_KICK_GAP = 0.005
_RNG = random.Random()


class Subscriber(Protocol):
    """Somebody who wants to know about a host: the watch of one router, or its vigil."""

    @property
    def topology(self) -> Topology:
        """What the pace depends on."""
        ...

    @property
    def options(self) -> ProbeOptions:
        """And these."""
        ...

    def observe(self, seen: Answer | Failure) -> None:
        """Take an observation; called in the monitor's loop."""
        ...

    def note(self, key: HostKey, text: str) -> None:
        """Show a word about a host that is up; empty: no more."""
        ...

    @property
    def complain(self) -> Callable[[str, BaseException | None], None]:
        """Have a fault of ours logged; nothing of the user's runs here, and a log handler is."""
        ...


class HostWatcher:
    """Watches one host for all routers that reach it with the same parameters. Used in the monitor's loop only.

    Args:
        key: the host.
        params: the connection's parameters, without hostaddr where the name is to be resolved.
        names: tell the addresses.
    """

    def __init__(self, key: HostKey, params: Mapping[str, str], names: Names) -> None:
        self.key = key
        self.subscribers: list[Subscriber] = []
        self._params = params
        self._names = names
        self._conn: ProbeConnection | None = None
        self._address: str | None = None
        self._conninfo: tuple[str | None, bytes] | None = None
        self._changed = asyncio.Event()
        self._kicked = True
        self._fresh = False
        self._connected_at = -math.inf
        self._asked_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._mover: asyncio.Task[None] | None = None
        self._targets: tuple[str, ...] = ()
        self._arrival: tuple[ProbeConnection, Answer] | None = None
        self._last: Answer | Failure | None = None

    def start(self) -> None:
        """Begin; the first probe is sent at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pgroute-watch-{self.key}")

    async def stop(self) -> None:
        """End, and close the connection."""
        tasks = [task for task in (self._mover, self._task) if task is not None]
        # Together: nothing may run here once nobody subscribes.
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber; what is already known is told to it at once, and a probe follows."""
        self.subscribers.append(subscriber)
        if self._last is not None:
            subscriber.observe(self._last)
        self.kick()

    def kick(self, *, fresh: bool = False) -> None:
        """Probe at once, on a new connection if *fresh*."""
        self._kicked = True
        self._fresh = self._fresh or fresh
        self._changed.set()

    def nudge(self) -> None:
        """Look again at when the next probe is due."""
        self._changed.set()

    def refused(self) -> None:
        """Count a pool's refused login as an attempt of ours, and find out on a fresh connection when it is mended."""
        self._connected_at = time.monotonic()
        self._fresh = True
        self._changed.set()

    def renamed(self) -> None:
        """Take note that the name stands for other addresses, or that looking it up had another outcome."""
        if self._conn is None:
            self.kick()
        self._aim()

    def _aim(self) -> None:
        """Move to where the name leads now if that is not where the connection is, and nowhere else any more."""
        found = self._names.found(Question(self.key.host)) if is_name(self.key) else None
        records = tuple(r for r in (found and found.records) or () if isinstance(r, str))
        targets = records if self._conn is not None and self._conn.address not in records else ()
        if targets == self._targets:
            return
        self._targets = targets
        if self._mover is not None:
            self._mover.cancel()
            self._mover = None
        if self._arrival is not None:
            self._arrival[0].close()
            self._arrival = None
        if targets:
            self._mover = asyncio.get_running_loop().create_task(
                self._move(targets), name=f"pgroute-move-{self.key}"
            )
        else:
            self._note("")

    async def _move(self, targets: tuple[str, ...]) -> None:
        """Connect to one of these; the old address serves until the cluster's own server is found there."""
        while self._conn is not None:
            reasons = []
            rejected = False
            for address in targets:
                try:
                    self._arrival = await self._arrive(address)
                except ProbeFailed as exc:
                    fault = exc.fault
                except Exception as exc:  # noqa: BLE001  (told, not logged)
                    self._complain(f"moving {self.key} to {address} failed", exc)
                    fault = Fault(FaultKind.OTHER, reason=repr(exc))
                else:
                    self._changed.set()
                    return
                reasons.append(f"{address}: {fault.reason}")
                rejected = rejected or fault.kind is FaultKind.REJECTED
            why = "; ".join(reasons)
            self._note(printable(f"its name stands for another address, and the old one serves ({why})"))
            now = time.monotonic()
            pause = min(connect_delay(s.topology, self.key, s.options, now, _RNG) for s in self.subscribers)
            await asyncio.sleep(max(pause, REJECTED_GAP) if rejected else pause)
        self._targets = ()

    async def _arrive(self, address: str) -> tuple[ProbeConnection, Answer]:
        conn = await self._open(address)
        try:
            answer = await conn.ask(self._timeout, on_slow=lambda _: None)
            if self._is_foreign(answer):
                reason = f"another cluster: system identifier {answer.system_id}"
                raise ProbeFailed(Fault(FaultKind.REJECTED, reason=reason))
        except BaseException:
            conn.close()
            raise
        return conn, answer

    def _is_foreign(self, answer: Answer) -> bool:
        known = self._last.system_id if isinstance(self._last, Answer) else None
        return None not in (known, answer.system_id) and known != answer.system_id

    def _take_over(self) -> None:
        assert self._arrival is not None
        (conn, answer), self._arrival = self._arrival, None
        old, self._conn = self._conn, conn
        self._address = conn.address
        self._connected_at = self._asked_at = answer.sent_at
        if old is not None:
            old.close()
        self._tell(answer)
        self._aim()

    def _complain(self, text: str, exc: Exception) -> None:
        for subscriber in self.subscribers[:1]:  # one log is enough
            subscriber.complain(text, exc)

    def _note(self, text: str) -> None:
        for subscriber in tuple(self.subscribers):
            subscriber.note(self.key, text)

    @property
    def linked(self) -> bool:
        """Whether the probe connection is open."""
        return self._conn is not None and self._conn.lost is None

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._turn()
                except Exception as exc:  # noqa: BLE001  (told, not logged)
                    # A fault of ours must not leave a host unwatched.
                    self._complain(f"watching {self.key} failed", exc)
                    await asyncio.sleep(_AFTER_FAULT)
        finally:
            self._drop()

    async def _turn(self) -> None:
        connect = await self._due()
        if self._arrival is not None:
            self._take_over()
            return
        if (fault := self._breach) is not None:
            assert self._conn is not None
            self._conn.close()
            self._conn = None
            self._tell(Failure(self.key, fault, time.monotonic()))
            return
        self._kicked = False
        try:
            if connect:
                await self._connect()
            await self._ask()
        except ProbeFailed as exc:
            fault = exc.fault
        else:
            return
        self._failed(fault)

    async def _due(self) -> bool:
        """Wait for the next probe; return whether it takes a new connection."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            when, connect = self._next(now)
            if when <= now:
                return connect
            try:
                async with asyncio.timeout(when - now):
                    await self._changed.wait()
            except TimeoutError:
                return self._next(time.monotonic())[1] if self._conn is None else connect

    def _next(self, now: float) -> tuple[float, bool]:
        subscribers = self.subscribers
        if self._arrival is not None or self._breach is not None:
            return now, False
        # A probe on the open connection does not do for what calls for a fresh one.
        hurry = self._kicked or self._fresh
        connect_at = self._connected_at + min(
            connect_delay(s.topology, self.key, s.options, now, _RNG, kicked=hurry) for s in subscribers
        )
        if self._conn is None or self._conn.lost is not None:
            return connect_at, True
        ask = min(probe_delay(s.topology, self.key, s.options, now, _RNG) for s in subscribers)
        ask_at = self._asked_at + (_KICK_GAP if self._kicked else max(ask, _KICK_GAP))
        renew = self._fresh or now - self._conn.opened_at > RENEW_AFTER
        if renew and connect_at <= ask_at:
            return connect_at, True
        return ask_at, False

    @property
    def _breach(self) -> Fault | None:
        """Why the connection was given up between two probes, if it was not lost: a new one would not be better."""
        lost = self._conn and self._conn.lost
        return lost if lost and lost.kind is not FaultKind.LOST else None

    @property
    def _timeout(self) -> float:
        return min(s.options.timeout for s in self.subscribers)

    async def _connect(self) -> None:
        self._connected_at = time.monotonic()
        if self._conn is not None and self._targets:
            # The old address serves on, though the name stands for it no more.
            addresses: list[str | None] = [self._conn.address]
        else:
            addresses = await self._names.addresses(self.key, timeout=self._timeout, prefer=self._address)
        conn = await self._connect_to(addresses)
        old, self._conn = self._conn, conn
        self._fresh = False
        if old is not None:
            old.close()
        self._aim()  # the name may have moved meanwhile

    async def _connect_to(self, addresses: list[str | None]) -> ProbeConnection:
        """Connect to the first address that does not refuse, as libpq does; after a silent one the next is due."""
        for at, address in enumerate(addresses, 1):
            self._address = address
            try:
                return await self._open(address)
            except ProbeFailed as exc:
                kind = exc.fault.kind
                if kind is FaultKind.TIMEOUT:
                    self._address = addresses[at % len(addresses)]
                if kind is not FaultKind.REFUSED or at == len(addresses):
                    raise
        raise AssertionError("a resolved name has an address")

    async def _open(self, address: str | None) -> ProbeConnection:
        if self._conninfo is None or self._conninfo[0] != address:
            # Kept: making it costs libpq more than a refused connection does.
            params = self._params if address is None else Params({**self._params, "hostaddr": address})
            self._conninfo = address, make_conninfo("", **params).encode()
        return await ProbeConnection.connect(
            self.key,
            self._conninfo[1],
            address=address or self.key.host,
            timeout=self._timeout,
            on_loss=self._lost,
        )

    def _lost(self) -> None:
        """Look into the loss of the connection at once, or say so where no new one may be tried for a while."""
        if self._breach is not None:
            self.nudge()
            return
        self.kick()
        conn, now = self._conn, time.monotonic()
        if conn is not None and conn.lost is not None and self._next(now)[0] > now + CONNECT_GAP:
            self._tell(Failure(self.key, conn.lost, now))

    async def _ask(self) -> None:
        self._asked_at = time.monotonic()
        conn = self._conn
        assert conn is not None
        answer = await conn.ask(self._timeout, on_slow=self._slow)
        self._tell(answer)

    def _slow(self, sent_at: float) -> None:
        reason = f"no answer in {self._timeout:g} s"
        self._tell(Failure(self.key, Fault(FaultKind.TIMEOUT, host_suspect=True, reason=reason), sent_at))

    def _failed(self, fault: Fault) -> None:
        conn = self._conn
        if fault.shut:
            # A server that waits for its sessions to end (smart shutdown) would wait for this one, and for idle ones.
            self._fresh = False
        elif conn is not None and conn.lost is None and self._connected_at > self._asked_at:
            # Only the attempt at a new connection failed; the open one goes on, but knows nothing of this.
            if fault.kind is not FaultKind.REJECTED:
                reason = f"takes no new connection: {fault.reason}"
                fault = Fault(FaultKind.BUSY, host_suspect=True, reason=reason)
            self._tell(Failure(self.key, fault, self._connected_at, linked=True))
            self._fresh = True
            return
        sent_at = max(self._connected_at, self._asked_at)
        if conn is not None:
            conn.close()
            if fault.kind is FaultKind.LOST and conn.answered and self._asked_at >= self._connected_at:
                # Not yet a word about the host: the new connection, tried at once, will tell. It goes to the same
                # address, also if the name has left that meanwhile.
                self._lost()
                return
            self._conn = None
        self._tell(Failure(self.key, fault, sent_at))

    def _tell(self, seen: Answer | Failure) -> None:
        self._last = seen
        for subscriber in tuple(self.subscribers):
            subscriber.observe(seen)

    def _drop(self) -> None:
        for conn in (self._conn, self._arrival and self._arrival[0]):
            if conn is not None:
                conn.close()
        self._conn = self._arrival = None
