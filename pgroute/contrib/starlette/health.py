"""Routes for health checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from pgroute.contrib.starlette.database import STATE, router_of
from pgroute.contrib.web.health import health_check
from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request


def health_routes(
    roles: Sequence[str | Role] = ("writer",), *, details: bool = False, state: str = STATE
) -> Router:
    """Return routes for health checks, to be mounted in an application.

    ``app.mount("/health", health_routes())`` makes four paths. ``/health/live`` is always 200: a process without a
    primary needs no restart, its router finds the next one. ``/health/ready`` is 200 if there is a host for each of
    *roles*, else 503. ``/health/writer`` and ``/health/reader`` ask for one role. No request asks a server; they tell
    what the last probes have seen.

    Args:
        roles: what the application cannot do without: "writer", "reader" or both.
        details: tell the hosts and the reasons too: not for the public.
        state: the key of the router.

    Raises:
        ConfigError: an argument is invalid.
    """
    check = health_check(roles, details=details)

    def asking(role: Role | None) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def answer(request: Request) -> JSONResponse:
            topology = router_of(request, state=state).topology
            return JSONResponse(check.describe(topology), 200 if check.ready(topology, role) else 503)

        return answer

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"live": True})

    return Router(
        [
            Route("/live", live),
            Route("/ready", asking(None)),
            *(Route(f"/{role.value}", asking(role)) for role in Role),
        ]
    )
