"""Logs in with the settings of a role, or without them where a server accepts none at the start of a session."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.core.config.options import join_options
from pgroute.core.faults.classify import options_refused
from pgroute.runtime.connect_backoff import ConnectBackoff, Options

if TYPE_CHECKING:
    from pgroute.core.config.router_config import RoleConfig
    from pgroute.core.model.host import HostInfo

logger = logging.getLogger("pgroute")


class AsyncLogin:
    """Opens the connections of a role at a host.

    The settings go into libpq's ``options``. Poolers refuse these, because their clients share server connections. What
    a refused login means depends on its text:

    - It blames the options: a login without them follows at once. If that succeeds, they are left out from then on.
    - It blames the login itself: the settings are not the cause.
    - Any other: there is no second login now, because it might be refused for the same cause and count towards a
      lock-out. The next attempt, when it is due, goes without the settings; if it succeeds, one with them decides.

    Args:
        config: how the role connects.
        host: the host as the topology knew it when the pool was made.
        connection_class: psycopg's, or a subclass.
        backoff: the role's, which remembers what was found out.

    Attributes:
        undecided: the last refusal may have been for the settings alone, so it says nothing about the host.
    """

    def __init__(
        self,
        config: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.AsyncConnection[Any]],
        backoff: ConnectBackoff,
    ) -> None:
        self.undecided = False
        self._host = host
        self._class = connection_class
        self._backoff = backoff
        self._own_settings = bool(config.options.settings)
        self._plain: dict[str, Any] = {**config.params(host.key), **config.arguments, "autocommit": True}
        if host.address is not None and not host.key.is_socket:
            self._plain["hostaddr"] = host.address
        self._full = self._plain
        if config.settings:
            self._full = {**self._plain, "options": join_options(self._plain.get("options"), config.settings)}

    async def open(self) -> psycopg.AsyncConnection[Any]:
        """Return a connection in autocommit mode.

        Raises:
            psycopg.Error: as psycopg's connect.
        """
        self.undecided = False
        known = self._backoff.options(self._host)
        if self._full is self._plain or known is Options.LEFT_OUT:
            return await self._connect(self._plain)
        without = None
        if known is Options.DOUBTED:
            self._backoff.note_options(self._host, Options.SENT)
            without = await self._connect(self._plain)
        try:
            conn = await self._connect(self._full)
        except BaseException as exc:
            if self._refuses_settings(exc, let_in_without=without is not None):
                if without is None:
                    without = await self._connect(self._plain)
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
