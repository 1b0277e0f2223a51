# Generated from pgroute/_async/direct/api.py by .ci/unasync.py: edit that file, not this one.
"""The methods of a router that run statements without a session."""

from __future__ import annotations

from pgroute._sync.direct.executing import Executing
from pgroute._sync.direct.fetching import Fetching
from pgroute._sync.direct.whole import CT_co


class Direct(Fetching[CT_co], Executing[CT_co]):
    """The part of a router that runs single statements."""
