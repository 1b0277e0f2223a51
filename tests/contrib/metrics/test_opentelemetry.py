"""What OpenTelemetry is told of routers, by the exporters of its SDK that keep it in memory."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from pgroute import AsyncRouter, ConfigError, NoHostAvailable, ProbeOptions, Router
from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.opentelemetry import RouterInstrumentation, counting, providers
from pgroute.contrib.opentelemetry.counting import RisingCounter
from pgroute.contrib.opentelemetry.sessions import server
from pgroute.core.model.roles import HostKey
from pgroute.faces import manager_behind
from pgroute.testing import LocalCluster
from tests.support import Background, dsn_with, eventually, password_of

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
COLLECTION_TIMEOUT = providers._COLLECTION_TIMEOUT
CONVENTIONS = {
    "db.client.connection.count": "{connection}",
    "db.client.connection.max": "{connection}",
    "db.client.connection.idle.max": "{connection}",
    "db.client.connection.idle.min": "{connection}",
    "db.client.connection.pending_requests": "{request}",
    "db.client.connection.timeouts": "{timeout}",
    "db.client.connection.create_time": "s",
    "db.client.connection.wait_time": "s",
    "db.client.connection.use_time": "s",
}
"""Names and units, from the semantic conventions."""


class Telemetry:
    """Providers that keep what they are told in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def instrument(self, *routers: Any, **options: Any) -> RouterInstrumentation:
        return RouterInstrumentation(
            *routers,
            meter_provider=self.meter_provider,
            tracer_provider=self.tracer_provider,
            **options,
        )

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self._reader.get_metrics_data()
        scopes = [scope for told in data.resource_metrics for scope in told.scope_metrics] if data else []
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str, **attributes: Any) -> list[Any]:
        """Return the data points of a metric with these attributes (a dot is two underscores)."""
        metric = self.metrics().get(name)
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            point
            for point in (metric.data.data_points if metric else ())
            if wanted.items() <= dict(point.attributes).items()
        ]

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """Providers; a collection waits for what all sessions have left, however busy the machine is."""
    monkeypatch.setattr(providers, "_COLLECTION_TIMEOUT", 30.0)
    telemetry = Telemetry()
    yield telemetry
    telemetry.shutdown()


def use(router: Router) -> None:
    with router.writer() as conn:
        conn.execute("SELECT 1")


def test_the_metrics_are_called_as_the_conventions_say(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router):
        use(router)
        found = telemetry.metrics()
    assert {name: found[name].unit for name in CONVENTIONS} == CONVENTIONS
    others = {f"pgroute.{family.otel}" for family in FAMILIES if family.otel}
    rare = {"pgroute.failover.duration", "pgroute.host.staleness", "pgroute.host.lag"}
    assert found.keys() - CONVENTIONS.keys() <= others
    assert others - found.keys() <= rare


def test_the_pools_are_told(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router):
        for _ in range(3):
            use(router)
        with router.writer():
            counts = telemetry.points("db.client.connection.count", db__client__connection__state="used")
            assert [point.value for point in counts] == [1]
        pool = {
            "db.client.connection.pool.name": "shop/writer",
            "server.address": shared.primary.host,
            "server.port": shared.primary.port,
        }
        for name in ("wait_time", "use_time"):
            [point] = telemetry.points(f"db.client.connection.{name}")
            assert dict(point.attributes) == pool
            assert point.count == 4
        [created] = telemetry.points("db.client.connection.create_time")
        assert created.count == 1
        [most] = telemetry.points("db.client.connection.max")
        assert most.value == 10


def test_each_session_is_a_span(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router) as instrumentation:
        use(router)
        router.fetch("SELECT 1")
        router.run(lambda conn: conn.execute("SELECT 1"))
        router.putconn(router.getconn("writer"))
        instrumentation.flush()
        spans = telemetry.spans()
    assert [span.name for span in spans] == [
        "pgroute writer",
        "pgroute reader",
        "pgroute writer",
        "pgroute writer",
    ]
    for span in spans:
        told: dict[str, Any] = dict(span.attributes or {})
        assert told["db.system.name"] == "postgresql"
        assert told["pgroute.router"] == "shop"
        assert told["pgroute.retries"] == 0
        assert told["server.port"] in [node.port for node in shared.nodes]
        assert span.start_time is not None
        assert span.end_time is not None
        [acquired] = span.events
        assert span.start_time <= acquired.timestamp <= span.end_time
        assert acquired.timestamp - span.start_time == pytest.approx(
            1e9 * float(told["pgroute.wait_time"]), abs=2
        )
        assert span.status.status_code is StatusCode.UNSET


def test_a_session_whose_connection_does_not_come_back_is_a_span_too(
    shared: LocalCluster, telemetry: Telemetry
) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router):
        conn = router.getconn("writer")
        del conn
        gc.collect()
        eventually(lambda: router.get_stats()["writer"].get("connections_lost") == 1)
    assert [span.name for span in telemetry.spans()] == ["pgroute writer"]


def test_a_span_belongs_to_the_trace_in_which_its_session_was_begun(
    shared: LocalCluster, telemetry: Telemetry
) -> None:
    tracer = telemetry.tracer_provider.get_tracer("test")
    with Router(shared.dsn) as router, telemetry.instrument(router) as instrumentation:
        with tracer.start_as_current_span("request") as request:
            use(router)
        instrumentation.flush()
    [session] = [span for span in telemetry.spans() if span.name != "request"]
    assert session.parent is not None
    assert session.parent.span_id == request.get_span_context().span_id


def test_retries_are_told_by_each_attempt(shared: LocalCluster, telemetry: Telemetry) -> None:
    attempts = []

    def body(conn: psycopg.Connection[Any]) -> None:
        attempts.append(conn)
        if len(attempts) < 3:
            conn.execute("DO $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '40001'; END $$")

    with Router(shared.dsn) as router, telemetry.instrument(router) as instrumentation:
        router.run(body)
        instrumentation.flush()
    told = [dict(span.attributes or {}) for span in telemetry.spans()]
    assert [attributes["pgroute.retries"] for attributes in told] == [0, 1, 2]
    assert [attributes.get("db.response.status_code") for attributes in told] == ["40001", "40001", None]
    assert [span.status.status_code for span in telemetry.spans()][-1] is StatusCode.UNSET
    assert "secret" not in "".join(span.to_json() for span in telemetry.spans())


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1/0", "psycopg.errors.DivisionByZero"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "psycopg.errors.AdminShutdown"),
    ],
)
def test_an_error_is_told_by_its_class(
    shared: LocalCluster, telemetry: Telemetry, statement: str, error: str
) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router) as instrumentation:
        with pytest.raises(psycopg.Error), router.writer() as conn:
            conn.execute(statement)
        instrumentation.flush()
    [span] = telemetry.spans()
    assert (span.attributes or {})["error.type"] == error
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None


def test_an_error_that_the_end_finds_is_told(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router) as instrumentation:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction), router.writer() as conn:  # noqa: SIM117
            with pytest.raises(psycopg.Error):
                conn.execute("SELECT 1/0")
        instrumentation.flush()
    [span] = telemetry.spans()
    assert (span.attributes or {})["error.type"] == "psycopg.errors.InFailedSqlTransaction"


def test_a_session_that_could_not_be_had_is_a_span_without_a_host(telemetry: Telemetry) -> None:
    with Router("host=127.0.0.1 port=1", name="shop") as router, telemetry.instrument(router):
        with pytest.raises(NoHostAvailable), router.writer(timeout=0.05):
            pass
        [timeouts] = telemetry.points(
            "db.client.connection.timeouts", db__client__connection__pool__name="shop/writer"
        )
        assert timeouts.value == 1
        assert telemetry.points("db.client.connection.wait_time") == []
    [span] = telemetry.spans()
    told: dict[str, Any] = dict(span.attributes or {})
    assert told["error.type"] == "pgroute.NoHostAvailable"
    assert "server.address" not in told
    assert float(told["pgroute.wait_time"]) >= 0.05


def test_a_failover_is_told(any_cluster: LocalCluster, telemetry: Telemetry) -> None:
    with (
        Router(any_cluster.dsn, name="shop", probe=ProbeOptions(interval=0.1)) as router,
        telemetry.instrument(router),
    ):
        use(router)
        any_cluster.primary.kill()
        eventually(lambda: not router.topology.writable)
        [writable] = telemetry.points("pgroute.writable")
        assert writable.value == 0
        any_cluster.promote()
        use(router)
        [duration] = telemetry.points("pgroute.failover.duration", pgroute__router="shop")
        [failovers] = telemetry.points("pgroute.failovers")
        [missing] = telemetry.points("pgroute.without_writer.time")
        assert (duration.count, failovers.value) == (1, 1)
        assert duration.sum == missing.value > 0.0
        assert len(telemetry.points("db.client.connection.use_time")) == 2


async def test_an_async_router_is_told(shared: LocalCluster, telemetry: Telemetry) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with telemetry.instrument(router):
            tracer = telemetry.tracer_provider.get_tracer("test")

            async def request(name: str) -> None:
                with tracer.start_as_current_span(name):
                    async with router.writer() as conn:
                        await conn.execute("SELECT 1")

            await asyncio.gather(request("one"), request("two"))
            await asyncio.to_thread(telemetry.metrics)
    spans = {span.name: span for span in telemetry.spans() if not span.name.startswith("pgroute")}
    sessions = [span for span in telemetry.spans() if span.name.startswith("pgroute")]
    assert {span.parent.span_id for span in sessions if span.parent} == {
        span.context.span_id for span in spans.values()
    }


def test_the_thread_tells_sessions_by_itself(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router):
        for number in range(1, 4):
            use(router)
            eventually(lambda: len(telemetry.spans()) == number)  # noqa: B023


def test_many_threads_lose_no_session(shared: LocalCluster, telemetry: Telemetry) -> None:
    def work(router: Router) -> None:
        for _ in range(50):
            use(router)

    with Router(shared.dsn) as router, telemetry.instrument(router), Background() as background:
        for worker in [background.start(work, router) for _ in range(6)]:
            worker.result()
        [used] = telemetry.points("db.client.connection.use_time")
        assert used.count == 300
        assert len(telemetry.spans()) == 300


def test_without_traces_there_are_metrics_alone(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router, traces=False):
        use(router)
        assert len(telemetry.points("db.client.connection.use_time")) == 1
    assert telemetry.spans() == ()


def test_nothing_is_told_after_the_close(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn) as router:
        instrumentation = telemetry.instrument(router)
        use(router)
        with router.writer():
            instrumentation.close()
        instrumentation.close()
        assert manager_behind(router).meter.observer is None
        use(router)
        assert len(telemetry.spans()) == 1
        assert telemetry.points("pgroute.open") == []
        with pytest.raises(ConfigError, match="expected an instrumentation that is not closed"):
            instrumentation.add(router)
        with telemetry.instrument(router):
            use(router)
        assert len(telemetry.spans()) == 2


def test_the_router_keeps_its_instrumentation_alive_and_not_the_reverse(
    shared: LocalCluster, telemetry: Telemetry
) -> None:
    router = Router(shared.dsn)
    instrumentation = weakref.ref(telemetry.instrument(router))
    gc.collect()
    assert instrumentation() is not None
    with router:
        use(router)
    eventually(telemetry.spans)
    gone = weakref.ref(router)
    del router

    def collected() -> bool:
        gc.collect()
        return gone() is None and instrumentation() is None

    eventually(collected)
    eventually(lambda: "pgroute-opentelemetry" not in [thread.name for thread in threading.enumerate()])


def test_a_router_has_one_instrumentation(telemetry: Telemetry) -> None:
    router = Router("host=a")
    with telemetry.instrument(router):
        with pytest.raises(ConfigError, match="expected a router that has no instrumentation yet"):
            telemetry.instrument(router)
        with pytest.raises(ConfigError, match="expected a Router or an AsyncRouter"):
            telemetry.instrument("host=a")


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"traces": "false"}, "traces"),
        ({"meter_provider": 5}, "meter_provider"),
        ({"tracer_provider": 5}, "tracer_provider"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(arguments: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RouterInstrumentation(**arguments)
    assert caught.value.parameter == parameter


def test_routers_of_one_name_get_numbers(shared: LocalCluster, telemetry: Telemetry) -> None:
    one, two = (Router(shared.dsn, name="shop") for _ in range(2))
    with one, two, telemetry.instrument(one, two):
        use(one)
        use(two)
        names = {
            point.attributes["db.client.connection.pool.name"]
            for point in telemetry.points("db.client.connection.use_time")
        }
    assert names == {"shop/writer", "shop#2/writer"}


def test_no_password_is_told(shared: LocalCluster, telemetry: Telemetry) -> None:
    password = password_of(shared)
    with Router(dsn_with(shared.dsn, password=password)) as router, telemetry.instrument(router):
        use(router)
        with pytest.raises(psycopg.Error), router.writer() as conn:
            conn.execute(f"SELECT '{password}'::int")
        told = repr(telemetry.metrics())
    told += "".join(span.to_json() for span in telemetry.spans())
    assert password not in told


class Broken(SpanProcessor):
    """A processor that fails."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("as it does")


def test_a_processor_that_fails_harms_no_session(shared: LocalCluster, telemetry: Telemetry) -> None:
    telemetry.tracer_provider.add_span_processor(Broken())
    with Router(shared.dsn) as router, telemetry.instrument(router):
        for _ in range(3):
            use(router)
        [used] = telemetry.points("db.client.connection.use_time")
        assert used.count == 3


def test_a_router_without_an_instrumentation_keeps_nothing_of_a_session(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, router.writer() as conn:
        assert manager_behind(router).meter.observer is None
        assert conn.pgroute_lease.observed is None  # type: ignore[attr-defined]


def told(telemetry: Telemetry, name: str = "pgroute.open") -> dict[str, float]:
    """Return the values of a metric by router."""
    return {point.attributes["pgroute.router"]: point.value for point in telemetry.points(name)}


def test_several_instrumentations_of_one_provider_are_told(telemetry: Telemetry) -> None:
    one, two, three = (Router("host=a", name=name) for name in ("one", "two", "one"))
    first = telemetry.instrument(one)
    with telemetry.instrument(two), telemetry.instrument(three):
        assert told(telemetry).keys() == {"one", "two", "one#2"}
        first.close()
        assert told(telemetry).keys() == {"two", "one#2"}
        with telemetry.instrument(one):
            assert told(telemetry).keys() == {"one", "two", "one#2"}
    assert told(telemetry) == {}


def test_counters_of_a_name_do_not_fall(shared: LocalCluster, telemetry: Telemetry) -> None:
    def attempts() -> float:
        [point] = telemetry.points("pgroute.connection.attempts", pgroute__role="writer")
        return float(point.value)

    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router):
        conns = [router.getconn("writer") for _ in range(3)]
        for conn in conns:
            router.putconn(conn)
        before = attempts()
    assert before >= 3
    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router):
        use(router)
        assert attempts() > before


def test_a_counter_goes_on_where_its_host_comes_back_and_keeps_no_more_sets_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rising(*values: float, host: str = "a") -> list[float]:
        observed = [Observation(value, {"pgroute.host": host}) for value in values]
        return [told.value for told in counter.rising(observed)]

    monkeypatch.setattr(counting, "_SETS", 1)
    counter = RisingCounter()
    assert [rising(value) for value in (5, 2, 2, 3, 0, 1)] == [[5], [7], [7], [8], [8], [9]]
    assert rising(1, 1) == [10]
    assert [rising(value, host="b") for value in (5, 2)] == [[5], [2]]
    seconds = RisingCounter()
    told = [seconds.rising([Observation(value, {})])[0].value for value in (1.0, 5.0, 4.75, 5.0)]
    assert told == [1.0, 5.0, 5.0, 5.25]


def test_the_state_that_holds_is_told_alone(shared: LocalCluster, telemetry: Telemetry) -> None:
    with Router(shared.dsn) as router, telemetry.instrument(router):
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        points = telemetry.points("pgroute.host.state")
        assert {point.attributes["pgroute.host"] for point in points} == {
            f"{node.host}:{node.port}" for node in shared.nodes
        }
        assert [(point.attributes["pgroute.state"], point.value) for point in points] == [("up", 1)] * 3


def test_the_address_of_a_host_is_told_beside_its_name(shared: LocalCluster, telemetry: Telemetry) -> None:
    address, port = shared.primary.host, shared.primary.port
    dsn = (
        f"host=db hostaddr={address} port={port} user=postgres dbname=postgres password={password_of(shared)}"
    )
    with Router(dsn) as router, telemetry.instrument(router):
        use(router)
        for name in ("use_time", "max"):
            [point] = telemetry.points(f"db.client.connection.{name}")
            assert point.attributes["server.address"] == "db"
            assert point.attributes["network.peer.address"] == address
            assert point.attributes["network.peer.port"] == port


@pytest.mark.parametrize(
    ("key", "attributes"),
    [
        (HostKey("db", 5432), {"server.address": "db", "server.port": 5432}),
        (
            HostKey("db", 5432, "10.0.0.1"),
            {
                "server.address": "db",
                "server.port": 5432,
                "network.peer.address": "10.0.0.1",
                "network.peer.port": 5432,
            },
        ),
        (
            HostKey("", 5432, "10.0.0.1"),
            {
                "server.address": "10.0.0.1",
                "server.port": 5432,
                "network.peer.address": "10.0.0.1",
                "network.peer.port": 5432,
            },
        ),
        (HostKey("/run/postgresql", 5433), {"server.address": "/run/postgresql/.s.PGSQL.5433"}),
        (HostKey("@abstract", 5433), {"server.address": "@abstract/.s.PGSQL.5433"}),
    ],
)
def test_a_host_is_told_by_the_attributes_of_the_conventions(
    key: HostKey, attributes: dict[str, str | int]
) -> None:
    assert server(key) == attributes


class Gated(SpanProcessor):
    """A processor that stands still until it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def on_end(self, span: ReadableSpan) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def test_a_processor_that_stands_still_holds_up_no_collection(
    shared: LocalCluster, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Gated()
    telemetry.tracer_provider.add_span_processor(gated)
    with Router(shared.dsn, name="shop") as router, telemetry.instrument(router) as instrumentation:
        use(router)
        use(router)
        assert gated.reached.wait(30)
        with Background() as background, monkeypatch.context() as patch:
            patch.setattr(providers, "_COLLECTION_TIMEOUT", COLLECTION_TIMEOUT)
            assert background.start(told, telemetry).result() == {"shop": 1}
        assert instrumentation.dropped == 0
        gated.opened.set()
        [used] = telemetry.points("db.client.connection.use_time")
        assert used.count == 2


FORK = """
import os, sys
import pgroute
from tests.contrib.metrics.test_opentelemetry import Telemetry, use

telemetry = Telemetry()
with pgroute.Router(sys.argv[1], name="parent's") as router:
    later = pgroute.Router(sys.argv[1], name="later")
    instrumentation = telemetry.instrument(router, later)
    use(router)
    before = len(telemetry.spans())
    child = os.fork()
    if not child:
        status = 1
        try:
            with later:
                use(later)
                instrumentation.flush()
                names = [span.attributes["pgroute.router"] for span in telemetry.spans()]
                assert names[before:] == ["later"], names
                [opened] = telemetry.points("pgroute.open")
                assert opened.attributes["pgroute.router"] == "later"
            instrumentation.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    use(router)
    instrumentation.flush()
    assert [span.attributes["pgroute.router"] for span in telemetry.spans()] == ["parent's"] * 2
"""

GLOBAL = """
import sys
import pgroute
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pgroute.contrib.opentelemetry import RouterInstrumentation

routers = [pgroute.Router(sys.argv[1], name=name) for name in ("early", "direct", "late")]
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
early = RouterInstrumentation(routers[0])
direct = RouterInstrumentation(routers[1], meter_provider=provider)
metrics.set_meter_provider(provider)
late = RouterInstrumentation(routers[2])
scopes = [s for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics]
[opened] = [metric for scope in scopes for metric in scope.metrics if metric.name == "pgroute.open"]
print(sorted(point.attributes["pgroute.router"] for point in opened.data.data_points))
"""

NAMES = """
import sys
import pgroute
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pgroute.contrib.opentelemetry import RouterInstrumentation

routers = [pgroute.Router(sys.argv[1], name="shop") for _ in range(5)]
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
before = RouterInstrumentation(routers[0], meter_provider=provider)
early = RouterInstrumentation(routers[1])
direct = RouterInstrumentation(routers[2], meter_provider=provider)
metrics.set_meter_provider(provider)
late = RouterInstrumentation(routers[3])
early.add(routers[4])

def told(name):
    scopes = [s for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics]
    [found] = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
    return {point.attributes["pgroute.router"]: point.value for point in found.data.data_points}

print(sorted(told("pgroute.open")))
"""

REPLACED = """
import sys
import opentelemetry.metrics._internal as internal
import pgroute
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.util._once import Once
from pgroute.contrib.opentelemetry import RouterInstrumentation

def reset(stand_in):  # as suites of tests do
    internal._METER_PROVIDER = None
    internal._METER_PROVIDER_SET_ONCE = Once()
    if stand_in:
        internal._PROXY_METER_PROVIDER = internal._ProxyMeterProvider()

def told(stand_in, early):
    reset(stand_in)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    kept.append(provider)
    routers = [pgroute.Router(sys.argv[1], name=f"{when}{len(kept)}") for when in ("early", "late")]
    instrumentations = [RouterInstrumentation(routers[0])] if early else []
    metrics.set_meter_provider(provider)
    instrumentations.append(RouterInstrumentation(routers[1]))
    data = reader.get_metrics_data()
    metrics_ = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    points = [point for m in metrics_ if m.name == "pgroute.open" for point in m.data.data_points]
    names = sorted(point.attributes["pgroute.router"] for point in points)
    for instrumentation in instrumentations:
        instrumentation.close()
    return names

kept = []
# A stand-in that had a provider already hands no new instruments on.
for stand_in, early in (
    (False, True), (False, False), (False, False), (True, False), (True, True), (True, True), (True, False)
):
    number = len(kept) + 1
    names = told(stand_in, early)
    assert names == [f"early{number}"] * early + [f"late{number}"], (number, names)
"""

AT_EXIT = """
import sys
import pgroute
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from pgroute.contrib.opentelemetry import RouterInstrumentation

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
with pgroute.Router(sys.argv[1]) as router:
    RouterInstrumentation(router, tracer_provider=provider)
    with router.writer():
        pass
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (FORK, ""),
        (AT_EXIT, "pgroute writer"),
        (GLOBAL, "['direct', 'early', 'late']"),
        (NAMES, "['shop', 'shop#2', 'shop#3', 'shop#4', 'shop#5']"),
        (REPLACED, ""),
    ],
)
def test_the_end_of_a_process_and_a_fork(shared: LocalCluster, program: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, shared.dsn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert printed in done.stdout
