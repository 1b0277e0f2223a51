"""From the entries of a DSN, and what their names stand for, to the hosts that there are, and when to ask again."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from pgroute.core.config.srv import ANYWHERE, Service, Targets, is_address, is_host, is_service_name
from pgroute.core.model.roles import HostKey
from pgroute.core.printable import printable
from pgroute.core.topology.observations import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Mode = Literal["one-host", "expand"]

MOST_RECORDS = 64
"""Addresses of a name, and targets of a service, at most: an answer with more is taken for a mistake, and not used."""

GAP = 1.0
"""Seconds between two lookups of a name, at least, whatever the hurry."""

RETRY_AFTER = 5.0
"""Seconds after which a failed lookup is repeated, and between two for the sake of one host out of reach."""

_OUTAGE_SHARE = 0.02
_DOUBT_SHARE = 0.1
_SPREAD = 0.05
_SHOWN = 255
_MOST_SPREAD = 0.5


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
        asked_at: when it was asked last, with whatever outcome; monotonic seconds.
        ttl: the seconds for which the last good answer holds; None: not told.
        error: why the last lookup failed, wholly or in part; empty if it did not.
    """

    records: tuple[str, ...] | tuple[Service, ...] | None = None
    asked_at: float = float("-inf")
    ttl: float | None = None
    error: str = ""

    def answered(
        self, records: Sequence[str] | Sequence[Service], ttl: float | None, now: float, *, error: str = ""
    ) -> Found:
        """Return what is known after an answer.

        Args:
            records: without order.
            ttl: seconds for which it holds; None: not told.
            now: monotonic seconds.
            error: why there are no addresses of the other family, if that is not because it has none: those that were
                known serve on.
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
        # In a steady order: servers rotate their answers.
        unique: tuple[str, ...] | tuple[Service, ...] = tuple(dict.fromkeys(records))  # type: ignore[assignment]
        if self.records is not None and set(self.records) == set(unique):
            unique = self.records
        return Found(unique, now, ttl, printable(error))

    def failed(self, reason: str, now: float) -> Found:
        """Return what is known after a lookup that failed."""
        return replace(self, asked_at=now, error=printable(reason))

    def next_at(self, *, floor: float, cap: float, hurry: float | None = None, chance: float = 0.0) -> float:
        """Return when to ask again, monotonic seconds.

        Args:
            floor: seconds for which an answer holds at least, whatever it says.
            cap: seconds for which it holds at most.
            hurry: seconds from the last question to the next, where the name may stand for something else now.
            chance: from 0 to 1, puts it off by up to a twentieth, half a second at most: the processes that share a
                name server's cache see an answer run out in the same moment.
        """
        holds = RETRY_AFTER if self.error else max(floor, min(cap, cap if self.ttl is None else self.ttl))
        if hurry is not None:
            holds = min(holds, max(hurry, GAP))
        return self.asked_at + holds + chance * min(_MOST_SPREAD, holds * _SPREAD)


def _is_v6(record: str | Service) -> bool:
    return isinstance(record, str) and ":" in record


def outage_gap(outage: float) -> float:
    """Return the seconds between two lookups of a name while there is no primary; *outage*: for how long already."""
    return max(GAP, min(RETRY_AFTER, outage * _OUTAGE_SHARE))


def doubt_gap(silence: float) -> float:
    """Return the seconds between two lookups for the sake of one host out of reach; *silence*: for how long it was."""
    return max(RETRY_AFTER, silence * _DOUBT_SHARE)


class Member(NamedTuple):
    """A host, and how it came to be one."""

    key: HostKey
    listing: Listing


def is_service(key: HostKey) -> bool:
    """Whether an entry of a DSN is the name of a service: SRV records list its hosts."""
    return not key.hostaddr and is_service_name(key.host)


def is_name(key: HostKey) -> bool:
    """Whether the addresses of a host have to be looked up."""
    return not (key.hostaddr or key.is_socket or is_address(key.host) or is_service(key))


def stands_for_others(key: HostKey, mode: Mode) -> bool:
    """Whether a host is none that could be connected to, but a name of others that are not known (yet)."""
    return is_service(key) or (mode == "expand" and is_name(key))


def members(
    entries: Sequence[HostKey],
    mode: Mode,
    found: Callable[[Question], Found | None],
    targets: Targets = ANYWHERE,
) -> tuple[tuple[Member, ...], Mapping[HostKey, str]]:
    """Return the hosts that the entries of a DSN stand for now, and why an entry stands for none.

    An entry for which there is nothing yet, or that failed, stands for itself: a host that cannot be reached.

    Args:
        entries: of the DSN.
        mode: "one-host": a name is one host, whatever its addresses; "expand": each of its addresses is one.
        found: gives what is known of a name.
        targets: which of a service are accepted.
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
    """Return what has to be asked for these entries, the targets of their services included."""
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
    """Return the targets of a service, those of the lowest priority first, the heavier ahead of the lighter."""
    accepted = [r for r in _hosts(known) if not targets.refusal(name, r.target)]
    return sorted(accepted, key=lambda r: (r.priority, -r.weight, r.target, r.port))


def _hosts(known: Found | None) -> list[Service]:
    return [] if known is None else [r for r in known.records or () if isinstance(r, Service) and is_host(r)]


def _note(known: Found | None) -> str:
    if known is None or not known.error or known.records is None:
        return ""
    return f"{known.error}: the last good answer serves"


def _wrong(name: str, known: Found, offered: Sequence[Service], targets: Targets) -> str:
    """Return what is wrong with a service's records, empty if nothing is."""
    bad = [r for r in known.records or () if isinstance(r, Service) and r.target and not is_host(r)]
    if bad:
        return f"the SRV record with the target {bad[0].target[:_SHOWN]!r} and port {bad[0].port} is none of a host"
    for service in _hosts(known):
        if refusal := targets.refusal(name, service.target):
            return refusal
    if not offered and known.records is not None:
        return "the service is not offered: its SRV record has the target '.'"
    return "" if offered else known.error


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
        self._entry: HostKey
        self._before = 0

    def begin(self, entry: HostKey) -> None:
        """Go on with the next entry of the DSN."""
        self._entry, self._before = entry, len(self.hosts)

    def add(self, key: HostKey, listing: Listing) -> None:
        """Add a host, or with mode "expand" those of its addresses."""
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
            self.refuse(f"it stands for more than {MOST_RECORDS} hosts: the others are left out")
        else:
            self.hosts.setdefault(key, listing)

    def refuse(self, reason: str) -> None:
        """Have the entry itself listed, as a host that is down for this reason."""
        self.hosts.setdefault(self._entry, Listing())
        self.errors[self._entry] = reason


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
