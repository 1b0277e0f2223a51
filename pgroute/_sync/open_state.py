# Generated from pgroute/_async/open_state.py by .ci/unasync.py: edit that file, not this one.
"""An open router as its sessions see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgroute._acompat import Changes, loop_identity
from pgroute.errors import RouterClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.meter import Meter


class OpenState:
    """What exists from `open()` on, in one process and one event loop.

    Args:
        watch: the watch on the hosts.
        meter: the router's.
        describe: returns the router's repr, for errors.

    Attributes:
        watch, meter, describe: as given.
        changes: notified of whatever may end a wait for a session.
        closing: the router is being closed, or is closed: the end of a session is waited for.
        pid: the process.
        loop: identifies the event loop.
    """

    __slots__ = ("changes", "closing", "describe", "loop", "meter", "pid", "watch")

    def __init__(self, watch: ClusterWatch, meter: Meter, describe: Callable[[], str]) -> None:
        self.watch: ClusterWatch = watch
        self.meter: Meter = meter
        self.describe: Callable[[], str] = describe
        self.changes: Changes = Changes()
        self.closing: bool = False
        self.loop: object = loop_identity()
        self.pid: int = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is the copy in a forked child, whose connections are the parent's; no hook is needed for it."""
        return self.pid != os.getpid()

    def inherited_error(self) -> RouterClosed:
        """Return the error for a use of the copy in a forked child."""
        return RouterClosed(
            f"{self.describe()} was opened before this process was forked: its connections belong to the parent; "
            "make a router in the child, after the fork",
            topology=self.watch.topology,
        )
