"""Sessions as dependencies; their transaction ends before the answer is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003  (FastAPI reads annotations)
from typing import Annotated, Any

from fastapi import Depends
from fastapi.requests import HTTPConnection  # noqa: TC002  (FastAPI reads annotations)
from psycopg import AsyncConnection

from pgroute import AsyncCausal, AsyncRouter
from pgroute.contrib.starlette.database import STATE, carries_position, causal_of, router_of


class Dependencies:
    """The dependencies of one router.

    Give sessions the scope "function", as `Reader` and `Writer` have it: they end when the path operation function has
    returned, and the answer is sent if their COMMIT has succeeded. With FastAPI's default the client would be told
    "200" by a request whose COMMIT may still fail. An exception, HTTPException too, rolls back.

    With ReadYourWrites, readers see the sessions of the user's requests before.

    Args:
        state: the key of the router; see `lifespan`.
    """

    def __init__(self, state: str = STATE) -> None:
        self._state = state

    async def router(self, request: HTTPConnection) -> AsyncRouter[Any]:
        """Return the router, for `run()` and all the rest."""
        return router_of(request, state=self._state)

    async def causal(self, request: HTTPConnection) -> AsyncCausal[Any]:
        """Return the causal sessions of the request."""
        return causal_of(request, state=self._state)

    async def writer(self, request: HTTPConnection) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a session on the primary."""
        async with self._sessions(request).writer() as conn:
            yield conn

    async def reader(self, request: HTTPConnection) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a read-only session, on a standby if there is one."""
        async with self._sessions(request).reader() as conn:
            yield conn

    def _sessions(self, request: HTTPConnection) -> AsyncRouter[Any] | AsyncCausal[Any]:
        if carries_position(request.scope, self._state):
            return causal_of(request, state=self._state)
        return router_of(request, state=self._state)


_default = Dependencies()

RequestRouter = Annotated[AsyncRouter[Any], Depends(_default.router)]
"""The router, for `run()` and all the rest."""

CausalSessions = Annotated[AsyncCausal[Any], Depends(_default.causal)]
"""The causal sessions of the request: ``causal.writer()``, ``causal.reader()``, ``causal.run()``."""

Writer = Annotated[AsyncConnection[Any], Depends(_default.writer, scope="function")]
"""A session on the primary; its transaction ends before the answer is sent."""

Reader = Annotated[AsyncConnection[Any], Depends(_default.reader, scope="function")]
"""A read-only session, on a standby if there is one; it ends before the answer is sent."""
