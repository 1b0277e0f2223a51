"""The methods of a router that run statements without a session."""

from __future__ import annotations

from pgroute._async.direct.executing import AsyncExecuting
from pgroute._async.direct.fetching import AsyncFetching
from pgroute._async.direct.whole import CT_co


class AsyncDirect(AsyncFetching[CT_co], AsyncExecuting[CT_co]):
    """The part of a router that runs single statements."""
