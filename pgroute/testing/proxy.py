"""A TCP proxy in front of a server that injects the faults of networks and dying hosts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from .environment import uri
from .errors import ClusterError
from .ports import HOST
from .proxy_arguments import parse_target
from .proxy_faults import ProxyFaults
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .proxy_arguments import Endpoint


class FaultProxy(ProxyFaults):
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
    def dsn(proxies: Iterable[FaultProxy], *, user: str = "postgres", dbname: str | None = None) -> str:
        """Return a libpq URI that lists the proxies, with the password file of the first `Node` behind them.

        `PG*` variables count as in `LocalCluster.dsn`; without a `Node` all of them do but PGHOSTADDR.

        Args:
            proxies: the hosts, in this order.
            user: the role to log in as.
            dbname: the database; None: that of the first `Node`, or "postgres" if there is none.
        """
        proxies = tuple(proxies)
        hosts = ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)
        if dbname is None:
            names = (name for proxy in proxies if (name := getattr(proxy, "dbname", None)) is not None)
            dbname = next(names, "postgres")
        passfiles = (passfile for proxy in proxies if (passfile := proxy.passfile) is not None)
        return uri(user, hosts, dbname, next(passfiles, None))

    @property
    def dbname(self) -> str | None:
        """The database of the `Node` behind the proxy; None for any other target."""
        dbname: str | None = getattr(self.target, "dbname", None)
        return dbname

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

    def _count(self, count: Callable[[Relay], int]) -> int:
        """Ask the thread, so that everything that a client or server has seen is counted."""
        relay = self._running
        return relay.call(lambda: count(relay))
