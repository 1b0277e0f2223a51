"""A topology as a table for people: one row for each host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute import HostRole, HostState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pgroute import HostInfo, Topology

STYLES = {
    HostState.UP: "green",
    HostState.ALIAS: "dim",
    HostState.SUSPECT: "yellow",
    HostState.BUSY: "yellow",
    HostState.STARTING: "yellow",
}


def show_hosts(console: Console, topology: Topology) -> None:
    """Print the table; the reasons in a column if the screen is wide enough, else in lines of their own below it."""
    from pgroute.cli.terminal import print_table

    table = _table(topology, reasons=True)
    if console.measure(table).maximum <= console.width:
        print_table(console, table)
        return
    print_table(console, _table(topology, reasons=False))
    for host in topology.hosts:
        if host.reason:
            console.print(f"{host.key}: {host.reason}", style=STYLES.get(host.state, "red"))


def _table(topology: Topology, *, reasons: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("host", overflow="fold")
    for name in ("role", "state", "timeline", "lag", "rtt"):
        table.add_column(name, no_wrap=True)
    if reasons:
        table.add_column("reason", no_wrap=True)
    for host in topology.hosts:
        state = Text(host.state.value, style=STYLES.get(host.state, "red"))
        cells: list[str | Text] = [
            str(host.key), role_cell(host), state, _timeline_cell(host), _lag_cell(host), _rtt_cell(host),
        ]  # fmt: skip
        table.add_row(*cells, *([host.reason] if reasons else []))
    return table


def role_cell(host: HostInfo) -> str:
    """Return the role in words, "-" while it is not known."""
    if host.role is None:
        return "-"
    read_only = host.read_only and host.role is HostRole.PRIMARY
    return host.role.value + (" (read-only)" if read_only else "")


def _timeline_cell(host: HostInfo) -> str:
    if host.timeline is None:
        return "-"
    # PostgreSQL tells a standby's timeline late (at a restartpoint), so it is on this one or a later one.
    return f">={host.timeline}" if host.role is HostRole.STANDBY else str(host.timeline)


def _lag_cell(host: HostInfo) -> str:
    if host.lag_bytes is None:
        return "-"
    size, unit = float(host.lag_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    text = f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
    return f"{text}, {host.lag_seconds:.1f} s" if host.lag_seconds else text


def _rtt_cell(host: HostInfo) -> str:
    return "-" if host.rtt is None else f"{host.rtt * 1000:.1f} ms"
