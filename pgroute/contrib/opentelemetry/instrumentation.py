"""Takes the metrics and sessions of routers to OpenTelemetry."""

from __future__ import annotations

import atexit
import weakref
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from pgroute import AsyncRouter, Router
from pgroute.contrib.opentelemetry.providers import package_version, routers_of
from pgroute.contrib.opentelemetry.sender import Sender
from pgroute.contrib.opentelemetry.sessions import Instruments, SessionObserver
from pgroute.core.config.checks import check_bool
from pgroute.errors import ConfigError
from pgroute.faces import AnyRouter, manager_behind

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


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
        self._provider = metrics.get_meter_provider() if meter_provider is None else meter_provider
        self._told = routers_of(self._provider)
        self._sender = Sender()
        self._closed = False
        tracer = trace.get_tracer("pgroute", package_version(), tracer_provider) if traces else None
        self._instruments = Instruments(self._told.histograms, tracer)
        self._told.add(self._sender)
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
        name = self._told.name(router)
        manager_behind(router).meter.observer = SessionObserver(name, self._instruments, self._sender, self)

    @property
    def dropped(self) -> int:
        """How many spans and durations were dropped, because span processors are slower than the sessions."""
        return self._sender.dropped

    def flush(self) -> None:
        """Take all sessions to OpenTelemetry that have ended; each collection of metrics does that too.

        This takes five seconds at most, a collection one: what has not been told by then is told later.
        """
        self._sender.flush()

    def close(self) -> None:
        """Leave the routers alone from now on: sessions that have ended are told, those in flight are not.

        This takes five seconds at most; what has not been told by then is dropped. OpenTelemetry has no means to take
        instruments back: they have no values of these routers any more.
        """
        self._closed = True
        for router in self._told.routers.living():
            meter = manager_behind(router).meter
            if isinstance(meter.observer, SessionObserver) and meter.observer.owner is self:
                meter.observer = None
                self._told.routers.remove(router)
        self._sender.end()
        self._told.remove(self._sender)
        atexit.unregister(self._at_exit)


def _end_at_exit(sender: weakref.ref[Sender]) -> None:
    if (found := sender()) is not None:
        found.end()


def _check_provider(name: str, provider: object, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ConfigError(name, provider, f"expected a provider of OpenTelemetry, with {method}(), or None")
