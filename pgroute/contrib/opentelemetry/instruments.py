"""The instruments of OpenTelemetry, and where their values are read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.metrics import Observation

from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.metrics.family import COUNTER, HISTOGRAM, SECONDS
from pgroute.contrib.opentelemetry.counting import RisingCounter
from pgroute.contrib.opentelemetry.sessions import (
    POOL_NAME,
    ROUTER,
    Attributes,
    Histograms,
    pool_name,
    server,
)
from pgroute.core.model.durations import BOUNDS, OUTAGE_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from pgroute.contrib.metrics.family import Family
    from pgroute.contrib.metrics.reading import Reading

    Read = Callable[[Reading], Iterable[Observation]]

_TIMEOUTS = ("NoHostAvailable", "PoolExhausted", "SplitBrainError")
_LABELS = {"role": "pgroute.role", "host": "pgroute.host"}


class Source(Protocol):
    """The routers that the instruments tell of."""

    def flush(self) -> None:
        """Have the durations of the sessions recorded that have ended."""
        ...

    def read(self) -> Iterable[Reading]:
        """Return the state of each router."""
        ...


def create(meter: Meter, source: Source) -> Histograms:
    """Create all instruments, and return those that do not read their values themselves.

    Args:
        meter: of OpenTelemetry.
        source: where values are read.
    """

    def seconds(name: str, description: str, bounds: tuple[float, ...] = BOUNDS) -> Histogram:
        return meter.create_histogram(
            name, unit=SECONDS, description=description, explicit_bucket_boundaries_advisory=bounds
        )

    def observed(make: Callable[..., object], name: str, read: Read, unit: str, description: str) -> None:
        counter = RisingCounter() if make == meter.create_observable_counter else None

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            # A collection asks all instruments. To flush once is enough, and takes the time of one where that is slow.
            if name == _FIRST:
                source.flush()
            values = [observation for reading in source.read() for observation in read(reading)]
            return values if counter is None else counter.rising(values)

        make(name, [callback], unit=unit, description=description)

    for name, unit, description, read in _POOLS:
        counts = name.endswith("timeouts")
        up_down = meter.create_observable_counter if counts else meter.create_observable_up_down_counter
        observed(up_down, name, read, unit, description)
    for family in FAMILIES:
        if family.otel and family.kind != HISTOGRAM:
            counts = family.kind == COUNTER
            make = meter.create_observable_counter if counts else meter.create_observable_gauge
            observed(
                make, f"pgroute.{family.otel}", partial(_read, family), family.unit or "1", family.meaning
            )
    return Histograms(
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
    )


def _read(family: Family, reading: Reading) -> Iterator[Observation]:
    names = [_LABELS.get(label, f"pgroute.{label}") for label in family.labels]
    for labels, value in family.read(reading):
        assert isinstance(value, (int, float))
        if family.states and not value:
            continue  # OpenTelemetry's SDK keeps each set of attributes that was told once, and no more than 2000
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
        "db.client.connection.count",
        "{connection}",
        "The number of connections that are currently in the state described by the state attribute.",
        _count,
    ),
    (
        "db.client.connection.max",
        "{connection}",
        "The maximum number of open connections allowed.",
        _size("pool_max"),
    ),
    (
        "db.client.connection.idle.max",
        "{connection}",
        "The maximum number of idle open connections allowed.",
        _size("pool_max"),
    ),
    (
        "db.client.connection.idle.min",
        "{connection}",
        "The minimum number of idle open connections allowed.",
        _size("pool_min"),
    ),
    (
        "db.client.connection.pending_requests",
        "{request}",
        "The number of current pending requests for an open connection.",
        _pending,
    ),
    (
        "db.client.connection.timeouts",
        "{timeout}",
        "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
        _timeouts,
    ),
)

_FIRST = _POOLS[0][0]
