"""A host whose name has moved: connects to the new address, while the old one serves."""

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

    Args:
        key: the host.
        dialer: opens the connections.
        subscribers: are shown why the old address still serves.
        current: returns the address of the open connection, None without one.
        on_arrival: called when `arrival` is set.
        on_loss: called when the connection of `arrival` is lost.

    Attributes:
        targets: the addresses to move to; empty if the connection is where the name leads.
        arrival: the connection to the new address, and its first answer.
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
        """Move to where the name leads now, and no longer anywhere else. Needs an open connection."""
        addresses, current = self._dialer.addresses, self._current()
        targets = addresses if current is not None and current not in addresses else ()
        if targets == self.targets:
            return
        self.targets = targets
        self.cancel()
        if targets:
            self._task = asyncio.get_running_loop().create_task(
                self._move(targets), name=f"pgroute-move-{self._key}"
            )
        else:
            self._subscribers.note("")

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
        while self._current() is not None:
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
            why = "; ".join(reasons)
            self._subscribers.note(
                printable(f"its name stands for another address, and the old one serves ({why})")
            )
            pause = self._subscribers.connect_delay(time.monotonic())
            await asyncio.sleep(max(pause, REJECTED_GAP) if rejected else pause)
        # The old address is lost: the watcher itself connects to where the name leads.
        self.targets = ()
        self._subscribers.note("")

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
