"""The validated configuration of a router: the parameters of each pool and of the probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from pgroute.core.config.credentials import Credentials, check_credentials
from pgroute.core.config.discovery import Discovery, check_discovery
from pgroute.core.config.dns_names import Mode, is_service
from pgroute.core.config.dsn import Dsn, Params, parse_dsn, split_kwargs
from pgroute.core.config.options import (
    HostOptions,
    PoolOptions,
    ProbeOptions,
    check_callable,
    check_mapping,
    check_max_lag,
    check_number,
    check_reset,
    startup_options,
)
from pgroute.core.config.retry_policy import RetryPolicy, check_policy
from pgroute.core.config.srv import Targets, check_domains
from pgroute.core.model.roles import HostKey, HostRole, Role, SessionAttrs
from pgroute.core.routing.balance import Policy, listener_of, parse_policy
from pgroute.core.sql.schema import Schema, check_schema
from pgroute.core.topology.snapshot import Rules, names_of
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dns.resolver import BaseResolver

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo

ResolverSpec: TypeAlias = "str | BaseResolver"

POOL_CONNECT_TIMEOUT = "5"
"""Seconds for connecting in a pool unless the user sets ``connect_timeout``."""

_NAME_LENGTH = 63
_PROBE_NAME = "pgroute-monitor"


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


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The configuration of a router, made without I/O except for libpq's service file.

    Attributes:
        watch: the DSN with the parameters of the probe connections.
        same_login: both roles log in alike, so that a login refused to one would be refused to the other. Not known
            where a credentials function decides.
        credentials: the user's function; None: there is none.
        acquired: the policy's method that is told of sessions; None: it has none.
    """

    dsn: Dsn
    watch: Dsn
    same_login: bool
    credentials: Credentials | None = field(repr=False)
    writer: RoleConfig
    reader: RoleConfig
    probe: ProbeOptions
    resolver: ResolverSpec
    addresses: Mode
    targets: Targets
    discovery: Discovery | None
    rules: Rules
    policy: Policy
    acquired: Callable[[Candidate, float], object] | None
    default_attrs: SessionAttrs
    reader_attrs: SessionAttrs
    acquire_timeout: float
    max_lag: float | None
    retry: RetryPolicy
    schema: Schema

    def probe_params(self, key: HostKey) -> Params:
        """Return the libpq parameters of a probe connection, without the address if that has to be looked up."""
        params = self.watch.conninfo(key)
        name = params.get("application_name") or params.get("fallback_application_name")
        tail = f" {_PROBE_NAME}"
        name = name[: _NAME_LENGTH - len(tail)] + tail if name else _PROBE_NAME
        # HostWatcher bounds each attempt itself, by a shorter timeout.
        return Params({**params, "application_name": name, "connect_timeout": "60"})


def make_config(
    dsn: str,
    *,
    writer: PoolOptions,
    reader: PoolOptions,
    balance: object,
    reader_attrs: object,
    host_options: object,
    probe: object,
    resolver: object,
    addresses: object,
    retry: RetryPolicy | None,
    acquire_timeout: object,
    max_lag: object = None,
    schema: object,
    schema_owner: object,
    kwargs: Mapping[str, Any] | None,
    row_factory: object = None,
    configure: Any,
    reset: Any,
    credentials: Any = None,
    srv_domains: object = None,
    zone: object = "",
    discovery: object = None,
) -> RouterConfig:
    """Validate the arguments of a router; `Router` documents them.

    Raises:
        ConfigError: an argument is invalid.
    """
    for name, options in (("writer", writer), ("reader", reader)):
        if not isinstance(options, PoolOptions):
            raise ConfigError(name, options, "expected a PoolOptions")
    if writer.read_only:
        raise ConfigError("writer.read_only", True, "a writer cannot be read-only; use reader()")
    if writer.max_size_on_primary is not None:
        accepted = "expected None; it limits readers"
        raise ConfigError("writer.max_size_on_primary", writer.max_size_on_primary, accepted)
    if not isinstance(probe, ProbeOptions):
        raise ConfigError("probe", probe, "expected a ProbeOptions")
    check_number("acquire_timeout", acquire_timeout, above=True)
    assert isinstance(acquire_timeout, (int, float))
    check_policy(retry)
    check_mapping("kwargs", kwargs)
    check_callable("configure", configure)
    check_reset(reset)
    check_credentials(credentials)
    kwargs = _with_row_factory(row_factory, kwargs or {}, writer, reader)
    parameters, _ = split_kwargs(kwargs)
    parsed = parse_dsn(dsn, kwargs=parameters)
    if balance is None:
        balance = "ordered" if parsed.load_balance == "disable" else "random"
    policy = parse_policy(balance)
    watch = parse_dsn(dsn, kwargs={**parameters, **_probe_parameters(probe)})
    adviser = check_discovery(discovery, parsed)
    open_list = addresses == "expand" or adviser is not None
    hosts = _host_options(parsed, host_options, open_list=open_list)
    zones = {name: options.zone for name, options in hosts.items()}
    roles = [
        _role_config(
            role,
            dsn,
            watch,
            kwargs,
            _with_callbacks(options, configure, reset),
            fixed=credentials is None,
        )
        for role, options in ((Role.WRITER, writer), (Role.READER, reader))
    ]
    return RouterConfig(
        dsn=parsed,
        watch=watch,
        same_login=credentials is None
        and all(role.plain for role in roles)
        and _login(roles[0].dsn) == _login(roles[1].dsn),
        credentials=credentials,
        writer=roles[0],
        reader=roles[1],
        probe=probe,
        resolver=check_resolver(resolver),
        addresses=_mode(addresses),
        targets=check_domains(
            srv_domains, [d.params for d in (parsed, watch, *(role.dsn for role in roles))]
        ),
        discovery=adviser,
        rules=Rules(
            probe.check_system_id,
            probe.system_id,
            {name: options.weight for name, options in hosts.items()},
            ordered=bool(getattr(policy, "ordered", False)),
            zones=zones,
            zone=_own_zone(zone, zones, told=adviser is not None and bool(adviser.zone_tag)),
        ),
        policy=policy,
        acquired=listener_of(policy),
        default_attrs=parsed.session_attrs,
        reader_attrs=SessionAttrs.parse(reader_attrs, "reader_attrs"),
        acquire_timeout=float(acquire_timeout),
        max_lag=check_max_lag(max_lag),
        retry=retry or RetryPolicy(),
        schema=check_schema(schema, schema_owner),
    )


def _with_callbacks(options: PoolOptions, configure: Any, reset: Any) -> PoolOptions:
    return replace(options, configure=options.configure or configure, reset=options.reset or reset)


def _with_row_factory(
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
        if other not in (None, row_factory):
            raise ConfigError("row_factory", row_factory, f"expected one for all rows; {place} has another")
    return {**kwargs, "row_factory": row_factory}


def _probe_parameters(probe: ProbeOptions) -> dict[str, str]:
    parameters, arguments = split_kwargs(probe.kwargs or {})
    if arguments:
        raise ConfigError(
            "keyword argument of the probe", next(iter(arguments)), "expected a libpq parameter"
        )
    if "connect_timeout" in parameters:
        accepted = "use ProbeOptions(timeout=) instead"
        raise ConfigError("connect_timeout", parameters["connect_timeout"], accepted)
    return parameters


def _role_config(
    role: Role, dsn: str, watch: Dsn, kwargs: Mapping[str, Any], options: PoolOptions, *, fixed: bool
) -> RoleConfig:
    """Return how a role connects; *fixed*: no function decides with which credentials."""
    parameters, arguments = split_kwargs({**kwargs, **(options.kwargs or {})})
    parsed = parse_dsn(dsn, kwargs=parameters)
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


def _login(dsn: Dsn) -> dict[str, str]:
    """Return the parameters for which a server may refuse a connection."""
    names = ("application_name", "fallback_application_name", "connect_timeout")
    return {name: value for name, value in dsn.params.items() if name not in names}


def _mode(value: object) -> Mode:
    if value not in ("one-host", "expand"):
        raise ConfigError("addresses", value, "expected 'one-host' or 'expand'")
    return "expand" if value == "expand" else "one-host"


def check_resolver(value: object) -> ResolverSpec:
    """Return the resolver that looks names up; ConfigError if *value* is none."""
    if value in ("system", "dns"):
        return "dns" if value == "dns" else "system"
    if not isinstance(value, str):
        import dns.resolver

        if isinstance(value, dns.resolver.BaseResolver):
            return value
    raise ConfigError("resolver", value, "expected 'system', 'dns', or a Resolver of dnspython")


def _own_zone(zone: object, zones: Mapping[str, str], *, told: bool) -> str:
    """Return the zone of the router.

    Args:
        zone: the argument of the router.
        zones: those of the hosts, by name.
        told: an adviser may tell of others.
    """
    if not isinstance(zone, str):
        raise ConfigError("zone", zone, "expected a str")
    known = sorted({z for z in zones.values() if z})
    if zone and zone not in known and not told:
        listed = ", ".join(map(repr, known)) or "none"
        raise ConfigError("zone", zone, f"expected one of the zones of the hosts in host_options ({listed})")
    return zone


def _host_options(dsn: Dsn, host_options: object, *, open_list: bool) -> dict[str, HostOptions]:
    """Return the options by name.

    Args:
        dsn: the DSN.
        host_options: the argument of the router.
        open_list: hosts that are not in the DSN may be named.
    """
    if host_options is None:
        return {}
    if not isinstance(host_options, Mapping):
        raise ConfigError(
            "host_options", host_options, "expected a mapping from 'host' or 'host:port' to HostOptions"
        )
    open_list = open_list or any(map(is_service, dsn.hosts))
    found: dict[str, HostOptions] = {}
    for name, options in host_options.items():
        if not isinstance(options, HostOptions):
            raise ConfigError(f"host_options[{name!r}]", options, "expected a HostOptions")
        if not isinstance(name, str) or not (open_list or any(name in names_of(key) for key in dsn.hosts)):
            listed = ", ".join(str(k) for k in dsn.hosts)
            raise ConfigError("host_options", name, f"expected one of the hosts of the DSN ({listed})")
        found[name] = options
    return found
