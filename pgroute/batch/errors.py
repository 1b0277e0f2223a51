"""The error of a batch job that cannot continue."""

from __future__ import annotations

from pgroute.errors import RouteError


class BatchError(RouteError):
    """A batch job cannot continue: it was reset, its source changed, or another session holds a chunk.

    Applied chunks stay applied, and the database records them as applied.
    """
