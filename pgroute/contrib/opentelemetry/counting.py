"""Keeps what is told of a counter from falling, as OpenTelemetry expects of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.metrics import Observation

if TYPE_CHECKING:
    from collections.abc import Iterable

_SETS = 2000
"""How many sets of attributes are kept: as many as OpenTelemetry's SDK tells apart."""


class _Counted(NamedTuple):
    """What was observed last, and what is added to it."""

    value: float = 0
    offset: float = 0


class RisingCounter:
    """What was told of one counter, by its attributes.

    Counters begin with a host that is listed again, and with a router that takes the name of one that is gone; their
    attributes are the same, and OpenTelemetry keeps the time of the first value for all.
    """

    def __init__(self) -> None:
        self._counted: dict[frozenset[tuple[str, object]], _Counted] = {}

    def rising(self, observed: Iterable[Observation]) -> list[Observation]:
        """Return these values, each with what was counted before its counter began."""
        sums: dict[frozenset[tuple[str, object]], Observation] = {}
        for observation in observed:
            key = frozenset((observation.attributes or {}).items())
            same = sums.get(key)
            value = observation.value + (0 if same is None else same.value)
            sums[key] = Observation(value, observation.attributes)
        return [
            Observation(self._told(key, observation.value), observation.attributes)
            for key, observation in sums.items()
        ]

    def _told(self, key: frozenset[tuple[str, object]], value: float) -> float:
        last, offset = self._counted.get(key, _Counted())
        if value < last:
            # Seconds fall a little where an outage ends before the moment at which it was last looked at.
            offset += last if isinstance(value, int) else last - value
        if key in self._counted or len(self._counted) < _SETS:
            self._counted[key] = _Counted(value, offset)
        return value + offset
