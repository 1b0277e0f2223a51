"""One GET to a REST API, bounded in time and size; in the monitor's loop, without its default executor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pgroute.core.config.dns_names import Question
from pgroute.core.config.srv import is_address
from pgroute.core.discovery.http import read_response
from pgroute.core.discovery.report import Malformed
from pgroute.core.printable import printable
from pgroute.monitor.resolver import LookupFailed
from pgroute.monitor.sources import NoAnswer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

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
        timeout: seconds for all of it. An address that says nothing has all of them; the next is asked beside it.

    Raises:
        NoAnswer: there was none in time, or it is not one with the status 200.
    """
    try:
        async with asyncio.timeout(timeout):
            until = asyncio.get_running_loop().time() + timeout
            addresses = await _addresses(target, resolver, timeout)
            return await _first_answer(addresses, until, lambda at: _ask(at, target, path, context))
    except TimeoutError:
        raise NoAnswer(f"no answer in {timeout:g} s") from None
    except Malformed as exc:
        raise NoAnswer(printable(str(exc))) from None
    except LookupFailed as exc:
        raise NoAnswer(printable(str(exc))) from None
    except (OSError, ValueError) as exc:  # a wrong certificate is both
        raise NoAnswer(printable(str(exc)) or type(exc).__name__) from None


async def _addresses(target: Target, resolver: Resolver, timeout: float) -> list[str]:
    if is_address(target.host):
        return [target.host]
    looked = await resolver.look_up(Question(target.host), timeout)
    return [record for record in looked.records if isinstance(record, str)]


async def _first_answer(
    addresses: list[str], until: float, ask: Callable[[str], Coroutine[Any, Any, Response]]
) -> Response:
    """Return what the first address answers that does so, whatever the others do.

    Args:
        addresses: are asked in this order: each when the one before it has failed, or has had its share of the time.
        until: the loop's time at which the last of them has had its share.
        ask: asks at an address.

    Raises:
        OSError, ValueError: why the last one to fail has.
    """
    loop = asyncio.get_running_loop()
    share = (until - loop.time()) / len(addresses)
    waiting = list(addresses)
    asked: set[asyncio.Task[Response]] = set()
    error: BaseException | None = None
    try:
        while waiting or asked:
            if waiting:
                asked.add(loop.create_task(ask(waiting.pop(0))))
            done, asked = await asyncio.wait(
                asked, timeout=share if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            errors = {task: task.exception() for task in done}
            for task, error in errors.items():
                if error is None:
                    return task.result()
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    assert error is not None  # a resolved name has an address
    raise error


async def _ask(address: str, target: Target, path: str, context: ssl.SSLContext | None) -> Response:
    tls = {} if context is None else {"ssl": context, "server_hostname": target.host.rstrip(".")}
    reader, writer = await asyncio.open_connection(address, target.port, **tls)  # type: ignore[arg-type]
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
