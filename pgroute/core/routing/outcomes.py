"""What became of the tries of one caller, and the error that tells it if there is no session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.faults.classify import one_line
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.errors import AcquireTimeout, NoHostAvailable, PoolExhausted, SplitBrainError

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.routing.demand import Demand
    from pgroute.core.topology.snapshot import Groups, Topology

_REFUSING = frozenset({HostState.REJECTED, HostState.BUSY})


class Outcomes:
    """What became of the tries of one caller: pools without a free connection, and connections that failed."""

    __slots__ = ("_causes", "_exhausted", "_in_use", "_refused")

    def __init__(self) -> None:
        self._causes: dict[HostKey, Exception] = {}
        self._exhausted: dict[HostKey, str] = {}
        self._refused: set[HostKey] = set()
        self._in_use: dict[HostKey, int] = {}

    def exhausted(self, key: HostKey, detail: str, *, refused: bool) -> None:
        """Note that a pool had no free connection in time; *refused*: its queue was full."""
        self._exhausted[key] = detail
        if refused:
            self._refused.add(key)
        else:
            self._refused.discard(key)

    def failed(self, key: HostKey, cause: Exception, in_use: int) -> None:
        """Note that a pool was closed, or that connecting failed, while so many connections were in use."""
        self._in_use[key] = in_use
        self._causes[key] = cause
        self._exhausted.pop(key, None)

    def turned_away_by_all(self, groups: Groups) -> bool:
        """Return whether the queues of all these hosts were full."""
        return all(c.key in self._refused for group in groups for c in group)

    def error(
        self, missing: str, topology: Topology, groups: Groups, demand: Demand | None, now: float
    ) -> AcquireTimeout:
        """Return the error that tells why there is no session.

        Args:
            missing: which session, and in what time.
            topology: the snapshot.
            groups: the hosts that would have served.
            demand: of the session; None: nothing.
            now: monotonic seconds.
        """
        serving = {c.key for group in groups for c in group}
        cls: type[AcquireTimeout] = NoHostAvailable
        why = ""
        if full := self._full_pools(topology, serving):
            cls = PoolExhausted
            why = ": " + "; ".join(f"{key}: {text}" for key, text in full.items())
        elif topology.split_brain and not serving:
            cls = SplitBrainError
            names = " and ".join(str(h.key) for h in topology.hosts if h.key in topology.split_brain)
            why = f": split brain, {names} both claim to be the primary"
        elif topology.locked_out:
            why = ": every host refuses the login"
        elif demand is not None and demand.is_ahead(topology):
            why = ": no host was seen on the timeline of the position"
        lines = [missing + why, *(self._line(h, topology, demand, now) for h in topology.hosts)]
        error = cls("\n".join(lines), topology=topology)
        for key, cause in self._causes.items():
            error.add_note(f"{key}: {cause}")
        if self._causes:
            error.__cause__ = next(reversed(self._causes.values()))
        return error

    def _full_pools(self, topology: Topology, serving: set[HostKey]) -> dict[HostKey, str]:
        """Return the pools that had no free connection, of hosts that still serve, and the state of each."""
        full = {key: text for key, text in self._exhausted.items() if key in serving}
        for h in topology.hosts:
            if h.key in serving and h.state in _REFUSING:
                if h.key in full:
                    full[h.key] += f", and new ones are refused: {h.reason}"
                elif in_use := self._in_use.get(h.key):
                    full[h.key] = (
                        f"all of its {in_use} connections are in use, and new ones are refused: {h.reason}"
                    )
        return full

    def _line(self, h: HostInfo, topology: Topology, demand: Demand | None, now: float) -> str:
        role = f"{h.role.value}, " if h.role else ""
        if h.read_only and h.role is HostRole.PRIMARY:
            role = "read-only primary, "
        line = f"  {h.key}: {role}{h.state.value} for {max(0.0, now - h.since):.1f} s"
        if h.last_seen is None and h.state is HostState.DOWN:
            line += ", never answered"
        elif h.usable and h.state is HostState.REJECTED:
            line += ", only open connections are used"
        if demand is not None and (told := demand.describe(h, topology, now)):
            line += f", {told}"
        if h.reason:
            line += f": {h.reason}"
        elif h.key in self._causes:
            line += f": connecting failed: {one_line(str(self._causes[h.key]))}"
        return line
