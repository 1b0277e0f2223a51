# Generated from pgroute/_async/router.py by .ci/unasync.py: edit that file, not this one.
"""The router, as its users see it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, Never, cast, get_origin, overload

import psycopg

from psycopg_pool.abc import CT

from pgroute._acompat import Face
from pgroute._sync.copying.api import Copying
from pgroute._sync.direct.api import Direct
from pgroute._sync.manager import SessionManager
from pgroute._sync.observing import Observing
from pgroute._sync.pool_control import PoolControl
from pgroute._sync.routing import Routing
from pgroute._sync.transaction.decorator import Decorating
from pgroute._sync.transaction.runner import Runner
from pgroute.core.config.checks import check_bool, check_number

from pgroute.core.config.callbacks import refuse_coroutine_functions
from pgroute.core.config.discreet import discreet
from pgroute.core.config.mistakes import refuse_unknown
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.router_config import check_router_name, make_config
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from types import TracebackType
    from typing import Self

    from dns.resolver import BaseResolver
    from psycopg.rows import RowFactory, Row

    from pgroute.core.config.credentials import CredentialRequest
    from pgroute.core.config.discovery import AuroraDiscovery, PatroniDiscovery
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.routing.balance import Policy


class Router(
    Decorating[CT],
    Runner[CT],
    Direct[CT],
    Copying[CT],
    PoolControl[CT],
    Observing[CT],
    Routing[CT],
    Face,
):
    """Routes sessions to the primary or to a standby of a PostgreSQL cluster, through failover.

    The constructor parses and validates its arguments, without I/O. `open()` or the ``with`` statement starts to probe
    the hosts.

    A key of *host_options* that the DSN does not have is a ConfigError, unless the DSN has names whose hosts are not
    known yet (SRV, ``addresses="expand"``, *discovery*).

    With ``addresses="one-host"`` a name is one host, whose addresses are tried in order. With "expand" each address is
    a host, and hosts join and leave with the records. SRV records always come from the DNS, whatever the *resolver*.

    Every role that may use the tables in *schema* can read and forge the results in them. Give applications that do not
    trust each other a schema each. The schema may belong to a superuser, the owner of the database, the role that logs
    in, a role that may act as one of these, or *schema_owner*.

    Hosts, target_session_attrs and load_balance_hosts belong in the DSN, not in *kwargs*.

    Args:
        dsn: a libpq URI or keyword string with any number of hosts. The PG* environment and ``service=`` apply.
        writer: options of the writers' pools; None: ``PoolOptions()``.
        reader: options of the readers' pools; None: ``PoolOptions()``.
        balance: "random", "ordered", "round-robin", "least-busy", "adaptive", or a policy object; None: the DSN's
            load_balance_hosts, else "random".
        zone: where this process is. Of equally good hosts, those of this zone come first, and the others serve when
            these are down or full. One of the zones in *host_options*; empty: zones do not matter.
        reader_attrs: the hosts that `reader()` accepts, one of the target_session_attrs.
        host_options: options per host, keyed by "host", "host:port" or address.
        probe: options of the probes; None: ``ProbeOptions()``.
        resolver: how names are looked up: "system" (``getaddrinfo``), "dns" (as /etc/resolv.conf says), or a Resolver
            of dnspython.
        addresses: "one-host" or "expand": what a name with several addresses means.
        srv_domains: further domains for the targets of SRV records; "." is any. None: only the service's own domain
            with sslmode=verify-full, otherwise any.
        discovery: who is asked for advice on the members, see docs/discovery.md: "patroni", the URLs of its REST API
            with commas between them, a PatroniDiscovery, "aurora", or an AuroraDiscovery; None: nobody.
        retry: how long `run()` and `attempts()` retry; None: ``RetryPolicy()``.
        acquire_timeout: seconds to wait for a session.
        max_lag: seconds that a standby may miss at most to serve readers, at least 0.1; None: any number. Hosts are
            probed at least three times in it.
        schema: the schema with the tables of ``once=`` and of batch jobs, an unquoted name.
        schema_owner: another role that may own the schema; None: no other.
        connection_class: the class of the connections. It may be ``MyConnection[Row]``, which tells type checkers the
            type of the rows.
        row_factory: makes the rows, such as ``psycopg.rows.dict_row``, and gives their type to type checkers; None:
            that of *kwargs*, or of the connection_class.
        kwargs: for psycopg.connect: libpq parameters, and autocommit, prepare_threshold, context, row_factory,
            cursor_factory. They override the DSN.
        configure: called with each new connection before its first use; see PoolOptions.
        reset: called with each connection that is returned, or "discard"; see PoolOptions.
        credentials: called with a CredentialRequest before each new connection of a pool or a probe; returns a mapping
            of libpq parameters, such as user and password, that override all others. None: they do not change. A
            function runs in a thread of its own; a coroutine runs in the loop of the asynchronous router, or in one of
            its own. It must answer within ``ProbeOptions(timeout=)`` for a probe, connect_timeout for a pool.
        name: for the repr, metrics, and the names of threads and tasks, at most 512 bytes; empty: the hosts.
        unknown: no other arguments are accepted; the ConfigError says where such an option belongs.

    Attributes:
        name: as given.

    Raises:
        ConfigError: an argument is invalid; the error names the parameter, the value and what is accepted.
    """

    __module__ = "pgroute"

    @overload
    def __init__(
        self,
        dsn: str = "",
        *,
        writer: PoolOptions | None = None,
        reader: PoolOptions | None = None,
        balance: str | Policy | None = None,
        reader_attrs: str = "prefer-standby",
        host_options: Mapping[str, HostOptions] | None = None,
        zone: str = "",
        probe: ProbeOptions | None = None,
        resolver: str | BaseResolver = "system",
        addresses: Literal["one-host", "expand"] = "one-host",
        srv_domains: Collection[str] | None = None,
        discovery: str | PatroniDiscovery | AuroraDiscovery | None = None,
        retry: RetryPolicy | None = None,
        acquire_timeout: float = 30.0,
        max_lag: float | None = None,
        schema: str = "pgroute",
        schema_owner: str | None = None,
        connection_class: type[CT] = ...,
        row_factory: None = None,
        kwargs: Mapping[str, Any] | None = None,
        configure: Callable[[CT], Any] | None = None,
        reset: Callable[[CT], Any] | Literal["discard"] | None = None,
        credentials: Callable[[CredentialRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]
        | None = None,
        name: str = "",
    ) -> None: ...

    @overload
    def __init__(
        self: Router[psycopg.Connection[Row]],
        dsn: str = "",
        *,
        writer: PoolOptions | None = None,
        reader: PoolOptions | None = None,
        balance: str | Policy | None = None,
        reader_attrs: str = "prefer-standby",
        host_options: Mapping[str, HostOptions] | None = None,
        zone: str = "",
        probe: ProbeOptions | None = None,
        resolver: str | BaseResolver = "system",
        addresses: Literal["one-host", "expand"] = "one-host",
        srv_domains: Collection[str] | None = None,
        discovery: str | PatroniDiscovery | AuroraDiscovery | None = None,
        retry: RetryPolicy | None = None,
        acquire_timeout: float = 30.0,
        max_lag: float | None = None,
        schema: str = "pgroute",
        schema_owner: str | None = None,
        row_factory: RowFactory[Row],
        kwargs: Mapping[str, Any] | None = None,
        configure: Callable[[psycopg.Connection[Row]], Any] | None = None,
        reset: Callable[[psycopg.Connection[Row]], Any] | Literal["discard"] | None = None,
        credentials: Callable[[CredentialRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]
        | None = None,
        name: str = "",
    ) -> None: ...

    @overload
    def __init__(
        self,
        dsn: str = "",
        *,
        writer: PoolOptions | None = None,
        reader: PoolOptions | None = None,
        balance: str | Policy | None = None,
        reader_attrs: str = "prefer-standby",
        host_options: Mapping[str, HostOptions] | None = None,
        zone: str = "",
        probe: ProbeOptions | None = None,
        resolver: str | BaseResolver = "system",
        addresses: Literal["one-host", "expand"] = "one-host",
        srv_domains: Collection[str] | None = None,
        discovery: str | PatroniDiscovery | AuroraDiscovery | None = None,
        retry: RetryPolicy | None = None,
        acquire_timeout: float = 30.0,
        max_lag: float | None = None,
        schema: str = "pgroute",
        schema_owner: str | None = None,
        connection_class: type[CT],
        row_factory: RowFactory[Any],
        kwargs: Mapping[str, Any] | None = None,
        configure: Callable[[CT], Any] | None = None,
        reset: Callable[[CT], Any] | Literal["discard"] | None = None,
        credentials: Callable[[CredentialRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]
        | None = None,
        name: str = "",
    ) -> None: ...

    @discreet
    def __init__(
        self,
        dsn: str = "",
        *,
        writer: PoolOptions | None = None,
        reader: PoolOptions | None = None,
        balance: str | Policy | None = None,
        reader_attrs: str = "prefer-standby",
        host_options: Mapping[str, HostOptions] | None = None,
        zone: str = "",
        probe: ProbeOptions | None = None,
        resolver: str | BaseResolver = "system",
        addresses: Literal["one-host", "expand"] = "one-host",
        srv_domains: Collection[str] | None = None,
        discovery: str | PatroniDiscovery | AuroraDiscovery | None = None,
        retry: RetryPolicy | None = None,
        acquire_timeout: float = 30.0,
        max_lag: float | None = None,
        schema: str = "pgroute",
        schema_owner: str | None = None,
        connection_class: type[CT] = cast("type[CT]", psycopg.Connection),  # noqa: B008
        row_factory: RowFactory[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        configure: Callable[[CT], Any] | None = None,
        reset: Callable[[CT], Any] | Literal["discard"] | None = None,
        credentials: Callable[[CredentialRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]
        | None = None,
        name: str = "",
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown(unknown, inspect.signature(Router).parameters)
        given: object = get_origin(connection_class) or connection_class
        if not (isinstance(given, type) and issubclass(given, psycopg.Connection)):
            raise ConfigError(
                "connection_class", connection_class, "expected a subclass of psycopg.Connection"
            )
        made_by = cast("type[CT]", given)
        check_router_name(name)
        config = make_config(
            dsn,
            writer=PoolOptions() if writer is None else writer,
            reader=PoolOptions() if reader is None else reader,
            balance=balance,
            reader_attrs=reader_attrs,
            host_options=host_options,
            zone=zone,
            probe=ProbeOptions() if probe is None else probe,
            resolver=resolver,
            addresses=addresses,
            srv_domains=srv_domains,
            discovery=discovery,
            retry=retry,
            acquire_timeout=acquire_timeout,
            max_lag=max_lag,
            schema=schema,
            schema_owner=schema_owner,
            row_factory=row_factory,
            kwargs=kwargs,
            configure=configure,
            reset=reset,
            credentials=credentials,
        )
        refuse_coroutine_functions(configure=configure, reset=reset, writer=writer, reader=reader)
        self.name: str = name or ",".join(str(key) for key in config.dsn.hosts)
        self._manager = SessionManager(config, made_by, name=self.name, describe=self.__repr__)

    def __repr__(self) -> str:
        manager: SessionManager[CT] | None = getattr(self, "_manager", None)
        if manager is None:  # its constructor has raised, or a subclass has not called it yet
            return f"<{type(self).__name__} not made>"
        return f"<{type(self).__name__} {self.name!r} {manager.lifecycle.state}>"

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start to probe the hosts; no host needs to be up.

        The ``with`` statement does this. Opening an open router does nothing.

        Args:
            wait: return only when a writer's session is available.
            timeout: seconds to wait for it.

        Raises:
            ConfigError: an argument is invalid.
            RouterClosed: the router was closed; a closed router cannot be opened again.
            AcquireTimeout: with *wait*, there was no writer's session in time; the router stays open.
        """
        check_bool("wait", wait)
        check_number("timeout", timeout)
        self._manager.lifecycle.open()
        if wait:
            self.wait(timeout=timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close the router: it gives no new sessions, and aborts those in flight after the timeout.

        The end of the ``with`` statement does this. Closing a closed router does nothing.

        Args:
            timeout: seconds that sessions in flight have to end; 0: they are aborted at once.

        Raises:
            ConfigError: the timeout is not a number of seconds.
            RouteError: it was opened in another event loop, which is still there.
        """
        check_number("timeout", timeout)
        self._manager.lifecycle.close(timeout)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def manager_of(router: Router[CT]) -> SessionManager[CT]:
    """Return what is behind a router, for what is built on routers: batch and the command line."""
    return router._manager
