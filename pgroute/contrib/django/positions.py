"""How far the requests of one user have written and read, while one of them is served."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pgroute.core.model.roles import Role
from pgroute.runtime.causality import Causality

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgroute._sync.router import Router
    from pgroute.core.model.position import Position


class Positions:
    """The positions of one user, one for each cluster.

    Args:
        given: those that the request came with.
        on_reads: sessions of readers are ordered among each other too.

    Attributes:
        given: as given.
        lost: a failover has lost one of them.
    """

    def __init__(self, given: Iterable[Position] = (), *, on_reads: bool = True) -> None:
        self.given: tuple[Position, ...] = tuple(given)
        self.lost = False
        self._on_reads = on_reads
        self._left = self.given
        self._known: dict[Router[Any], Causality] = {}

    def causality(self, router: Router[Any]) -> Causality:
        """Return what orders the sessions of a router."""
        found = self._known.get(router)
        if found is None:
            found = self._known.setdefault(router, Causality(self._position(router)))
        return found

    def _position(self, router: Router[Any]) -> Position | None:
        """Return the position of the router's cluster; of any cluster while the router does not know its own."""
        cluster = router.topology.system_id
        return next((each for each in self._left if cluster in (None, each.system_id)), None)

    def takes_note(self, role: Role) -> bool:
        """Return whether the ends of sessions of a role are noted."""
        return self._on_reads or role is Role.WRITER

    def refuse(self, router: Router[Any]) -> bool:
        """Forget the position of a router, which is one of another cluster; return whether there was one."""
        refused = self._known.pop(router, Causality(None)).position
        self._left = tuple(each for each in self._left if each != refused)
        return refused is not None

    def found(self) -> tuple[Position, ...]:
        """Return the positions for the next request."""
        found = {each.system_id: each for each in self._left}
        for causality in self._known.values():
            if (position := causality.position) is not None:
                found[position.system_id] = position
        return tuple(found.values())


current: ContextVar[Positions | None] = ContextVar("positions", default=None)
"""Those of the request that is served in this context; None: nobody carries them."""
