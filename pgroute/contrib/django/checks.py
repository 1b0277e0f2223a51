"""System checks: mistakes in DATABASES, DATABASE_ROUTERS and MIDDLEWARE that would show only in production."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  (Django's name)
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string

from pgroute.contrib.django.middleware import PositionMiddleware
from pgroute.contrib.django.routing import is_ours, reading
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgroute.contrib.django.options import RouterSpec

_SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


def check_settings(app_configs: object = None, **kwargs: object) -> list[CheckMessage]:
    """Return what is wrong with the settings; no host is contacted."""
    ours = _find_ours()
    readers = [alias for alias, each in ours.items() if reading(each)]
    specs: dict[str, RouterSpec] = {}
    found: list[CheckMessage] = []
    for alias, each in ours.items():
        try:
            specs[alias] = connections[alias].spec
            specs[alias].make()
        except (ImproperlyConfigured, ConfigError) as exc:
            text = str(exc) if isinstance(exc, ImproperlyConfigured) else f"DATABASES[{alias!r}]: {exc}"
            found.append(Error(text, id="pgroute.E001"))
            continue
        found += _check_hosts(alias, each)
    if DEFAULT_DB_ALIAS in readers:
        hint = "Give the alias for reading another name, and its name to ReadReplicaRouter."
        text = f"DATABASES[{DEFAULT_DB_ALIAS!r}] is for reading: Django writes there."
        found.append(Error(text, hint=hint, id="pgroute.E002"))
    for alias in readers:
        found += _check_reader(alias, ours[alias])
        if alias in specs:
            found += _check_shared(alias, specs, readers)
    if readers and not settings.DATABASE_ROUTERS:
        found.append(
            Warning(
                f"DATABASES[{readers[0]!r}] is for reading, and DATABASE_ROUTERS sends nothing there.",
                hint="DATABASE_ROUTERS = ['pgroute.contrib.django.ReadReplicaRouter']",
                id="pgroute.W004",
            )
        )
    return [*found, *_check_middleware()]


def _find_ours() -> dict[str, Mapping[str, Any]]:
    found = {}
    for alias, each in connections.settings.items():
        with suppress(ImportError, ImproperlyConfigured):  # Django tells
            if is_ours(each):
                found[alias] = each
    return found


def _check_hosts(alias: str, each: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if "," not in str(each["HOST"]) and not {"service", "addresses"} & set(each["OPTIONS"]):
        yield Warning(
            f"DATABASES[{alias!r}] has one host: there is none to fail over to.",
            hint="List all servers that may become the primary: 'HOST': 'db1,db2'.",
            id="pgroute.W001",
        )


def _check_reader(alias: str, each: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if each["TEST"]["MIRROR"] is None:
        yield Warning(
            f"DATABASES[{alias!r}] is for reading, and has no TEST MIRROR: tests would not see there what they write.",
            hint=f"'TEST': {{'MIRROR': {DEFAULT_DB_ALIAS!r}}}",
            id="pgroute.W002",
        )
    if each["ATOMIC_REQUESTS"]:
        yield Warning(
            f"DATABASES[{alias!r}] is for reading, and has ATOMIC_REQUESTS: each request begins a transaction there.",
            hint="Leave it out; if that of the writer has it, all reads of a request go to the primary.",
            id="pgroute.W005",
        )


def _check_shared(alias: str, specs: Mapping[str, RouterSpec], readers: list[str]) -> Iterator[CheckMessage]:
    own = specs[alias]
    writers = {name: spec for name, spec in specs.items() if name not in readers}
    if not writers or own in writers.values():
        return
    near = {name: _differences(own, spec) for name, spec in writers.items()}
    name = min(near, key=lambda each: len(near[each]))
    yield Warning(
        f"DATABASES[{alias!r}] has a router of its own, as its settings differ from those of {name!r}: "
        f"{', '.join(near[name])}.",
        hint="Give both the same settings, apart from 'role'.",
        id="pgroute.W003",
    )


def _differences(one: RouterSpec, other: RouterSpec) -> list[str]:
    """Return the names of the settings that differ, without their values."""
    found = {
        name
        for mine, theirs in ((one.parameters, other.parameters), (one.options, other.options))
        for name in {*mine, *theirs}
        if mine.get(name) != theirs.get(name)
    }
    return sorted(found | ({"assume_role"} if one.assume_role != other.assume_role else set()))


def _check_middleware() -> Iterator[CheckMessage]:
    before: list[str] = []
    for path in settings.MIDDLEWARE:
        try:
            found = import_string(path)
        except ImportError:  # Django tells
            continue
        if isinstance(found, type) and issubclass(found, PositionMiddleware):
            if _SESSIONS in before:
                yield Warning(
                    f"MIDDLEWARE has {path} behind SessionMiddleware, whose reads and writes it does not note.",
                    hint="Put it first.",
                    id="pgroute.W006",
                )
            return
        before.append(path)
