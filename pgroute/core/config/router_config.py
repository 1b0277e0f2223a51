"""The validated configuration of a router: of its roles, its probes and its rules."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from pgroute.core.config.checks import (
    check_callable,
    check_mapping,
    check_max_lag,
    check_name,
    check_number,
    check_reset,
)
from pgroute.core.config.credentials import Credentials, check_credentials
from pgroute.core.config.dsn import Dsn, Params, parser, split_kwargs
from pgroute.core.config.host_options import check_host_options, check_zone
from pgroute.core.config.lookups import ResolverSpec, check_addresses, check_resolver
from pgroute.core.config.options import PoolOptions, ProbeOptions
from pgroute.core.config.retry_policy import RetryPolicy, check_policy
from pgroute.core.config.role_config import (
    RoleConfig,
    check_roles,
    log_in_alike,
    make_role,
    with_row_factory,
)
from pgroute.core.config.srv import Targets, check_domains
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey, Role, SessionAttrs
from pgroute.core.routing.balance import Policy, listener_of, parse_policy
from pgroute.core.sql.schema import Schema, check_schema
from pgroute.core.topology.snapshot import Rules
from pgroute.errors import ConfigError, holds_password

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.config.discovery import Discovery
    from pgroute.core.config.dns_names import Mode
    from pgroute.core.config.options import HostOptions
    from pgroute.core.model.candidate import Candidate

_NAME_LENGTH = 63
_PROBE_NAME = "pgroute-monitor"


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
    check_roles(writer, reader)
    if not isinstance(probe, ProbeOptions):
        raise ConfigError("probe", probe, "expected a ProbeOptions")
    check_number("acquire_timeout", acquire_timeout, above=True)
    assert isinstance(acquire_timeout, (int, float))
    check_policy(retry)
    check_mapping("kwargs", kwargs)
    check_callable("configure", configure)
    check_reset(reset)
    check_credentials(credentials)
    kwargs = with_row_factory(row_factory, kwargs or {}, writer, reader)
    parameters, _ = split_kwargs(kwargs)
    parse = parser(dsn)
    parsed = parse(parameters)
    if balance is None:
        balance = "ordered" if parsed.load_balance == "disable" else "random"
    policy = parse_policy(balance)
    watch = parse({**parameters, **_probe_parameters(probe)})
    adviser = _adviser(discovery, parsed)
    mode = check_addresses(addresses)
    open_list = mode == "expand" or adviser is not None
    hosts = check_host_options(parsed, host_options, open_list=open_list)
    fixed = credentials is None
    write, read = (
        make_role(role, parse, watch, kwargs, _with_callbacks(options, configure, reset), fixed=fixed)
        for role, options in ((Role.WRITER, writer), (Role.READER, reader))
    )
    return RouterConfig(
        dsn=parsed,
        watch=watch,
        same_login=fixed and log_in_alike(write, read),
        credentials=credentials,
        writer=write,
        reader=read,
        probe=probe,
        resolver=check_resolver(resolver),
        addresses=mode,
        targets=check_domains(srv_domains, [d.params for d in (parsed, watch, write.dsn, read.dsn)]),
        discovery=adviser,
        rules=_rules(probe, hosts, policy, zone, tagged=adviser is not None and bool(adviser.zone_tag)),
        policy=policy,
        acquired=listener_of(policy),
        default_attrs=parsed.session_attrs,
        reader_attrs=SessionAttrs.parse(reader_attrs, "reader_attrs"),
        acquire_timeout=float(acquire_timeout),
        max_lag=check_max_lag(max_lag),
        retry=retry or RetryPolicy(),
        schema=check_schema(schema, schema_owner),
    )


def check_router_name(name: object) -> None:
    """Raise ConfigError unless *name* can be shown by logs and metrics; "" stands for the hosts."""
    if isinstance(name, str) and not name:
        return
    check_name("name", name, ', or ""')
    assert isinstance(name, str)
    dsn = "://" in name or "=" in name or "/" in name.rpartition("@")[2]
    if dsn and holds_password(name):
        raise ConfigError("name", name, "expected no password: logs and metrics show it")


def _adviser(discovery: object, dsn: Dsn) -> Discovery | None:
    if discovery is None:
        return None  # as for most routers, which do without the modules
    from pgroute.core.config.discovery import check_discovery

    return check_discovery(discovery, dsn)


def _rules(
    probe: ProbeOptions, hosts: Mapping[str, HostOptions], policy: Policy, zone: object, *, tagged: bool
) -> Rules:
    zones = {name: options.zone for name, options in hosts.items()}
    return Rules(
        probe.check_system_id,
        probe.system_id,
        {name: options.weight for name, options in hosts.items()},
        ordered=bool(getattr(policy, "ordered", False)),
        zones=zones,
        zone=check_zone(zone, zones, tagged=tagged),
    )


def _with_callbacks(options: PoolOptions, configure: Any, reset: Any) -> PoolOptions:
    return replace(
        options,
        configure=configure if options.configure is None else options.configure,
        reset=reset if options.reset is None else options.reset,
    )


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
