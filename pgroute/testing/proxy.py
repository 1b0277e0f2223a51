"""A TCP proxy in front of a server that injects the faults of networks and dying hosts."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import ClusterError
from .password import for_uri
from .ports import HOST
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
    parse_target,
)
from .relay import Relay
from .trigger import Action, Trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .flow import Flow
    from .proxy_arguments import Endpoint


class FaultProxy:
    """A proxy on 127.0.0.1 in front of a server, as a context manager or with start() and stop().

    A new proxy passes everything on. Faults add up and last until `clear_faults()`; each method returns once its
    fault is in force. `connections` selects the connections that a fault affects: "existing" ones, "new" ones made
    from now on, or "all". `direction` is "to_server", "to_client" or "both".

    The port stays the same from start() to stop(). If the target cannot be reached, the client's connection is reset.
    TLS passes through as bytes. Methods may be called from any thread and from a coroutine: they block for less than a
    millisecond. A forked child may connect to the proxy, which its parent keeps running.

    All methods and counters except stop() raise ClusterError if the proxy is not started, and ValueError for an
    invalid argument.

    Args:
        target: a `Node`, another proxy, or (host, port).

    Attributes:
        target: as given.
        host: 127.0.0.1.

    Raises:
        ValueError: the target is none of these.
    """

    def __init__(self, target: Endpoint | tuple[str, int]) -> None:
        self._host, self._port = parse_target(target)
        self.target = target
        self.host: str = HOST
        self._relay: Relay | None = None

    def __repr__(self) -> str:
        state = f"{self.host}:{self.port}" if self._relay is not None else "stopped"
        return f"<FaultProxy {state} to {self._host}:{self._port}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def dsn(proxies: Iterable[FaultProxy], *, user: str = "postgres", dbname: str = "postgres") -> str:
        """Return a libpq URI that lists the proxies, with the password file of the first `Node` behind them.

        Args:
            proxies: the hosts, in this order.
            user: the role to log in as.
            dbname: the database.
        """
        proxies = tuple(proxies)
        hosts = ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)
        passfiles = (passfile for proxy in proxies if (passfile := proxy.passfile) is not None)
        return f"postgresql://{user}@{hosts}/{dbname}{for_uri(next(passfiles, None))}"

    @property
    def passfile(self) -> Path | None:
        """The password file of the `Node` behind the proxy; None for any other target."""
        passfile: Path | None = getattr(self.target, "passfile", None)
        return passfile

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._running.port.number

    @property
    def attempts(self) -> int:
        """Connections accepted since the start; connections that `refuse()` turns away are not counted."""
        return self._count(lambda relay: relay.attempts)

    @property
    def connected(self) -> int:
        """Accepted connections for which the target has accepted too."""
        return self._count(lambda relay: relay.connected)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return self._count(lambda relay: len(relay.connections))

    @property
    def bytes_to_server(self) -> int:
        """Bytes passed on to the target since the start."""
        return self._count(lambda relay: relay.totals["to_server"])

    @property
    def bytes_to_client(self) -> int:
        """Bytes passed on to clients since the start."""
        return self._count(lambda relay: relay.totals["to_client"])

    def start(self) -> None:
        """Listen.

        Raises:
            ClusterError: the proxy is started already, or the target's name cannot be resolved.
        """
        if self._relay is not None:
            raise ClusterError("the proxy is started already")
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ClusterError(f"cannot resolve {self._host}: {error}") from error
        addresses = [(family, address) for family, _, _, _, address in found]
        self._relay = Relay(f"pgroute-proxy-{self._host}:{self._port}", addresses)

    def stop(self) -> None:
        """Reset all connections and release the port. Idempotent."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

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

    def _count(self, count: Callable[[Relay], int]) -> int:
        """Ask the thread, so that everything that a client or server has seen is counted."""
        relay = self._running
        return relay.call(lambda: count(relay))

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
