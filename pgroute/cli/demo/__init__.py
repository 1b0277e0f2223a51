"""`pgroute demo`: causes a fault in a throw-away cluster under load, and checks every acknowledged row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.cli.demo.faults import FAULTS
from pgroute.cli.demo.report import show_outcome
from pgroute.cli.demo.stage import Stage
from pgroute.cli.errors import CommandError
from pgroute.cli.terminal import open_console, silence_libraries
from pgroute.testing import ClusterError, LocalCluster, ServerNotFound

if TYPE_CHECKING:
    import argparse

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
            with console.status("starting a primary and two standbys"):
                cluster.start()
            outcome = Stage(console, cluster, args, FAULTS[args.fault]).play()
        finally:
            cluster.stop()
    except (ServerNotFound, ClusterError) as exc:
        raise CommandError(str(exc)) from exc
    show_outcome(console, outcome)
    if args.plot is not None:
        from pgroute.cli.demo.plot import draw

        draw(outcome, args.plot)
        console.print(f"The picture is in {args.plot}.")
    return 0 if outcome.kept else 1
