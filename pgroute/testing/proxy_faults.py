"""The methods of `FaultProxy` that set faults and end them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import ClusterError
from .proxy_arguments import (
    LONGEST_DELAY,
    MAX_RATE,
    Affected,
    Direction,
    Directions,
    check_choice,
    check_count,
    check_number,
    check_pattern,
)
from .trigger import Action, Trigger

if TYPE_CHECKING:
    from .flow import Flow
    from .relay import Relay


class ProxyFaults:
    """The part of a proxy that injects faults."""

    _relay: Relay | None

    def clear_faults(self) -> None:
        """End all faults and disarm all triggers: held bytes are passed on, discarded bytes stay lost."""
        self._running.call(self._running.clear_faults)

    def refuse(self, *, existing: Literal["keep", "reset", "disconnect"] = "keep") -> None:
        """Refuse new connections (ECONNREFUSED), like a host without a server.

        Args:
            existing: what happens to existing connections: "keep", "reset" or "disconnect".
        """
        check_choice("existing", existing, ("keep", "reset", "disconnect"))
        relay = self._running

        def act() -> None:
            relay.refuse()
            if existing != "keep":
                relay.hit_all(existing)

        relay.call(act)

    def hang(self) -> None:
        """Leave new connection attempts unanswered, like an unreachable host: connect() hangs.

        After `clear_faults()` they succeed when the client's kernel tries again, 1, 3, 7, ... s after its first
        attempt. On Linux one connection may still be made, and then hangs; on other systems any number may.
        """
        self._running.call(self._running.plug)

    def reset(self, connections: Affected = "existing") -> None:
        """Reset connections (RST, "connection reset by peer"): existing ones now, new ones when they are accepted.

        Args:
            connections: "existing", "new" or "all".
        """
        self._end("reset", connections)

    def disconnect(self, connections: Affected = "existing") -> None:
        """Close connections cleanly (FIN, "server closed the connection"): existing ones now, new ones when accepted.

        Args:
            connections: "existing", "new" or "all".
        """
        self._end("disconnect", connections)

    def blackhole(self, direction: Directions = "both", connections: Affected = "all") -> None:
        """Pass nothing on and read nothing: senders block once the kernel's buffers are full.

        Nothing is lost: bytes, ends of streams and connection requests continue after `clear_faults()`.

        Args:
            direction: "to_server", "to_client" or "both".
            connections: "existing", "new" or "all".
        """
        self._change(direction, connections, mode="blackhole")

    def discard(self, direction: Directions = "both", connections: Affected = "all") -> None:
        """Read and discard everything, so that senders continue.

        After `clear_faults()` a connection that lost bytes would continue with a gap: call `reset()`, or
        `refuse(existing="reset")`, first.

        Args:
            direction: "to_server", "to_client" or "both".
            connections: "existing", "new" or "all".
        """
        self._change(direction, connections, mode="discard")

    def delay(
        self,
        seconds: float,
        direction: Directions = "both",
        connections: Affected = "all",
        *,
        jitter: float = 0.0,
    ) -> None:
        """Delay everything; the order stays.

        At most 256 KiB are held in a direction, so a long delay limits the throughput too.

        Args:
            seconds: the delay in seconds.
            direction: "to_server", "to_client" or "both".
            connections: "existing", "new" or "all".
            jitter: the delay varies randomly by up to this many seconds either way.
        """
        check_number("seconds", seconds, 0, LONGEST_DELAY)
        check_number("jitter", jitter, 0, seconds)
        self._change(direction, connections, delay=seconds, jitter=jitter)

    def throttle(
        self, bytes_per_second: float, direction: Directions = "both", connections: Affected = "all"
    ) -> None:
        """Limit the throughput of each connection in each direction.

        Args:
            bytes_per_second: the limit in bytes per second.
            direction: "to_server", "to_client" or "both".
            connections: "existing", "new" or "all".
        """
        check_number("bytes_per_second", bytes_per_second, 1, MAX_RATE)
        self._change(direction, connections, rate=bytes_per_second)

    def cut_after(
        self,
        count: int,
        direction: Direction,
        action: Action = "reset",
        *,
        connections: Affected = "all",
        times: int | None = 1,
    ) -> Trigger:
        """Break a connection once it has passed on `count` further bytes; return the trigger.

        The fault affects that connection only, in both directions.

        Args:
            count: bytes.
            direction: "to_server" or "to_client".
            action: the fault: "reset", "disconnect", "blackhole" or "discard".
            connections: "existing", "new" or "all".
            times: the number of connections to hit; None: all.
        """
        check_count("count", count)
        return self._set(direction, connections, action, times, count=count)

    def when(
        self,
        pattern: bytes,
        direction: Direction = "to_server",
        action: Action = "reset",
        *,
        after_forwarding: bool = True,
        connections: Affected = "all",
        times: int | None = 1,
    ) -> Trigger:
        """Break a connection once a pattern appears in it, in one piece or several; return the trigger.

        The fault affects that connection only, in both directions. With *after_forwarding* the proxy first forwards the
        pattern, with the rest of the message that arrived with it. Otherwise it stops before the pattern, so that the
        receiver never gets all of it.

        Args:
            pattern: the bytes to look for.
            direction: "to_server" or "to_client".
            action: the fault: "reset", "disconnect", "blackhole" or "discard".
            after_forwarding: whether the receiver gets the pattern before the fault.
            connections: "existing", "new" or "all".
            times: the number of connections to hit; None: all.
        """
        check_pattern(pattern)
        return self._set(
            direction, connections, action, times, pattern=pattern, after_forwarding=after_forwarding
        )

    @property
    def _running(self) -> Relay:
        if self._relay is None:
            raise ClusterError("the proxy is not started")
        return self._relay

    def _end(self, action: Literal["reset", "disconnect"], connections: Affected) -> None:
        check_choice("connections", connections, get_args(Affected))
        relay = self._running

        def act() -> None:
            if connections != "new":
                relay.hit_all(action)
            if connections != "existing":
                relay.on_accept = action

        relay.call(act)

    def _change(self, direction: Directions, connections: Affected, **changes: Any) -> None:
        """Change conditions; `changes` are fields of `Conditions`."""
        check_choice("direction", direction, get_args(Directions))

        def change(flow: Flow) -> None:
            flow.conditions = replace(flow.conditions, **changes)

        names = get_args(Direction) if direction == "both" else (direction,)
        relay, affected = self._running, _affected(connections)
        relay.call(lambda: relay.change(change, names, **affected))

    def _set(
        self, direction: Direction, connections: Affected, action: Action, times: int | None, **place: Any
    ) -> Trigger:
        """Set a trigger; `place` holds further arguments of `Trigger`."""
        check_choice("direction", direction, get_args(Direction))
        check_choice("action", action, get_args(Action))
        if times is not None:
            check_count("times", times)
        trigger = Trigger(action, times=times, **place)
        relay, affected = self._running, _affected(connections)
        relay.call(lambda: relay.set_trigger(trigger, direction, **affected))
        return trigger


def _affected(connections: Affected) -> dict[str, bool]:
    check_choice("connections", connections, get_args(Affected))
    return {"existing": connections != "new", "new": connections != "existing"}
