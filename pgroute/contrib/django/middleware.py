"""The middleware that carries positions in a signed cookie: users see what they have written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core import signing
from django.db import connections
from django.utils.cache import patch_vary_headers

from pgroute.contrib.django.positions import Positions, current
from pgroute.core.config.checks import check_bool
from pgroute.core.model.position import Position
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

_SALT = "pgroute.position"
_MOST = 8
"""Positions in a cookie: one for each cluster."""


class PositionMiddleware:
    """Carries positions from request to request, so that readers are not behind what the user has seen.

    It comes first in MIDDLEWARE: what those before it write and read is not noted. The cookie goes where the session's
    cookie goes. At the end of a request it gives the connections back.

    Make a subclass for other values.

    Args:
        get_response: the next middleware, or the view.

    Attributes:
        cookie_name: the cookie.
        max_age: seconds for which a position is kept; standbys are no longer behind.
        on_reads: a request that only reads is noted too, so that the next one does not go back behind it.
    """

    sync_capable = True
    async_capable = True
    cookie_name: str = "pgroute_position"
    max_age: int = 600
    on_reads: bool = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        check_bool("on_reads", self.on_reads)
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Serve a request."""
        if self._is_async:
            return self._serve(request)
        positions = self._begin(request)
        token = current.set(positions)
        try:
            response = self.get_response(request)
            give_back(keep_read=_streams(response))
        finally:
            current.reset(token)
        return self._remember(request, response, positions)

    async def _serve(self, request: Any) -> Any:
        positions = self._begin(request)
        token = current.set(positions)
        try:
            response = await self.get_response(request)
            # In the thread that has the connections of this request.
            await sync_to_async(give_back, thread_sensitive=True)(keep_read=_streams(response))
        finally:
            current.reset(token)
        return self._remember(request, response, positions)

    def _begin(self, request: Any) -> Positions:
        """Return the positions of a request; one whose cookie is forged, old or strange has none."""
        try:
            told = signing.loads(request.COOKIES.get(self.cookie_name, ""), salt=_SALT, max_age=self.max_age)
            given = [Position.parse(text) for text in told]
        except (signing.BadSignature, ConfigError, TypeError):
            given = []
        return Positions(given[:_MOST], on_reads=self.on_reads)

    def _remember(self, request: Any, response: Any, positions: Positions) -> Any:
        if _streams(response):
            content = response.streaming_content
            carry = _carry_async if response.is_async else _carry
            response.streaming_content = carry(content, positions)
        found = () if positions.lost else positions.found()
        if found and set(found) != set(positions.given):
            response.set_cookie(
                self.cookie_name,
                signing.dumps([str(position) for position in found[:_MOST]], salt=_SALT),
                max_age=self.max_age,
                domain=settings.SESSION_COOKIE_DOMAIN,
                path=settings.SESSION_COOKIE_PATH,
                secure=settings.SESSION_COOKIE_SECURE or None,
                httponly=True,
                samesite=settings.SESSION_COOKIE_SAMESITE,
            )
            patch_vary_headers(response, ("Cookie",))
        elif not found and self.cookie_name in request.COOKIES:
            response.delete_cookie(
                self.cookie_name,
                path=settings.SESSION_COOKIE_PATH,
                domain=settings.SESSION_COOKIE_DOMAIN,
                samesite=settings.SESSION_COOKIE_SAMESITE,
            )
        return response


def _streams(response: Any) -> bool:
    """Return whether an answer is made while it is sent; a file is sent as it is."""
    return response.streaming and getattr(response, "file_to_stream", None) is None


def _carry(content: Iterable[Any], positions: Positions) -> Iterator[Any]:
    """Yield the parts of an answer, which are made as its request was served: readers see what that has written."""
    parts = iter(content)
    while True:
        token = current.set(positions)
        try:
            part = next(parts)
        except StopIteration:
            return
        finally:
            current.reset(token)
        yield part


async def _carry_async(content: AsyncIterable[Any], positions: Positions) -> AsyncIterator[Any]:
    parts = aiter(content)
    while True:
        token = current.set(positions)
        try:
            part = await anext(parts)
        except StopAsyncIteration:
            return
        finally:
            current.reset(token)
        yield part


def give_back(*, keep_read: bool = False) -> None:
    """Give back the connections of this thread that are in no transaction, which notes their positions.

    Args:
        keep_read: leave those whose cursors are open to the end of the request: the answer may come from there.
    """
    from pgroute.contrib.django.base import DatabaseWrapper

    for connection in connections.all(initialized_only=True):
        if not isinstance(connection, DatabaseWrapper) or connection.in_atomic_block:
            continue
        if keep_read and connection.loan is not None and connection.loan.being_read:
            continue
        connection.close()
