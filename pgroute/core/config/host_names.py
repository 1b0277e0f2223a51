"""Finds the hosts that an operator names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.roles import HostKey
from pgroute.core.topology.snapshot import names_of
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


def find_hosts(host: object, known: Iterable[HostKey]) -> frozenset[HostKey]:
    """Return the hosts that a HostKey, "host:port", "host" or address stands for; a name may have several.

    Args:
        host: what the operator names.
        known: the hosts to choose from, in the order in which an error lists them.

    Raises:
        ConfigError: it stands for none of them.
    """
    known = tuple(dict.fromkeys(known))
    if isinstance(host, HostKey):
        found = frozenset(key for key in known if key == host)
    else:
        named = host if isinstance(host, str) else ""  # one that has only an address has an empty name
        found = frozenset(key for key in known if named and named in (*names_of(key), str(key)))
    if not found:
        listed = ", ".join(map(str, known))
        raise ConfigError("host", host, f"expected a HostKey, 'host:port' or 'host' of one of {listed}")
    return found
