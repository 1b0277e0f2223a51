"""Pages of metrics, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pgroute.contrib.prometheus import RouterCollector


class Page:
    """What a scrape of a registry finds.

    Attributes:
        text: the page.
        types: of the metrics, by name.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.text = generate_latest(registry).decode()
        families = list(text_string_to_metric_families(self.text))
        self.types = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def all(self, name: str, **labels: str) -> list[float]:
        """Return all values of a metric with these labels, among others."""
        return [s.value for s in self.samples if s.name == f"pgroute_{name}" and _has(s.labels, labels)]

    def value(self, name: str, **labels: str) -> float:
        """Return the one value of a metric with these labels, among others."""
        [value] = self.all(name, **labels)
        return value

    def labels(self, label: str) -> set[str]:
        """Return all values of a label."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def registry_of(*routers: Any) -> CollectorRegistry:
    """Return a registry with a collector of these routers alone."""
    registry = CollectorRegistry()
    registry.register(RouterCollector(*routers))
    return registry
