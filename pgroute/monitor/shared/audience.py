"""The processes that are told by this one: takes them in, tells them, and heeds what they need."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

try:
    import resource
except ImportError:  # Windows, where nobody gets here
    resource = None  # type: ignore[assignment]

from pgroute.core.faults.classify import FaultKind
from pgroute.core.schedule import REJECTED_GAP
from pgroute.core.topology.host_facts import alike
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.wire import Ask, Beat, Enter, Need, Note, Refused, Welcome, encode
from pgroute.monitor.shared.link import Link, LinkEnded
from pgroute.monitor.shared.needs import pace_of
from pgroute.monitor.shared.times import SHORTEST_BEAT, beat

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.wire import Message
    from pgroute.monitor.host_watcher import HostWatcher
    from pgroute.monitor.shared.batch import Batch
    from pgroute.monitor.shared.turns import Lead

_ENTERS_WITHIN = 2.0
_ABOUT = 0.5
"""Part of its interval after which a process is told again. With answers that are just not due then, none of them waits
longer than its patience."""
_LONGEST = 1.0
"""Seconds of it at most: whoever hears nothing for 2.3 s goes elsewhere, however rarely it would probe."""
_SHARE = 4
"""The part of this process's descriptors that others may use is one in so many."""
_UNHEARD = 5.0
"""Seconds from one look at the turn to the next while there is nobody to tell."""


def room_for(descriptor: int) -> bool:
    """Return whether another process may use a descriptor of this one: the lowest that was free.

    So the descriptors of the application are never fewer than three quarters of what it may have.
    """
    return descriptor < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE


class Audience:
    """The processes that follow one turn. Used in the monitor's loop only.

    Args:
        key: the host.
        watch: its name.
        lead: the turn, which this process leads.
        watcher: probes the host.
        batch: tells what can wait a moment.
        on_change: called when the number of processes has changed.

    Attributes:
        over: done when another process leads; closing is up to the owner.
    """

    def __init__(
        self,
        key: HostKey,
        watch: str,
        lead: Lead,
        watcher: HostWatcher,
        *,
        batch: Batch,
        on_change: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._key = key
        self._watch = watch
        self._lead = lead
        self._watcher = watcher
        self._batch = batch
        self._on_change = on_change
        self._last: Answer | Failure | None = None
        self._held: Answer | None = None
        self._asked: float | None = None
        self._refused_at = -math.inf
        self._guests: set[_Guest] = set()
        self._told_at = 0.0
        self._told_linked = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(lead.sock.fileno(), self._accept)
        self._schedule()

    def __len__(self) -> int:
        return sum(1 for guest in self._guests if guest.need is not None)

    def close(self) -> None:
        """Leave all processes to themselves."""
        if self._lead.closed:
            return
        self._loop.remove_reader(self._lead.sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        # The files first: whoever notices the end of its connection looks at once who is next.
        self._lead.close()
        for guest in self._guests:
            guest.close()
        self._guests.clear()

    # As the others of the watch's subscribers.

    def observe(self, seen: Answer | Failure) -> None:
        """Tell all of them an observation.

        One that brings nothing but positions that nobody waits for comes a moment later, and in an outage to those that
        would have asked by themselves by now: this process asks more often than they would.
        """
        if isinstance(seen, Failure) and seen.fault.kind is FaultKind.SHORTAGE:
            self._finish()  # another process can do better
            return
        last, self._last = self._last, seen
        asked = self._asked
        if asked is not None and seen.sent_at >= asked:
            self._asked = None
        if (
            isinstance(seen, Answer)
            and isinstance(last, Answer)
            and alike(last, seen)
            and not seen.fresh
            and asked is None
        ):
            self._held = seen
            if self.in_outage():
                self._tell_held()
            else:
                self._batch.add(self._tell_held)
            return
        self._held = None  # this is newer
        self._tell_linked()
        self._tell(seen)

    def _tell_held(self, *, all_of_them: bool = False) -> None:
        """Tell an answer that brings only positions, each process no more often than it needs."""
        held, self._held = self._held, None
        if held is None or self._lead.closed:
            return
        self._tell_linked()
        now = self._loop.time()
        due = {guest for guest in self._guests if all_of_them or guest.due(now)}
        self._tell(held, due)

    def note(self, text: str) -> None:
        """Have all of them show a remark on the host."""
        self._tell(Note(text))

    @property
    def timeout(self) -> float:
        """Seconds for a connection attempt or a probe that the least patient one has; infinite if there are none."""
        return min((need.timeout for need in self._needs), default=math.inf)

    def pace(self, now: float) -> float:
        """Return the seconds from one probe to the next for the most eager one; infinite if there are none."""
        processes = 1 + len(self)
        return min((pace_of(need, now, processes=processes) for need in self._needs), default=math.inf)

    def in_outage(self) -> bool:
        """Whether one of them knows of no primary."""
        return any(need.outage_since is not None for need in self._needs)

    # For its guests.

    def enter(self, guest: _Guest) -> None:
        """Tell a process that it is told from now on, and what was seen last."""
        guest.send(Welcome(self._watch))
        guest.send(Beat(self._watcher.linked))
        guest.send(Note(self._watcher.subscribers.noted))
        if self._watcher.subscribers.last is not None:
            guest.send(self._watcher.subscribers.last)
        self.changed()

    def changed(self) -> None:
        """Heed what the processes need now."""
        self._watcher.nudge()
        self._schedule()
        self._on_change()

    def leave(self, guest: _Guest) -> None:
        """Forget a process."""
        if guest in self._guests:
            self._guests.discard(guest)
            self.changed()

    def answer(self, guest: _Guest) -> None:
        """Tell a process that this one runs."""
        guest.send(Beat(self._watcher.linked))

    def ask(self, guest: _Guest, ask: Ask) -> None:
        """Probe for a process."""
        self._tell_held(all_of_them=True)  # it may be what was asked for
        since = min(ask.since, time.monotonic())
        self._asked = since if self._asked is None else max(self._asked, since)
        self.answer(guest)
        self._watcher.ask(since, fresh=ask.fresh)

    def refused(self) -> None:
        """Take note that the host has refused a login of a process.

        While the refusal of another one counts, this one changes nothing: many processes would hold each other up.
        """
        now = time.monotonic()
        if now >= self._refused_at + REJECTED_GAP:
            self._refused_at = now
            self._watcher.refused()

    @property
    def _needs(self) -> list[Need]:
        return [guest.need for guest in self._guests if guest.need is not None]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._lead.sock.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptor is left, say: whoever waits begins the next turn.
                self._finish()
                return
            if not room_for(sock.fileno()):
                sock.close()  # it probes by itself
                continue
            sock.setblocking(False)
            with contextlib.suppress(LinkEnded, OSError):
                self._guests.add(_Guest(sock, self._key, self._watch, self))

    def _tell(self, message: Message, guests: set[_Guest] | None = None) -> None:
        self._told_at = now = self._loop.time()
        if not self._guests:
            return
        data, seen = encode(message), isinstance(message, Answer | Failure)
        for guest in tuple(self._guests if guests is None else guests):
            if guest.need is not None:
                if seen:
                    guest.told_at = now
                guest.send_encoded(data)

    def _tell_linked(self) -> None:
        linked = self._watcher.linked
        if linked != self._told_linked:
            self._told_linked = linked
            self._tell(Beat(linked))

    def _schedule(self) -> None:
        """Look again when it is time to tell that this process runs, if nothing else is told until then."""
        when = max(self._told_at + self._period, self._loop.time() + SHORTEST_BEAT)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    @property
    def _period(self) -> float:
        needs, now = self._needs, time.monotonic()
        return beat(min(pace_of(need, now) for need in needs)) if needs else _UNHEARD

    def _tick(self) -> None:
        self._timer = None
        if not self._lead.latest:
            self._finish()
            return
        if self._loop.time() >= self._told_at + self._period:
            self._told_linked = self._watcher.linked
            self._tell(Beat(self._told_linked))
        self._schedule()

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


class _Guest:
    """One process that is told, or has only connected so far.

    Attributes:
        need: what it requires; None until it has entered.
        told_at: when it was told an observation last, in seconds of the loop's clock.
    """

    def __init__(self, sock: socket.socket, key: HostKey, watch: str, audience: Audience) -> None:
        self.need: Need | None = None
        self.told_at: float = -math.inf
        self._watch = watch
        self._audience = audience
        self._link = Link(sock, key, on_message=self._on_message, on_end=lambda *_: self._drop())
        self._deadline = asyncio.get_running_loop().call_later(_ENTERS_WITHIN, self._drop)

    def due(self, now: float) -> bool:
        """Return whether it would have probed by now."""
        if self.need is None:
            return False
        pace = pace_of(self.need, time.monotonic())
        return now - self.told_at >= (
            _ABOUT * min(pace, _LONGEST) if self.need.outage_since is None else pace
        )

    def send(self, message: Message) -> None:
        self._link.send(message)

    def send_encoded(self, data: bytes) -> None:
        self._link.send_encoded(data)

    def close(self) -> None:
        self._deadline.cancel()
        self._link.close()

    def _drop(self) -> None:
        self.close()
        self._audience.leave(self)

    def _on_message(self, message: Message) -> None:
        match message:
            case Enter(watch=watch, need=need) if self.need is None and watch == self._watch:
                self._deadline.cancel()
                self.need = need
                self._audience.enter(self)
            case Need() if self.need is not None:
                self.need = message
                self._audience.answer(self)
                self._audience.changed()
            case Ask() if self.need is not None:
                self._audience.ask(self, message)
            case Refused() if self.need is not None:
                self._audience.refused()
            case _:
                self._drop()  # it does not belong here
