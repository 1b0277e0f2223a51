"""`pgroute demo`: causes a fault in a throw-away cluster under load, and checks every acknowledged row."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import psycopg

from pgroute.cli.demo.faults import FAULTS
from pgroute.cli.demo.report import show_outcome
from pgroute.cli.demo.stage import Stage
from pgroute.cli.errors import CommandError
from pgroute.cli.terminal import open_console, silence_libraries
from pgroute.runtime.console import can_redraw
from pgroute.testing import ClusterError, LocalCluster, ServerNotFound
from pgroute.testing.environment import no_variables

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from rich.console import Console

_SPARE = 20
"""Connections besides those of the load: probes, replication, the demo itself."""


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    console = open_console()
    if args.plot is not None:
        from pgroute.cli.demo.plot import check

        check(args.plot)
    try:
        cluster = LocalCluster(
            standbys=2,
            version=args.pg_version,
            synchronous=True,
            settings={"max_connections": str(args.writers + args.readers + _SPARE)},
        )
        try:
            with no_variables():
                with _saying(console, "starting a primary and two standbys"):
                    cluster.start()
                outcome = Stage(console, cluster, args, FAULTS[args.fault]).play()
        finally:
            cluster.stop()
    except (ServerNotFound, ClusterError, psycopg.Error) as exc:
        raise CommandError(str(exc)) from exc
    show_outcome(console, outcome)
    if args.plot is not None:
        from pgroute.cli.demo.plot import draw

        draw(outcome, args.plot)
        console.print(f"The picture is in {args.plot}.")
    return 0 if outcome.kept else 1


def _saying(console: Console, text: str) -> AbstractContextManager[object]:
    """Show a text until the block ends, where it can be taken back."""
    return console.status(text) if can_redraw(console) else nullcontext()
