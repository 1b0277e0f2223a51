"""What is kept of a session until it has ended, and what becomes of it: two values in histograms, and a span."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import get_current
from opentelemetry.trace import Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Tracer

    from pgroute.contrib.opentelemetry.sender import Sender
    from pgroute.core.model.roles import HostKey, Role

Attributes = dict[str, str | int | float]

POOL_NAME = "db.client.connection.pool.name"
SYSTEM = "db.system.name"
ADDRESS, PORT = "server.address", "server.port"
PEER_ADDRESS, PEER_PORT = "network.peer.address", "network.peer.port"
ROUTER, ROLE = "pgroute.router", "pgroute.role"
WAIT_TIME, RETRIES = "pgroute.wait_time", "pgroute.retries"
ERROR_TYPE, SQLSTATE = "error.type", "db.response.status_code"


class Histograms(NamedTuple):
    """Where durations go.

    Attributes:
        wait_time, use_time, create_time, failover: of seconds.
    """

    wait_time: Histogram
    use_time: Histogram
    create_time: Histogram
    failover: Histogram


class Instruments(NamedTuple):
    """Where the values go.

    Attributes:
        histograms: take the durations.
        tracer: makes the spans; None: there are none.
    """

    histograms: Histograms
    tracer: Tracer | None


def pool_name(router: str, role: str) -> str:
    """Return the name of the pools of a role: they have one for each host, which an attribute tells."""
    return f"{router}/{role}"


def server(host: HostKey) -> Attributes:
    """Return the attributes of a host, other ones for each: a pool has no others."""
    if host.is_socket:
        return {ADDRESS: f"{host.host}/.s.PGSQL.{host.port}"}
    attributes: Attributes = {ADDRESS: host.host or host.hostaddr or "", PORT: host.port}
    if host.hostaddr:
        attributes |= {PEER_ADDRESS: host.hostaddr, PEER_PORT: host.port}
    return attributes


class Kept:
    """One session; it is made and ended on the way of each, so with few steps.

    Args:
        observer: of the router.
        role: whose pool its connection comes from.
        key: the host; None: there was none.
        since: monotonic seconds at which it was asked for.
        waited: seconds from then on.
        attempt: of its transaction, from 1.
    """

    __slots__ = ("_attempt", "_context", "_error", "_key", "_observer", "_role", "_since", "_used", "_waited")

    def __init__(  # noqa: PLR0917  (by name they would cost more)
        self,
        observer: SessionObserver,
        role: Role,
        key: HostKey | None,
        since: float,
        waited: float,
        attempt: int,
    ) -> None:
        self._observer = observer
        self._role = role
        self._key = key
        self._since = since
        self._waited = waited
        self._attempt = attempt
        self._used = 0.0
        self._error: tuple[str, str] | None = None
        self._context: Context | None = get_current() if observer.traces else None

    def failed(self, exc: BaseException) -> None:
        """Take note of the kind of an error; its text may tell of the user's data."""
        kind = type(exc)
        self._error = f"{kind.__module__}.{kind.__qualname__}", getattr(exc, "sqlstate", None) or ""

    def ended(self, seconds: float) -> None:
        """Take note of its end."""
        self._used = seconds
        self._observer.sender.leave(self)

    def send(self) -> None:
        """Take it to OpenTelemetry."""
        observer = self._observer
        instruments = observer.instruments
        if self._key is not None:
            attributes = observer.attributes(self._role, self._key)
            instruments.histograms.wait_time.record(self._waited, attributes, self._context)
            instruments.histograms.use_time.record(self._used, attributes, self._context)
        if instruments.tracer is not None:
            self._trace(instruments.tracer)

    def _trace(self, tracer: Tracer) -> None:
        attributes: Attributes = {
            SYSTEM: "postgresql",
            ROUTER: self._observer.router,
            ROLE: self._role.value,
            WAIT_TIME: self._waited,
            RETRIES: self._attempt - 1,
        }
        if self._key is not None:
            attributes |= server(self._key)
        if self._error is not None:
            attributes[ERROR_TYPE], sqlstate = self._error
            if sqlstate:
                attributes[SQLSTATE] = sqlstate
        begun = time.time_ns() - int(1e9 * (time.monotonic() - self._since))
        acquired = begun + int(1e9 * self._waited)
        span = tracer.start_span(
            f"pgroute {self._role.value}", self._context, attributes=attributes, start_time=begun
        )
        if self._key is not None:
            span.add_event("pgroute.acquired", timestamp=acquired)
        if self._error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(acquired + int(1e9 * self._used))


class _Duration(NamedTuple):
    """A value for a histogram."""

    instrument: Histogram
    seconds: float
    attributes: Mapping[str, str | int | float]

    def send(self) -> None:
        """Take it to OpenTelemetry."""
        self.instrument.record(self.seconds, self.attributes)


class SessionObserver:
    """Is told of the sessions of one router.

    Args:
        router: its name.
        instruments: where the values go.
        sender: takes them there.
        owner: kept alive as long as the router is.

    Attributes:
        router, instruments, sender, owner: as given.
        traces: spans are made.
        begun: returns what is kept of a session.
    """

    def __init__(self, router: str, instruments: Instruments, sender: Sender, owner: object) -> None:
        self.router = router
        self.instruments = instruments
        self.sender = sender
        self.traces: bool = instruments.tracer is not None
        self.begun: Callable[[Role, HostKey, float, float, int], Kept] = partial(Kept, self)
        self.owner = owner
        self._attributes: dict[tuple[Role, HostKey], Mapping[str, str | int | float]] = {}

    def attributes(self, role: Role, key: HostKey) -> Mapping[str, str | int | float]:
        """Return the attributes of a pool."""
        found = self._attributes.get((role, key))
        if found is None:
            if len(self._attributes) > 1000:  # where names move, there is no end to the hosts
                self._attributes.clear()
            found = {POOL_NAME: pool_name(self.router, role.value), **server(key)}
            self._attributes[role, key] = found
        return found

    def refused(self, role: Role, since: float, attempt: int, exc: BaseException) -> None:
        """Take note of a session that could not be had: a span without a host."""
        if self.instruments.tracer is not None:
            kept = Kept(self, role, None, since, time.monotonic() - since, attempt)
            kept.failed(exc)
            self.sender.leave(kept)

    def connected(self, role: Role, key: HostKey, seconds: float) -> None:
        """Take note of a connection that was opened."""
        self.sender.leave(
            _Duration(self.instruments.histograms.create_time, seconds, self.attributes(role, key))
        )

    def failed_over(self, seconds: float) -> None:
        """Take note of a failover."""
        self.sender.leave(_Duration(self.instruments.histograms.failover, seconds, {ROUTER: self.router}))
