"""A host whose name has moved: connects to the new address while the old one serves, and back if need be."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.printable import printable
from pgroute.core.schedule import REJECTED_GAP
from pgroute.monitor.errors import ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer
    from pgroute.monitor.dialer import Dialer
    from pgroute.monitor.probe import ProbeConnection
    from pgroute.monitor.subscribers import Subscribers


class AddressMove:
    """Tries the addresses that a name stands for now, until the cluster's own server answers at one of them.

    While it is not known to serve anywhere, the address at which it has served last is tried too, though the name has
    left it: it may only have hung for a while.

    Args:
        key: the host.
        dialer: opens the connections.
        subscribers: are shown why the old address still serves.
        current: returns the address of the open connection, None without one.
        on_arrival: called when `arrival` is set.
        on_loss: called when the connection of `arrival` is lost.

    Attributes:
        targets: the addresses to move to; empty if the connection is where the name leads.
        arrival: the connection to one of them, and its first answer.
    """

    def __init__(
        self,
        key: HostKey,
        dialer: Dialer,
        subscribers: Subscribers,
        *,
        current: Callable[[], str | None],
        on_arrival: Callable[[], None],
        on_loss: Callable[[], None],
    ) -> None:
        self.targets: tuple[str, ...] = ()
        self.arrival: tuple[ProbeConnection, Answer] | None = None
        self._key = key
        self._dialer = dialer
        self._subscribers = subscribers
        self._current = current
        self._on_arrival = on_arrival
        self._on_loss = on_loss
        self._task: asyncio.Task[None] | None = None

    def aim(self) -> None:
        """Move to where the name leads now, or back to where the cluster was, and no longer anywhere else."""
        targets = self._aim_at()
        if targets == self.targets:
            return
        self.targets = targets
        self.cancel()
        if targets:
            self._task = asyncio.get_running_loop().create_task(
                self._move(targets), name=f"pgroute-move-{self._key}"
            )
        if not self._dialer.has_left(self._current()):
            self._subscribers.note("")

    def _aim_at(self) -> tuple[str, ...]:
        current, home, dialer = self._current(), self._subscribers.home, self._dialer
        if dialer.has_left(current):
            return dialer.addresses
        back = (home,) if home is not None and dialer.has_left(home) else ()
        if current is None:
            return back  # the watcher itself connects to where the name leads
        if self._subscribers.astray:
            return tuple(address for address in (*back, *dialer.addresses) if address != current)
        return ()

    def take(self) -> tuple[ProbeConnection, Answer]:
        """Return the arrival, and forget it."""
        assert self.arrival is not None
        arrival, self.arrival = self.arrival, None
        return arrival

    def cancel(self) -> asyncio.Task[None] | None:
        """Stop trying, and close the connection to the new address; return the task that ends."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self.arrival is not None:
            self.take()[0].close()
        return task

    async def _move(self, targets: tuple[str, ...]) -> None:
        if self._current() is None:  # it was tried a moment ago
            await asyncio.sleep(self._subscribers.connect_delay(time.monotonic()))
        while targets := tuple(
            a for a in targets if a in self._dialer.addresses or a == self._subscribers.home
        ):
            reasons = []
            rejected = False
            for address in targets:
                try:
                    self.arrival = await self._arrive(address)
                except ProbeFailed as exc:
                    fault = exc.fault
                except Exception as exc:  # noqa: BLE001  (logged by the subscriber)
                    self._subscribers.log_error(f"moving {self._key} to {address} failed", exc)
                    fault = Fault(FaultKind.OTHER, reason=repr(exc))
                else:
                    self._on_arrival()
                    return
                reasons.append(f"{address}: {fault.reason}")
                rejected = rejected or fault.kind is FaultKind.REJECTED
            if self._dialer.has_left(self._current()):
                why = "; ".join(reasons)
                self._subscribers.note(
                    printable(f"its name stands for another address, and the old one serves ({why})")
                )
            pause = self._subscribers.connect_delay(time.monotonic())
            await asyncio.sleep(max(pause, REJECTED_GAP) if rejected else pause)
        self.targets = ()

    async def _arrive(self, address: str) -> tuple[ProbeConnection, Answer]:
        timeout = self._subscribers.timeout
        conn = await self._dialer.open(address, timeout=timeout, on_loss=self._on_loss)
        try:
            answer = await conn.ask(timeout, on_slow=lambda _: None)
            if self._subscribers.belongs_to_another_cluster(answer):
                told = answer.system_id
                reason = (
                    f"another cluster: system identifier {told}" if told else "tells no system identifier"
                )
                raise ProbeFailed(Fault(FaultKind.REJECTED, reason=reason))
        except BaseException:
            conn.close()
            raise
        return conn, answer
