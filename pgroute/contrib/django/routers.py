"""The routers of this process, one for all aliases that need the same."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

from pgroute._sync.router import manager_of
from pgroute.config_file.shared import SharedRouters

if TYPE_CHECKING:
    from pgroute._sync.router import Router
    from pgroute.contrib.django.options import RouterSpec

_shared = SharedRouters()
_open: dict[Router[Any], tuple[RouterSpec, int]] = {}


def router_for(spec: RouterSpec) -> Router[Any]:
    """Return the open router for these settings, made if this process has none.

    A router that was made before a fork stays the parent's; the child makes its own.

    Raises:
        ConfigError: an option is invalid.
    """
    router: Router[Any] = _shared.find_or_make(spec, lambda: (spec, spec.make))  # type: ignore[assignment]
    if router not in _open:
        router.open()  # also while another thread does: that one may not be done
        _open[router] = (spec, os.getpid())
    return router


def close_routers(spec: RouterSpec, *, with_sessions: bool = False) -> None:
    """Close the routers of this process that lead to the same database; the next session makes another one.

    Args:
        spec: of one of them.
        with_sessions: those too that have sessions in use, which are aborted.
    """
    for router, (other, pid) in [*_open.items()]:
        if pid != os.getpid() or other.database != spec.database:
            continue
        if with_sessions or not any(pool.in_use for pool in manager_of(router).pools.values()):
            _open.pop(router, None)
            router.close(timeout=0)


@atexit.register
def close_all() -> None:
    """Close all routers that this process has opened."""
    for router, (_, pid) in [*_open.items()]:
        if pid == os.getpid():
            _open.pop(router, None)
            router.close(timeout=0)
