"""A router for as long as an application serves, and the way to it from a request."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pgroute import AsyncRouter
from pgroute.contrib.web.request_sessions import RequestSessions
from pgroute.core.callables import is_coroutine_function
from pgroute.core.config.discreet import discreet
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, MutableMapping
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import HTTPConnection

    from pgroute import AsyncCausal, Position

    Lifespan = Callable[[Any], AbstractAsyncContextManager[dict[str, AsyncRouter[Any]]]]

STATE = "pgroute"
"""The key of a router in the state of an application."""


@discreet
def lifespan(
    dsn: str | Callable[[], AsyncRouter[Any]] = "", *, state: str = STATE, **options: Any
) -> Lifespan:
    """Return a lifespan for ``Starlette(lifespan=)`` or ``FastAPI(lifespan=)``, which opens a router in each process.

    No host needs to be up: the application starts, and its requests wait. At the end sessions in flight have 5 s.

    An application with a lifespan of its own enters this one there, and yields its state as part of its own::

        @asynccontextmanager
        async def own(app):
            async with database(app) as state:
                yield {**state, ...}

    Args:
        dsn: as for AsyncRouter, or a function that returns a new AsyncRouter each time, such as
            ``lambda: pgroute.from_config("pgroute.toml", kind="async_pool")``.
        state: the key of the router in ``request.state``, for an application with several databases.
        options: further arguments of AsyncRouter.

    Raises:
        ConfigError: an argument of AsyncRouter is invalid.
    """
    if callable(dsn):
        if is_coroutine_function(dsn):
            raise ConfigError(
                "dsn", dsn, "expected a function that returns an AsyncRouter, no coroutine function"
            )
        if options:
            raise ConfigError(
                ", ".join(options), "...", "expected no options beside a function: give them in it"
            )
        make = dsn
    else:
        AsyncRouter(dsn, **options)  # so that a mistake is told now, not when the server has started

        def make() -> AsyncRouter[Any]:
            return AsyncRouter(dsn, **options)

    @asynccontextmanager
    async def opened(_: Any) -> AsyncIterator[dict[str, AsyncRouter[Any]]]:
        async with make() as router:
            yield {state: router}

    return opened


def router_of(request: HTTPConnection, *, state: str = STATE) -> AsyncRouter[Any]:
    """Return the router of an application, in one of its requests or websockets.

    Args:
        request: a Request or a WebSocket.
        state: the key of the router.

    Raises:
        RuntimeError: the application has no such router.
    """
    return find_router(request.scope, state)


def find_router(scope: MutableMapping[str, Any], state: str) -> AsyncRouter[Any]:
    """Return the router of an application, by the scope of a request."""
    router = scope.get("state", {}).get(state)
    if isinstance(router, AsyncRouter):
        return router
    if router is not None:
        raise RuntimeError(f"state[{state!r}] is no AsyncRouter: a lifespan has put something else there")
    raise RuntimeError(
        f"the state of this application has no router {state!r}: create it with lifespan=lifespan(DSN), have your own"
        " lifespan yield what that one yields, and use a server or a test client that runs the lifespan"
    )


def causal_of(request: HTTPConnection, *, state: str = STATE) -> AsyncCausal[Any]:
    """Return the sessions of a request, each of which sees those before it; all calls return the same object.

    With ReadYourWrites they see the earlier requests of the user too.

    Args:
        request: a Request or a WebSocket.
        state: the key of the router.

    Raises:
        RuntimeError: the application has no such router.
    """
    return sessions_of(request.scope, state).causal


def sessions_of(
    scope: MutableMapping[str, Any], state: str, after: Position | None = None
) -> RequestSessions[AsyncCausal[Any]]:
    """Return the sessions of a request, made at the first call.

    Args:
        scope: of the request.
        state: the key of the router.
        after: where they begin, if they are made now.
    """
    # Not in scope["state"]: some servers share that between requests.
    sessions: RequestSessions[AsyncCausal[Any]] | None = scope.get(f"pgroute.{state}")
    if sessions is None:
        router = find_router(scope, state)
        sessions = scope[f"pgroute.{state}"] = RequestSessions(router.causal, after)
    return sessions


def carries_position(scope: MutableMapping[str, Any], state: str) -> bool:
    """Return whether ReadYourWrites, or a call of `causal_of`, has begun causal sessions for a request."""
    return f"pgroute.{state}" in scope
