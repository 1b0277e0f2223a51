"""Names to addresses in a thread of our own, never in the loop's default executor and never on a caller's path."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from typing import TYPE_CHECKING

from pgroute.core.faults import Fault, FaultKind
from pgroute.monitor.probe import ProbeFailed

if TYPE_CHECKING:
    from pgroute.core.roles import HostKey


class Resolver:
    """The system's resolver (``getaddrinfo``: /etc/hosts, search domains, both families), with a short memory.

    A lookup that hangs holds one daemon thread and nothing else: neither the loop nor the interpreter's exit. While
    it hangs or fails, the last good answer serves.

    Args:
        memory: seconds for which an answer is used again.
    """

    def __init__(self, *, memory: float = 5.0) -> None:
        self._memory = memory
        self._answers: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, key: HostKey, *, timeout: float, prefer: str | None = None) -> list[str | None]:
        """Return the numeric addresses to connect to, in this order; None alone for a socket directory.

        Args:
            key: the host; its own hostaddr or numeric host needs no lookup.
            timeout: seconds for the lookup.
            prefer: an address that comes first if it is among the answers.

        Raises:
            ProbeFailed: the name has no address and never had one.
        """
        if key.hostaddr:
            return [key.hostaddr]
        if key.is_socket:
            return [None]
        try:
            return [str(ipaddress.ip_address(key.host))]
        except ValueError:
            pass
        name = (key.host, key.port)
        at, known = self._answers.get(name, (0.0, []))
        if not known or time.monotonic() - at > self._memory:
            reason = f"could not resolve {key.host!r} in {timeout:g} s"
            lookup = self._lookups.get(name) or self._look_up(name)
            await asyncio.wait({lookup}, timeout=timeout)
            if lookup.done():
                try:
                    known = lookup.result()
                except OSError as exc:
                    reason = f"could not resolve {key.host!r}: {exc.strerror or exc}"
            if not known:
                raise ProbeFailed(Fault(FaultKind.UNRESOLVED, host_suspect=True, reason=reason))
        return sorted(known, key=lambda address: address != prefer)

    def _look_up(self, name: tuple[str, int]) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        self._lookups[name] = future

        def tell(addresses: list[str], error: OSError | None) -> None:
            self._lookups.pop(name, None)
            if error is None:
                self._answers[name] = (time.monotonic(), addresses)
            if future.done():
                return
            if error is None:
                future.set_result(addresses)
            else:
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more

        def work() -> None:
            addresses: list[str] = []
            error: OSError | None = None
            try:
                found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
            except OSError as exc:
                error = exc
            except UnicodeError:
                error = OSError("not a valid host name")
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody wants to know
                loop.call_soon_threadsafe(tell, addresses, error)

        try:
            threading.Thread(target=work, name=f"pgroute-resolve-{name[0]}", daemon=True).start()
        except RuntimeError as exc:  # no thread to be had now
            tell([], OSError(str(exc)))
        return future
