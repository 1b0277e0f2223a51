"""Takes the metrics and sessions of routers to OpenTelemetry."""

from __future__ import annotations

import atexit
import weakref
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation

from pgroute import AsyncRouter, Router
from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.metrics.family import COUNTER, HISTOGRAM, SECONDS
from pgroute.contrib.metrics.routers import ObservedRouters
from pgroute.contrib.opentelemetry.sender import Sender
from pgroute.contrib.opentelemetry.sessions import (
    POOL_NAME,
    ROUTER,
    Attributes,
    Instruments,
    SessionObserver,
    pool_name,
    server,
)
from pgroute.core.config.options import check_bool
from pgroute.core.model.durations import BOUNDS, OUTAGE_BOUNDS
from pgroute.errors import ConfigError
from pgroute.faces import AnyRouter, manager_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.trace import TracerProvider

    from pgroute.contrib.metrics.family import Family
    from pgroute.contrib.metrics.reading import Reading

    Read = Callable[[Reading], Iterable[Observation]]

_TIMEOUTS = ("NoHostAvailable", "PoolExhausted", "SplitBrainError")
_LABELS = {"role": "pgroute.role", "host": "pgroute.host"}


class RouterInstrumentation:
    """Takes the metrics of routers, and a span for each of their sessions, to OpenTelemetry; see docs/metrics.md.

    ::

        RouterInstrumentation(router)

    Sessions do not wait for OpenTelemetry: they leave a note at their end, which a thread takes there. So a span is not
    the current one while its session lasts. The routers keep this object alive, and it keeps no router alive.

    One that was made before a fork goes on in the child, for the routers that are opened there.

    Args:
        routers: each a Router or an AsyncRouter, open or not; others may be added later.
        meter_provider: of the metrics; None: the global one.
        tracer_provider: of the spans; None: the global one.
        traces: make spans.

    Raises:
        ConfigError: one is no router, or has an instrumentation already; another argument is invalid.
    """

    def __init__(
        self,
        *routers: AnyRouter,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        traces: bool = True,
    ) -> None:
        check_bool("traces", traces)
        _check_provider("meter_provider", meter_provider, "get_meter")
        _check_provider("tracer_provider", tracer_provider, "get_tracer")
        self._routers = ObservedRouters()
        self._sender = Sender()
        self._closed = False
        meter = metrics.get_meter("pgroute", _version(), meter_provider)
        tracer = trace.get_tracer("pgroute", _version(), tracer_provider) if traces else None
        self._instruments = _make(meter, tracer, weakref.ref(self))
        weakref.finalize(self, self._sender.abandon).atexit = False
        # Before the providers, which were made earlier, are shut down.
        self._at_exit = partial(_end_at_exit, weakref.ref(self._sender))
        atexit.register(self._at_exit)
        weakref.finalize(self, atexit.unregister, self._at_exit).atexit = False
        for router in routers:
            self.add(router)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def add(self, router: AnyRouter) -> None:
        """Add a router.

        Args:
            router: a Router or an AsyncRouter, open or not.

        Raises:
            ConfigError: it is no router, has an instrumentation already, or this one is closed.
        """
        if self._closed:
            raise ConfigError("router", router, "expected an instrumentation that is not closed")
        given: object = router
        if isinstance(given, (Router, AsyncRouter)) and manager_behind(router).meter.observer is not None:
            raise ConfigError("router", router, "expected a router that has no instrumentation yet")
        name = self._routers.add(router)
        manager_behind(router).meter.observer = SessionObserver(name, self._instruments, self._sender, self)

    def flush(self) -> None:
        """Take all sessions to OpenTelemetry that have ended; each collection of metrics does that too."""
        self._sender.flush()

    def close(self) -> None:
        """Leave the routers alone from now on: sessions that have ended are told, those in flight are not.

        OpenTelemetry has no means to take instruments back: they have no values any more.
        """
        self._closed = True
        for router in self._routers.living():
            manager_behind(router).meter.observer = None
        self._sender.end()
        atexit.unregister(self._at_exit)

    def read(self, read: Read) -> list[Observation]:
        """Return what an instrument observes in all routers; for the instruments."""
        self._sender.flush()
        if self._closed:
            return []
        return [observation for reading in self._routers.read() for observation in read(reading)]


def _end_at_exit(sender: weakref.ref[Sender]) -> None:
    if (found := sender()) is not None:
        found.end()


def _check_provider(name: str, provider: object, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ConfigError(name, provider, f"expected a provider of OpenTelemetry, with {method}(), or None")


def _version() -> str:
    try:
        return version("pgroute")
    except PackageNotFoundError:
        return ""


def _make(
    meter: Meter, tracer: trace.Tracer | None, owner: weakref.ref[RouterInstrumentation]
) -> Instruments:
    def seconds(name: str, description: str, bounds: tuple[float, ...] = BOUNDS) -> metrics.Histogram:
        return meter.create_histogram(
            name, unit=SECONDS, description=description, explicit_bucket_boundaries_advisory=bounds
        )

    def observed(create: Callable[..., object], name: str, read: Read, unit: str, description: str) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            instrumentation = owner()
            return [] if instrumentation is None else instrumentation.read(read)

        create(name, [callback], unit=unit, description=description)

    for name, unit, description, read in _POOLS:
        counts = name.endswith("timeouts")
        up_down = meter.create_observable_counter if counts else meter.create_observable_up_down_counter
        observed(up_down, f"db.client.connection.{name}", read, unit, description)
    for family in FAMILIES:
        if family.otel and family.kind != HISTOGRAM:
            counts = family.kind == COUNTER
            create = meter.create_observable_counter if counts else meter.create_observable_gauge
            observed(
                create, f"pgroute.{family.otel}", partial(_read, family), family.unit or "1", family.meaning
            )
    return Instruments(
        seconds(
            "db.client.connection.wait_time", "The time it took to obtain an open connection from the pool."
        ),
        seconds(
            "db.client.connection.use_time",
            "The time between borrowing a connection and returning it to the pool.",
        ),
        seconds("db.client.connection.create_time", "The time it took to create a new connection."),
        seconds(
            "pgroute.failover.duration",
            "seconds without a host for writers in a failover",
            bounds=OUTAGE_BOUNDS,
        ),
        tracer,
    )


def _read(family: Family, reading: Reading) -> Iterator[Observation]:
    names = [_LABELS.get(label, f"pgroute.{label}") for label in family.labels]
    for labels, value in family.read(reading):
        assert isinstance(value, (int, float))
        yield Observation(value, {ROUTER: reading.name, **dict(zip(names, labels, strict=True))})


def _pool(reading: Reading, role: str, host: Any = None) -> Attributes:
    attributes: Attributes = {POOL_NAME: pool_name(reading.name, role)}
    return attributes if host is None else attributes | server(host)


def _count(reading: Reading) -> Iterator[Observation]:
    for (role, host), found in reading.hosts.items():
        for state, key in (("idle", "pool_available"), ("used", "in_use")):
            attributes = _pool(reading, role, host) | {"db.client.connection.state": state}
            yield Observation(found.sizes.get(key, 0), attributes)


def _size(key: str) -> Read:
    return lambda reading: [
        Observation(found.sizes[key], _pool(reading, role, host))
        for (role, host), found in reading.hosts.items()
        if key in found.sizes
    ]


def _pending(reading: Reading) -> Iterator[Observation]:
    yield from _size("requests_waiting")(reading)
    for role, waiting in reading.waiting.items():
        yield Observation(waiting, _pool(reading, role))


def _timeouts(reading: Reading) -> Iterator[Observation]:
    for role, errors in reading.counts.session_errors.items():
        yield Observation(sum(errors[name] for name in _TIMEOUTS), _pool(reading, role))


_POOLS: tuple[tuple[str, str, str, Read], ...] = (
    (
        "count",
        "{connection}",
        "The number of connections that are currently in the state described by the state attribute.",
        _count,
    ),
    ("max", "{connection}", "The maximum number of open connections allowed.", _size("pool_max")),
    ("idle.max", "{connection}", "The maximum number of idle open connections allowed.", _size("pool_max")),
    ("idle.min", "{connection}", "The minimum number of idle open connections allowed.", _size("pool_min")),
    (
        "pending_requests",
        "{request}",
        "The number of current pending requests for an open connection.",
        _pending,
    ),
    (
        "timeouts",
        "{timeout}",
        "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
        _timeouts,
    ),
)
