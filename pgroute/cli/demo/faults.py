"""The faults of the demo: each breaks the cluster, reacts like a cluster manager, and repairs it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgroute import HostState
from pgroute.cli.demo.stage import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.cli.demo.stage import Stage
    from pgroute.testing import Node

FAULT_AT = 0.25
"""The share of the duration before the fault."""

PROMOTE_AFTER = 1.0
"""Seconds from the fault to the promotion; a cluster manager takes far longer."""

REPAIR_AFTER = 1.5
SPLIT_FOR = 2.5
_GIVE_UP_AFTER = 15.0


def crash(stage: Stage) -> Node:
    """Kill the primary; it comes back as a standby."""
    old = stage.primary
    stage.pause(until=stage.share(FAULT_AT))
    with stage.witness(stage.cluster.standbys):
        stage.fault(f"{old.name} killed", f"killing {old.name}: SIGKILL to all its processes")
        old.kill()
        new = _fail_over(stage, time.monotonic() + PROMOTE_AFTER)
    if _resumed(stage, new):
        _bring_back(stage, old, new, f"{old.name} comes back as a standby (pg_rewind)")
    return new


def freeze(stage: Stage) -> Node:
    """Freeze the primary; it wakes up as a stale primary."""
    old = stage.primary
    stage.pause(until=stage.share(FAULT_AT))
    with stage.witness(stage.cluster.standbys):
        stage.fault(
            f"{old.name} frozen",
            f"freezing {old.name}: SIGSTOP to all its processes, its connections stay open",
        )
        old.freeze()
        new = _fail_over(stage, time.monotonic() + PROMOTE_AFTER)
    if _resumed(stage, new):
        stage.pause(until=time.monotonic() + min(REPAIR_AFTER, stage.duration / 8))
        stage.mark(f"{old.name} thawed", f"{old.name} is thawed, and still acts as a primary", mark="T")
        old.thaw()
        stage.wait(lambda: stage.state(old) is HostState.STALE)
        _bring_back(stage, old, new, f"{old.name} is made a standby (pg_rewind)")
    return new


def switchover(stage: Stage) -> Node:
    """Shut the primary down and promote a standby, as for maintenance."""
    old = stage.primary
    stage.pause(until=stage.share(FAULT_AT))
    with stage.witness(stage.cluster.standbys):
        stage.fault(f"{old.name} shut down", f"shutting {old.name} down (fast)")
        old.stop("fast")
        new = _fail_over(stage, 0.0)
    if _resumed(stage, new):
        _bring_back(stage, old, new, f"{old.name} comes back as a standby")
    return new


def split_brain(stage: Stage) -> Node:
    """Promote both standbys; then shut one of the two primaries down."""
    old = stage.primary
    stage.pause(until=stage.share(FAULT_AT))
    new = stage.most_advanced()
    [rival] = [node for node in stage.cluster.standbys if node is not new]
    stage.fault(f"{old.name} killed", f"killing {old.name}: SIGKILL to all its processes")
    old.kill()
    stage.pause(until=time.monotonic() + PROMOTE_AFTER)
    text = f"promoting both {new.name} and {rival.name}: a split brain"
    stage.mark("both standbys promoted", text, mark="S", style="bold red")
    new.promote(wait=False)
    rival.promote(wait=False)
    # Without a standby neither acknowledges a write; with asynchronous replication both might.
    stage.wait(lambda: len(stage.topology.split_brain) > 1)
    stage.pause(until=time.monotonic() + max(SPLIT_FOR, stage.duration / 5))
    text = f"shutting {rival.name} down: the operator's decision"
    stage.mark(f"{rival.name} shut down", text, mark="E")
    rival.stop("fast")
    stage.say(f"{rival.name} is made a standby of {new.name} (pg_rewind)", "bold")
    rival.rejoin(new)
    if _resumed(stage, new):
        _bring_back(stage, old, new, f"{old.name} comes back as a standby (pg_rewind)")
    return new


def standby_loss(stage: Stage) -> Node:
    """Kill a standby; it is started again."""
    primary = stage.primary
    lost = stage.cluster.standbys[-1]
    stage.pause(until=stage.share(FAULT_AT))
    stage.fault(f"{lost.name} killed", f"killing the standby {lost.name}: SIGKILL to all its processes")
    lost.kill()
    stage.pause(until=stage.share(0.65))
    stage.mark(f"{lost.name} started", f"{lost.name} is started again", mark="R")
    lost.start()
    stage.wait(lambda: stage.state(lost) is HostState.UP)
    stage.pause(until=stage.share(1.0))
    return primary


FAULTS: Mapping[str, Fault] = {
    "crash": Fault(crash, {}),
    "freeze": Fault(freeze, {}),
    "switchover": Fault(switchover, {}),
    # Short, so that writers see the error while the split brain lasts.
    "split-brain": Fault(split_brain, {"acquire_timeout": 1.0}),
    "standby-loss": Fault(standby_loss, {}),
}


def _fail_over(stage: Stage, at: float) -> Node:
    """Promote the most advanced standby at a given time."""
    new = stage.most_advanced()
    # Synchronous commits need a standby of the new primary, so it is re-pointed before the promotion.
    for other in stage.cluster.standbys:
        if other is not new:
            other.follow(new, wait=False)
    stage.pause(until=at)
    stage.mark(f"{new.name} promoted", f"promoting {new.name}", mark="P")
    stage.cluster.promote(new, repoint=False)
    if stage.wait(lambda: stage.promoted_at is not None):
        stage.say(f"{new.name} has left recovery, seen by a session outside the router")
    return new


def _resumed(stage: Stage, new: Node) -> bool:
    """Wait for the first write to the new primary; return False after a timeout."""

    def first() -> float | None:
        return next((ack.at for ack in stage.account.acknowledged if ack.port == new.port), None)

    if not stage.wait(lambda: first() is not None, _GIVE_UP_AFTER):
        return False
    text = f"first write on {new.name} acknowledged"
    stage.mark("first write", text, mark="W", style="green", at=first())
    return True


def _bring_back(stage: Stage, old: Node, new: Node, text: str) -> None:
    stage.pause(until=time.monotonic() + min(REPAIR_AFTER, stage.duration / 8))
    stage.mark(f"{old.name} comes back", text, mark="R")
    old.rejoin(new)
    stage.wait(lambda: all(host.state is HostState.UP for host in stage.topology.hosts))
    stage.pause(until=stage.share(1.0))
