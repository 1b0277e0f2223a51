"""`python -m tests.docker.pooled_worker`: the worker, with the options that a transaction pooler asks for.

The user of the DSN is the watch's: a pool of its own in the pooler.
"""

from __future__ import annotations

import argparse
from typing import Any

from pgroute import PoolOptions
from tests.chaos import worker

POOL = PoolOptions(kwargs={"user": "app"})
OPTIONS: dict[str, Any] = {"writer": POOL, "reader": POOL, "kwargs": {"prepare_threshold": None}}


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the router's options."""
    return OPTIONS


if __name__ == "__main__":
    worker.options = options
    worker.main()
