"""`pgroute check`: finds problems that show only in a failover or under load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pgroute import Role
from pgroute._sync.router import manager_of
from pgroute.cli.check.about_adviser import about_adviser
from pgroute.cli.check.about_file import about_file
from pgroute.cli.check.ask import ask_all
from pgroute.cli.check.finding import Finding, status_of
from pgroute.cli.check.judge import cluster_findings, host_findings
from pgroute.cli.check.plan import Plan
from pgroute.cli.check.sessions import try_session
from pgroute.cli.status import observe
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import open_console, silence_libraries

if TYPE_CHECKING:
    import argparse

    from pgroute import HostInfo

VERDICTS = {0: "ok", 1: "warnings", 2: "failures"}


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    console = None if args.json else open_console()
    subject = find_subject(args)
    with subject.router(acquire_timeout=args.timeout) as router:
        config = manager_of(router).config
        topology = observe(router, args.timeout)
        plan = Plan.of(config, args.processes)
        answers = ask_all(config, topology, plan.users, args.timeout)
        trials = {role: try_session(router, role, args.timeout) for role in Role}
    named = subject.named
    of_file = [] if named is None else [about_file(named)]
    about_all = [*of_file, *cluster_findings(trials, answers, plan), *about_adviser(topology)]
    about_each = [(host, host_findings(host, answers[host.key], plan)) for host in topology.hosts]
    status = status_of([*about_all, *(finding for _, found in about_each for finding in found)])
    if console is None:
        told = {
            "verdict": VERDICTS[status],
            "router": None if named is None else named.name,
            "processes": plan.processes,
            **_as_json(about_all, about_each),
        }
        print(json.dumps(told, indent=2))
    else:
        from pgroute.cli.check.show import show

        show(console, about_all, about_each)
    return status


def _as_json(about_all: list[Finding], about_each: list[tuple[HostInfo, list[Finding]]]) -> dict[str, Any]:
    """Return the findings for --json; the keys are documented in docs/cli.md and stay."""
    return {
        "findings": [finding.as_json() for finding in about_all],
        "hosts": [
            {
                "host": host.host,
                "port": host.port,
                "address": host.address,
                "role": host.role.value if host.role else None,
                "state": host.state.value,
                "findings": [finding.as_json() for finding in found],
            }
            for host, found in about_each
        ],
    }
