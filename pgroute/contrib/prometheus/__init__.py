"""Routers in Prometheus: a collector for `prometheus_client`."""

from pgroute.contrib.prometheus.collector import RouterCollector

__all__ = ["RouterCollector"]
