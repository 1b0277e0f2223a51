"""How the pools of one role connect."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from pgroute.core.config.checks import check_callable
from pgroute.core.config.dsn import Dsn, Params, split_kwargs
from pgroute.core.config.options import PoolOptions
from pgroute.core.config.settings import startup_options
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey, HostRole, Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.model.host import HostInfo

POOL_CONNECT_TIMEOUT = "5"
"""Seconds for connecting in a pool unless the user sets ``connect_timeout``."""


@dataclass(frozen=True, slots=True)
class RoleConfig:
    """How the pools of one role connect.

    Attributes:
        role: the role.
        options: the sizes and callbacks.
        dsn: the DSN with the parameters of the role.
        overrides: libpq parameters that override them.
        settings: the text that is added to libpq's ``options``; may be empty.
        arguments: the arguments of psycopg.connect that are no libpq parameters (row_factory, ...).
        read_only: sessions are read-only.
        as_probe: its connections log in as the probes do, so that a refused login says something about the host. Not
            known where a credentials function decides.
        plain: a session can only be refused for its login, not for settings or a callback of the user.
    """

    role: Role
    options: PoolOptions
    dsn: Dsn
    overrides: Mapping[str, str]
    settings: str = field(repr=False)
    arguments: Mapping[str, Any] = field(repr=False)
    read_only: bool
    as_probe: bool
    plain: bool

    def options_at(self, host: HostInfo) -> PoolOptions:
        """Return the options of the pool to a host: on the primary there may be fewer connections for readers."""
        most = self.options.max_size_on_primary
        if most is None or host.role is not HostRole.PRIMARY or most >= self.options.max_size:
            return self.options
        return replace(self.options, max_size=most, min_size=min(self.options.min_size, most))

    def params(self, key: HostKey) -> Params:
        """Return the libpq parameters for a host, without its address if that has to be looked up."""
        return self.dsn.conninfo(key, **self.overrides)


def make_role(
    role: Role,
    parse: Callable[[Mapping[str, str]], Dsn],
    watch: Dsn,
    kwargs: Mapping[str, Any],
    options: PoolOptions,
    *,
    fixed: bool,
) -> RoleConfig:
    """Return how a role connects.

    Args:
        role: the role.
        parse: parses the DSN of the router with the parameters of libpq beside it.
        watch: the DSN with the parameters of the probes.
        kwargs: the router's arguments of psycopg.connect.
        options: of the role's pools.
        fixed: no function decides with which credentials.

    Raises:
        ConfigError: an argument of psycopg.connect is invalid.
    """
    parameters, arguments = split_kwargs({**kwargs, **(options.kwargs or {})})
    parsed = parse(parameters)
    read_only = role is Role.READER if options.read_only is None else options.read_only
    settings = dict(options.settings or {})
    if read_only:
        settings["default_transaction_read_only"] = "on"
    overrides = {} if "connect_timeout" in parsed.params else {"connect_timeout": POOL_CONNECT_TIMEOUT}
    plain = not options.settings and options.configure is None
    return RoleConfig(
        role=role,
        options=options,
        dsn=parsed,
        overrides=overrides,
        settings=startup_options(settings),
        arguments=arguments,
        read_only=read_only,
        as_probe=fixed and plain and _login(parsed) == _login(watch),
        plain=plain,
    )


def log_in_alike(one: RoleConfig, other: RoleConfig) -> bool:
    """Return whether a login that is refused to one role would be refused to the other."""
    return one.plain and other.plain and _login(one.dsn) == _login(other.dsn)


def _login(dsn: Dsn) -> dict[str, str]:
    """Return the parameters for which a server may refuse a connection."""
    names = ("application_name", "fallback_application_name", "connect_timeout")
    return {name: value for name, value in dsn.params.items() if name not in names}


def check_roles(writer: PoolOptions, reader: PoolOptions) -> None:
    """Check that these may be the options of the two roles; ConfigError if not."""
    for name, options in (("writer", writer), ("reader", reader)):
        if not isinstance(options, PoolOptions):
            raise ConfigError(name, options, "expected a PoolOptions")
    if writer.read_only:
        raise ConfigError("writer.read_only", True, "a writer cannot be read-only; use reader()")
    if writer.max_size_on_primary is not None:
        accepted = "expected None; it limits readers"
        raise ConfigError("writer.max_size_on_primary", writer.max_size_on_primary, accepted)


def with_row_factory(
    row_factory: object, kwargs: Mapping[str, Any], writer: PoolOptions, reader: PoolOptions
) -> Mapping[str, Any]:
    """Return the keyword arguments with the row factory of the router.

    Raises:
        ConfigError: they have another one already, or those of a role do: its rows would not be of the type that
            *row_factory* gives them.
    """
    check_callable("row_factory", row_factory)
    if row_factory is None:
        return kwargs
    given = {"kwargs": kwargs, "writer.kwargs": writer.kwargs, "reader.kwargs": reader.kwargs}
    for place, arguments in given.items():
        other = (arguments or {}).get("row_factory")
        if other is not None and not (callable(other) and other == row_factory):
            raise ConfigError("row_factory", row_factory, f"expected one for all rows; {place} has another")
    return {**kwargs, "row_factory": row_factory}
