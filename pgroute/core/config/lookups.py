"""The options that say how the names of the DSN are looked up, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pgroute.core.spelling import is_one_of
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from dns.resolver import BaseResolver

    from pgroute.core.config.dns_names import Mode

ResolverSpec: TypeAlias = "str | BaseResolver"


def check_resolver(value: object) -> ResolverSpec:
    """Return the resolver that looks names up; ConfigError if *value* is none."""
    if is_one_of(value, "system", "dns"):
        return "dns" if value == "dns" else "system"
    if not isinstance(value, str):
        import dns.resolver

        if isinstance(value, dns.resolver.BaseResolver):
            return value
    raise ConfigError("resolver", value, "expected 'system', 'dns', or a Resolver of dnspython")


def check_addresses(value: object) -> Mode:
    """Return what a name with several addresses stands for; ConfigError if *value* does not say it."""
    if is_one_of(value, "one-host", "expand"):
        return "expand" if value == "expand" else "one-host"
    raise ConfigError("addresses", value, "expected 'one-host' or 'expand'")
