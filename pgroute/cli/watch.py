"""`pgroute watch`: shows the hosts of a DSN as they change, until q or Ctrl-C."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

from pgroute import EventKind
from pgroute.cli.status import VERDICTS, Assessment, assess
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import open_console, quit_key, silence_libraries
from pgroute.runtime.console import can_redraw

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from rich.console import Console

    from pgroute import Event, Router, Topology

POLL = 0.05
TICK = 1.0
"""Seconds after which the view is drawn again without a change, for the time in its title."""

EVENT_STYLES = {
    EventKind.PRIMARY_CHANGED: "green",
    EventKind.PRIMARY_LOST: "red",
    EventKind.NO_PRIMARY: "red",
    EventKind.SPLIT_BRAIN: "red",
    EventKind.STALE_PRIMARY: "red",
    EventKind.SESSIONS_ABORTED: "yellow",
}
VERDICT_STYLES = {0: "green", 1: "yellow", 2: "red"}


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    console = open_console()
    router = find_subject(args).router()
    deadline = time.monotonic() + args.duration
    if can_redraw(console):
        _full_screen(console, router, deadline)
    else:
        _plain(router, deadline)
    return 0


def _full_screen(console: Console, router: Router, deadline: float) -> None:
    from rich.live import Live

    from pgroute.cli.view import View

    view = View(lambda: router.topology)
    view.verdict = verdict_line

    def note(event: Event) -> None:
        view.log.append((clock(), event.text, EVENT_STYLES.get(event.kind)))

    begun = time.monotonic()

    def title() -> str:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        hosts = len(router.topology.hosts)
        return f"pgroute watch    {hosts} hosts    {minutes}:{seconds:02d}    q ends"

    view.title = title
    router.subscribe(note)  # before it is opened: the first events count too
    try:
        with (
            router,
            quit_key() as ended,
            Live(view, console=console, screen=True, auto_refresh=False) as live,
        ):

            def draw(_topology: Topology) -> None:
                live.refresh()

            each_change(router, deadline, draw, tick=TICK, ended=ended)
    finally:
        # The events stay on the terminal after the full-screen view has ended.
        for moment, text, style in view.log:
            console.print(f"{moment}  {text}", style=style)


def _plain(router: Router, deadline: float) -> None:
    lock = threading.Lock()

    def tell(text: str) -> None:
        with lock:
            print(f"{clock()}  {text}", flush=True)

    router.subscribe(lambda event: tell(event.text))  # before it is opened: the first events count too
    told = ""

    def judge(topology: Topology) -> None:
        nonlocal told
        text = verdict_line(topology)[0].replace("\n", "; ")
        if topology.initial_scan_done and text != told:
            tell(text)
            told = text

    with router:
        each_change(router, deadline, judge)


def each_change(
    router: Router,
    deadline: float,
    tell: Callable[[Topology], None],
    *,
    tick: float = float("inf"),
    ended: Callable[[float], object] = time.sleep,
) -> None:
    """Call *tell* with the topology now, after each change, and every *tick* seconds, until the deadline.

    Args:
        router: the router that knows the topology.
        deadline: in time.monotonic() seconds.
        tell: the function to call.
        tick: seconds between calls without a change.
        ended: waits for a number of seconds, and returns True to end now.
    """
    last: Topology | None = None
    told_at = 0.0
    while (now := time.monotonic()) < deadline:
        topology = router.topology
        if topology is not last or now - told_at >= tick:
            tell(topology)
            last, told_at = topology, now
        if ended(min(POLL, max(0.0, deadline - now))):
            return


def verdict_line(topology: Topology) -> tuple[str, str]:
    """Return a line that says where sessions go, and its style."""
    found = assess(topology)
    if not topology.initial_scan_done:
        return "asking the hosts", "dim"
    return f"{VERDICTS[found.status]}: {where(found)}", VERDICT_STYLES[found.status]


def where(found: Assessment) -> str:
    """Return where writers and readers go."""
    parts = []
    for name, hosts in (("writers", found.writers), ("readers", found.readers)):
        parts.append(f"{name} to {', '.join(str(h.key) for h in hosts) or 'nowhere'}")
    return "; ".join(parts)


def clock() -> str:
    """Return the time of day, to the millisecond."""
    return datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
