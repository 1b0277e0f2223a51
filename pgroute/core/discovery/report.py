"""The answer of an adviser as a value: the members of the cluster, and what is planned for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgroute.core.config.srv import Service, is_host
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.advice import HostAdvice

MOST_MEMBERS = 64
"""The most members of a cluster; a longer answer is taken for a mistake and not used."""

LONGEST_NAME = 100


class Malformed(ValueError):
    """An answer that the adviser cannot have given; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster.

    Attributes:
        advice: what is said of it.
        key: where clients reach it; None if that is not known.
        why: why it is not known.
        unread: what is said of it could not be read, or is that of an answer before.
    """

    advice: HostAdvice
    key: HostKey | None
    why: str = ""
    unread: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.advice.member


@dataclass(frozen=True, slots=True)
class Switchover:
    """A switchover that is scheduled.

    Attributes:
        at: seconds since the epoch, by the clock of the servers; None if that is not known.
        leader: the member that hands over; empty: whoever is the leader.
        candidate: the member that takes over; empty: any.
        why: why its time is not known.
    """

    at: float | None
    leader: str = ""
    candidate: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """Who hands over to whom."""
        who = f"from {self.leader or 'the leader'} to {self.candidate or 'any member'}"
        return f"{who} ({self.why})" if self.why else who


@dataclass(frozen=True, slots=True)
class Report:
    """What an adviser says of its cluster.

    Attributes:
        scope: the name of the cluster.
        members: sorted by name.
        paused: the manager does not act by itself.
        switchover: what is scheduled; None: nothing.
    """

    scope: str
    members: tuple[Member, ...]
    paused: bool = False
    switchover: Switchover | None = None

    def after(self, last: Report | None) -> Report:
        """Return the report in which the last one stands for members that cannot be read now: they have not left.

        Args:
            last: the report before, if it still counts.
        """
        known = {} if last is None else {member.name: member for member in last.members}
        members = tuple(
            replace(known[member.name], why=member.why, unread=True)
            if member.unread and member.name in known
            else member
            for member in self.members
        )
        return replace(self, members=members)


def reach(advice: HostAdvice, host: str, port: int, hosts: Mapping[str, str] | str | None) -> Member:
    """Return a member with the place at which clients reach it.

    Args:
        advice: what is said of it.
        host: its host as the adviser knows it; empty: it does not say.
        port: its port.
        hosts: what the user says of the members' hosts, see `PatroniDiscovery`.
    """
    told = hosts if isinstance(hosts, str) or hosts is None else hosts.get(advice.member)
    place = told or "{host}:{port}"
    if not host and "{host}" in place:
        return Member(advice, None, "the adviser does not say where it is")
    text = place.replace("{port}", str(port))
    for variable, value in (("{host}", host), ("{name}", advice.member)):
        text = text.replace(f"[{variable}]", variable).replace(variable, _bracketed(value))
    name, number = text, port
    head, colon, tail = text.rpartition(":")
    if colon and tail.isdecimal() and (":" not in head or head.startswith("[")):
        name, number = head, int(tail[:6])
    name = name.removeprefix("[").removesuffix("]")
    # libpq would read other texts as a socket directory, or as several hosts.
    if not (number <= 65535 and is_host(Service(0, 0, number, name))):
        return Member(advice, None, f"{text!r} is no host")
    return Member(advice, HostKey(name, number))


def _bracketed(value: str) -> str:
    """Return a host as it stands before a port. Without brackets, a port behind an IPv6 address is a part of it."""
    return f"[{value.removeprefix('[').removesuffix(']')}]" if ":" in value else value
