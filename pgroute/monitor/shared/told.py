"""A process that is told what another one observes: takes the observations, and says what it needs."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import FaultKind
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.wire import Ask, Beat, Enter, Note, Refused, Welcome
from pgroute.monitor.shared.link import Link
from pgroute.monitor.shared.needs import differ, pace_of
from pgroute.monitor.shared.times import HEARING, oldest, patience, unseen
from pgroute.monitor.stalls import STALL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.wire import Message, Need
    from pgroute.monitor.subscribers import Subscribers

_ASK_GAP = 0.1
_EXTENSIONS = 5


class Ending(enum.Enum):
    """Why a process is not told any more.

    Attributes:
        GONE: the other process has closed the connection, or has ended.
        SILENT: it does not run, or too rarely.
        NONSENSE: it sends what no pgroute sends.
        LOST: it does not know where the host is, and this process does.
    """

    GONE = "gone"
    SILENT = "silent"
    NONSENSE = "nonsense"
    LOST = "lost"


class Told:
    """One connection to the process that watches. Used in the monitor's loop only.

    Args:
        key: the host.
        watch: its name.
        sock: is connected to that process.
        subscribers: of this process.
        on_welcome: called once the other process has taken this one in.
        on_seen: called after each observation.
        resolved: tells whether this process knows an address of the host.
        fresh: the first probe has to use a new connection.

    Attributes:
        ended: the result is why nothing is told any more, and in words.
        welcome: the other process has taken this one in.
        linked: its connection to the host is open.

    Raises:
        LinkEnded: the other process is another user's.
    """

    def __init__(
        self,
        key: HostKey,
        watch: str,
        sock: socket.socket,
        subscribers: Subscribers,
        *,
        on_welcome: Callable[[], None],
        on_seen: Callable[[], None],
        resolved: Callable[[], bool],
        fresh: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[tuple[Ending, str]] = self._loop.create_future()
        self.welcome: bool = False
        self.linked: bool = False
        self._watch = watch
        self._subscribers = subscribers
        self._on_welcome = on_welcome
        self._on_seen = on_seen
        self._resolved = resolved
        self._need: Need = subscribers.need(time.monotonic())
        self._link = Link(sock, key, on_message=self._on_message, on_end=self._on_end)
        self._asked: float | None = None
        self._wanted: float | None = None
        self._wanted_fresh = False
        self._asked_at = -math.inf
        self._heard_at = self._loop.time()
        self._answer_by: float | None = self._heard_at + HEARING
        self._seen_at = self._heard_at
        self._taken = False
        self._stalls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._link.send(Enter(watch, self._need))
        self.kick(fresh=fresh)
        self._watch_silence()

    def close(self) -> None:
        """End the connection."""
        self._link.close()
        if self._timer is not None:
            self._timer.cancel()
        if not self.ended.done():
            self.ended.cancel()

    def kick(self, *, fresh: bool = False) -> None:
        """Have the host probed at once, on a new connection if *fresh*."""
        self._wanted = time.monotonic()
        self._wanted_fresh = self._wanted_fresh or fresh
        # As with a probe of its own, one is under way at a time. Asking again shows whether the other process runs.
        if self._asked is None or self._loop.time() > self._asked_at + _ASK_GAP:
            self._ask()

    def refused(self) -> None:
        """Say that the host has refused a login of a pool."""
        self._link.send(Refused())

    def nudge(self) -> None:
        """Say what is needed now, if that has changed."""
        need = self._subscribers.need(time.monotonic())
        if differ(need, self._need):
            self._need = need
            self._link.send(need)
            self._expect_answer()
        if self._subscribers.urgent and self._asked is None:
            self.kick()

    def _ask(self) -> None:
        assert self._wanted is not None
        self._asked, self._wanted = self._wanted, None
        fresh, self._wanted_fresh = self._wanted_fresh, False
        self._asked_at = self._loop.time()
        self._link.send(Ask(self._asked, fresh))
        self._expect_answer()

    def _expect_answer(self) -> None:
        """The other process answers at once whatever it is told, by a sign of life at least."""
        if self._answer_by is None:
            self._answer_by = self._loop.time() + HEARING
        self._watch_silence()

    def _on_message(self, message: Message) -> None:
        self._heard_at = self._loop.time()
        self._answer_by = None
        self._stalls = 0
        match message:
            case Welcome(watch=watch) if watch == self._watch:
                self.welcome = True
                self._on_welcome()
            case Answer() | Failure() if self.welcome and message.sent_at <= time.monotonic():
                self._observe(message)
            case Beat(linked=linked) if self.welcome:
                self.linked = linked
            case Note(text=text) if self.welcome:
                self._subscribers.note(text)
            case _:
                self._end(Ending.NONSENSE, "a message that does not belong here")

    def _observe(self, seen: Answer | Failure) -> None:
        if isinstance(seen, Failure) and seen.fault.kind is FaultKind.UNRESOLVED and self._resolved():
            self._end(Ending.LOST, "the process that watches has never found an address of the name")
            return
        if self._taken:
            if time.monotonic() - seen.sent_at > oldest(self._need.timeout):
                return  # it was not read in time, as this process did not run: what follows is newer
        elif (last := self._subscribers.last) is not None and (seen.sent_at < last.sent_at or seen == last):
            # The process that led before, or this one itself, has seen more, or has told the same: a failure that is
            # told twice would count twice. Once one is taken, what comes is in the order in which it was seen.
            return
        self._taken = True
        self._seen_at = self._heard_at
        self._subscribers.observe(seen)
        self._on_seen()
        if self.ended.done():
            return
        if self._asked is not None and seen.sent_at >= self._asked:
            self._asked = None
        if self._asked is None and self._wanted is not None:
            if self._wanted_fresh or self._wanted > seen.sent_at:
                self._ask()
            else:
                self._wanted = None
        self.nudge()

    def _on_end(self, why: str, nonsense: bool) -> None:
        self._end(Ending.NONSENSE if nonsense else Ending.GONE, why)

    def _end(self, ending: Ending, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result((ending, why))
        self.close()

    @property
    def _silent_at(self) -> float:
        """When the other process is taken to hang, unless it is heard before."""
        beat_by = self._heard_at + patience(pace_of(self._need, time.monotonic()))
        # The loop of the other process runs, but its watch of the host may not.
        beat_by = min(beat_by, self._seen_at + unseen(self._need.interval, self._need.timeout))
        return beat_by if self._answer_by is None else min(beat_by, self._answer_by)

    def _watch_silence(self) -> None:
        when = self._silent_at
        if self.ended.done() or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check_silence, when)

    def _check_silence(self, when: float) -> None:
        self._timer = None
        now = self._loop.time()
        if now >= self._silent_at:
            if now - when < STALL or self._stalls >= _EXTENSIONS:
                self._end(Ending.SILENT, "the process at the other end does not answer")
                return
            # This process did not run itself, so its messages may just not have been read.
            self._stalls += 1
            self._heard_at = self._seen_at = now
            if self._answer_by is not None:
                self._answer_by = now + HEARING
        self._watch_silence()
