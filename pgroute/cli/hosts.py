"""The table of a topology: one row for each host."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgroute import HostRole, HostState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pgroute import AdviserInfo, HostInfo, Topology

STYLES = {
    HostState.UP: "green",
    HostState.ALIAS: "dim",
    HostState.SUSPECT: "yellow",
    HostState.BUSY: "yellow",
    HostState.DRAINED: "yellow",
    HostState.STARTING: "yellow",
}

_DROPPED = ("reason", "advice", "rtt", "from", "address", "timeline", "staleness", "lag", "state", "role")
"""The columns that a narrow terminal loses, the first ones first. The host column stays, folded if need be."""
_HOST_WIDTH = 24
"""Columns are dropped before the host column gets narrower than this."""
_GAP = 2
_LONG = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


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
    """Return the table, and the reasons as lines of their own if the terminal is too narrow for their column.

    Args:
        console: the console that shows it.
        topology: the hosts.
        names: short names of hosts, by their addresses; the port follows the name.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    columns = _columns(topology, names)
    widths = {name: max(map(cell_len, (name, *map(str, cells)))) for name, cells in columns.items()}
    for name in _DROPPED:
        room = console.width - sum(widths[other] + _GAP for other in columns if other != "host")
        # The reasons have another place, so they go before the host column is folded.
        if room >= (widths["host"] if name == "reason" else min(widths["host"], _HOST_WIDTH)):
            break
        columns.pop(name, None)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name != "host", overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    reasons = [
        Text(f"{_name(host, names)}: {host.reason}", style=STYLES.get(host.state, "red"))
        for host in topology.hosts
        if host.reason and "reason" not in columns
    ]
    return table, reasons


def _columns(topology: Topology, names: Mapping[str, str] | None) -> dict[str, list[str | Text]]:
    """Return the cells of each column, by its title."""
    from rich.text import Text

    hosts = topology.hosts
    columns: dict[str, list[str | Text]] = {"host": [_name(h, names) for h in hosts]}
    if any(h.address and h.address not in str(h.key) and not h.key.is_socket for h in hosts):
        columns["address"] = [h.address or "-" for h in hosts]
    columns["role"] = [role_cell(h) for h in hosts]
    columns["state"] = [Text(h.state.value, style=STYLES.get(h.state, "red")) for h in hosts]
    columns["timeline"] = [_timeline_cell(h) for h in hosts]
    columns["lag"] = [_lag_cell(h) for h in hosts]
    columns["staleness"] = [_staleness_cell(h) for h in hosts]
    columns["rtt"] = [_rtt_cell(h) for h in hosts]
    if any(h.origin for h in hosts):
        columns["from"] = [h.origin or "DSN" for h in hosts]
    if any(h.advice and (h.advice.text or h.advice.state) for h in hosts):
        columns["advice"] = [_advice_cell(h) for h in hosts]
    columns["reason"] = [h.reason or "" for h in hosts]
    return columns


def _name(host: HostInfo, names: Mapping[str, str] | None) -> str:
    address = str(host.key)
    return address if names is None or address not in names else f"{names[address]} :{host.port}"


def role_cell(host: HostInfo) -> str:
    """Return the role, "-" while it is unknown."""
    if host.role is None:
        return "-"
    read_only = host.read_only and host.role is HostRole.PRIMARY
    return host.role.value + (" (read-only)" if read_only else "")


def _advice_cell(host: HostInfo) -> str:
    if host.advice is None:
        return "-"
    return ", ".join(part for part in (host.advice.state, host.advice.text) if part) or "-"


def adviser_text(adviser: AdviserInfo | None) -> str:
    """Return what there is to say of the adviser, empty if there is none."""
    if adviser is None:
        return ""
    parts = [f"{adviser.members} members"]
    if adviser.scope:
        parts[0] += f" of {adviser.scope}"
    if adviser.heard_at is None:
        parts = []
    if adviser.source and not adviser.error:
        parts[0] += f", by {adviser.source}"
    if adviser.paused:
        parts.append("paused: it does not fail over by itself")
    if adviser.switchover:
        at = "" if adviser.switchover_at is None else _clock(adviser.switchover_at)
        parts.append(f"a switchover {adviser.switchover} is scheduled{at}")
    parts += [f"member {member} is no host here ({why})" for member, why in adviser.strangers]
    if adviser.error:
        stands = "is forgotten" if adviser.forgotten else "stands"
        what = f"what it said {stands}" if adviser.heard_at is not None else "it said nothing yet"
        parts.append(f"no answer, {what} ({adviser.error})")
    return f"{adviser.name}: {'; '.join(parts) or 'not asked yet'}"


def _clock(at: float) -> str:
    try:
        return f" at {datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec='seconds')}"
    except (OverflowError, ValueError, OSError):
        return ""


def _timeline_cell(host: HostInfo) -> str:
    if host.timeline is None:
        return "-"
    # A standby reports its timeline late (at a restartpoint), so it may be on a later one.
    return f">={host.timeline}" if host.role is HostRole.STANDBY else str(host.timeline)


def _lag_cell(host: HostInfo) -> str:
    if host.lag_bytes is None:
        return "-"
    size, unit = float(host.lag_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _staleness_cell(host: HostInfo) -> str:
    if host.staleness is None:
        return "-"
    for seconds, unit in _LONG:
        if host.staleness >= 2 * seconds:
            return f"{host.staleness / seconds:.0f} {unit}"
    return f"{host.staleness:.1f} s"


def _rtt_cell(host: HostInfo) -> str:
    return "-" if host.rtt is None else f"{host.rtt * 1000:.1f} ms"
