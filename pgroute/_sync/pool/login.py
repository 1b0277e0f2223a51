# Generated from pgroute/_async/pool/login.py by .ci/unasync.py: edit that file, not this one.
"""Logging in with the settings of a role, or without where a server takes none at the start of a session."""

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


class Login:
    """Opens the connections of a role at a host.

    The settings go into libpq's ``options``, which poolers refuse (they would share them between their clients). After
    a text that blames the options one login without them follows at once, and if it is let in, that decides; a text
    that blames the login decides by itself. After any other there is no second login, which might be refused for the
    same cause (lock-outs): the next attempt, when it is due, goes without them, and if it is let in, one with them
    decides.

    Args:
        plan: how the role connects.
        host: the host as the topology knew it when the pool was made.
        connection_class: psycopg's, or a subclass.
        bars: the role's, which remember what was found out.

    Attributes:
        undecided: the last refusal may have been for the settings alone, and so is no word about the host.
    """

    def __init__(
        self,
        plan: RoleConfig,
        host: HostInfo,
        connection_class: type[psycopg.Connection[Any]],
        bars: ConnectBackoff,
    ) -> None:
        self.undecided = False
        self._host = host
        self._class = connection_class
        self._bars = bars
        self._own_settings = bool(plan.options.settings)
        self._plain: dict[str, Any] = {**plan.params(host.key), **plan.arguments, "autocommit": True}
        if host.address is not None and not host.key.is_socket:
            self._plain["hostaddr"] = host.address
        self._full = self._plain
        if plan.settings:
            self._full = {**self._plain, "options": join_options(self._plain.get("options"), plan.settings)}

    def open(self) -> psycopg.Connection[Any]:
        """Return a connection in autocommit mode.

        Raises:
            psycopg.Error: as psycopg's connect.
        """
        self.undecided = False
        known = self._bars.options(self._host)
        if self._full is self._plain or known is Options.LEFT_OUT:
            return self._connect(self._plain)
        without = None
        if known is Options.DOUBTED:
            self._bars.note_options(self._host, Options.SENT)
            without = self._connect(self._plain)
        try:
            conn = self._connect(self._full)
        except BaseException as exc:
            if self._refuses_settings(exc, let_in_without=without is not None):
                if without is None:
                    without = self._connect(self._plain)
                self._leave_out()  # now that one was let in: the words alone may be about something else
                return without
            if without is not None:
                without.close()
            raise
        if without is not None:
            without.close()
        return conn

    def _connect(self, params: dict[str, Any]) -> psycopg.Connection[Any]:
        return self._class.connect("", **params)

    def _refuses_settings(self, exc: BaseException, *, let_in_without: bool) -> bool:
        if not isinstance(exc, psycopg.OperationalError):
            return False
        names = {name.decode() for name in (exc.pgconn.user, exc.pgconn.db)} if exc.pgconn else set()
        refused = options_refused(exc, names=names)
        if refused is not None:
            return refused
        if not (let_in_without or self._own_settings):
            # The user's own may be refused for what they say, and are not to be dropped for it.
            self.undecided = True
            self._bars.note_options(self._host, Options.DOUBTED)
        return let_in_without

    def _leave_out(self) -> None:
        self._bars.note_options(self._host, Options.LEFT_OUT)
        if self._own_settings:
            logger.warning(
                "%s refuses settings at the start of a session, as poolers do: PoolOptions(settings=) is not in force "
                "there",
                self._host.key,
            )
