"""Opens probe connections to the addresses of one host, in the order that libpq would try them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from pgroute.core.config.dns_names import is_name
from pgroute.core.config.dsn import Params
from pgroute.core.faults.classify import FaultKind
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.probe import ProbeConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.dns_watch import Names
    from pgroute.monitor.probe_login import ProbeLogin


class Dialer:
    """Opens probe connections to one host.

    Args:
        key: the host.
        login: gives the connection parameters, without hostaddr where the name is to be resolved.
        names: give the addresses.

    Attributes:
        preferred: the address to try first, None until one was tried.
        login: as given.
    """

    def __init__(self, key: HostKey, login: ProbeLogin, names: Names) -> None:
        self.preferred: str | None = None
        self.login = login
        self._key = key
        self._named = is_name(key)
        self._names = names
        self._conninfo: tuple[str | None, Params, bytes] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that the name stands for now, as far as known; empty if the host is not named."""
        return self._names.known(self._key) if self._named else ()

    def has_left(self, address: str | None) -> bool:
        """Return whether the host is named, and its name does not stand for this address, as far as is known."""
        return self._named and address is not None and address not in self.addresses

    async def connect(self, *, timeout: float, on_loss: Callable[[], None]) -> ProbeConnection:
        """Look the name up, and connect to the first address that does not refuse, as libpq does.

        After an address that does not answer, the next call starts with the one that follows it.

        Raises:
            ProbeFailed: the name has no address, there are no credentials, or no connection could be opened.
        """
        addresses = await self._names.addresses(self._key, timeout=timeout, prefer=self.preferred)

        async def open_with(params: Params) -> ProbeConnection:
            return await self._open_first(addresses, params, timeout=timeout, on_loss=on_loss)

        return await self.login.log_in(open_with, timeout)

    async def open(
        self, address: str | None, *, timeout: float, on_loss: Callable[[], None]
    ) -> ProbeConnection:
        """Connect to this address.

        Raises:
            ProbeFailed: there are no credentials, or the connection could not be opened.
        """

        async def open_with(params: Params) -> ProbeConnection:
            return await self._open(address, params, timeout=timeout, on_loss=on_loss)

        return await self.login.log_in(open_with, timeout)

    async def _open_first(
        self,
        addresses: Sequence[str | None],
        params: Params,
        *,
        timeout: float,
        on_loss: Callable[[], None],
    ) -> ProbeConnection:
        for at, address in enumerate(addresses, 1):
            self.preferred = address
            try:
                return await self._open(address, params, timeout=timeout, on_loss=on_loss)
            except ProbeFailed as exc:
                kind = exc.fault.kind
                if kind is FaultKind.TIMEOUT:
                    self.preferred = addresses[at % len(addresses)]
                if kind is not FaultKind.REFUSED or at == len(addresses):
                    raise
        raise AssertionError("a resolved name has an address")

    async def _open(
        self, address: str | None, params: Params, *, timeout: float, on_loss: Callable[[], None]
    ) -> ProbeConnection:
        if self._conninfo is None or self._conninfo[:2] != (address, params):
            # Cached: making it costs libpq more than a refused connection does.
            whole = params if address is None else Params({**params, "hostaddr": address})
            self._conninfo = address, params, make_conninfo("", **whole).encode()
        return await ProbeConnection.connect(
            self._key,
            self._conninfo[2],
            address=address or self._key.host,
            timeout=timeout,
            on_loss=on_loss,
        )
