"""Watches one host together with other processes: probes it and tells them, or is told, or probes by itself."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from pgroute.core.model.stats import WatchSharing
from pgroute.monitor.host_watcher import HostWatcher
from pgroute.monitor.shared.audience import Audience
from pgroute.monitor.shared.folder import Unusable
from pgroute.monitor.shared.identity import NotShareable
from pgroute.monitor.shared.link import LinkEnded
from pgroute.monitor.shared.times import HEARING, PAUSE, RETRY
from pgroute.monitor.shared.told import Ending, Told
from pgroute.monitor.shared.turns import Lead, Nobody, take_place
from pgroute.monitor.subscribers import Subscribers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.dns_watch import Names
    from pgroute.monitor.shared.batch import Batch
    from pgroute.monitor.shared.folder import Folder
    from pgroute.monitor.shared.identity import Identity
    from pgroute.monitor.shared.turns import Follow
    from pgroute.monitor.subscribers import Subscriber

_RNG = random.Random()
_REJECTIONS = 3
_AFTER_FAULT = 1.0


class SharedWatcher:
    """Watches one host for the routers of this process, as `HostWatcher` does, and if it leads for those of others.

    It probes by itself whenever it has not found out within `HEARING` seconds who watches, or whether that process
    runs. So a process sees at no time less than alone, but for that time.

    Args:
        key: the host.
        params: the connection parameters, without hostaddr where the name is to be resolved.
        names: give the addresses.
        folder: where the processes meet.
        identify: tells what the observations depend on, or raises NotShareable.
        batch: that of the process.

    Attributes:
        subscribers: the routers of this process.
        sharing: whether and with whom this watch is shared; may be read from any thread.
    """

    def __init__(
        self,
        key: HostKey,
        params: Mapping[str, str],
        names: Names,
        folder: Folder,
        *,
        identify: Callable[[], Identity],
        batch: Batch,
    ) -> None:
        self.subscribers: Subscribers = Subscribers(key)
        self.sharing: WatchSharing = WatchSharing("alone", 0, "not decided yet")
        self._key = key
        self._params = params
        self._names = names
        self._folder = folder
        self._identity: Identity | None = None
        self._identify = identify
        self._batch = batch
        self._own: HostWatcher | None = None
        self._told: Told | None = None
        self._audience: Audience | None = None
        self._fresh = False
        self._after = -1
        self._nobody_since: float | None = None
        self._rejections = 0
        self._undecided: asyncio.TimerHandle | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start; find out who watches."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"pgroute-share-{self._key}")

    async def stop(self) -> None:
        """Stop; another process goes on."""
        # All at once: nothing may run here once there are no subscribers.
        self._decided()
        tasks = [] if self._task is None else [self._task]
        for task in tasks:
            task.cancel()
        if self._told is not None:
            self._told.close()
        self._dismiss()
        if self._own is not None:
            tasks += self._own.cancel()
        tasks += self._retiring
        if tasks:
            await asyncio.wait(tasks)

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber. It is told the last observation at once, and a probe follows."""
        self.subscribers.join(subscriber)
        self.kick()
        self.nudge()

    def kick(self, *, fresh: bool = False) -> None:
        """Probe at once, on a new connection if *fresh*."""
        if self._own is not None:
            self._own.kick(fresh=fresh)
        elif self._told is not None:
            self._told.kick(fresh=fresh)
        else:
            self._fresh = self._fresh or fresh  # whoever watches next begins with a probe

    def nudge(self) -> None:
        """Work out again when the next probe is due."""
        if self._own is not None:
            self._own.nudge()
        if self._told is not None:
            self._told.nudge()

    def refused(self) -> None:
        """Count a pool's refused login as a connection attempt, and keep trying new connections until one succeeds."""
        if self._own is not None:
            self._own.refused()
        elif self._told is not None:
            self._told.refused()
        else:
            self._fresh = True

    def renamed(self) -> None:
        """Take note that the name stands for other addresses, or that its lookup had another outcome."""
        if self._own is not None:
            self._own.renamed()
        elif not self.linked:
            self.kick()

    @property
    def linked(self) -> bool:
        """Whether the probe connection is open."""
        if self._own is not None:
            return self._own.linked
        return self._told is not None and self._told.linked

    async def _run(self) -> None:
        faulty, logged = False, ""
        try:
            while True:
                try:
                    await (self._alone("a fault in pgroute, see the log") if faulty else self._turn())
                    faulty = False
                except Exception as exc:  # noqa: BLE001  (logged by the subscriber)
                    # A bug in pgroute must not leave a host unwatched, nor fill the log.
                    if repr(exc) != logged:
                        logged = repr(exc)
                        self.subscribers.log_error(f"sharing the watch of {self._key} failed", exc)
                    if faulty:
                        await asyncio.sleep(_AFTER_FAULT)
                    faulty = True
        finally:
            self._decided()

    async def _turn(self) -> None:
        """Take a place among the processes, and keep it until it is lost."""
        self._undecide()
        try:
            self._identity = self._identity or self._identify()
            self._folder.renew()
            watch = self._folder.name(self._identity)
            place = take_place(self._folder, watch, after=self._after)
        except OSError as exc:
            await self._alone(f"{self._folder.location}: {exc.strerror}")
            return
        except (Unusable, NotShareable) as exc:
            await self._alone(str(exc))
            return
        if isinstance(place, Nobody):
            await self._wait_for(place.turn)
            return
        self._nobody_since = None
        if isinstance(place, Lead):
            await self._lead(place, watch)
        else:
            await self._follow(place, watch)

    async def _wait_for(self, turn: int) -> None:
        """Wait a moment for the process that has the turn; if it does not listen for long, the next turn is due."""
        now = asyncio.get_running_loop().time()
        if self._nobody_since is None:
            self._nobody_since = now
        elif now > self._nobody_since + HEARING:
            self._nobody_since, self._after = None, turn
            return
        await asyncio.sleep(PAUSE)

    async def _lead(self, lead: Lead, watch: str) -> None:
        try:
            audience = self._audience = Audience(
                self._key, watch, lead, self._probe(), batch=self._batch, on_change=self._show
            )
        except BaseException:
            lead.close()
            raise
        self.subscribers.others = audience
        self._decided()
        self._after = -1
        self._show()
        try:
            await audience.over
        finally:
            self._dismiss()

    def _dismiss(self) -> None:
        """Tell other processes no more."""
        audience, self._audience = self._audience, None
        if audience is not None:
            self.subscribers.others = None
            audience.close()

    async def _follow(self, place: Follow, watch: str) -> None:
        fresh, self._fresh = self._fresh, False
        try:
            told = Told(
                self._key, watch, place.sock, self.subscribers,
                on_welcome=self._welcomed, on_seen=self._seen,
                resolved=lambda: bool(self._names.known(self._key)), fresh=fresh,
            )  # fmt: skip
        except LinkEnded as exc:
            await self._alone(str(exc))
            return
        self._told = told
        try:
            ending, why = await told.ended
        finally:
            self._told = None
            told.close()
        self._rejections = 0 if told.welcome else self._rejections + 1
        if ending is Ending.SILENT:
            self._after = place.turn
        elif ending in (Ending.NONSENSE, Ending.LOST) or self._rejections > _REJECTIONS:
            await self._alone(why)

    def _welcomed(self) -> None:
        """Take note that the other process runs; until it has observed the host, what probes here goes on."""
        self._decided()
        self._after = -1
        self.sharing = WatchSharing("told")

    def _seen(self) -> None:
        """Take note that the other process has observed the host: nothing needs to probe here."""
        own, self._own = self._own, None
        for task in own.cancel() if own is not None else ():
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _alone(self, why: str) -> None:
        """Probe, and try again later to share."""
        self._decided()
        self._probe()
        self.sharing = WatchSharing("alone", 0, why)
        await asyncio.sleep(RETRY * (0.5 + _RNG.random()))

    def _show(self) -> None:
        if self._audience is not None:
            self.sharing = WatchSharing("shared", len(self._audience))

    def _undecide(self) -> None:
        if self._own is None and self._undecided is None:
            self._undecided = asyncio.get_running_loop().call_later(HEARING, self._probe)

    def _decided(self) -> None:
        if self._undecided is not None:
            self._undecided.cancel()
            self._undecided = None

    def _probe(self) -> HostWatcher:
        """Probe by itself."""
        self._undecided = None
        if self._own is None:
            self.subscribers.note("")
            own = HostWatcher(self._key, self._params, self._names, subscribers=self.subscribers)
            own.start()
            self._own = own
            self.sharing = WatchSharing("alone", 0, "it is not clear yet who watches")
        return self._own
