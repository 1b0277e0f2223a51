"""One metric: what it is called, what it means, and where it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.durations import DurationCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgroute.contrib.metrics.reading import Reading

Value = float | DurationCounts
Read: TypeAlias = "Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]"
"""Yields the values of a metric's labels, and its value."""

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
SECONDS, BYTES = "s", "By"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: in Prometheus, behind ``pgroute_``; a counter gets ``_total``.
        kind: GAUGE, COUNTER or HISTOGRAM.
        labels: besides the router's.
        meaning: in words.
        read: yields the values of the labels, and the value.
        otel: in OpenTelemetry, behind ``pgroute.``; empty: the conventions have a name for it.
        unit: SECONDS, BYTES, or as OpenTelemetry writes what is counted.
        states: the last label is a state, the value 1 for that which holds; OpenTelemetry is told of no other.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    read: Read
    otel: str = ""
    unit: str = ""
    states: bool = False


def single(get: Callable[[Reading], Value]) -> Read:
    """Read a metric without labels."""
    return lambda reading: [((), get(reading))]
