"""Reads the counters of routers when Prometheus asks."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.metrics.family import COUNTER, HISTOGRAM
from pgroute.contrib.metrics.routers import ObservedRouters
from pgroute.core.model.durations import DurationCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from pgroute.contrib.metrics.family import Family
    from pgroute.faces import AnyRouter


class RouterCollector(Collector):
    """Gives the metrics of routers to a registry of `prometheus_client`; see docs/metrics.md.

    ::

        REGISTRY.register(RouterCollector(router))

    Nothing is done between two scrapes, and no router is kept alive. A router that is collected disappears, one that is
    closed keeps its counters until then. In a forked child there are only the routers that it has opened itself.

    The label ``router`` is the router's name; of several with the same name, the later ones get a number: ``shop#2``.

    Args:
        routers: each a Router or an AsyncRouter, open or not; others may be added later.

    Raises:
        ConfigError: one is no router, or there twice.
    """

    def __init__(self, *routers: AnyRouter) -> None:
        self._routers = ObservedRouters()
        for router in routers:
            self.add(router)

    def add(self, router: AnyRouter) -> None:
        """Add a router.

        Args:
            router: a Router or an AsyncRouter, open or not.

        Raises:
            ConfigError: it is no router, or was added before.
        """
        self._routers.add(router)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without their values, for the registry."""
        for family in FAMILIES:
            yield _metric(family)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now; from any thread."""
        readings = list(self._routers.read())
        for family in FAMILIES:
            metric = _metric(family)
            for reading in readings:
                for labels, value in family.read(reading):
                    _add(metric, [reading.name, *labels], value)
            yield metric


def _metric(family: Family) -> Metric:
    kinds = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}
    made: Metric = kinds.get(family.kind, GaugeMetricFamily)(
        f"pgroute_{family.name}", family.meaning, labels=["router", *family.labels]
    )
    return made


def _add(metric: Metric, labels: list[str], value: float | DurationCounts) -> None:
    if isinstance(value, DurationCounts):
        assert isinstance(metric, HistogramMetricFamily)
        names = [*map(floatToGoString, value.bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(value.counts)), strict=True))
        metric.add_metric(labels, buckets, sum_value=value.total)
        return
    assert isinstance(metric, (CounterMetricFamily, GaugeMetricFamily))
    metric.add_metric(labels, value)
