"""The methods of the router that tell what happens: `topology`, `subscribe`, `listen`, `forget_timeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute.core.callables import is_coroutine_function
from pgroute.errors import ConfigError
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._async.listener import AsyncListener
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.events import Event
    from pgroute.core.topology.snapshot import Topology


class AsyncObserving(Generic[CT]):
    """The part of a router that tells of hosts, events and notifications."""

    _manager: AsyncSessionManager[CT]

    @property
    def topology(self) -> Topology:
        """The current state of all hosts, an immutable snapshot."""
        return self._manager.topology

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Call *fn* with each Event, in order, in its own thread. Returns an unsubscribe function.

        At most 1000 events wait for a slow subscriber; more are dropped.

        Args:
            fn: a function of one Event, not a coroutine function. Its errors are logged.

        Raises:
            ConfigError: *fn* is not callable.
            RouterClosed: the router was opened before this process was forked.
        """
        given: object = fn
        if not callable(given) or is_coroutine_function(given):
            raise ConfigError("fn", fn, "expected a callable that is not a coroutine function")
        return self._manager.subscribe(fn)

    def listen(self, *channels: str, timeout: float | None = None, max_waiting: int = 1000) -> AsyncListener:
        """Return a context manager that yields an iterator of Notification and Gap, from the primary.

        All listeners of a router share one connection, beside the pools. It goes with the primary. After a failover the
        listener receives again, and is given a Gap that covers what may be missing. The writers' *configure* is called
        with this connection too.

        Args:
            channels: their names, of at most 63 bytes, as LISTEN takes them in double quotes: case matters.
            timeout: seconds to wait on entering for the primary; None: acquire_timeout.
            max_waiting: how many notifications may wait for the listener. When there are more, they are dropped until
                it has taken these, and a Gap counts them.

        Raises:
            ConfigError: an argument is invalid.
            NoHostAvailable, SplitBrainError: on entering, it could not listen in time.
            RouterClosed: on entering, the router is not open.
            psycopg.NotSupportedError: on entering, a pooler is in between that lends connections for a transaction.
        """
        with forked.importing:
            from pgroute._async.listener import AsyncListener

        return AsyncListener(self._manager, channels, timeout=timeout, limit=max_waiting)

    def forget_timeline(self) -> None:
        """Accept a lower timeline, for example after restoring a backup.

        Also after you have resolved a split brain, or if a host has reported a wrong timeline. Make sure that there is
        no primary on the higher timeline. The reason of a stale host names the host that reported that timeline.

        Raises:
            RouterClosed: the router is not open.
        """
        self._manager.lifecycle.check_open()
        self._manager.watch.forget_timeline()
