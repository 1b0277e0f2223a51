"""What ends a batch job that cannot go on."""

from __future__ import annotations

from pgroute.errors import RouteError


class BatchError(RouteError):
    """A batch job cannot go on as it is: it was reset, its source changed, or another session holds a chunk.

    What was applied stays so, and is known as applied.
    """
