"""Whether the adviser answers, and whether its members and the hosts of the router are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.cli.check.finding import Finding, Result
from pgroute.cli.hosts import adviser_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute import Topology


def about_adviser(topology: Topology) -> Iterator[Finding]:
    """Yield what is to say about the adviser; nothing if there is none."""
    adviser = topology.adviser
    if adviser is None:
        return
    if not adviser.answering:
        yield Finding("discovery", Result.WARN, adviser_text(adviser))
        return
    result = Result.WARN if adviser.paused else Result.NOTE if adviser.strangers else Result.OK
    yield Finding("discovery", result, adviser_text(adviser))
    for host in topology.hosts:
        if host.advice is None:
            text = f"{host.key} is none of its members by name or address: its tags do not count (hosts=)"
            yield Finding("discovery", Result.NOTE, text)
