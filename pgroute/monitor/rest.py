"""One GET to a REST API, bounded in time and size; in the monitor's loop, without its default executor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgroute.core.config.dns_names import Question
from pgroute.core.config.srv import is_address
from pgroute.core.discovery.http import read_response
from pgroute.core.discovery.report import Malformed
from pgroute.core.printable import printable
from pgroute.monitor.resolver import LookupFailed
from pgroute.monitor.sources import NoAnswer

if TYPE_CHECKING:
    import ssl

    from pgroute.core.config.rest_urls import Target
    from pgroute.core.discovery.http import Response
    from pgroute.monitor.resolver import Resolver

_CHUNK = 65_536


async def get(
    target: Target, path: str, *, resolver: Resolver, context: ssl.SSLContext | None, timeout: float
) -> Response:
    """Return the answer to a GET.

    Not urllib in a thread: its timeout begins again with each byte, its redirects lead anywhere, and its lookup of the
    name cannot be bounded.

    Args:
        target: where the API is.
        path: what is asked for.
        resolver: looks its name up.
        context: for TLS; None: without.
        timeout: seconds for all of it.

    Raises:
        NoAnswer: there was none in time, or it is not one with the status 200.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _get(target, path, resolver, context, timeout)
    except TimeoutError:
        raise NoAnswer(f"no answer in {timeout:g} s") from None
    except Malformed as exc:
        raise NoAnswer(printable(str(exc))) from None
    except LookupFailed as exc:
        raise NoAnswer(printable(str(exc))) from None
    except (OSError, ValueError) as exc:  # a wrong certificate is both
        raise NoAnswer(printable(str(exc)) or type(exc).__name__) from None


async def _get(
    target: Target, path: str, resolver: Resolver, context: ssl.SSLContext | None, timeout: float
) -> Response:
    if is_address(target.host):
        addresses = [target.host]
    else:
        looked = await resolver.look_up(Question(target.host), timeout)
        addresses = [record for record in looked.records if isinstance(record, str)]
    reader, writer = await _connect(addresses, target, context)
    try:
        writer.write(target.request(path))
        raw, ended = bytearray(), False
        while (response := read_response(bytes(raw), ended=ended)) is None:
            chunk = await reader.read(_CHUNK)
            raw += chunk
            ended = not chunk
        return response
    finally:
        writer.transport.abort()  # close() would wait for a server that does not take what was sent


async def _connect(
    addresses: list[str], target: Target, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that does not refuse.

    Raises:
        OSError: none of them.
    """
    tls = {} if context is None else {"ssl": context, "server_hostname": target.host.rstrip(".")}
    for address in addresses[:-1]:
        try:
            return await asyncio.open_connection(address, target.port, **tls)  # type: ignore[arg-type]
        except OSError:
            continue
    return await asyncio.open_connection(addresses[-1], target.port, **tls)  # type: ignore[arg-type]
