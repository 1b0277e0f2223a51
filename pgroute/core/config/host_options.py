"""The options of single hosts, and the zone of the router among theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgroute.core.config.dns_names import is_service
from pgroute.core.config.options import HostOptions
from pgroute.core.topology.snapshot import names_of
from pgroute.errors import ConfigError, holds_password

if TYPE_CHECKING:
    from pgroute.core.config.dsn import Dsn


def check_host_options(dsn: Dsn, host_options: object, *, open_list: bool) -> dict[str, HostOptions]:
    """Return the options by name.

    Args:
        dsn: the DSN.
        host_options: the argument of the router.
        open_list: hosts that are not in the DSN may be named.
    """
    if host_options is None:
        return {}
    if not isinstance(host_options, Mapping):
        raise ConfigError(
            "host_options", host_options, "expected a mapping from 'host' or 'host:port' to HostOptions"
        )
    open_list = open_list or any(map(is_service, dsn.hosts))
    found: dict[str, HostOptions] = {}
    for name, options in host_options.items():
        if not isinstance(name, str) or not (open_list or any(name in names_of(key) for key in dsn.hosts)):
            listed = ", ".join(str(k) for k in dsn.hosts)
            raise ConfigError("host_options", name, f"expected one of the hosts of the DSN ({listed})")
        if not isinstance(options, HostOptions):
            secret = holds_password({name: options})
            raise ConfigError(f"host_options[{name!r}]", options, "expected a HostOptions", secret=secret)
        found[name] = options
    return found


def check_zone(zone: object, zones: Mapping[str, str], *, tagged: bool) -> str:
    """Return the zone of the router.

    Args:
        zone: the argument of the router.
        zones: those of the hosts, by name.
        tagged: an adviser may tell of others.
    """
    if not isinstance(zone, str):
        raise ConfigError("zone", zone, "expected a str")
    known = sorted({z for z in zones.values() if z})
    if zone and zone not in known and not tagged:
        listed = ", ".join(map(repr, known)) or "none"
        raise ConfigError("zone", zone, f"expected one of the zones of the hosts in host_options ({listed})")
    return zone
