"""The database backend: Django's own for PostgreSQL, with connections of a router's."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.utils import debug_transaction
from django.utils.asyncio import async_unsafe
from django.utils.functional import cached_property

from pgroute._sync.router import manager_of
from pgroute.contrib.django.client import DatabaseClient
from pgroute.contrib.django.creation import DatabaseCreation
from pgroute.contrib.django.errors import ErrorWrapper
from pgroute.contrib.django.features import DatabaseFeatures
from pgroute.contrib.django.loan import Loan, lend
from pgroute.contrib.django.options import Parameters, make_spec, read_options
from pgroute.contrib.django.positions import current
from pgroute.contrib.django.routers import close_routers, router_for
from pgroute.contrib.django.threads import note_borrower
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError, PositionLost

if TYPE_CHECKING:
    from pgroute._sync.router import Router
    from pgroute.contrib.django.options import AliasOptions, RouterSpec
    from pgroute.contrib.django.stand_ins import Wrapper as PostgresWrapper
else:
    from django.db.backends.postgresql.base import DatabaseWrapper as PostgresWrapper

logger: logging.Logger = logging.getLogger("pgroute")

_OF_SESSION = ("cursor_factory", "prepare_threshold")
"""The parameters of a connection that a subclass may change: each session is given them."""

_SETTINGS = ("NAME", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS", "CONN_MAX_AGE", "TIME_ZONE")


class DatabaseWrapper(PostgresWrapper):
    """A thread's connection: taken from a pool of the router when it is needed, given back when Django closes it.

    Attributes:
        loan: the connection that it has; None: none.
    """

    connection: psycopg.Connection[Any] | None
    client_class = DatabaseClient
    creation_class = DatabaseCreation
    features_class = DatabaseFeatures
    pool = None
    """Django's own, of which there is none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loan: Loan | None = None
        self._read: Parameters | None = None
        self._options: AliasOptions | None = None
        self._params: Parameters | None = None
        self._spec: RouterSpec | None = None
        self._router: Router[Any] | None = None

    @cached_property
    def wrap_database_errors(self) -> ErrorWrapper:
        """Raises errors of the driver and of pgroute as Django's."""
        return ErrorWrapper(self)

    @property
    def role(self) -> Role:
        """Which pools its connections come from."""
        self._settle_settings()
        return self._settled_role()

    def _settled_role(self) -> Role:
        assert self._options is not None
        # Django makes and drops test databases under an alias of this name.
        return Role.WRITER if self.alias == NO_DB_ALIAS else self._options.role

    @property
    def spec(self) -> RouterSpec:
        """Which router its connections come from."""
        self._check_params(self.get_connection_params())
        assert self._spec is not None
        return self._spec

    @property
    def router(self) -> Router[Any]:
        """The router that its connections come from, open."""
        self._check_params(self.get_connection_params())
        return self._settled_router()

    def _settled_router(self) -> Router[Any]:
        assert self._spec is not None
        if self._router is None or not is_open(self._router):
            try:
                self._router = router_for(self._spec)
            except ConfigError as exc:
                raise self._improper(exc) from None
        return self._router

    def _settle_settings(self) -> None:
        """Read the settings anew if they have changed, as tests change the name of the database."""
        read = Parameters({name: self.settings_dict[name] for name in _SETTINGS})
        if read == self._read:
            return
        try:
            options = read_options(self.settings_dict["OPTIONS"])
        except ConfigError as exc:
            raise self._improper(exc) from None
        if self.settings_dict["CONN_MAX_AGE"] != 0:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: invalid CONN_MAX_AGE {self.settings_dict['CONN_MAX_AGE']!r}: expected 0, "
                "the default: the router's pools keep the connections open, for max_lifetime"
            )
        stock = SimpleNamespace(
            settings_dict={**self.settings_dict, "OPTIONS": dict(options.django)},
            ops=self.ops,
            timezone=self.timezone,
        )
        params = Parameters(PostgresWrapper.get_connection_params(stock))
        read["OPTIONS"] = dict(read["OPTIONS"])
        self._params, self._options, self._spec = params, options, make_spec(params, options)
        self._router, self._read = None, read

    def _improper(self, exc: ConfigError) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"DATABASES[{self.alias!r}]: {exc}")

    def get_connection_params(self) -> Parameters:
        """Return what Django's own backend would pass to psycopg.connect."""
        self._settle_settings()
        assert self._params is not None
        return Parameters(self._params)  # a subclass may change it

    def _check_params(self, given: Parameters) -> None:
        """Raise ImproperlyConfigured if a subclass gives other parameters than those that the router connects with."""
        if given == self._params:
            return
        self._settle_settings()
        assert self._params is not None
        changed = [
            name
            for name in {*given, *self._params}
            if name not in given or (name not in _OF_SESSION and given[name] != self._params.get(name))
        ]
        if changed:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: get_connection_params() of {type(self).__module__} changes "
                f"{', '.join(sorted(changed))}, but the router opens the connections: expected in OPTIONS, and as "
                "OPTIONS['credentials'] what a login needs, such as a password that changes"
            )

    @async_unsafe
    def get_new_connection(self, conn_params: Parameters) -> psycopg.Connection[Any]:
        """Return a connection from a pool of the router."""
        self._check_params(conn_params)
        assert self._options is not None
        isolation = self._isolation(self._options)
        loan = self._lend()
        conn = loan.hold()
        if (cursor_factory := conn_params["cursor_factory"]) is not conn.cursor_factory:
            conn.cursor_factory = cursor_factory
        if (threshold := conn_params["prepare_threshold"]) != conn.prepare_threshold:
            conn.prepare_threshold = threshold
        self.isolation_level: psycopg.IsolationLevel = isolation or psycopg.IsolationLevel.READ_COMMITTED
        if isolation is not None:
            conn.isolation_level = isolation
        self.loan = loan
        note_borrower(self)
        return conn

    def _isolation(self, options: AliasOptions) -> psycopg.IsolationLevel | None:
        level = options.django.get("isolation_level")
        if level is None:
            return None
        try:
            return psycopg.IsolationLevel(level)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {level} specified. Use one of the psycopg.IsolationLevel values."
            ) from None

    def _lend(self) -> Loan:
        # Django has just asked for the parameters, which settles the settings.
        role, router, positions = self._settled_role(), self._settled_router(), current.get()
        if positions is None:
            return lend(router, role, None)
        while True:
            try:
                return lend(router, role, positions.causality(router), note=positions.takes_note(role))
            except PositionLost:
                positions.lost = True
                raise
            except ConfigError:  # of another cluster, as after a restore
                if not positions.refuse(router):
                    raise

    def _close(self) -> None:
        loan, self.loan = self.loan, None
        # Django keeps a connection that is closed within atomic(): this one is somebody else's from now on.
        self.connection = None
        if loan is not None:
            with self.wrap_database_errors:
                loan.give_back()

    def leave(self) -> None:
        """Give the connection back for a thread that has ended without doing so; what is not committed is lost."""
        try:
            self._close()
        except Exception as exc:  # noqa: BLE001  (there is nobody to tell)
            logger.debug("a thread has left a connection: %s", exc)

    def close(self) -> None:
        """Give the connection back to its pool."""
        super().close()
        if self.alias == NO_DB_ALIAS and self._router is not None:
            close_routers(self.spec)

    def close_pool(self) -> None:
        """Close the routers to this database that nobody has a connection of."""
        close_routers(self.spec)

    def ensure_timezone(self) -> bool:
        """Give the connection the time zone of the settings, which tests change; return whether it had another."""
        return self.connection is not None and bool(self._configure_timezone(self.connection))

    def _configure_timezone(self, connection: psycopg.Connection[Any]) -> bool:
        name: str | None = self.timezone_name
        if not name or connection.pgconn.parameter_status(b"TimeZone") == name.encode():
            return False
        return super()._configure_timezone(connection)

    def _configure_role(self, connection: psycopg.Connection[Any]) -> bool:
        # The router does so, once for each connection.
        return False

    def close_if_health_check_failed(self) -> None:
        """Give up a connection that was lost, once an error has told so, or that a parent process has.

        Django calls it before each cursor and each change of autocommit.
        """
        loan = self.loan
        if loan is not None and self.connection is not None:
            if loan.inherited:
                self._leave_to_parent(loan)
            elif loan.lost and self.autocommit and not self.in_atomic_block:
                self.close()
        super().close_if_health_check_failed()

    def _leave_to_parent(self, loan: Loan) -> None:
        if self.in_atomic_block:
            with self.wrap_database_errors:
                loan.left_to_parent(None)
        self.loan = self.connection = None

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Turn autocommit on or off.

        At the end of an atomic() whose connection was lost, Django turns it on. That must not wait for a new one: it
        would hide the error.
        """
        if self.connection is None and autocommit and self.settings_dict["AUTOCOMMIT"]:
            self.validate_no_atomic_block()
            self.autocommit = True
            return
        super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)

    def _set_autocommit(self, autocommit: bool) -> None:
        if self.loan is not None:
            with self.wrap_database_errors:
                self.loan.set_autocommit(autocommit)

    def _commit(self) -> None:
        if self.loan is not None:
            with debug_transaction(self, "COMMIT"), self.wrap_database_errors:
                self.loan.commit()

    def _rollback(self) -> None:
        if self.loan is not None:
            with debug_transaction(self, "ROLLBACK"), self.wrap_database_errors:
                self.loan.roll_back_transaction()

    @async_unsafe
    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor of psycopg's, which ends when the connection is given back."""
        cursor = super().create_cursor(name)
        if self.loan is not None:
            self.loan.watch(cursor)
        return cursor

    def is_usable(self) -> bool:
        """Return whether the connection can be used, without a round trip."""
        return self.loan is not None and self.loan.usable


def is_open(router: Router[Any]) -> bool:
    """Return whether a router can be used in this process."""
    return manager_of(router).lifecycle.state == "open"
