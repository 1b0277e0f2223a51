"""The routers that are observed, each under a name of its own, and none kept alive for that."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from pgroute import AsyncRouter, Router
from pgroute.contrib.metrics.reading import Reading
from pgroute.errors import ConfigError
from pgroute.faces import AnyRouter, manager_behind
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ObservedRouters:
    """Routers by name; those that are gone disappear. From any thread."""

    def __init__(self) -> None:
        # Reentrant: a scrape may come within a signal handler.
        self._lock = threading.RLock()
        self._routers: dict[str, weakref.ref[AnyRouter]] = {}
        forked.register(self)

    def after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def add(self, router: AnyRouter, others: Iterable[ObservedRouters] = ()) -> str:
        """Add a router and return the name that it goes by: its own, with a number if another one has that.

        Args:
            router: a Router or an AsyncRouter.
            others: whose names are taken too.

        Raises:
            ConfigError: it is no router, or was added before.
        """
        given: object = router
        if not isinstance(given, (Router, AsyncRouter)):
            raise ConfigError("router", router, "expected a Router or an AsyncRouter")
        forked.notice()
        with self._lock:
            living = {name: ref for name, ref in self._routers.items() if ref() is not None}
            if any(ref() is router for ref in living.values()):
                raise ConfigError("router", router, "expected a router that was not added before")
            taken = living.keys() | {name for each in others for name in each.names()}
            name, number = router.name, 1
            while name in taken:
                number += 1
                name = f"{router.name}#{number}"
            self._routers = living | {name: weakref.ref(router)}
        return name

    def remove(self, router: AnyRouter) -> None:
        """Forget a router, if it was added."""
        forked.notice()
        with self._lock:
            self._routers = {name: ref for name, ref in self._routers.items() if ref() is not router}

    def names(self) -> list[str]:
        """Return the names of the routers that are not gone."""
        return [name for name, ref in self._routers.items() if ref() is not None]

    def living(self) -> list[AnyRouter]:
        """Return the routers that are not gone."""
        return [router for ref in self._routers.values() if (router := ref()) is not None]

    def read(self) -> Iterator[Reading]:
        """Yield the state of each router, but not of the copies of the parent's in a forked child."""
        for name, ref in self._routers.items():
            router = ref()
            if router is None:
                continue
            manager = manager_behind(router)
            if not manager.lifecycle.inherited:
                yield Reading(name, manager)
