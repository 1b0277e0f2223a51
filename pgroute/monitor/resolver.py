"""Looks names up, with the system's resolver or by DNS; never in the loop's default executor, never for a caller."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pgroute.core.config.srv import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dns.asyncresolver import Resolver as DnsPython
    from dns.resolver import Answer, BaseResolver

    from pgroute.core.config.dns_names import Question
    from pgroute.core.config.lookups import ResolverSpec


_KEPT = 10.0
"""Seconds for which the result of a lookup that was given up is kept: it is asked for again within half of that."""


class LookupFailed(Exception):
    """A lookup found nothing; the text says why."""


class Looked(NamedTuple):
    """The result of a lookup.

    Attributes:
        records: addresses, or Services.
        ttl: seconds for which they hold, None if not known.
        error: why one family of addresses is missing; empty if it was found, or the name has none.
    """

    records: Sequence[str] | Sequence[Service]
    ttl: float | None
    error: str = ""


class Resolver(Protocol):
    """Looks names up."""

    async def look_up(self, question: Question, timeout: float) -> Looked:
        """Return the records of a name.

        Raises:
            LookupFailed: nothing was found within *timeout* seconds.
        """


def make_resolver(spec: ResolverSpec) -> Resolver:
    """Return the resolver for a router's option."""
    if spec == "system":
        return SystemResolver()
    return DnsResolver(None if isinstance(spec, str) else spec)


class SystemResolver:
    """The system's resolver (``getaddrinfo``: /etc/hosts, search domains, both families); SRV records by DNS.

    A lookup that hangs blocks one daemon thread, but neither the loop nor the interpreter's exit.
    """

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}
        self._dns: DnsResolver | None = None

    async def look_up(self, question: Question, timeout: float) -> Looked:
        """As Resolver. The system does not say how long an answer holds."""
        if question.service:
            if self._dns is None:
                self._dns = DnsResolver(None)
            return await self._dns.look_up(question, timeout)
        name = question.name
        lookup = self._lookups.get(name) or self._begin(name)
        await asyncio.wait({lookup}, timeout=timeout)
        if not lookup.done():
            raise LookupFailed(f"could not resolve {name!r} in {timeout:g} s")
        self._forget(name, lookup)
        try:
            return Looked(lookup.result(), None)
        except OSError as exc:
            raise LookupFailed(f"could not resolve {name!r}: {exc.strerror or exc}") from None

    def _begin(self, name: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        self._lookups[name] = future

        def finish(addresses: list[str], error: OSError | None) -> None:
            if error is None:
                # It counts for the next attempt if this one was given up: else a slow lookup would never end in time.
                loop.call_later(_KEPT, self._forget, name, future)
                future.set_result(addresses)
            else:
                self._forget(name, future)
                future.set_exception(error)
                future.exception()  # mark it as retrieved: there may be no waiter left

        def work() -> None:
            addresses: list[str] = []
            error: OSError | None = None
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(_address(*info[4]) for info in found))
            except OSError as exc:
                error = exc
            except UnicodeError:
                error = OSError("not a valid host name")
            except Exception as exc:  # noqa: BLE001  (else the next lookup would wait for this one forever)
                error = OSError(repr(exc))
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(finish, addresses, error)

        try:
            threading.Thread(target=work, name=f"pgroute-resolve-{name}", daemon=True).start()
        except RuntimeError as exc:  # no thread is available now
            finish([], OSError(str(exc)))
        return future

    def _forget(self, name: str, lookup: asyncio.Future[list[str]]) -> None:
        if self._lookups.get(name) is lookup:
            del self._lookups[name]


def _address(host: str | int, _port: object, _flow: int = 0, scope: int = 0) -> str:
    """Return the address in a socket address (for IPv6 of four parts), with its scope if it has one."""
    return f"{host}%{scope}" if scope else str(host)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__


class _Answer(NamedTuple):
    """Records of one kind. `failed`: whether there are any is not known."""

    records: Sequence[str] | Sequence[Service] = ()
    ttl: float = 0.0
    error: str = ""
    failed: bool = False


class DnsResolver:
    """DNS with dnspython, in the monitor's loop. Addresses are the A records, then the AAAA records.

    Args:
        given: a Resolver of dnspython, which is copied. None: /etc/resolv.conf, read at the first use and again
            whenever its servers have failed, because they may have changed.
    """

    def __init__(self, given: BaseResolver | None) -> None:
        self._given = given
        self._resolver: DnsPython | None = None

    async def look_up(self, question: Question, timeout: float) -> Looked:
        """As Resolver."""
        kinds = ("SRV",) if question.service else ("A", "AAAA")
        answers = await self._ask_all(question.name, kinds, timeout)
        good = [answer for answer in answers if answer.records]
        failed = next((answer.error for answer in answers if answer.failed), "")
        if not good:
            what = "SRV records of" if question.service else "addresses of"
            raise LookupFailed(f"no {what} {question.name!r}: {failed or answers[0].error}")
        records: list[Any] = [record for answer in good for record in answer.records]
        return Looked(records, min(answer.ttl for answer in good), failed)

    async def _ask_all(self, name: str, kinds: Sequence[str], timeout: float) -> list[_Answer]:
        """Ask for the records of these kinds. Once one has come, the others have a quarter of the timeout.

        Some networks drop every query for AAAA records.
        """
        tasks = [asyncio.ensure_future(self._ask(name, kind, timeout)) for kind in kinds]
        for task in tasks:
            task.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # only one error is raised
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            enough = any(task.result().records for task in done)
            grace = timeout / 4 if enough else None
            await asyncio.wait(tasks, timeout=grace)
            late = _Answer(error=f"no answer in {timeout / 4:g} s", failed=True)
            return [task.result() if task.done() else late for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, name: str, kind: str, timeout: float) -> _Answer:
        """Ask for the records of one kind."""
        try:
            import dns.exception
            import dns.resolver
        except (ImportError, OSError) as exc:  # no descriptor is left to read them with
            return self._failed(_one_line(exc))
        try:
            answer = await self._resolve(name, kind, timeout)
        except dns.resolver.NXDOMAIN:
            return _Answer(error="the name does not exist (NXDOMAIN)")
        except (dns.exception.Timeout, TimeoutError):
            return self._failed(f"no answer in {timeout:g} s")
        except (dns.exception.DNSException, ImportError, OSError, ValueError) as exc:
            # NoNameservers: SERVFAIL, REFUSED and the like, with a long text for each server.
            return self._failed(_one_line(exc))
        if answer.rrset is None:
            return _Answer(error=f"it has no {kind} records")
        # In a chain of CNAMEs the shortest TTL counts.
        ttl = float(answer.chaining_result.minimum_ttl)
        if kind == "SRV":
            services = [
                # Servers may change the case of a name from answer to answer.
                Service(
                    r.priority, r.weight, r.port, r.target.to_text(omit_final_dot=True).lstrip(".").lower()
                )
                for r in answer.rrset
            ]
            return _Answer(services, ttl)
        return _Answer([r.address for r in answer.rrset], ttl)

    async def _resolve(self, name: str, kind: str, timeout: float) -> Answer:
        import dns.asyncbackend

        resolver = copy.copy(self._python())
        # Each server is asked at least twice: a server may be dead, or a datagram lost.
        resolver.timeout = min(resolver.timeout, timeout / (2 * max(1, len(resolver.nameservers))))
        # Not the default backend, which is the one of its first user in this process, perhaps trio.
        backend = dns.asyncbackend.get_backend("asyncio")
        async with asyncio.timeout(timeout):
            return await resolver.resolve(
                name, kind, lifetime=timeout, raise_on_no_answer=False, backend=backend
            )

    def _failed(self, error: str) -> _Answer:
        if self._given is None:
            self._resolver = None
        return _Answer(error=error, failed=True)

    def _python(self) -> DnsPython:
        if self._resolver is None:
            import dns.asyncresolver
            import dns.resolver

            self._resolver = dns.asyncresolver.Resolver(configure=self._given is None)
            if self._given is not None:
                # They share a base class, whose attributes are all of the configuration.
                self._resolver.__dict__.update(vars(self._given))
            self._resolver.use_search_by_default = True
            self._resolver.cache = None
        return self._resolver
