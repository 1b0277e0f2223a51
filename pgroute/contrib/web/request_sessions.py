"""The causal sessions of one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.model.position import Position


class _Causal(Protocol):
    @property
    def position(self) -> Position | None: ...

    @property
    def lost(self) -> bool: ...


C = TypeVar("C", bound=_Causal)


class RequestSessions(Generic[C]):
    """Makes the causal sessions of a request when they are asked for, and tells what became of its position.

    Args:
        begin: `causal` of the router.
        after: where they begin; None: anywhere.
    """

    def __init__(self, begin: Callable[[Position | None], C], after: Position | None) -> None:
        self._begin = begin
        self._after = after
        self._causal: C | None = None

    @property
    def causal(self) -> C:
        """The causal sessions, always the same object."""
        if self._causal is None:
            try:
                self._causal = self._begin(self._after)
            except ConfigError:  # of another cluster, such as staging
                self._causal = self._begin(None)
        return self._causal

    @property
    def lost(self) -> bool:
        """Whether a session was refused because a failover has lost the position."""
        return self._causal is not None and self._causal.lost

    @property
    def advanced_to(self) -> Position | None:
        """How far the sessions came, None if not beyond where they began."""
        position = None if self._causal is None else self._causal.position
        return None if position == self._after else position
