"""The events that tell what an adviser says: each change once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgroute.core.model.advice import AdviserInfo
from pgroute.core.model.events import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.core.topology.snapshot import Topology


def advice_changes(old: Topology, new: Topology) -> tuple[Event, ...]:
    """Return the events about advice that lead from one snapshot to the next."""
    if new.adviser is None or new.adviser is old.adviser:
        return ()
    before = old.adviser or AdviserInfo(new.adviser.name)
    told = [
        Event(EventKind.ADVICE, new.at, None, text, level=level)
        for level, text in _of_cluster(before, new.adviser)
    ]
    for host in new.hosts:
        was = old.by_key.get(host.key)
        said = was.advice.text if was is not None and was.advice is not None else ""
        says = host.advice.text if host.advice is not None else ""
        if said != says:
            text = f"{host.key}: {new.adviser.name} says {says or f'no more: {said}'}"
            told.append(Event(EventKind.ADVICE, new.at, host.key, text, before=was, after=host))
    return tuple(told)


def _of_cluster(was: AdviserInfo, now: AdviserInfo) -> Iterator[tuple[int, str]]:
    name = now.name
    if now.answering and not was.answering:
        again = "again " if was.heard_at is not None else ""
        of = f" of {now.scope}" if now.scope else ""
        level = logging.WARNING if was.error else logging.INFO
        yield level, f"{name} at {now.source} advises {again}on {now.members} members{of}"
    if now.error and not was.error:
        last = "nothing is known of it" if now.heard_at is None else "its last answer counts for some time"
        yield logging.WARNING, f"{name} gives no advice, {last}: {now.error}"
    if now.forgotten and not was.forgotten:
        yield logging.WARNING, f"what {name} said last is forgotten"
    if now.paused != was.paused:
        if now.paused:
            yield logging.WARNING, f"{name} is paused: it does not fail over by itself"
        else:
            yield logging.INFO, f"{name} is not paused any more"
    if (now.switchover, now.switchover_at) != (was.switchover, was.switchover_at):
        if now.switchover:
            yield logging.INFO, f"{name} has scheduled a switchover {now.switchover}"
        else:
            yield logging.INFO, f"{name} has no switchover scheduled any more"
    known = {member for member, _ in was.strangers}
    for member, why in now.strangers:
        if now.settled and (member not in known or not was.settled):
            yield logging.INFO, f"member {member} is no host of the router: {why}"
