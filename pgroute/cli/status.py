"""`pgroute status`: the state of every host of a DSN, and where writers and readers go."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from pgroute import HostRole, HostState, SessionAttrs
from pgroute.cli.hosts import adviser_text
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import open_console, silence_libraries
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from pgroute import AdviserInfo, HostAdvice, HostInfo, Router, Topology

_POLL = 0.01
_FINE = (HostState.UP, HostState.ALIAS)
VERDICTS = {0: "ok", 1: "degraded", 2: "unusable"}


@dataclass(frozen=True, slots=True)
class Assessment:
    """The meaning of a topology for an application.

    Attributes:
        writers: the hosts that `writer()` chooses from.
        readers: the hosts that `reader()` chooses from.
        troubled: listed hosts that are not up, except second names of hosts that are up.
        status: the exit status.
    """

    writers: tuple[HostInfo, ...]
    readers: tuple[HostInfo, ...]
    troubled: tuple[HostInfo, ...]
    status: int


def assess(topology: Topology) -> Assessment:
    """Assess a topology by the candidates of the router."""
    writers = _chosen(topology, SessionAttrs.READ_WRITE)
    readers = _chosen(topology, SessionAttrs.PREFER_STANDBY)
    troubled = tuple(h for h in topology.hosts if h.state not in _FINE)
    status = 2 - bool(writers) - bool(readers)
    if status == 0 and troubled:
        status = 1
    return Assessment(writers, readers, troubled, status)


def _chosen(topology: Topology, attrs: SessionAttrs) -> tuple[HostInfo, ...]:
    best = next(iter(topology.candidates[attrs]), ())
    return tuple(topology.by_key[candidate.key] for candidate in best)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    console = None if args.json else open_console()
    # Two probes must fit into the timeout, so that a host that hangs can be told from one not yet asked.
    subject = find_subject(args)
    probe = replace(subject.probe, timeout=min(subject.probe.timeout, args.timeout / 2))
    with subject.router(probe=probe) as router:
        topology = observe(router, args.timeout)
        if args.watch:
            return _follow(router, topology, console)
    assessment = assess(topology)
    if console is None:
        print(json.dumps(as_json(topology, assessment), indent=2))
    else:
        _show(console, topology, assessment)
    return assessment.status


def observe(router: Router, timeout: float) -> Topology:
    """Return the topology once every host was probed, no conflict is being probed again, and the adviser was asked.

    After *timeout* seconds it is returned as it is.
    """
    deadline = time.monotonic() + timeout
    while True:
        topology = router.topology
        asked = topology.adviser is None or topology.adviser.settled
        if (topology.initial_scan_done and not topology.urgent and asked) or time.monotonic() >= deadline:
            return topology
        time.sleep(_POLL)


def _follow(router: Router, topology: Topology, console: Console | None) -> NoReturn:
    """Print the status now and after each change, for ever."""
    printed: object = None
    while True:
        if (essence := _essence(topology)) != printed:
            printed, assessment = essence, assess(topology)
            now = datetime.now().astimezone().isoformat(timespec="milliseconds")
            if console is None:
                print(json.dumps({"at": now, **as_json(topology, assessment)}), flush=True)
            else:
                console.print(now, style="bold")
                _show(console, topology, assessment)
                console.print()
        time.sleep(_POLL)
        topology = router.topology


def _essence(topology: Topology) -> object:
    """Return the part of a topology whose change is printed: without lag and round-trip times."""
    hosts = tuple(
        (h.key, h.role, h.state, h.reason, h.read_only, h.usable, h.advice and h.advice.text)
        for h in topology.hosts
    )
    return (
        hosts,
        adviser_text(topology.adviser),
        topology.split_brain,
        {h.key: h.timeline for h in topology.hosts if h.role is HostRole.PRIMARY},
    )


def as_json(topology: Topology, assessment: Assessment) -> dict[str, Any]:
    """Return the output of --json; its keys are documented in docs/cli.md and stay."""
    return {
        "verdict": VERDICTS[assessment.status],
        "writable": bool(assessment.writers),
        "readable": bool(assessment.readers),
        "writers": [str(h.key) for h in assessment.writers],
        "readers": [str(h.key) for h in assessment.readers],
        "primary": str(topology.primary.key) if topology.primary else None,
        "split_brain": sorted(str(key) for key in topology.split_brain),
        "complete": topology.initial_scan_done,
        "adviser": None if topology.adviser is None else _adviser_json(topology.adviser),
        "hosts": [_host_json(h) for h in topology.hosts],
    }


def _host_json(h: HostInfo) -> dict[str, Any]:
    return {
        "host": h.host,
        "port": h.port,
        "address": h.address,
        "origin": h.origin,
        "role": h.role.value if h.role else None,
        "state": h.state.value,
        "reason": h.reason,
        "usable": h.usable,
        "read_only": h.read_only,
        "timeline": h.timeline,
        "lag_bytes": h.lag_bytes,
        "staleness_seconds": h.staleness,
        "rtt_seconds": h.rtt,
        "server_version": h.server_version or None,
        # 64 bits do not fit a JSON number in many languages.
        "system_id": None if h.system_id is None else str(h.system_id),
        "zone": h.zone,
        "advice": None if h.advice is None else _advice_json(h.advice),
    }


def _advice_json(advice: HostAdvice) -> dict[str, Any]:
    return {
        "member": advice.member,
        "role": advice.role,
        "state": advice.state,
        "no_reads": advice.no_reads,
        "no_failover": advice.no_failover,
        "zone": advice.zone,
        "lag_bytes": advice.lag_bytes,
    }


def _adviser_json(adviser: AdviserInfo) -> dict[str, Any]:
    return {
        "name": adviser.name,
        "answering": adviser.answering,
        "source": adviser.source,
        "error": adviser.error,
        "scope": adviser.scope,
        "members": adviser.members,
        "paused": adviser.paused,
        "switchover": adviser.switchover,
        "strangers": dict(adviser.strangers),
    }


def _show(console: Console, topology: Topology, assessment: Assessment) -> None:
    from pgroute.cli.hosts import show_hosts

    show_hosts(console, topology)
    console.print()
    for name, hosts in (("writers", assessment.writers), ("readers", assessment.readers)):
        where = ", ".join(str(h.key) for h in hosts) or f"nowhere: {topology.why_not_writable}"
        console.print(f"{name}  {where}", style=None if hosts else "red")
    if text := adviser_text(topology.adviser):
        console.print(text, markup=False)
    style = {0: "green", 1: "yellow", 2: "red"}[assessment.status]
    console.print(f"{VERDICTS[assessment.status]}{_because(assessment)}", style=style)


def _because(assessment: Assessment) -> str:
    if assessment.status == 0:
        return ": writable and readable, every host is up"
    if assessment.status == 2:
        return ": neither writable nor readable"
    problems = [f"{h.key} is {h.state.value}" for h in assessment.troubled]
    problems += [] if assessment.writers else ["not writable"]
    problems += [] if assessment.readers else ["not readable"]
    return ": " + ", ".join(problems)
