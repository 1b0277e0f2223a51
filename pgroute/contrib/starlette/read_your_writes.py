"""A middleware that carries the position of each user in a cookie, so that users see what they have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response

from pgroute.contrib.starlette.database import STATE, sessions_of
from pgroute.contrib.web.position_cookie import SameSite, cookie_name, position_cookie
from pgroute.core.config.discreet import discreet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pgroute import AsyncCausal
    from pgroute.contrib.web.request_sessions import RequestSessions


class ReadYourWrites:
    """A middleware: cookie in, cookie out. Readers of a request see the sessions of the user's requests before it.

    It concerns `causal_of`, and the `Reader` and `Writer` of `pgroute.contrib.fastapi`. The cookie holds a Position. It
    is set when the sessions that have ended before the answer begins have moved it on, and deleted when a failover has
    lost the position: that request fails with PositionLost, the next one begins without. A websocket reads the cookie
    and cannot set it.

    Args:
        app: the application within.
        secret_key: signs the cookie: at least 16 characters, the same in each process. Of several the last one signs,
            and all are accepted.
        state: the key of the router.
        cookie: the name of the cookie; None: "pgroute-position", and for another *state* "pgroute-position-STATE".
        max_age: seconds after which it is worthless: longer than any standby lags that is used.
        path: the browser sends it below this path only.
        domain: the browser sends it to this domain and those below it; None: only to the host that has set it.
        secure: the browser sends it over TLS only.
        samesite: "lax", "strict" or "none".

    Raises:
        ConfigError: an argument is invalid; the error does not show the key.
    """

    @discreet
    def __init__(
        self,
        app: ASGIApp,
        secret_key: str | bytes | Sequence[str | bytes],
        *,
        state: str = STATE,
        cookie: str | None = None,
        max_age: int = 600,
        path: str = "/",
        domain: str | None = None,
        secure: bool = True,
        samesite: SameSite = "lax",
    ) -> None:
        self._app = app
        self._state = state
        self._cookie = position_cookie(
            secret_key,
            name=cookie_name(state, STATE) if cookie is None else cookie,
            max_age=max_age,
            path=path,
            domain=domain,
            secure=secure,
            samesite=samesite,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a websocket or a lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        value = HTTPConnection(scope).cookies.get(self._cookie.name)
        sessions = sessions_of(scope, self._state, self._cookie.read(value))

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._set_cookie(MutableHeaders(scope=message), sessions)
            await send(message)

        await self._app(scope, receive, send if scope["type"] == "websocket" else send_with_cookie)

    def _set_cookie(self, headers: MutableHeaders, sessions: RequestSessions[AsyncCausal[Any]]) -> None:
        cookie, response = self._cookie, Response()
        if sessions.lost:
            response.delete_cookie(
                cookie.name,
                path=cookie.path,
                domain=cookie.domain,
                secure=cookie.secure,
                httponly=True,
                samesite=cookie.samesite,
            )
        elif (position := sessions.advanced_to) is not None:
            response.set_cookie(
                cookie.name,
                cookie.write(position),
                max_age=cookie.max_age,
                path=cookie.path,
                domain=cookie.domain,
                secure=cookie.secure,
                httponly=True,
                samesite=cookie.samesite,
            )
        else:
            return
        headers.append("set-cookie", response.headers["set-cookie"])
