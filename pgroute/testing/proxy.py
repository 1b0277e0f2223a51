"""A TCP proxy in front of a server, which does to connections what networks and dying hosts do."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from .errors import ClusterError
from .flow import Deed, Trap
from .password import for_uri
from .ports import HOST
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .flow import Flow

Direction = Literal["to_server", "to_client"]
Directions = Literal["to_server", "to_client", "both"]
Which = Literal["existing", "new", "all"]
Ending = Literal["reset", "disconnect"]

LONGEST = 86400  # seconds
QUICKEST = 10**12  # bytes per second


class Endpoint(Protocol):
    """What a proxy can stand in front of: a `Node`, another proxy."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class FaultProxy:
    """A proxy on 127.0.0.1 in front of a server, as a context manager or with start() and stop().

    A new proxy passes everything on. Faults add up and last until `mend()`; each method returns when its
    fault is in force. `which` says whose fault it is: that of the connections that exist, of those made from
    now on, or of all. `direction` is "to_server", "to_client" or "both".

    The port stays the same from start() to stop(). A client whose target cannot be reached is reset. TLS
    passes through as bytes. Methods may be called from any thread, and from a coroutine: they block for less
    than a millisecond. A forked child may connect to the proxy, which stays with its parent.

    All methods and counters but stop() raise ClusterError when the proxy is not started, and ValueError for an
    argument that makes no sense.

    Args:
        target: a `Node`, another proxy, or (host, port).

    Attributes:
        target: as given.
        host: 127.0.0.1.

    Raises:
        ValueError: the target is something else.
    """

    def __init__(self, target: Endpoint | tuple[str, int]) -> None:
        self._host, self._port = _address(target)
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
        """Return a libpq URI that lists the proxies, with the file of the first known password of what is behind them.

        Args:
            proxies: in this order.
            user: the role in it.
            dbname: the database in it.
        """
        proxies = tuple(proxies)
        hosts = ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)
        passfiles = (passfile for proxy in proxies if (passfile := proxy.passfile) is not None)
        return f"postgresql://{user}@{hosts}/{dbname}{for_uri(next(passfiles, None))}"

    @property
    def passfile(self) -> Path | None:
        """The file with the password of the `Node` that is behind it, None if something else is."""
        passfile: Path | None = getattr(self.target, "passfile", None)
        return passfile

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._running.port.number

    @property
    def attempts(self) -> int:
        """How many connections have reached the proxy since its start; the kernel refuses without telling."""
        return self._count(lambda relay: relay.attempts)

    @property
    def connected(self) -> int:
        """How many of the attempts have been connected with the target."""
        return self._count(lambda relay: relay.connected)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._count(lambda relay: len(relay.connections))

    @property
    def bytes_to_server(self) -> int:
        """How many bytes have been passed on to the target since the start."""
        return self._count(lambda relay: relay.totals["to_server"])

    @property
    def bytes_to_client(self) -> int:
        """How many bytes have been passed on to clients since the start."""
        return self._count(lambda relay: relay.totals["to_client"])

    def start(self) -> None:
        """Listen.

        Raises:
            ClusterError: it does already, or the target's name is not known.
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
        """Reset all connections and leave nothing behind. Idempotent."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def mend(self) -> None:
        """End all faults and take back all traps: what was held is passed on, what was lost stays lost."""
        self._running.call(self._running.mend)

    def refuse(self, *, existing: Literal["keep", "reset", "disconnect"] = "keep") -> None:
        """Refuse new connections (ECONNREFUSED), as a host without a server does.

        Args:
            existing: what becomes of those that exist: "keep", "reset" or "disconnect".
        """
        _check("existing", existing, ("keep", "reset", "disconnect"))
        relay = self._running

        def act() -> None:
            relay.refuse()
            if existing != "keep":
                relay.hit_all(existing)

        relay.call(act)

    def hang(self) -> None:
        """Leave new connection attempts without an answer, as an unreachable host does: connect() hangs.

        After `mend()` they succeed when the client's kernel tries again, 1, 3, 7, ... s after its first
        attempt. A single connection may still be made, and hangs then. Only on Linux: elsewhere any number.
        """
        self._running.call(self._running.plug)

    def reset(self, which: Which = "existing") -> None:
        """Reset connections (RST, "connection reset by peer"): at once, and new ones when they come.

        Args:
            which: "existing", "new" or "all".
        """
        self._end("reset", which)

    def disconnect(self, which: Which = "existing") -> None:
        """Close connections cleanly (FIN, "server closed the connection"): at once, new ones when they come.

        Args:
            which: "existing", "new" or "all".
        """
        self._end("disconnect", which)

    def deaf(self, direction: Directions = "both", which: Which = "all") -> None:
        """Pass nothing on, and read nothing either: senders block once the kernel's buffers are full.

        Nothing is lost: bytes, ends of streams and requests for a connection go on with `mend()`.

        Args:
            direction: "to_server", "to_client" or "both".
            which: "existing", "new" or "all".
        """
        self._change(direction, which, mode="deaf")

    def discard(self, direction: Directions = "both", which: Which = "all") -> None:
        """Lose everything, while senders go on. A connection that lost bytes would go on with a hole after
        `mend()`: call `reset()`, or `refuse(existing="reset")`, before it.

        Args:
            direction: "to_server", "to_client" or "both".
            which: "existing", "new" or "all".
        """
        self._change(direction, which, mode="discard")

    def delay(
        self, seconds: float, direction: Directions = "both", which: Which = "all", *, jitter: float = 0.0
    ) -> None:
        """Pass everything on later; the order stays.

        At most 256 KiB are under way in a direction, so a long delay limits the throughput too.

        Args:
            seconds: how much later, in seconds.
            direction: "to_server", "to_client" or "both".
            which: "existing", "new" or "all".
            jitter: seconds more or less, at most so many.
        """
        _check_number("seconds", seconds, 0, LONGEST)
        _check_number("jitter", jitter, 0, seconds)
        self._change(direction, which, delay=seconds, jitter=jitter)

    def throttle(self, bytes_per_second: float, direction: Directions = "both", which: Which = "all") -> None:
        """Pass on no more than so much on each connection and in each direction.

        Args:
            bytes_per_second: bytes per second.
            direction: "to_server", "to_client" or "both".
            which: "existing", "new" or "all".
        """
        _check_number("bytes_per_second", bytes_per_second, 1, QUICKEST)
        self._change(direction, which, rate=bytes_per_second)

    def cut_after(
        self,
        count: int,
        direction: Direction,
        do: Deed = "reset",
        *,
        which: Which = "all",
        times: int | None = 1,
    ) -> Trap:
        """Break a connection once so many further bytes of it have been passed on; return the trap that does.

        It hits the connection alone, in both directions.

        Args:
            count: bytes.
            direction: "to_server" or "to_client".
            do: the fault: "reset", "disconnect", "deaf" or "discard".
            which: "existing", "new" or "all".
            times: how many connections it hits; None: all.
        """
        _check_count("count", count)
        return self._set(direction, which, do, times, count=count)

    def when(
        self,
        pattern: bytes,
        direction: Direction = "to_server",
        do: Deed = "reset",
        *,
        after_forwarding: bool = True,
        which: Which = "all",
        times: int | None = 1,
    ) -> Trap:
        """Break a connection once a pattern comes along on it, in one piece or several; return the trap that does.

        It hits the connection alone, in both directions.

        Args:
            pattern: the bytes to look for.
            direction: "to_server" or "to_client".
            do: the fault: "reset", "disconnect", "deaf" or "discard".
            after_forwarding: the pattern is passed on first, with what came together with it: the rest of its
                message. Otherwise nothing of it is that has not yet gone, and the receiver never sees it whole.
            which: "existing", "new" or "all".
            times: how many connections it hits; None: all.
        """
        _check_pattern(pattern)
        return self._set(direction, which, do, times, pattern=pattern, forwards=after_forwarding)

    @property
    def _running(self) -> Relay:
        if self._relay is None:
            raise ClusterError("the proxy is not started")
        return self._relay

    def _count(self, count: Callable[[Relay], int]) -> int:
        """Ask the thread, so that all that a client or server has seen before is counted."""
        relay = self._running
        return relay.call(lambda: count(relay))

    def _end(self, ending: Ending, which: Which) -> None:
        _check("which", which, get_args(Which))
        relay = self._running

        def act() -> None:
            if which != "new":
                relay.hit_all(ending)
            if which != "existing":
                relay.welcome = ending

        relay.call(act)

    def _change(self, direction: Directions, which: Which, **changes: Any) -> None:
        """Change conditions; `changes` are fields of `Conditions`."""
        _check("direction", direction, get_args(Directions))

        def change(flow: Flow) -> None:
            flow.conditions = replace(flow.conditions, **changes)

        names = get_args(Direction) if direction == "both" else (direction,)
        relay, whose = self._running, _whose(which)
        relay.call(lambda: relay.change(change, names, **whose))

    def _set(self, direction: Direction, which: Which, do: Deed, times: int | None, **moment: Any) -> Trap:
        """Set a trap; `moment` is when it springs, in arguments of `Trap`."""
        _check("direction", direction, get_args(Direction))
        _check("do", do, get_args(Deed))
        if times is not None:
            _check_count("times", times)
        trap = Trap(do, times=times, **moment)
        relay, whose = self._running, _whose(which)
        relay.call(lambda: relay.set(trap, direction, **whose))
        return trap


def _address(target: object) -> tuple[str, int]:
    pair = target if isinstance(target, tuple) else (getattr(target, "host", 0), getattr(target, "port", 0))
    match pair:
        case (str(host), int(port)) if 0 < port < 65536:
            return host, port
    raise ValueError(f"target must be a Node or (host, port from 1 to 65535), not {target!r}")


def _whose(which: Which) -> dict[str, bool]:
    _check("which", which, get_args(Which))
    return {"existing": which != "new", "new": which != "existing"}


def _check(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if not (isinstance(value, int | float) and least <= value <= most):
        raise ValueError(f"{name} must be a number from {least} to {most}, not {value!r}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")


def _check_pattern(value: object) -> None:
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"pattern must be bytes, at least one, not {value!r}")
