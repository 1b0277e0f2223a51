"""A topology as a table for people: one row for each host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute import HostRole, HostState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pgroute import HostInfo, Topology

STYLES = {
    HostState.UP: "green",
    HostState.ALIAS: "dim",
    HostState.SUSPECT: "yellow",
    HostState.BUSY: "yellow",
    HostState.STARTING: "yellow",
}


_ENDLESS = 10_000
_WORTH_A_TIME = 65_536
"""Bytes of lag from which on its age is shown."""


def show_hosts(console: Console, topology: Topology) -> None:
    """Print the table."""
    from pgroute.cli.terminal import print_table

    table, reasons = lay_out(console, topology)
    print_table(console, table)
    for reason in reasons:
        console.print(reason)


def lay_out(
    console: Console, topology: Topology, names: Mapping[str, str] | None = None
) -> tuple[Table, list[Text]]:
    """Return the table, with the reasons in a column if the screen is wide enough, else in lines of their own below it.

    Args:
        console: where it is to be shown.
        topology: the hosts.
        names: what hosts are called, by their addresses; the port stands behind.
    """
    from rich.text import Text

    table = _table(topology, names, reasons=True)
    # Measured without the screen's limit, within which everything fits, cut.
    if console.measure(table, options=console.options.update(width=_ENDLESS)).maximum <= console.width:
        return table, []
    reasons = [
        Text(f"{_name(host, names)}: {host.reason}", style=STYLES.get(host.state, "red"))
        for host in topology.hosts
        if host.reason
    ]
    return _table(topology, names, reasons=False), reasons


def _table(topology: Topology, names: Mapping[str, str] | None, *, reasons: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("host", overflow="fold")
    # Where names are: which address is meant, and where a host that is not in the DSN came from.
    addresses = any(h.address and h.address not in str(h.key) and not h.key.is_socket for h in topology.hosts)
    origins = any(h.origin for h in topology.hosts)
    for name in (
        *(["address"] if addresses else []), "role", "state", "timeline", "lag", "rtt", *(["from"] if origins else []),
    ):  # fmt: skip
        table.add_column(name, no_wrap=True)
    if reasons:
        table.add_column("reason", no_wrap=True)
    for host in topology.hosts:
        state = Text(host.state.value, style=STYLES.get(host.state, "red"))
        cells: list[str | Text] = [
            _name(host, names), *([host.address or "-"] if addresses else []), role_cell(host), state,
            _timeline_cell(host), _lag_cell(host), _rtt_cell(host), *([host.origin or "DSN"] if origins else []),
        ]  # fmt: skip
        table.add_row(*cells, *([host.reason] if reasons else []))
    return table


def _name(host: HostInfo, names: Mapping[str, str] | None) -> str:
    address = str(host.key)
    return address if names is None or address not in names else f"{names[address]} :{host.port}"


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
    # A few bytes are no delay: a checkpoint's record is on its way.
    shown = host.lag_seconds and host.lag_bytes >= _WORTH_A_TIME
    return f"{text}, {host.lag_seconds:.1f} s" if shown else text


def _rtt_cell(host: HostInfo) -> str:
    return "-" if host.rtt is None else f"{host.rtt * 1000:.1f} ms"
