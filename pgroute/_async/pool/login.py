"""Logs in with the settings of a role, or without them where a server accepts none at the start of a session."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import async_wait_for_call
from pgroute._psycopg.login import ConnectAborted, unwanted
from pgroute.core.config.credentials import login_of, request_for, with_credentials
from pgroute.core.config.role_config import POOL_CONNECT_TIMEOUT
from pgroute.core.config.settings import join_options
from pgroute.core.faults.classify import FaultKind, connect_fault, one_line, options_refused
from pgroute.runtime.connect_backoff import ConnectBackoff, Options
from pgroute.runtime.credential_call import CredentialsFailed, late, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.config.credentials import CredentialRequest
    from pgroute.core.config.dsn import Params
    from pgroute.core.config.role_config import RoleConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.runtime.credentials import CredentialSource

logger = logging.getLogger("pgroute")


class NoCredentials(psycopg.OperationalError):
    """The user's credentials function gave none, which says nothing about the server."""


class AsyncLogin:
    """Opens the connections of a role at a host.

    The settings go into libpq's ``options``. Poolers refuse these, because their clients share server connections. What
    a refused login means depends on its text:

    - It blames the options: a login without them follows at once. If that succeeds, they are left out from then on.
    - It blames the login itself: the settings are not the cause.
    - Any other: there is no second login now, because it might be refused for the same cause and count towards a
      lock-out. The next attempt, when it is due, goes without the settings; if it succeeds, one with them decides.

    With a credentials function, a login that is refused for itself is followed by one more if the function, asked
    afresh, gives other credentials. While logins go on to be refused, each attempt is made with fresh ones, once.

    Args:
        config: how the role connects.
        host: the host as the topology knew it when the pool was made.
        connection_class: psycopg's, or a subclass.
        backoff: the role's, which remembers what was found out.
        source: calls the user's credentials function; None: there is none.

    Attributes:
        seconds: connect_timeout, which also bounds what else a new connection needs.
        undecided: the last refusal may have been for the settings alone, so it says nothing about the host.
    """

    def __init__(
        self,
        config: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.AsyncConnection[Any]],
        backoff: ConnectBackoff,
        source: CredentialSource | None,
    ) -> None:
        self.undecided = False
        self._config = config
        self._host = host
        self._class = connection_class
        self._backoff = backoff
        self._source = source
        self._own_settings = bool(config.options.settings)
        self._params = config.params(host.key)
        seconds = float(self._params.get("connect_timeout", 0))
        self.seconds: float = seconds if seconds > 0 else float(POOL_CONNECT_TIMEOUT)
        self._arguments: dict[str, Any] = {**config.arguments, "autocommit": True}
        if host.address is not None and not host.key.is_socket:
            self._arguments["hostaddr"] = host.address

    async def open(self) -> psycopg.AsyncConnection[Any]:
        """Return a connection in autocommit mode.

        Raises:
            NoCredentials: the credentials function gave none.
            psycopg.Error: as psycopg's connect.
        """
        self.undecided = False
        source = self._source
        if source is None:
            return await self._open(self._params)
        request = source.first(request_for(self._host.key, self._config.role.value))
        given = await self._ask(source, request)
        try:
            return await self._try(source, request, given)
        except psycopg.Error as exc:
            if request.refused or not self._refused(exc):
                raise
            refusal = str(exc)
        try:
            afresh = await self._ask(source, replace(request, refused=True))
        except NoCredentials as exc:
            refusal = f"{one_line(refusal)}; asked afresh: {exc}"
            afresh = given
        if afresh == given:
            raise psycopg.OperationalError(refusal)
        return await self._try(source, request, afresh)

    async def _ask(self, source: CredentialSource, request: CredentialRequest) -> Params:
        call = source.ask(request)
        done = await async_wait_for_call(call, self.seconds, unwanted.get())
        if unwanted.get()():
            raise ConnectAborted("the pool was closed while it connected")
        if not done:
            call.missed = True
            raise NoCredentials(reason(late(self.seconds)))
        try:
            return call.result()
        except CredentialsFailed as exc:
            failure = str(exc)
        raise NoCredentials(reason(failure))

    async def _try(
        self, source: CredentialSource, request: CredentialRequest, given: Params
    ) -> psycopg.AsyncConnection[Any]:
        """Log in with these credentials, unless the host has refused them to another a moment ago."""
        params = with_credentials(self._params, given)
        login = login_of(params)
        text = source.refusal(request, login)
        if text is not None:
            source.note_refusal(request, None, text)
            raise psycopg.OperationalError(text)
        try:
            conn = await self._open(params)
        except psycopg.Error as exc:
            if self._refused(exc):
                source.note_refusal(request, login if self._config.plain else None, str(exc))
            raise
        source.note_success(request)
        return conn

    def _refused(self, exc: psycopg.Error) -> bool:
        return not self.undecided and connect_fault(exc).kind is FaultKind.REJECTED

    async def _open(self, params: Mapping[str, str]) -> psycopg.AsyncConnection[Any]:
        self.undecided = False
        plain = full = {**params, **self._arguments}
        if self._config.settings:
            full = {**plain, "options": join_options(plain.get("options"), self._config.settings)}
        known = self._backoff.options(self._host)
        if full is plain or known is Options.LEFT_OUT:
            return await self._connect(plain)
        without = None
        if known is Options.DOUBTED:
            self._backoff.note_options(self._host, Options.SENT)
            without = await self._connect(plain)
        try:
            conn = await self._connect(full)
        except BaseException as exc:
            if self._refuses_settings(exc, let_in_without=without is not None):
                if without is None:
                    without = await self._connect(plain)
                self._leave_out()  # only now: the text alone may mean something else
                return without
            if without is not None:
                await without.close()
            raise
        if without is not None:
            await without.close()
        return conn

    async def _connect(self, params: dict[str, Any]) -> psycopg.AsyncConnection[Any]:
        return await self._class.connect("", **params)

    def _refuses_settings(self, exc: BaseException, *, let_in_without: bool) -> bool:
        if not isinstance(exc, psycopg.OperationalError):
            return False
        names = {name.decode() for name in (exc.pgconn.user, exc.pgconn.db)} if exc.pgconn else set()
        refused = options_refused(exc, names=names)
        if refused is not None:
            return refused
        if not (let_in_without or self._own_settings):
            # The user's own settings may be refused because they are wrong: they must not be dropped for that.
            self.undecided = True
            self._backoff.note_options(self._host, Options.DOUBTED)
        return let_in_without

    def _leave_out(self) -> None:
        self._backoff.note_options(self._host, Options.LEFT_OUT)
        if self._own_settings:
            logger.warning(
                "%s refuses settings at the start of a session, as poolers do: PoolOptions(settings=) is not in force "
                "there",
                self._host.key,
            )
