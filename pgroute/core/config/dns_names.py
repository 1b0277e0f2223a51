"""Turns the entries of a DSN and the results of lookups into the list of hosts, and decides when to look up again."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from pgroute.core.config.srv import ANYWHERE, Service, Targets, is_address, is_host, is_service_name
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey
from pgroute.core.printable import printable
from pgroute.core.topology.observations import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Mode = Literal["one-host", "expand"]

MOST_RECORDS = 64
"""The most addresses of a name, or targets of a service; a longer answer is taken for a mistake and not used."""

GAP = 1.0
"""The least seconds between two lookups of a name."""

RETRY_AFTER = 5.0
"""Seconds after which a failed lookup is repeated, and the least between two lookups for a single unreachable host."""

_OUTAGE_SHARE = 0.02
_DOUBT_SHARE = 0.1
_SPREAD = 0.05
_SHOWN = 255
_MOST_SPREAD = 0.5


class Question(NamedTuple):
    """A question to the resolver.

    Attributes:
        name: the name.
        service: ask for its SRV records instead of its addresses.
    """

    name: str
    service: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a name; a failed lookup does not discard the last good answer.

    Attributes:
        records: the last good answer, addresses as text or Services; None if there was none.
        asked_at: monotonic seconds of the last lookup, successful or not.
        ttl: seconds for which the last good answer is valid; None if the resolver does not tell.
        error: why the last lookup failed, entirely or for one address family; empty if it did not.
    """

    records: tuple[str, ...] | tuple[Service, ...] | None = None
    asked_at: float = float("-inf")
    ttl: float | None = None
    error: str = ""

    def answered(
        self, records: Sequence[str] | Sequence[Service], ttl: float | None, now: float, *, error: str = ""
    ) -> Found:
        """Return what is known after a successful lookup.

        Args:
            records: the answer; its order does not matter.
            ttl: seconds for which it is valid; None if the resolver does not tell.
            now: monotonic seconds.
            error: why the lookup of the other address family failed, empty if it did not. The known addresses of
                that family are kept.
        """
        if error:
            family = {_is_v6(r) for r in records}
            kept = [r for r in self.records or () if isinstance(r, str) and _is_v6(r) not in family]
            records = [*(r for r in records if isinstance(r, str)), *kept]
        if not records:
            return self.failed("the answer is empty", now)
        if len(records) > MOST_RECORDS:
            return self.failed(
                f"an answer of {len(records)} records, more than the {MOST_RECORDS} accepted", now
            )
        # Name servers rotate their answers: keep the order that is known.
        unique: tuple[str, ...] | tuple[Service, ...] = tuple(dict.fromkeys(records))  # type: ignore[assignment]
        if self.records is not None and set(self.records) == set(unique):
            unique = self.records
        return Found(unique, now, ttl, printable(error))

    def failed(self, reason: str, now: float) -> Found:
        """Return what is known after a failed lookup."""
        return replace(self, asked_at=now, error=printable(reason))

    def next_at(self, *, floor: float, cap: float, hurry: float | None = None, chance: float = 0.0) -> float:
        """Return when to look up again, in monotonic seconds.

        Args:
            floor: seconds for which an answer is used at least, whatever its TTL.
            cap: seconds for which it is used at most.
            hurry: seconds between two lookups while the name may have changed, None if nothing suggests that.
            chance: random number from 0 to 1 that delays the lookup by up to a twentieth, half a second at most. For
                all processes that share the cache of a name server, an answer expires at the same moment.
        """
        holds = RETRY_AFTER if self.error else max(floor, min(cap, cap if self.ttl is None else self.ttl))
        if hurry is not None:
            holds = min(holds, max(hurry, GAP))
        return self.asked_at + holds + chance * min(_MOST_SPREAD, holds * _SPREAD)


def _is_v6(record: str | Service) -> bool:
    return isinstance(record, str) and ":" in record


def outage_gap(outage: float) -> float:
    """Return the seconds between two lookups of a name after *outage* seconds without a primary."""
    return max(GAP, min(RETRY_AFTER, outage * _OUTAGE_SHARE))


def doubt_gap(silence: float) -> float:
    """Return the seconds between two lookups for a host that has not answered for *silence* seconds."""
    return max(RETRY_AFTER, silence * _DOUBT_SHARE)


class Member(NamedTuple):
    """A host and where it comes from."""

    key: HostKey
    listing: Listing


def is_service(key: HostKey) -> bool:
    """Return True if an entry of a DSN is the name of a service, whose hosts are in SRV records."""
    return not key.hostaddr and is_service_name(key.host)


def is_name(key: HostKey) -> bool:
    """Return True if the addresses of a host have to be looked up."""
    return not (key.hostaddr or key.is_socket or is_address(key.host) or is_service(key))


def stands_for_others(key: HostKey, mode: Mode) -> bool:
    """Return True if an entry is no host itself, but stands for hosts that are not known yet."""
    return is_service(key) or (mode == "expand" and is_name(key))


def members(
    entries: Sequence[HostKey],
    mode: Mode,
    found: Callable[[Question], Found | None],
    targets: Targets = ANYWHERE,
) -> tuple[tuple[Member, ...], Mapping[HostKey, str]]:
    """Return the hosts that the entries of a DSN stand for now, and the error of each entry that has one.

    An entry whose lookup failed or is not finished is listed itself, as a host that cannot be reached.

    Args:
        entries: the entries of the DSN.
        mode: "one-host": a name is one host; "expand": each address of a name is a host.
        found: returns what is known of a name.
        targets: the targets of services that are accepted.
    """
    listed = _Listed(mode, found)
    for entry in entries:
        listed.begin(entry)
        if not is_service(entry):
            listed.add(entry, Listing())
            continue
        known = found(Question(entry.host, service=True))
        services = offered(entry.host, known, targets)
        origin = f"SRV {entry.host}"
        for service in services:
            listing = Listing(origin, service.priority, _weight(service, services), _note(known))
            listed.add(HostKey(service.target, service.port), listing)
        if not services:
            listed.hosts.setdefault(entry, Listing())
        if known is not None and (wrong := _wrong(entry.host, known, services, targets)):
            listed.refuse(wrong)
    return tuple(Member(key, listing) for key, listing in listed.hosts.items()), listed.errors


def questions(
    entries: Sequence[HostKey], found: Callable[[Question], Found | None], targets: Targets = ANYWHERE
) -> tuple[Question, ...]:
    """Return the questions to the resolver for these entries, including the targets of their services."""
    asked: dict[Question, None] = {}
    for entry in entries:
        if is_service(entry):
            question = Question(entry.host, service=True)
            asked[question] = None
            for service in offered(entry.host, found(question), targets):
                if is_name(HostKey(service.target, service.port)):
                    asked[Question(service.target)] = None
        elif is_name(entry):
            asked[Question(entry.host)] = None
    return tuple(asked)


def offered(name: str, known: Found | None, targets: Targets) -> list[Service]:
    """Return the accepted targets of a service by ascending priority and descending weight."""
    accepted = [r for r in _hosts(known) if not targets.refusal(name, r.target)]
    return sorted(accepted, key=lambda r: (r.priority, -r.weight, r.target, r.port))


def _hosts(known: Found | None) -> list[Service]:
    return [] if known is None else [r for r in known.records or () if isinstance(r, Service) and is_host(r)]


def _note(known: Found | None) -> str:
    if known is None or not known.error or known.records is None:
        return ""
    return f"{known.error}: the last good answer is used"


def _wrong(name: str, known: Found, offered: Sequence[Service], targets: Targets) -> str:
    """Return what is wrong with the records of a service, empty if nothing is."""
    bad = [r for r in known.records or () if isinstance(r, Service) and r.target and not is_host(r)]
    if bad:
        return f"the SRV record with the target {bad[0].target[:_SHOWN]!r} and port {bad[0].port} is invalid"
    for service in _hosts(known):
        if refusal := targets.refusal(name, service.target):
            return refusal
    if not offered and known.records is not None:
        return "the service is not offered: its SRV record has the target '.'"
    return "" if offered else known.error


def _weight(service: Service, all_: Sequence[Service]) -> float:
    """Return the share of a target. Beside others, weight 0 means a very small share (RFC 2782)."""
    rivals = [r.weight for r in all_ if r.priority == service.priority and r.weight]
    if not rivals:
        return 1.0
    return float(service.weight) or min(rivals) / 100


class _Listed:
    """Collects the hosts, each once."""

    def __init__(self, mode: Mode, found: Callable[[Question], Found | None]) -> None:
        self.hosts: dict[HostKey, Listing] = {}
        self.errors: dict[HostKey, str] = {}
        self._mode = mode
        self._found = found
        self._entry: HostKey
        self._before = 0

    def begin(self, entry: HostKey) -> None:
        """Continue with the next entry of the DSN."""
        self._entry, self._before = entry, len(self.hosts)

    def add(self, key: HostKey, listing: Listing) -> None:
        """Add a host, or in mode "expand" one host for each of its addresses."""
        known = self._found(Question(key.host)) if is_name(key) else None
        listing = replace(listing, note=listing.note or _note(known))
        addresses = [r for r in (known.records if known else None) or () if isinstance(r, str)]
        if self._mode == "one-host" and addresses:
            v6 = sum(map(_is_v6, addresses))
            listing = replace(listing, addresses=max(v6, len(addresses) - v6))
        if self._mode == "expand" and is_name(key):
            if addresses:
                origin = listing.origin or f"name {key.host}"
                for address in sorted(addresses, key=_order):
                    self._put(key._replace(hostaddr=address), replace(listing, origin=origin))
                return
            if known is not None and known.error:
                self.errors[key] = known.error
        self._put(key, listing)

    def _put(self, key: HostKey, listing: Listing) -> None:
        if key not in self.hosts and len(self.hosts) - self._before >= MOST_RECORDS:
            self.refuse(f"it stands for more than {MOST_RECORDS} hosts: the rest is ignored")
        else:
            self.hosts.setdefault(key, listing)

    def refuse(self, reason: str) -> None:
        """List the entry itself, as a host that is down for this reason."""
        self.hosts.setdefault(self._entry, Listing())
        self.errors[self._entry] = reason


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
