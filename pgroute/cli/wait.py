"""`pgroute wait`: waits until a role can be served."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgroute.cli.dsn import find
from pgroute.cli.terminal import silence_libraries

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    start = time.monotonic()
    key, _ = find(args)
    if not args.quiet:
        print(f"{args.role} at {key} after {time.monotonic() - start:.1f} s")
    return 0
