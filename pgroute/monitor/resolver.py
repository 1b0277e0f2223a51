"""How names are looked up: by the system or by DNS, never in the loop's default executor, never on a caller's path."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

from pgroute.core.names import Question, Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from dns.asyncresolver import Resolver as DnsPython
    from dns.resolver import BaseResolver

    from pgroute.core.plan import ResolverSpec

    Records: TypeAlias = Sequence[str] | Sequence[Service]


class LookupFailed(Exception):
    """A lookup gave nothing; the text says why."""


class Resolver(Protocol):
    """Looks names up."""

    async def look_up(self, question: Question, timeout: float) -> tuple[Records, float | None]:
        """Return the records, and the seconds for which they hold; None: not known.

        Raises:
            LookupFailed: there are none, or none within *timeout* seconds.
        """


def make_resolver(spec: ResolverSpec) -> Resolver:
    """Return the resolver for a router's option."""
    if spec == "system":
        return SystemResolver()
    return DnsResolver(None if isinstance(spec, str) else spec)


class SystemResolver:
    """The system's resolver (``getaddrinfo``: /etc/hosts, search domains, both families); SRV records by DNS.

    A lookup that hangs holds one daemon thread and nothing else: neither the loop nor the interpreter's exit.
    """

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}
        self._dns: DnsResolver | None = None

    async def look_up(self, question: Question, timeout: float) -> tuple[Records, float | None]:
        """As Resolver; the system does not tell how long an answer holds."""
        if question.service:
            if self._dns is None:
                self._dns = DnsResolver(None)
            return await self._dns.look_up(question, timeout)
        name = question.name
        lookup = self._lookups.get(name) or self._begin(name)
        await asyncio.wait({lookup}, timeout=timeout)
        if not lookup.done():
            raise LookupFailed(f"could not resolve {name!r} in {timeout:g} s")
        try:
            return lookup.result(), None
        except OSError as exc:
            raise LookupFailed(f"could not resolve {name!r}: {exc.strerror or exc}") from None

    def _begin(self, name: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        self._lookups[name] = future

        def tell(addresses: list[str], error: OSError | None) -> None:
            self._lookups.pop(name, None)
            if error is None:
                future.set_result(addresses)
            else:
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more

        def work() -> None:
            addresses: list[str] = []
            error: OSError | None = None
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
            except OSError as exc:
                error = exc
            except UnicodeError:
                error = OSError("not a valid host name")
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody wants to know
                loop.call_soon_threadsafe(tell, addresses, error)

        try:
            threading.Thread(target=work, name=f"pgroute-resolve-{name}", daemon=True).start()
        except RuntimeError as exc:  # no thread to be had now
            tell([], OSError(str(exc)))
        return future


class DnsResolver:
    """DNS by dnspython, in the monitor's loop; addresses are those of the A records, then those of the AAAA records.

    Args:
        given: a Resolver of dnspython, of which a copy is used; None: as /etc/resolv.conf says, read at the first use.
    """

    def __init__(self, given: BaseResolver | None) -> None:
        self._given = given
        self._resolver: DnsPython | None = None

    async def look_up(self, question: Question, timeout: float) -> tuple[Records, float | None]:
        """As Resolver."""
        kinds = ("SRV",) if question.service else ("A", "AAAA")
        answers = await asyncio.gather(*(self._ask(question.name, kind, timeout) for kind in kinds))
        good = [(records, ttl) for records, ttl, _ in answers if records]
        if not good:
            what = "SRV records of" if question.service else "addresses of"
            raise LookupFailed(f"no {what} {question.name!r}: {answers[0][2] or answers[-1][2]}")
        records: list[Any] = [record for found, _ in good for record in found]
        return records, min(ttl for _, ttl in good)

    async def _ask(
        self, name: str, kind: str, timeout: float
    ) -> tuple[list[str] | list[Service], float, str]:
        """Return records, their TTL, and what went wrong."""
        import dns.exception
        import dns.resolver

        try:
            answer = await self._python().resolve(name, kind, lifetime=timeout, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return [], 0.0, "the name does not exist (NXDOMAIN)"
        except dns.exception.Timeout:
            return [], 0.0, f"no answer in {timeout:g} s"
        except (dns.exception.DNSException, OSError, ValueError) as exc:
            # NoNameservers: SERVFAIL, REFUSED and the like, with each server's word in many.
            return [], 0.0, " ".join(str(exc).split())[:200] or type(exc).__name__
        if answer.rrset is None:
            return [], 0.0, f"it has no {kind} records"
        # Of a chain of CNAMEs the record that holds for the shortest counts.
        ttl = float(answer.chaining_result.minimum_ttl)
        if kind == "SRV":
            return (
                [
                    Service(r.priority, r.weight, r.port, r.target.to_text(omit_final_dot=True).lstrip("."))
                    for r in answer.rrset
                ],
                ttl,
                "",
            )
        return [r.address for r in answer.rrset], ttl, ""

    def _python(self) -> DnsPython:
        if self._resolver is None:
            import dns.asyncresolver
            import dns.resolver

            self._resolver = dns.asyncresolver.Resolver(configure=self._given is None)
            if self._given is not None:
                # Of the same base class, whose attributes are all the configuration there is.
                self._resolver.__dict__.update(vars(self._given))
            self._resolver.cache = None
        return self._resolver
