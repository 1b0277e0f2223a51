"""Work in the background runs in no caller's context: it would keep a request alive, and all that belongs to it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable

import pgroute
from pgroute.testing import LocalCluster
from tests.support import async_eventually


class Request:
    """What a framework keeps in a context variable."""


REQUEST: contextvars.ContextVar[Request] = contextvars.ContextVar("REQUEST")


def gone(ref: Callable[[], object]) -> bool:
    gc.collect()
    return ref() is None


def test_a_router_keeps_nothing_of_the_request_that_opened_it(shared: LocalCluster) -> None:
    def serve() -> weakref.ref[Request]:
        request = Request()
        REQUEST.set(request)
        router.open()
        with router.writer() as conn:
            conn.execute("SELECT 1")
        with router.listen("a"):
            pass
        return weakref.ref(request)

    router = pgroute.Router(shared.dsn)
    try:
        ref = contextvars.copy_context().run(serve)
        assert gone(ref)
    finally:
        router.close()


async def test_an_async_router_keeps_nothing_of_the_request_that_opened_it(shared: LocalCluster) -> None:
    async def serve() -> weakref.ref[Request]:
        request = Request()
        REQUEST.set(request)
        await router.open()
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
        async with router.listen("a"):
            pass
        return weakref.ref(request)

    router = pgroute.AsyncRouter(shared.dsn)
    try:
        ref = await asyncio.create_task(serve())
        await async_eventually(lambda: gone(ref))  # asyncio keeps cancelled timers for a while
    finally:
        await router.close()
