"""Who is asked about the cluster beside its servers: the options of discovery."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pgroute.core.config.checks import check_number
from pgroute.core.config.discreet import discreetly_made
from pgroute.core.config.dns_names import is_service
from pgroute.core.config.rest_urls import target_of
from pgroute.core.late_dataclass import dataclass
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pgroute.core.config.dsn import Dsn

_API_PORT = 8008
"""Patroni's default port of its REST API."""

_ACCEPTED = "expected 'patroni', 'aurora', URLs of Patroni's REST API, a PatroniDiscovery, an AuroraDiscovery, or None"
_AURORA = (".rds.amazonaws.com", ".rds.amazonaws.com.cn")
_FILES = ("cafile", "certfile", "keyfile")


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PatroniDiscovery:
    """Patroni as an adviser: its REST API is asked which members there are, and what their tags say.

    Roles stay what the probes find. A member that is no host of the DSN joins once a probe has found it to be of the
    same cluster.

    *hosts* tells where clients reach a member, if Patroni knows it by an address of another network: a pattern such as
    ``"{name}.db.example.com:5432"``, or a mapping from names of members to ``"host"`` or ``"host:port"``.

    Args:
        urls: of the REST API, asked in turn until one answers; empty: port 8008 of each host of the DSN.
        hosts: where members are reached; None: where Patroni says.
        zone_tag: the tag that has a member's zone; a zone in HostOptions goes before it.
        interval: seconds from one question to the next, at least 0.1.
        timeout: seconds for the answer of one URL, at least 0.01.
        forget_after: seconds for which the last answer counts while there is no other.
        drain_before: seconds before a scheduled switchover from which on the primary gets no new sessions; None: it
            gets them until the end.
        drain_for: seconds after its time until which writers wait for the new primary; then they go to the old one
            again, if it still is the primary.
        cafile: the file with the certificates that sign the API's for https; None: the system's.
        certfile: the file with the certificate that is shown to the API, and its key unless *keyfile* has it.
        keyfile: the file with the key of that certificate, without a password.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    name: ClassVar[str] = "Patroni"
    urls: Collection[str] | str = ()
    hosts: Mapping[str, str] | str | None = None
    zone_tag: str = "zone"
    interval: float = 10.0
    timeout: float = 2.0
    forget_after: float = 600.0
    drain_before: float | None = 1.0
    drain_for: float = 5.0
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __post_init__(self) -> None:
        urls: object = self.urls
        if urls is None or isinstance(urls, str):
            urls = urls.split(",") if urls else ()
        if isinstance(urls, Mapping) or not isinstance(urls, Collection):
            raise ConfigError("urls", type(self.urls).__name__, "expected a list of http or https URLs")
        object.__setattr__(self, "urls", tuple(map(_url, urls)))
        _check_hosts(self.hosts)
        if not isinstance(self.zone_tag, str):
            raise ConfigError("zone_tag", self.zone_tag, "expected a str")
        check_number("interval", self.interval, low=0.1)
        check_number("timeout", self.timeout, low=0.01)
        check_number("forget_after", self.forget_after)
        check_number("drain_before", self.drain_before, none=True)
        check_number("drain_for", self.drain_for)
        for name in _FILES:
            if not (getattr(self, name) is None or isinstance(getattr(self, name), str)):
                raise ConfigError(name, getattr(self, name), "expected the name of a file, or None")
        if self.keyfile is not None and self.certfile is None:
            raise ConfigError("keyfile", self.keyfile, "expected a certfile beside it")


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AuroraDiscovery:
    """Amazon Aurora as an adviser: a host is asked which instances there are, by ``aurora_replica_status()``.

    Roles stay what the probes find. An instance that is no host of the DSN joins once a probe has found it to be of the
    same cluster.

    Args:
        hosts: where instances are reached: a pattern such as ``"{name}.abc123.eu-west-1.rds.amazonaws.com"``, or a
            mapping from names of instances to ``"host"`` or ``"host:port"``; None: as the cluster's endpoint in the DSN
            says.
        interval: seconds from one question to the next, at least 0.1. Each takes a connection of its own.
        timeout: seconds for the answer of one host, at least 0.01.
        forget_after: seconds for which the last answer counts while there is no other.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    name: ClassVar[str] = "Aurora"
    drain_before: ClassVar[None] = None
    drain_for: ClassVar[float] = 0.0
    zone_tag: ClassVar[str] = ""
    hosts: Mapping[str, str] | str | None = None
    interval: float = 30.0
    timeout: float = 2.0
    forget_after: float = 600.0

    def __post_init__(self) -> None:
        if isinstance(self.hosts, str) and "{name}" not in self.hosts:
            raise ConfigError("hosts", self.hosts, "expected a pattern with '{name}', or a mapping")
        _check_hosts(self.hosts)
        check_number("interval", self.interval, low=0.1)
        check_number("timeout", self.timeout, low=0.01)
        check_number("forget_after", self.forget_after)


Discovery = PatroniDiscovery | AuroraDiscovery


def _url(given: object) -> str:
    url = given.strip() if isinstance(given, str) else ""
    try:
        target_of(url)
    except ValueError:
        accepted = "expected an http or https URL with a host, and perhaps a port and a path"
    else:
        scheme, colon, rest = url.rstrip("/").partition(":")
        return f"{scheme.lower()}{colon}{rest}"
    # It may hold a password, though none is needed.
    raise ConfigError("urls", given, accepted, secret="@" in url)


def _check_hosts(hosts: object) -> None:
    accepted = (
        "expected a pattern such as '{name}.example.com:5432', or a mapping from members to 'host:port'"
    )
    if isinstance(hosts, str):
        if "{name}" not in hosts and "{host}" not in hosts:
            raise ConfigError("hosts", hosts, accepted)
    elif hosts is not None:
        if not isinstance(hosts, Mapping):
            raise ConfigError("hosts", hosts, accepted)
        for name, place in hosts.items():
            if not (isinstance(name, str) and isinstance(place, str) and place):
                raise ConfigError("hosts", name, accepted)


def check_discovery(value: object, dsn: Dsn) -> Discovery:
    """Return the discovery of a router, with what follows from the DSN.

    Args:
        value: the argument ``discovery=``.
        dsn: its hosts are asked if no URLs are given.

    Raises:
        ConfigError: *value* is no discovery, or whom to ask, or where, does not follow from the DSN.
    """
    if isinstance(value, str):
        if value == "patroni":
            value = PatroniDiscovery()
        elif value == "aurora":
            value = AuroraDiscovery()
        elif value.lower().startswith(("http://", "https://")):
            value = PatroniDiscovery(urls=value)
    if isinstance(value, AuroraDiscovery):
        return value if value.hosts is not None else replace(value, hosts=_instances(dsn))
    if not isinstance(value, PatroniDiscovery):
        raise ConfigError("discovery", value, _ACCEPTED, secret=isinstance(value, str) and "@" in value)
    if value.urls:
        return value
    names = [key.hostaddr or key.host for key in dsn.hosts if not (key.is_socket or is_service(key))]
    if not names:
        raise ConfigError("discovery.urls", (), "expected URLs: the DSN has no host to ask")
    shown = [f"[{name}]" if ":" in name else name for name in dict.fromkeys(names)]
    return replace(value, urls=tuple(f"http://{name}:{_API_PORT}" for name in shown))


def _instances(dsn: Dsn) -> str:
    """Return where the instances of an Aurora cluster are, from its writer or reader endpoint in the DSN."""
    for key in dsn.hosts:
        name, _, domain = key.host.partition(".")
        kind, _, rest = domain.partition("-")
        if name and kind == "cluster" and domain.removesuffix(".").endswith(_AURORA):
            # The kind of the endpoint stands before the identifier: "ro-", "custom-", or nothing.
            label, dot, region = rest.removesuffix(".").partition(".")
            return f"{{name}}.{label.rpartition('-')[2]}{dot}{region}"
    accepted = "expected hosts='{name}.DOMAIN': the DSN has no endpoint of a cluster"
    raise ConfigError("discovery.hosts", None, accepted)


for _public in (AuroraDiscovery, PatroniDiscovery):
    _public.__module__ = "pgroute"
del _public
