"""`pgroute completion`: prints a script with which a shell completes commands and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.cli.errors import CommandError
from pgroute.cli.parser import make_parser

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise CommandError(
            'this needs the package shtab: pip install shtab (the extra "cli" brings it)'
        ) from None
    print(shtab.complete(make_parser(), shell=args.shell))
    return 0
