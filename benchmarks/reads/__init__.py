"""Reads: how stale, from where, and at what cost; see docs/performance.md."""
