"""Turns a multi-host DSN into host keys and single-host connection parameters, by libpq's rules.

The grammar is libpq's own (:mod:`pgroute.core.config.libpq`); the list rules are those of ``pqConnectOptions2``
(PostgreSQL docs, "Specifying Multiple Hosts"). Only libpq does I/O here: it reads the service file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any

from psycopg.conninfo import make_conninfo

from pgroute.core.config import libpq
from pgroute.core.config.arguments import check_argument
from pgroute.core.config.parameter_text import parameter_text
from pgroute.core.config.srv import is_address
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey, SessionAttrs
from pgroute.errors import ConfigError, holds_password

PSYCOPG_ARGUMENTS = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")
DSN_ONLY = ("host", "hostaddr", "port", "service", "target_session_attrs", "load_balance_hosts")
_SECRET_INSIDE = re.compile(r"(?i)(passw(or)?d|passphrase|pwd|secret|token|key)\s*=")
"""Matches a value that contains a secret: a setting in ``options``, or text that a misplaced quote included."""
_URI = re.compile(r"postgres(ql)?://(?P<login>[^@/]*@)?(?P<hosts>[^/?]*)(?P<path>[^?]*)", re.DOTALL)
"""A URI as libpq reads it: the login ends at the first '@', which must be before any '/'."""
_BLANK_OR_QUOTE = re.compile(r"[\s='\"]")
_IN_NO_NAME = re.compile(r"[][:/;]")
_C_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")
_C_INT_MAX = 2**31 - 1


class Params(Mapping[str, str]):
    """Read-only connection parameters whose ``repr`` hides passwords and keys."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, keyword: str) -> str:
        return self._values[keyword]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Params({self.safe()!r})"

    def safe(self) -> dict[str, str]:
        """Return a copy in which secrets are ``***``."""
        return {keyword: "***" if _hidden(keyword, value) else value for keyword, value in self.items()}


def _hidden(keyword: str, value: str) -> bool:
    return libpq.is_secret(keyword) or may_hold_secret(value)


def may_hold_secret(text: str) -> bool:
    """Return True if a text seems to contain a secret, by the words around it."""
    return _SECRET_INSIDE.search(text) is not None or holds_password(text)


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """A parsed DSN: the hosts, and the parameters for connecting to each of them.

    Attributes:
        hosts: the hosts in the order given, each once.
        params: the other libpq parameters in the DSN, the keyword arguments, the service and the PG* environment, but
            neither libpq's defaults nor a password from the password file.
        session_attrs: ``target_session_attrs``, by default ``any``.
        load_balance: ``load_balance_hosts``: ``"disable"``, ``"random"``, or None if it is not given.
    """

    hosts: tuple[HostKey, ...]
    params: Params = field(hash=False)
    session_attrs: SessionAttrs = SessionAttrs.ANY
    load_balance: str | None = None

    def conninfo(self, key: HostKey, *, hostaddr: str | None = None, **overrides: str | int | None) -> Params:
        """Return the keyword arguments with which ``psycopg.connect`` reaches one host.

        Parameters about several hosts are set to their neutral values, so that libpq does not take them from the
        environment. Later changes of the service file cannot be prevented: libpq always reads ``PGSERVICE``.

        Args:
            key: the host.
            hostaddr: an IP address to use instead of the one in *key*.
            **overrides: libpq parameters that override all others; None means not given.
        """
        conninfo = dict(self.params)
        conninfo.update(
            # The dot at the end of an absolute name matters only to the resolver. libpq would compare it with names in
            # a certificate and in the password file, which have no dot.
            host=key.host if key.is_socket else key.host.removesuffix("."),
            hostaddr=hostaddr or key.hostaddr or "",
            port=str(key.port),
            target_session_attrs="any",
        )
        if "load_balance_hosts" in libpq.keywords():
            conninfo["load_balance_hosts"] = "disable"
        conninfo.update((keyword, str(value)) for keyword, value in overrides.items() if value is not None)
        return Params(conninfo)

    def safe(self) -> str:
        """Return the DSN as a libpq keyword string, with ``***`` for every secret."""
        lists: dict[str, str] = {"host": ",".join(key.host for key in self.hosts)}
        if any(key.hostaddr for key in self.hosts):
            lists["hostaddr"] = ",".join(key.hostaddr or "" for key in self.hosts)
        lists["port"] = ",".join(str(key.port) for key in self.hosts)
        shown = self.params.safe()
        if self.session_attrs is not SessionAttrs.ANY:
            shown["target_session_attrs"] = self.session_attrs.value
        if self.load_balance is not None:
            shown["load_balance_hosts"] = self.load_balance
        return make_conninfo("", **lists, **shown)

    def __str__(self) -> str:
        return self.safe()

    def __repr__(self) -> str:
        return f"<Dsn {self.safe()}>"


def parse_dsn(dsn: str = "", *, kwargs: Mapping[str, Any] | None = None) -> Dsn:
    """Parse a libpq connection string, merge the other sources that libpq merges, and validate the result.

    Precedence as in libpq: *kwargs*, *dsn*, its service (``service=`` or ``PGSERVICE``), PG* environment.

    Args:
        dsn: a libpq URI or keyword string with any number of hosts. If empty, the PG* environment counts, or else
            libpq's default socket.
        kwargs: keyword arguments of ``psycopg.connect``; those that are no libpq parameters are ignored.

    Raises:
        ConfigError: the DSN, the service, an environment variable or an argument is invalid. The text contains no
            secret, nor a part of a DSN that might be one.
    """
    if not isinstance(dsn, str):
        raise ConfigError("dsn", dsn, f"expected a str, not {type(dsn).__name__}", secret=True)
    arguments, _ = split_kwargs(kwargs or {})
    in_dsn = libpq.parse(dsn)
    _check_secrets(dsn, in_dsn)
    expanded = libpq.expand({**in_dsn, **arguments})
    params = expanded.params
    ports = params.pop("port", "")
    session_attrs = params.pop("target_session_attrs", SessionAttrs.ANY.value)
    load_balance = params.pop("load_balance_hosts", None)
    hosts = _hosts(expanded, ports, functools.partial(_refusal, dsn, in_dsn))
    for keyword in libpq.INTEGERS:
        if keyword in params and _c_int(params[keyword]) is None:
            raise ConfigError(keyword, params[keyword], "expected an integer")
    if load_balance not in (None, "disable", "random"):
        raise ConfigError("load_balance_hosts", load_balance, "expected 'disable' or 'random'")
    attrs = SessionAttrs.parse(session_attrs)
    if _URI.match(params.get("dbname", "")):
        # psycopg would send it as the name of a database, which the server repeats in its error.
        accepted = "expected the name of a database; pass a URI as the DSN"
        raise ConfigError("dbname", params["dbname"], accepted, secret=True)
    libpq.validate(params)
    return Dsn(hosts, Params(params), attrs, load_balance)


def parser(dsn: str) -> Callable[[Mapping[str, str]], Dsn]:
    """Return `parse_dsn` for one string and any libpq parameters beside it; the same ones are parsed once.

    The pools and probes of a router have mostly the same, and libpq is asked four times for each.
    """
    parsed: dict[frozenset[tuple[str, str]], Dsn] = {}

    def parse(parameters: Mapping[str, str]) -> Dsn:
        which = frozenset(parameters.items())
        if which not in parsed:
            parsed[which] = parse_dsn(dsn, kwargs=parameters)
        return parsed[which]

    return parse


def _check_secrets(dsn: str, in_dsn: Mapping[str, str]) -> None:
    """Refuse a DSN in which a part of a password may be read as a value that is shown."""
    uri = _URI.match(dsn)
    if uri is not None and ("@" in uri["hosts"] or "@" in uri["path"]):
        accepted = "expected one '@', before the hosts: in a user name, a password or a database name write '@' as %40"
        raise ConfigError("dsn", dsn, f"{accepted} and '/' as %2F", secret=True)
    for keyword, value in in_dsn.items():
        if keyword != "options" and not libpq.is_secret(keyword) and _SECRET_INSIDE.search(value):
            accepted = "expected a value that contains no other parameter: is a quote missing or misplaced?"
            raise ConfigError(keyword, value, accepted, secret=True)


def split_kwargs(kwargs: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Separate the libpq parameters among keyword arguments of ``psycopg.connect`` from psycopg's own.

    Args:
        kwargs: the arguments; as in psycopg, a libpq parameter that is None counts as not given.

    Returns:
        The libpq parameters as text, and psycopg's own arguments.

    Raises:
        ConfigError: a name is neither, belongs in the DSN, its value cannot be sent as text, or is none for psycopg.
    """
    parameters: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in PSYCOPG_ARGUMENTS:
            check_argument(name, value)
            arguments[name] = value
        elif name in DSN_ONLY:
            raise ConfigError(name, value, "expected in the DSN, not among the keyword arguments")
        elif name not in libpq.keywords():
            accepted = f"expected {', '.join(PSYCOPG_ARGUMENTS)} or a libpq parameter"
            raise ConfigError("keyword argument", name, accepted)
        elif value is not None:
            parameters[name] = parameter_text(name, value)
    return parameters, arguments


def _refusal(dsn: str, in_dsn: Mapping[str, str], keyword: str, value: str, accepted: str) -> ConfigError:
    # A bare '/' in the password of a URI turns its first half into a port: hide everything before the last '@'.
    uri = dsn.startswith(("postgresql://", "postgres://"))
    _, at, tail = dsn.rpartition("@")
    return ConfigError(
        keyword, value, accepted, secret=bool(uri and at and keyword in in_dsn and value not in tail)
    )


def _hosts(
    expanded: libpq.Expanded, port_list: str, refusal: Callable[[str, str, str], ConfigError]
) -> tuple[HostKey, ...]:
    # As pqConnectOptions2: an empty list means one default host, an empty element the default.
    names = expanded.hosts.split(",")
    addresses = expanded.hostaddrs.split(",")
    ports = port_list.split(",")
    if not expanded.hostaddrs:
        addresses = [""] * len(names)
    elif not expanded.hosts:
        names = [""] * len(addresses)
    count = len(names)
    if len(addresses) != count:
        accepted = f"expected as many addresses as hosts ({count}), not {len(addresses)}"
        raise refusal("hostaddr", expanded.hostaddrs, accepted)
    if len(ports) == 1:
        ports *= count
    if len(ports) != count:
        accepted = f"expected one port, or as many as hosts ({count}), not {len(ports)}"
        raise refusal("port", port_list, accepted)
    if count > 1 and not any(names) and not any(addresses) and len(set(ports)) == 1:
        # Stricter than libpq, which would try its default host several times: probably unset variables in a template.
        raise refusal("host", expanded.hosts or expanded.hostaddrs, "expected at least one host in the list")

    keys = []
    for name, address, text in zip(names, addresses, ports, strict=True):
        if "@" in name and not name.startswith(("/", "@")):
            accepted = "expected a name without '@' (in the password of a URI, write it as %40)"
            raise ConfigError("host", name, accepted, secret=True)
        if _BLANK_OR_QUOTE.search(name) and not name.startswith(("/", "@")):
            accepted = "expected names without blanks, quotes and '=': is a quote missing or misplaced?"
            raise ConfigError("host", name, accepted, secret=True)
        if not (address or is_address(name) or name.startswith(("/", "@"))) and _IN_NO_NAME.search(name):
            # No resolver would find it. With an address it is never looked up.
            accepted = "expected a name or an address, without any of ':[]/;' (a port belongs in port=)"
            raise refusal("host", name, accepted)
        if address and not is_address(address):
            raise refusal("hostaddr", address, "expected an IP address")
        port = _c_int(text or _default_port())
        if port is None or not 1 <= port <= 65535:
            raise refusal("port", text, "expected an integer from 1 to 65535")
        # With an address alone the name stays empty, as in libpq: it is used by TLS and the password file.
        host = name or ("" if address else expanded.default_host)
        keys.append(HostKey(host, port, address or None))
    return _without_doubles(keys)


def _without_doubles(keys: list[HostKey]) -> tuple[HostKey, ...]:
    # An address as a name and one as hostaddr= are one host. TLS verifies the one with a name.
    named = {str(key): key for key in reversed(keys) if key.host}
    return tuple(dict.fromkeys(named.get(str(key), key) for key in keys))


def _default_port() -> str:
    return (libpq.keywords()["port"].compiled or b"5432").decode()


def _c_int(text: str) -> int | None:
    # pqParseIntParam: strtol in base 10, white space around it, within a C int.
    match = _C_INTEGER.fullmatch(text)
    value = int(match[1]) if match and len(match[1]) < 32 else None
    return value if value is not None and -_C_INT_MAX - 1 <= value <= _C_INT_MAX else None
