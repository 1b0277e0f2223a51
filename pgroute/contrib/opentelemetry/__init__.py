"""Routers in OpenTelemetry: metrics of pools, hosts and failovers, and a span for each session."""

from pgroute.contrib.opentelemetry.instrumentation import RouterInstrumentation

__all__ = ["RouterInstrumentation"]
