"""The router of an engine: made at its first use, or handed to it; who closes it, and when."""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy.util.concurrency import in_greenlet

from pgroute._async.router import AsyncRouter
from pgroute._async.router import manager_of as async_manager_of
from pgroute._sync.router import Router, manager_of
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError, RouteError, RouterClosed
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.contrib.sqlalchemy.options import EngineOptions
    from pgroute.core.model.roles import SessionAttrs


class Held:
    """A router that an engine uses.

    Args:
        router: a Router or an AsyncRouter.
        own: the engine has made it, so it closes it.

    Attributes:
        router, own: as given.
        threaded: it is a Router.
        manager: what is behind the router.
        attrs: the hosts of each role.
        opened: the engine has seen to it that the router is open.
        retired: the engine was disposed of: the last session to end closes the router.
        pid: the process.
    """

    __slots__ = ("attrs", "manager", "opened", "own", "pid", "retired", "router", "threaded")

    def __init__(self, router: Any, *, own: bool) -> None:
        self.router: Any = router
        self.own: bool = own
        self.threaded: bool = not isinstance(router, AsyncRouter)
        self.manager: Any = manager_of(router) if self.threaded else async_manager_of(router)
        self.attrs: dict[Role, SessionAttrs] = {role: self.manager.attrs_of(role) for role in Role}
        self.opened: bool = not own
        self.retired: bool = False
        self.pid: int = os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of an AsyncRouter that the engine has opened; None: there is none."""
        if not (self.own and self.opened and isinstance(self.router, AsyncRouter)):
            return None
        opened = self.manager.lifecycle.opened
        return None if opened is None else opened.loop

    @property
    def in_use(self) -> bool:
        """Whether a session is in flight."""
        for pool in self.manager.pools.values():
            pool.forget_lost()
        return any(pool.in_use for pool in self.manager.pools.values())

    def finish(self, wait: Callable[[Any], Any]) -> None:
        """Close the router, unless a session is still in flight."""
        if self.in_use:
            return
        if self.loop is None or in_greenlet():
            wait(self.router.close(0))
        else:  # nothing can be awaited, as in async_engine.sync_engine.dispose()
            self.close_elsewhere()

    def finish_elsewhere(self) -> None:
        """As `finish`, soon, in its loop or another thread; takes no lock."""
        loop = self.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._finish_here)
        else:
            _thread.start_new_thread(self._finish_here, ())

    def _finish_here(self) -> None:
        if not self.in_use:
            self.close_elsewhere()

    def close_elsewhere(self) -> None:
        """Have the router closed soon, in its loop or another thread; takes no lock."""
        loop = self.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_close_in, loop, self.router)
        else:
            # A Thread's start takes locks, so another thread does that.
            _thread.start_new_thread(_close_soon, (self.router,))


class RouterOwner:
    """Gives an engine its router.

    Args:
        cls: Router or AsyncRouter.
        wait: runs what a method of that router returns.
    """

    def __init__(self, cls: type[Router[Any] | AsyncRouter[Any]], wait: Callable[[Any], Any]) -> None:
        self._cls = cls
        self._wait = wait
        self._held: Held | None = None
        self._lock = threading.Lock()
        forked.register(self)

    @property
    def held(self) -> Held | None:
        """The router; None: there is none yet."""
        return self._held

    def find(self, options: EngineOptions) -> Held:
        """Return the router, which may not be open yet; it is made if there is none.

        Raises:
            ConfigError: the options are no router's.
            RouterClosed: the engine was used before this process was forked.
        """
        held = self._held
        if held is None:
            with self._lock:
                held = self._held
                if held is None:
                    self._held = held = self._make(options)
        if held.pid != os.getpid() and held.own and held.opened:
            raise RouterClosed(
                "this engine was used before the process was forked, and its connections belong to the parent: call "
                "engine.dispose(close=False) in the child"
            )
        return held

    def get(self, options: EngineOptions) -> Held:
        """Return the router, open.

        Raises:
            ConfigError, RouterClosed: as `find`.
            RouteError: the engine is in use in another event loop.
        """
        held = self._held
        if held is not None and held.opened and held.threaded and held.pid == os.getpid():
            return held
        held = self.find(options)
        loop = held.loop
        if loop is not None and in_greenlet() and loop is not asyncio.get_running_loop():
            if not loop.is_closed():
                raise RouteError(
                    "this engine is in use in another event loop: make one for each loop, or await engine.dispose() "
                    "there first"
                )
            self._leave(held)
            held = self.find(options)
        if not held.opened:
            self._wait(held.router.open())
            held.opened = True
        return held

    def _make(self, options: EngineOptions) -> Held:
        if options.router is None:
            return Held(options.make(self._cls), own=True)
        if not isinstance(options.router, self._cls):
            kind = "create_async_engine" if isinstance(options.router, AsyncRouter) else "create_engine"
            accepted = f"expected {'an' if self._cls is AsyncRouter else 'a'} {self._cls.__name__}"
            if isinstance(options.router, (Router, AsyncRouter)):
                accepted += f"; {kind}() takes a {type(options.router).__name__}"
            raise ConfigError("router", options.router, accepted)
        return Held(options.router, own=False)

    def retire(self) -> None:
        """Give up the router that the engine has made: it closes when its last session has ended."""
        with self._lock:
            held = self._held
            if held is None or not held.own:
                return
            self._held = None
        held.retired = True
        if held.pid == os.getpid() and held.opened:
            held.finish(self._wait)

    def _leave(self, held: Held) -> None:
        """Give up a router whose event loop is closed, and what it has lent there."""
        with self._lock:
            if self._held is not held:
                return
            self._held = None
        held.close_elsewhere()

    def abandon(self) -> None:
        """Close the router of an engine that was collected; called by the garbage collector: no lock may be taken."""
        held, self._held = self._held, None
        if held is None or not held.own or not held.opened or held.pid != os.getpid():
            return
        held.close_elsewhere()

    def after_fork(self) -> None:
        """In a forked child: take a lock of its own."""
        self._lock = threading.Lock()


_closing: set[asyncio.Task[None]] = set()


def _close_in(loop: asyncio.AbstractEventLoop, router: AsyncRouter[Any]) -> None:
    task = loop.create_task(router.close(0))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _close_soon(router: Router[Any] | AsyncRouter[Any]) -> None:
    threading.Thread(target=_close, args=(router,), name="pgroute-engine-close", daemon=True).start()


def _close(router: Router[Any] | AsyncRouter[Any]) -> None:
    if isinstance(router, AsyncRouter):
        asyncio.run(router.close(0))
    else:
        router.close(0)
