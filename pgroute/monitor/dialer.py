"""Opens probe connections to the addresses of one host, in the order that libpq would try them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from pgroute.core.config.dns_names import Question, is_name
from pgroute.core.config.dsn import Params
from pgroute.core.faults.classify import FaultKind
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.probe import ProbeConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.dns_watch import Names


class Dialer:
    """Opens probe connections to one host.

    Args:
        key: the host.
        params: the connection parameters, without hostaddr where the name is to be resolved.
        names: give the addresses.

    Attributes:
        preferred: the address to try first, None until one was tried.
    """

    def __init__(self, key: HostKey, params: Mapping[str, str], names: Names) -> None:
        self.preferred: str | None = None
        self._key = key
        self._params = params
        self._names = names
        self._conninfo: tuple[str | None, bytes] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that the name stands for now, as far as known; empty if the host is not named."""
        found = self._names.found(Question(self._key.host)) if is_name(self._key) else None
        return tuple(r for r in (found and found.records) or () if isinstance(r, str))

    async def connect(self, *, timeout: float, on_loss: Callable[[], None]) -> ProbeConnection:
        """Look the name up, and connect to the first address that does not refuse, as libpq does.

        After an address that does not answer, the next call starts with the one that follows it.

        Raises:
            ProbeFailed: the name has no address, or no connection could be opened.
        """
        addresses = await self._names.addresses(self._key, timeout=timeout, prefer=self.preferred)
        for at, address in enumerate(addresses, 1):
            self.preferred = address
            try:
                return await self.open(address, timeout=timeout, on_loss=on_loss)
            except ProbeFailed as exc:
                kind = exc.fault.kind
                if kind is FaultKind.TIMEOUT:
                    self.preferred = addresses[at % len(addresses)]
                if kind is not FaultKind.REFUSED or at == len(addresses):
                    raise
        raise AssertionError("a resolved name has an address")

    async def open(
        self, address: str | None, *, timeout: float, on_loss: Callable[[], None]
    ) -> ProbeConnection:
        """Connect to this address.

        Raises:
            ProbeFailed: the connection could not be opened.
        """
        if self._conninfo is None or self._conninfo[0] != address:
            # Cached: making it costs libpq more than a refused connection does.
            params = self._params if address is None else Params({**self._params, "hostaddr": address})
            self._conninfo = address, make_conninfo("", **params).encode()
        return await ProbeConnection.connect(
            self._key,
            self._conninfo[1],
            address=address or self._key.host,
            timeout=timeout,
            on_loss=on_loss,
        )
