"""All metrics."""

from __future__ import annotations

from pgroute.contrib.metrics.hosts import HOSTS
from pgroute.contrib.metrics.pools import POOLS
from pgroute.contrib.metrics.sessions import SESSIONS
from pgroute.contrib.metrics.writers import WRITERS

FAMILIES = (*WRITERS, *SESSIONS, *POOLS, *HOSTS)
"""In the order of docs/metrics.md."""
