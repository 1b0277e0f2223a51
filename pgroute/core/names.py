"""From the entries of a DSN, and what their names stand for, to the hosts that there are, and when to ask again."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from pgroute.core.hosts import Listing
from pgroute.core.roles import HostKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Mode = Literal["first", "all"]

MOST_RECORDS = 64
"""Addresses of a name, and targets of a service, at most: an answer with more is taken for a mistake, and not used."""

GAP = 1.0
"""Seconds between two lookups of a name, at least, whatever the hurry."""

RETRY_AFTER = 5.0
"""Seconds after which a failed lookup is repeated, and between two for the sake of one host out of reach."""

_OUTAGE_SHARE = 0.02

# psycopg's convention (psycopg/_dns.py); RFC 2782 names a service and a protocol, both with an underscore.
_SERVICE = re.compile(r"_[^.]+\._[^.]+\..+")


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


class Question(NamedTuple):
    """What the resolver is asked.

    Attributes:
        name: the name.
        service: for its SRV records, not for its addresses.
    """

    name: str
    service: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a name; a lookup that fails takes nothing away.

    Attributes:
        records: addresses as text, or Services; the last good answer, None while there was none.
        until: monotonic seconds at which that is to be asked again.
        asked_at: when it was asked last, with whatever outcome.
        error: why the last lookup failed, empty if it did not.
        ttl: the seconds for which the last good answer holds, within the bounds.
    """

    records: tuple[str, ...] | tuple[Service, ...] | None = None
    until: float = 0.0
    asked_at: float = float("-inf")
    error: str = ""
    ttl: float | None = None

    def answered(
        self, records: Sequence[str] | Sequence[Service], ttl: float, now: float, *, floor: float, cap: float
    ) -> Found:
        """Return what is known after an answer.

        Args:
            records: without order.
            ttl: seconds.
            now: monotonic seconds.
            floor: seconds for which it holds at least.
            cap: at most.
        """
        if not records:
            return self.failed("the answer is empty", now)
        if len(records) > MOST_RECORDS:
            return self.failed(
                f"an answer of {len(records)} records, more than the {MOST_RECORDS} accepted", now
            )
        ttl = max(floor, min(cap, ttl))
        # In a steady order: servers rotate their answers.
        unique: tuple[str, ...] | tuple[Service, ...] = tuple(dict.fromkeys(records))  # type: ignore[assignment]
        if self.records is not None and set(self.records) == set(unique):
            unique = self.records
        return Found(unique, now + ttl, now, "", ttl)

    def failed(self, reason: str, now: float) -> Found:
        """Return what is known after a lookup that failed."""
        return replace(self, until=now + RETRY_AFTER, asked_at=now, error=reason)

    def next_at(self, hurry: float | None = None) -> float:
        """Return when to ask again.

        Args:
            hurry: seconds from the last question to the next, where the name may stand for something else now.
        """
        at = self.until if hurry is None else min(self.until, self.asked_at + hurry)
        return max(at, self.asked_at + GAP)


def outage_gap(outage: float) -> float:
    """Return the seconds between two lookups of a name while there is no primary; *outage*: for how long already."""
    return max(GAP, min(RETRY_AFTER, outage * _OUTAGE_SHARE))


class Member(NamedTuple):
    """A host, and how it came to be one."""

    key: HostKey
    listing: Listing


def is_service(key: HostKey) -> bool:
    """Whether an entry of a DSN is the name of a service: SRV records list its hosts."""
    return not key.hostaddr and _SERVICE.fullmatch(key.host) is not None


def is_name(key: HostKey) -> bool:
    """Whether the addresses of a host have to be looked up."""
    return not (key.hostaddr or key.is_socket or is_address(key.host) or is_service(key))


def stands_for_others(key: HostKey, mode: Mode) -> bool:
    """Whether a host is none that could be connected to, but a name of others that are not known (yet)."""
    return is_service(key) or (mode == "all" and is_name(key))


def is_address(text: str) -> bool:
    """Whether a host is a numeric address, with a scope or without."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def members(
    entries: Sequence[HostKey], mode: Mode, found: Callable[[Question], Found | None]
) -> tuple[tuple[Member, ...], Mapping[HostKey, str]]:
    """Return the hosts that the entries of a DSN stand for now, and why an entry stands for none.

    An entry for which there is nothing yet, or that failed, stands for itself: a host that cannot be reached.

    Args:
        entries: of the DSN.
        mode: "first": a name is one host, whatever its addresses; "all": each of its addresses is one.
        found: gives what is known of a name.
    """
    listed = _Listed(mode, found)
    for entry in entries:
        if not is_service(entry):
            listed.add(entry, Listing())
            continue
        known = found(Question(entry.host, service=True))
        targets = offered(known)
        for service in targets:
            origin = f"SRV {entry.host}"
            listing = Listing(origin, service.priority, _weight(service, targets))
            listed.add(HostKey(service.target, service.port), listing)
        if not targets:
            listed.hosts.setdefault(entry, Listing())
            if known is not None and (known.error or known.records is not None):
                reason = "the service is not offered: its SRV record has the target '.'"
                listed.errors[entry] = known.error or reason
    return tuple(Member(key, listing) for key, listing in listed.hosts.items()), listed.errors


def questions(entries: Sequence[HostKey], found: Callable[[Question], Found | None]) -> tuple[Question, ...]:
    """Return what has to be asked for these entries, the targets of their services included."""
    asked: dict[Question, None] = {}
    for entry in entries:
        if is_service(entry):
            question = Question(entry.host, service=True)
            asked[question] = None
            for service in offered(found(question)):
                if is_name(HostKey(service.target, service.port)):
                    asked[Question(service.target)] = None
        elif is_name(entry):
            asked[Question(entry.host)] = None
    return tuple(asked)


def offered(known: Found | None) -> list[Service]:
    """Return the targets of a service, those of the lowest priority first, the heavier ahead of the lighter."""
    records = [] if known is None else [r for r in known.records or () if isinstance(r, Service) and r.target]
    return sorted(records, key=lambda r: (r.priority, -r.weight, r.target, r.port))


def _weight(service: Service, all_: Sequence[Service]) -> float:
    """Return a target's share; one of weight 0 has a very small one beside others (RFC 2782)."""
    rivals = [r.weight for r in all_ if r.priority == service.priority and r.weight]
    if not rivals:
        return 1.0
    return float(service.weight) or min(rivals) / 100


class _Listed:
    """Hosts as they are put together, each once."""

    def __init__(self, mode: Mode, found: Callable[[Question], Found | None]) -> None:
        self.hosts: dict[HostKey, Listing] = {}
        self.errors: dict[HostKey, str] = {}
        self._mode = mode
        self._found = found

    def add(self, key: HostKey, listing: Listing) -> None:
        """Add a host, or with mode "all" those of its addresses."""
        if self._mode == "all" and is_name(key):
            known = self._found(Question(key.host))
            addresses = [r for r in (known.records if known else None) or () if isinstance(r, str)]
            if addresses:
                origin = listing.origin or f"name {key.host}"
                for address in sorted(addresses, key=_order):
                    self.hosts.setdefault(key._replace(hostaddr=address), replace(listing, origin=origin))
                return
            if known is not None and known.error:
                self.errors[key] = known.error
        self.hosts.setdefault(key, listing)


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
