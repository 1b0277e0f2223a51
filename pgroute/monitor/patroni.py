"""Asks Patroni: its REST API at several URLs, by http or https."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.config.rest_urls import target_of
from pgroute.core.discovery.patroni import read_cluster
from pgroute.core.discovery.report import Malformed
from pgroute.core.printable import printable
from pgroute.monitor.resolver import make_resolver
from pgroute.monitor.rest import get
from pgroute.monitor.sources import NoAnswer, Told

if TYPE_CHECKING:
    import ssl

    from pgroute.core.config.discovery import PatroniDiscovery
    from pgroute.core.config.lookups import ResolverSpec


class PatroniSource:
    """Asks the URLs in turn, first the one that answered last.

    Args:
        options: the URLs, and how to ask there.
        spec: who looks names up.
    """

    def __init__(self, options: PatroniDiscovery, spec: ResolverSpec) -> None:
        self._options = options
        self._resolver = make_resolver(spec)
        self._context: ssl.SSLContext | None = None
        self._first = 0

    async def ask(self, scope: str) -> Told:
        """As Source."""
        urls = tuple(self._options.urls)
        errors: list[str] = []
        for number in range(len(urls)):
            at = (self._first + number) % len(urls)
            try:
                told = await self._ask_at(urls[at], scope)
            except (NoAnswer, Malformed) as exc:
                errors.append(f"{urls[at]}: {printable(str(exc))}")
            else:
                self._first = at
                return told
        self._context = None  # its files may have changed
        raise NoAnswer("; ".join(errors))

    async def _ask_at(self, url: str, scope: str) -> Told:
        target = target_of(url)
        context = self._tls() if target.tls else None
        timeout = self._options.timeout
        answer = await get(target, "/cluster", resolver=self._resolver, context=context, timeout=timeout)
        report = read_cluster(answer.body, self._options)
        if scope and report.scope not in ("", scope):  # old versions do not tell it
            raise NoAnswer(f"it tells of another cluster, {report.scope}, not of {scope}")
        return Told(report, url, answer.date)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            import ssl

            try:
                context = ssl.create_default_context(cafile=self._options.cafile)
                if self._options.certfile is not None:
                    # Without a function it would ask for the key's password at the terminal.
                    context.load_cert_chain(self._options.certfile, self._options.keyfile, password=str)
            except (OSError, ValueError) as exc:
                raise NoAnswer(f"the files for TLS cannot be used: {printable(str(exc))}") from None
            self._context = context
        return self._context
