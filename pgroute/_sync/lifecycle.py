# Generated from pgroute/_async/lifecycle.py by .ci/unasync.py: edit that file, not this one.
"""Opens and closes a router, and tells whether it may be used."""

from __future__ import annotations

import math
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from pgroute._acompat import (
    Lock,
    blocking,
    keep_time,
    loop_identity,
    myself,
    stop_keeping_time,
)
from pgroute._sync.open_state import OpenState
from pgroute._sync.reconciler import PoolReconciler
from pgroute.errors import RouteError, RouterClosed
from pgroute.runtime.fork import forked

if TYPE_CHECKING:

    from collections.abc import Callable, Mapping
    from pgroute._sync.listening import Listening
    from pgroute._sync.pool.role_pool import RolePool
    from pgroute.core.model.roles import Role
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.credentials import CredentialSource
    from pgroute.runtime.event_dispatcher import EventDispatcher
    from pgroute.runtime.meter import Meter

_NEW, _OPEN, _CLOSING, _CLOSED = "new", "open", "closing", "closed"
_END_TIMEOUT, _EVENTS_TIMEOUT, _LEAST = 2.0, 1.0, 0.1
_STEP = 0.05
"""Seconds after which a close notices that sessions were lost, which notify nobody."""


class Lifecycle:
    """Opens and closes the parts of a router.

    Args:
        watch: the watch on the hosts.
        pools: by role.
        dispatcher: of events to subscribers.
        listening: the listeners.
        source: calls the user's credentials function; None: there is none.
        meter: the router's.
        name: the router's, for the names of threads and tasks.
        describe: returns the router's repr, for errors.

    Attributes:
        opened: what `open()` has made, kept after the close; None before.
        reconciler: likewise.
    """

    def __init__(
        self,
        watch: ClusterWatch,
        pools: Mapping[Role, RolePool[Any]],
        dispatcher: EventDispatcher,
        listening: Listening,
        source: CredentialSource | None = None,
        *,
        meter: Meter,
        name: str,
        describe: Callable[[], str],
    ) -> None:
        self._watch = watch
        self._pools = pools
        self._dispatcher = dispatcher
        self._listening = listening
        self._meter = meter
        self._source = source
        self._name = name
        self._describe = describe
        self._state = _NEW
        self.opened: OpenState | None = None
        self.reconciler: PoolReconciler | None = None
        self._turn = Lock()
        self._inside: set[object] = set()  # before the lock is taken: a signal handler may come in between
        self._close_asked = False
        self._until = math.inf
        forked.register(self)

    @property
    def inherited(self) -> bool:
        """Whether this is the copy in a forked child of a router that the parent has opened."""
        return self.opened is not None and self.opened.inherited

    @property
    def state(self) -> str:
        """What may be done with the router here: "new", "open", "closing" or "closed"."""
        return _CLOSED if self.inherited else self._state

    def check_open(self) -> OpenState:
        """Return the state of an open router.

        Raises:
            RouterClosed: the router is not open, or was opened before this process was forked.
            RouteError: it was opened in another event loop.
        """
        opened = self.opened
        if (
            opened is not None
            and self._state == _OPEN
            and opened.pid == os.getpid()
            and opened.loop is loop_identity()
        ):
            return opened
        if opened is not None and opened.inherited:
            raise opened.inherited_error()
        if self._state == _NEW:
            raise RouterClosed(f"{self._describe()} was never opened: use open() or a with statement")
        if self._state != _OPEN:
            raise RouterClosed(f"{self._describe()} is closed", topology=self._watch.topology)
        raise RouteError(f"{self._describe()} belongs to another event loop: open one router in each loop")

    def open(self) -> None:
        """Start to watch the hosts, unless the router is open already.

        Raises:
            RouterClosed: the router was closed.
            RouteError: it was opened in another event loop.
            RuntimeError: a thread cannot be started; the router may be opened later.
        """
        forked.notice()
        self._in_turn(self._begin)
        self.check_open()

    def _in_turn(self, step: Callable[[], None]) -> None:
        me = myself()
        while True:
            try:
                self._inside.add(me)
                with self._turn:
                    step()
            finally:
                self._inside.discard(me)
            if not self._close_asked or self._state == _CLOSED:
                return
            step = self._close

    def _begin(self) -> None:
        if self.state != _NEW:
            return
        opened = OpenState(self._watch, self._meter, self._describe)
        self.reconciler = reconciler = PoolReconciler(
            self._watch,
            self._pools,
            self._dispatcher,
            self._listening,
            opened.changes,
            meter=self._meter,
            owner=self,
        )
        try:
            self.opened = opened
            keep_time(self)
            if self._source is not None:
                self._source.open(opened.loop)
            self._dispatcher.resume()
            reconciler.start(self._name)
            self._state = _OPEN
        except BaseException:
            self.opened = None
            self._watch.stop()
            reconciler.stop(_END_TIMEOUT)
            stop_keeping_time(self)
            raise

    def close(self, timeout: float) -> None:
        """End everything. Sessions in flight have *timeout* seconds, then they are aborted.

        A second caller waits until the first is done. If closing is interrupted, sessions are aborted at once and the
        rest is done; the next call finishes what a second interrupt leaves.
        """
        forked.notice()
        if self.inherited:
            return
        self._until = min(self._until, time.monotonic() + timeout)
        if self._state == _CLOSING and self.opened is not None:
            self.opened.changes.notify()  # the caller that is closing it may have a later deadline
        if myself() in self._inside:
            self._close_asked = True  # called by a signal handler within open() or close(), which does it
            return
        self._in_turn(self._close)

    def _close(self) -> None:
        if self._state == _NEW:
            self._state = _CLOSED
            blocking(self._dispatcher.close)
        if self._state == _CLOSED:
            return
        opened = self.opened
        assert opened is not None
        self._state, opened.closing = _CLOSING, True
        opened.changes.notify()
        try:
            self._finish_sessions(opened)
        finally:
            self._end()

    def _finish_sessions(self, opened: OpenState) -> None:
        try:
            self._listening.close()
            for pool in self._pools.values():
                pool.close()
            while True:
                version = opened.changes.version
                left = self._until - time.monotonic()
                for pool in self._pools.values():
                    pool.forget_lost()
                if not sum(pool.in_use for pool in self._pools.values()) or left <= 0:
                    return
                opened.changes.wait(version, min(left, _STEP))
        finally:
            for pool in self._pools.values():
                pool.abort_all()

    def _end(self) -> None:
        """Do the rest; all steps may be repeated, and wait for what hangs at the same time."""
        reconciler = self.reconciler
        assert reconciler is not None
        until = time.monotonic() + _END_TIMEOUT

        def left() -> float:
            return max(_LEAST, until - time.monotonic())

        try:
            _do_all(
                *(partial(blocking, source.close) for source in (self._source,) if source is not None),
                *(pool.close for pool in self._pools.values()),  # again: an interrupt may have left some open
                lambda: self._listening.join(left()),
                partial(blocking, self._watch.stop),
                lambda: reconciler.stop(left()),
                partial(blocking, lambda: self._dispatcher.close(min(_EVENTS_TIMEOUT, left()))),
                *((lambda pool=pool: pool.join(left())) for pool in self._pools.values()),
            )
        finally:
            stop_keeping_time(self)
        self._state = _CLOSED

    def after_fork(self) -> None:
        """In a forked child: make a router that was not opened yet usable; leave any other alone."""
        if self.opened is None:
            self._turn = Lock()
            self._inside = set()
            self._dispatcher.after_fork()


def _do_all(*steps: Callable[[], Any]) -> None:
    """Do every step even if others fail, and raise the last error."""
    failure: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as exc:  # noqa: BLE001  (raised below)
            failure = exc
    if failure is not None:
        raise failure
