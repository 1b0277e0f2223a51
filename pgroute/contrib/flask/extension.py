"""The extension: a router in each process, and the sessions of a request."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple

from flask import Flask, current_app, has_request_context, request

from pgroute import Causal, Router
from pgroute.contrib.web.position_cookie import PositionCookie, SameSite, cookie_name, position_cookie
from pgroute.contrib.web.request_sessions import RequestSessions
from pgroute.core.callables import is_coroutine_function
from pgroute.core.config.checks import check_bool, check_mapping
from pgroute.core.config.discreet import discreet
from pgroute.errors import ConfigError
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg
    from flask import Response

    from pgroute import Session

_PREFIX = "PGROUTE"

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Opened:
    """The router of one process, opened when it is first needed."""

    def __init__(self, make: Callable[[], Router[Any]]) -> None:
        self._make = make
        self.after_fork()
        forked.register(self)

    def after_fork(self) -> None:
        """Leave the router to the parent."""
        self._lock = threading.Lock()
        self._router: Router[Any] | None = None

    def get(self) -> Router[Any]:
        forked.notice()
        if self._router is None:
            with self._lock:
                if self._router is None:
                    router = self._make()
                    router.open()
                    self._router = router
        return self._router

    def close(self) -> None:
        forked.notice()
        with self._lock:
            router, self._router = self._router, None
        if router is not None:
            router.close()


class _AppState(NamedTuple):
    opened: _Opened
    cookie: PositionCookie | None


class PGRoute:
    """A Flask extension. The first request that needs it opens a router in its process, also behind a fork.

    Each session is a ``with`` block, and has committed when the block ends: before the view returns its answer. Views
    are functions; an ``async def`` view runs in a new event loop for each request, where no pool can live.

    The configuration of the application comes before the arguments: ``PGROUTE_DSN``, and a mapping ``PGROUTE_OPTIONS``.
    ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS`` sign the cookie of *read_your_writes*.

    Args:
        app: the application; None: call `init_app` with it later.
        dsn: as for Router, or a function that returns a new Router each time, such as
            ``lambda: pgroute.from_config("pgroute.toml", kind="pool")``.
        read_your_writes: carry the Position of each user in a signed cookie, so that `reader()` sees what the user's
            requests before it have written and read.
        cookie: the name of the cookie; None: "pgroute-position", and with another *config_prefix*
            "pgroute-position-PREFIX".
        max_age: seconds after which it is worthless: longer than any standby lags that is used.
        secure: the browser sends the cookie over TLS only.
        samesite: "lax", "strict" or "none".
        config_prefix: of the keys in the configuration, for an application with several databases.
        options: further arguments of Router.

    Raises:
        ConfigError: an argument is invalid.
    """

    @discreet
    def __init__(
        self,
        app: Flask | None = None,
        dsn: str | Callable[[], Router[Any]] = "",
        *,
        read_your_writes: bool = False,
        cookie: str | None = None,
        max_age: int = 600,
        secure: bool = True,
        samesite: SameSite = "lax",
        config_prefix: str = _PREFIX,
        **options: Any,
    ) -> None:
        check_bool("read_your_writes", read_your_writes)
        self._dsn = dsn
        self._options = options
        self._prefix = config_prefix
        self._read_your_writes = read_your_writes
        self._cookie_options: dict[str, Any] = {
            "name": cookie_name(config_prefix, _PREFIX) if cookie is None else cookie,
            "max_age": max_age,
            "secure": secure,
            "samesite": samesite,
        }
        if app is not None:
            self.init_app(app)

    @discreet
    def init_app(self, app: Flask) -> None:
        """Take up an application. It connects nowhere yet.

        Args:
            app: the application, with its configuration.

        Raises:
            ConfigError: the configuration is invalid, or the application has been taken up before.
        """
        given: object = app
        if not isinstance(given, Flask):
            raise ConfigError(
                "app", type(app).__name__, "expected a Flask application; a DSN belongs in dsn="
            )
        states = app.extensions.setdefault("pgroute", {})
        if self in states:
            raise ConfigError("app", app.name, "expected one call of init_app() for each application")
        cookie = self._make_cookie(app) if self._read_your_writes else None
        opened = _Opened(self._maker(app))
        states[self] = _AppState(opened, cookie)
        # At the exit of the process too, before the interpreter ends its threads.
        weakref.finalize(app, opened.close)
        if cookie is not None:
            app.after_request(self._set_cookie)

    @property
    def router(self) -> Router[Any]:
        """The router of this process; it is opened now if it was not yet."""
        return self._state.opened.get()

    @property
    def causal(self) -> Causal[Any]:
        """The sessions of the request, each of which sees those before it.

        With *read_your_writes* they see the user's requests before it too.

        Raises:
            RuntimeError: there is no request.
        """
        return self._sessions().causal

    def writer(self, timeout: float | None = None) -> Session[Any]:
        """Return a context manager as `Router.writer()` does.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.

        Raises:
            RouteError: on entering or leaving, as with `Router.writer()`; PositionLost too.
        """
        return (self.causal if self._carries_position() else self.router).writer(timeout)

    def reader(self, timeout: float | None = None) -> Session[Any]:
        """Return a context manager as `Router.reader()` does.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.

        Raises:
            RouteError: on entering or leaving, as with `Router.reader()`; PositionLost too.
        """
        return (self.causal if self._carries_position() else self.router).reader(timeout)

    def run(self, fn: Callable[[psycopg.Connection[Any], *Ts], T], /, *args: *Ts, **options: Any) -> T:
        """Call ``fn(conn, *args)`` in a transaction and return its result, as `Router.run()` does.

        Args:
            fn: the body, a function of a connection. It must not commit: the router does.
            args: further arguments of *fn*.
            options: of `Router.run()`.

        Raises:
            Exception: as with `Router.run()`; PositionLost too.
        """
        return (self.causal if self._carries_position() else self.router).run(fn, *args, **options)

    def close(self) -> None:
        """Close the router of this process; the next request opens another one. The exit of the process does this."""
        self._state.opened.close()

    @property
    def _state(self) -> _AppState:
        state: _AppState | None = current_app.extensions.get("pgroute", {}).get(self)
        if state is None:
            raise RuntimeError(
                f"call init_app() of this PGRoute with the application {current_app.name!r} first"
            )
        return state

    def _maker(self, app: Flask) -> Callable[[], Router[Any]]:
        dsn: str | Callable[[], Router[Any]] = app.config.get(f"{self._prefix}_DSN", self._dsn)
        configured = app.config.get(f"{self._prefix}_OPTIONS")
        check_mapping(f"{self._prefix}_OPTIONS", configured)
        options = {**self._options, **(configured or {})}
        if callable(dsn):
            if is_coroutine_function(dsn):
                raise ConfigError(
                    "dsn", dsn, "expected a function that returns a Router, no coroutine function"
                )
            if options:
                raise ConfigError(
                    ", ".join(options), "...", "expected no options beside a function: give them in it"
                )
            return dsn
        Router(dsn, **options)  # so that a mistake is told now, not to the first request
        return lambda: Router(dsn, **options)

    def _make_cookie(self, app: Flask) -> PositionCookie:
        key = app.secret_key
        if not key:
            raise ConfigError(
                "SECRET_KEY", key, "expected one, which read_your_writes=True signs its cookie with"
            )
        old = app.config.get("SECRET_KEY_FALLBACKS") or ()
        if isinstance(old, (str, bytes)) or not isinstance(old, Iterable):
            raise ConfigError("SECRET_KEY_FALLBACKS", type(old).__name__, "expected a list of secrets")
        return position_cookie([*old, key], **self._cookie_options)

    def _carries_position(self) -> bool:
        return has_request_context() and self._state.cookie is not None

    def _sessions(self) -> RequestSessions[Causal[Any]]:
        held: dict[PGRoute, RequestSessions[Causal[Any]]] = request.environ.setdefault("pgroute", {})
        sessions = held.get(self)
        if sessions is None:
            cookie = self._state.cookie
            after = None if cookie is None else cookie.read(request.cookies.get(cookie.name))
            sessions = held[self] = RequestSessions(self.router.causal, after)
        return sessions

    def _set_cookie(self, response: Response) -> Response:
        cookie = self._state.cookie
        sessions: RequestSessions[Causal[Any]] | None = request.environ.get("pgroute", {}).get(self)
        if cookie is None or sessions is None:
            return response
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
        return response
