"""Services and their SRV records (RFC 2782): which targets can be hosts, and which of them may be."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+", re.IGNORECASE)
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
# psycopg's convention (psycopg/_dns.py); RFC 2782 names a service and a protocol, both with an underscore.
_SERVICE = re.compile(r"_[^.]+\._[^.]+\..+")
_MOST_DOMAIN = 253
"""Characters of a name (RFC 1035, 3.1: 255 bytes with those that count)."""


class Service(NamedTuple):
    """An SRV record (RFC 2782).

    Attributes:
        priority: the lowest is tried first.
        weight: its share among those of equal priority.
        port: of the target; it wins over any other.
        target: a name, without the dot at its end; empty where the service is not offered.
    """

    priority: int
    weight: int
    port: int
    target: str


def is_service_name(name: str) -> bool:
    """Whether a name is that of a service."""
    return _SERVICE.fullmatch(name) is not None


def is_address(text: str) -> bool:
    """Whether a host is a numeric address, with a scope or without."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(service: Service) -> bool:
    """Whether a target can be a host: libpq would take others for a socket's directory, or for several hosts."""
    target = service.target
    if len(target) > _MOST_DOMAIN:
        return False
    named = _HOST_NAME.fullmatch(target) is not None and not is_service_name(target)
    # An address may have a scope, which may be anything at all.
    return bool(service.port) and (named or (is_address(target) and "%" not in target))


@dataclass(frozen=True, slots=True)
class Targets:
    """Below which domains the targets of a service may lie.

    Where TLS verifies the name of a host, and the name comes from the DNS, whoever can forge an answer would choose the
    name that is verified. So a target has to be a name of the domain that the user asked for, whose owner alone gets
    certificates for it (RFC 6125, 6.2.1 and 1.8: the source domain, not the derived one).

    Attributes:
        anywhere: no name is verified, so none is refused.
        domains: those accepted beside the service's own.
    """

    anywhere: bool = True
    domains: tuple[str, ...] = ()

    def refusal(self, service: str, target: str) -> str:
        """Return why a target may not be one of this service's, empty if it may.

        Args:
            service: its name, as ``_postgresql._tcp.example.com``.
            target: a name or an address.
        """
        if self.anywhere:
            return ""
        own = service.split(".", 2)[2]
        name, domain = _canonical(target), _canonical(own)
        if (domain and _below(name, domain)) or any(_below(name, other) for other in self.domains):
            return ""
        return (
            f"the SRV target {target} is refused: it is not below {own}, and TLS would verify the name that an answer "
            "of the DNS gave; name the domains that you trust with srv_domains="
        )


ANYWHERE = Targets()


def _below(name: str, domain: str) -> bool:
    return not domain or (not is_address(name) and (name == domain or name.endswith(f".{domain}")))


def _canonical(name: str) -> str:
    """Return a name as the DNS has it: in ASCII (IDNA 2003, as dnspython asks), without a dot at the end."""
    name = name.removesuffix(".").lower()
    try:
        return name if name.isascii() or len(name) > _MOST_DOMAIN else name.encode("idna").decode()
    except UnicodeError:
        return name


def check_domains(value: object, params: Iterable[Mapping[str, str]]) -> Targets:
    """Return which targets a router accepts.

    Args:
        value: of ``srv_domains=``; None: those of the service's own domain where a name is verified, else any.
        params: the libpq parameters of each kind of connection that the router makes.

    Raises:
        ConfigError: it is no list of domain names.
    """
    if value is None:
        return Targets(anywhere=not any(map(_verifies_names, params)))
    accepted = "expected a list of domain names, such as ['db.example.net'], or ['.'] for any"
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Collection):
        raise ConfigError("srv_domains", value, accepted)
    domains = []
    for given in value:
        name = _canonical(given) if isinstance(given, str) else " "
        if given != "." and (len(name) > _MOST_DOMAIN or not _DOMAIN.fullmatch(name) or is_address(name)):
            raise ConfigError("srv_domains", given, f"{accepted}; what is below a domain needs no '*'")
        domains.append(name)
    return Targets(anywhere=False, domains=tuple(domains))


def _verifies_names(params: Mapping[str, str]) -> bool:
    # With the system's roots libpq always verifies the name.
    return params.get("sslmode") == "verify-full" or params.get("sslrootcert") == "system"
