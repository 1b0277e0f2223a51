"""The routers that each provider of meters is told of, by all instrumentations together."""

from __future__ import annotations

import threading
import time
import weakref
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from opentelemetry import metrics

from pgroute.contrib.metrics.routers import ObservedRouters
from pgroute.contrib.opentelemetry.instruments import create
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import Meter, MeterProvider

    from pgroute.contrib.metrics.reading import Reading
    from pgroute.contrib.opentelemetry.sender import Sender
    from pgroute.contrib.opentelemetry.sessions import Histograms
    from pgroute.faces import AnyRouter

_COLLECTION_TIMEOUT = 1.0
"""Seconds for which a collection waits for notes of sessions; those of OpenTelemetry end after some seconds."""


def _is_stand_in(provider: MeterProvider) -> bool:
    """Return whether this is the API's, which there is until the global provider is set."""
    api = type(provider).__module__.startswith(f"{metrics.__name__}.")
    return api and not isinstance(provider, metrics.NoOpMeterProvider)


def _meter(provider: MeterProvider) -> Meter:
    return provider.get_meter("pgroute", package_version())


class InstrumentedRouters:
    """The routers that one provider is told of, each under a name of its own, and the instruments that tell of them.

    OpenTelemetry keeps the first callback of an instrument and drops all others, so these serve every instrumentation.

    Args:
        provider: of meters.

    Attributes:
        routers: by name.
        histograms: where durations go.
    """

    def __init__(self, provider: MeterProvider) -> None:
        # Until the global provider is set, there is a stand-in, whose instruments become those of the other one.
        self._stand_in = provider if _is_stand_in(provider) else None
        self._provider: weakref.ref[MeterProvider] = weakref.ref(provider)
        self._senders: dict[weakref.ref[Sender], None] = {}
        self.routers: ObservedRouters = ObservedRouters()
        self.histograms: Histograms = create(_meter(provider), self)

    @property
    def provider(self) -> MeterProvider | None:
        """The provider; None: it is gone."""
        found = self._provider()
        if found is not None and found is self._stand_in:
            real = metrics.get_meter_provider()
            if not _is_stand_in(real):
                self._provider = weakref.ref(real)
                return real
        return found

    @property
    def undecided(self) -> bool:
        """The global provider is not set yet: it may be any."""
        return self._stand_in is not None and self.provider is self._stand_in

    def serves(self, provider: MeterProvider) -> bool:
        """Return whether the instruments are this provider's."""
        if self.provider is provider:
            return True
        if self._stand_in is None or provider is not metrics.get_meter_provider() or _is_stand_in(provider):
            return False
        # The global one was replaced, as suites of tests do. The stand-in may have handed its instruments on again.
        if _meter(self._stand_in) is not _meter(provider):
            return False
        self._provider = weakref.ref(provider)
        return True

    def name(self, router: AnyRouter) -> str:
        """Add a router and return the name that it goes by, which no other one has that its provider is told of.

        Raises:
            ConfigError: it is no router, or was added before.
        """
        forked.notice()
        return _providers.add(self, router)

    def add(self, sender: Sender) -> None:
        """Have a sender flushed by each collection, as long as it lives."""
        self._senders[weakref.ref(sender, lambda ref: self._senders.pop(ref, None))] = None

    def remove(self, sender: Sender) -> None:
        """Leave a sender alone from now on."""
        self._senders.pop(weakref.ref(sender), None)

    def senders(self) -> list[Sender]:
        """Return the senders that live."""
        return [sender for ref in list(self._senders) if (sender := ref()) is not None]

    def flush(self) -> None:
        """Have the notes of all sessions sent, unless that takes too long for a collection."""
        until = time.monotonic() + _COLLECTION_TIMEOUT
        for each in self._together():
            for sender in each.senders():
                sender.flush(until - time.monotonic())

    def read(self) -> Iterator[Reading]:
        """Yield the state of each router."""
        for each in self._together():
            yield from each.routers.read()

    def _together(self) -> list[InstrumentedRouters]:
        # Two, where the global provider was used both directly and through its stand-in.
        provider = self.provider
        return [each for each in _providers.known if each is self or each.provider is provider]


class _Providers:
    """What there is for each provider; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Replaced, never changed: collections read it without the lock, under one that making instruments takes.
        self.known: tuple[InstrumentedRouters, ...] = ()
        forked.register(self)

    def find_or_make(self, provider: MeterProvider) -> InstrumentedRouters:
        with self._lock:
            for each in self.known:
                if each.serves(provider):
                    return each
            living = [each for each in self.known if each.provider is not None]
            made = InstrumentedRouters(provider)
            self.known = (*living, made)
            return made

    def add(self, told: InstrumentedRouters, router: AnyRouter) -> str:
        with self._lock:
            others = [
                each.routers
                for each in self.known
                if each is not told and (told.undecided or each.undecided or each.provider is told.provider)
            ]
            return told.routers.add(router, others)

    def after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.RLock()


_providers = _Providers()


def routers_of(provider: MeterProvider) -> InstrumentedRouters:
    """Return what tells a provider of routers; there is one for each."""
    forked.notice()
    return _providers.find_or_make(provider)


def package_version() -> str:
    """Return the version of pgroute, for OpenTelemetry."""
    try:
        return version("pgroute")
    except PackageNotFoundError:
        return ""
