"""Services and their SRV records (RFC 2782): which targets are valid hosts, and which are accepted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.late_dataclass import dataclass
from pgroute.core.late_pattern import LatePattern
from pgroute.core.spelling import is_one_of
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST_NAME = LatePattern(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+", re.IGNORECASE)
_DOMAIN = LatePattern(rf"(?:{_LABEL}\.)*{_LABEL}")
# psycopg's convention (psycopg/_dns.py); RFC 2782 names a service and a protocol, both with an underscore.
_SERVICE = LatePattern(r"_[^.]+\._[^.]+\..+")
_MOST_DOMAIN = 253
"""The most characters of a domain name (RFC 1035, 3.1: 255 bytes including the lengths of the labels)."""


class Service(NamedTuple):
    """An SRV record (RFC 2782).

    Attributes:
        priority: the lowest is tried first.
        weight: its share among those of equal priority.
        port: the port of the target; it overrides that of the DSN.
        target: a name, without the dot at its end; empty if the service is not offered.
    """

    priority: int
    weight: int
    port: int
    target: str


def is_service_name(name: str) -> bool:
    """Return True if a name is that of a service."""
    return _SERVICE.fullmatch(name) is not None


def is_address(text: str) -> bool:
    """Return True for a numeric address, with or without a scope."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(service: Service) -> bool:
    """Return True if a target can be a host. libpq would read others as a socket directory or as several hosts."""
    target = service.target
    if len(target) > _MOST_DOMAIN:
        return False
    named = _HOST_NAME.fullmatch(target) is not None and not is_service_name(target)
    # The scope of an address may be any text.
    return bool(service.port) and (named or (is_address(target) and "%" not in target))


@dataclass(frozen=True, slots=True)
class Targets:
    """The domains below which the targets of a service must be.

    If TLS verifies the name of a host and that name comes from the DNS, a forged answer could choose the name that is
    verified. So a target must be below the domain that the user gave, for which only its owner gets certificates
    (RFC 6125, 6.2.1 and 1.8: the source domain, not the derived one).

    Attributes:
        anywhere: no name is verified, so every target is accepted.
        domains: the domains accepted beside that of the service.
    """

    anywhere: bool = True
    domains: tuple[str, ...] = ()

    def refusal(self, service: str, target: str) -> str:
        """Return why a target of a service is refused, empty if it is accepted.

        Args:
            service: the name of the service, as ``_postgresql._tcp.example.com``.
            target: a name or an address.
        """
        if self.anywhere:
            return ""
        own = service.split(".", 2)[2]
        name, domain = _canonical(target), _canonical(own)
        if (domain and _below(name, domain)) or self._trusts(name):
            return ""
        return (
            f"the SRV target {target} is refused: it is not below {own}, and TLS would verify a name that came from "
            "the DNS; list the domains that you trust in srv_domains="
        )

    def refusal_of_member(self, name: str) -> str:
        """Return why a member at this name is refused that an API without TLS has named, empty if it is accepted."""
        if self.anywhere or self._trusts(_canonical(name)):
            return ""
        return "TLS would verify a name that came without TLS; ask the API by https, or list its domain in srv_domains="

    def _trusts(self, name: str) -> bool:
        return any(_below(name, other) for other in self.domains)


ANYWHERE = Targets()


def _below(name: str, domain: str) -> bool:
    return not domain or (not is_address(name) and (name == domain or name.endswith(f".{domain}")))


def _canonical(name: str) -> str:
    """Return a name as in the DNS: in ASCII (IDNA 2003, as in dnspython), without a dot at the end."""
    name = name.removesuffix(".").lower()
    try:
        return name if name.isascii() or len(name) > _MOST_DOMAIN else name.encode("idna").decode()
    except UnicodeError:
        return name


def check_domains(value: object, params: Iterable[Mapping[str, str]]) -> Targets:
    """Return the targets that a router accepts.

    Args:
        value: the argument ``srv_domains=``. None: targets below the service's own domain if TLS verifies names, else
            any.
        params: the libpq parameters of each kind of connection that the router makes.

    Raises:
        ConfigError: *value* is not a list of domain names.
    """
    if value is None:
        return Targets(anywhere=not any(map(_verifies_names, params)))
    accepted = "expected a list of domain names, such as ['db.example.net'], or ['.'] for any"
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Collection):
        raise ConfigError("srv_domains", value, accepted)
    domains = []
    for given in value:
        name = _canonical(given) if isinstance(given, str) else " "
        if not is_one_of(given, ".") and (
            len(name) > _MOST_DOMAIN or not _DOMAIN.fullmatch(name) or is_address(name)
        ):
            raise ConfigError(
                "srv_domains", given, f"{accepted}; a domain includes all names below it, without '*'"
            )
        domains.append(name)
    return Targets(anywhere=False, domains=tuple(domains))


def _verifies_names(params: Mapping[str, str]) -> bool:
    # With the system's roots libpq always verifies the name.
    return params.get("sslmode") == "verify-full" or params.get("sslrootcert") == "system"
