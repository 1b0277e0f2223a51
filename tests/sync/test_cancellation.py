# Generated from tests/aio/test_cancellation.py by .ci/unasync.py: edit that file, not this one.
"""Tasks cancelled at every of a session: no connection is lost to the pool, none is left at the server."""

from __future__ import annotations

