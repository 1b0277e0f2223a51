"""Uses libpq's own parser, defaults and checks for connection strings, without connecting.

``PQconnectStart`` first merges service file, PG* environment and defaults (``conninfo_add_defaults``), then
checks the result (``pqConnectOptions2``), and only when every check has passed resolves a name or opens a
socket. So a connection string with one value that no version accepts always fails in the checks, and ``PQconninfo``
then shows all the merged values. Only the service file is read (and LDAP, if that file points to it and libpq was
built for it) and, without a user name, the system's user database. Nothing is printed: libpq reads the password file
only after the host lists match and only if no password is given, so each call below fails before that or has one.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgroute.core.late_pattern import LatePattern
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRETS = frozenset(
    {"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}
)
INTEGERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""The parameters that libpq reads as integers when it connects."""
NUMBERS = (
    *INTEGERS,
    "port",
    "sslcompression",
    "sslsni",
    "requiressl",
    "gssdelegation",
    "replication",
    "min_protocol_version",
    "max_protocol_version",
)
"""The parameters whose values look like numbers, or true and false, in any spelling."""
_NAME = LatePattern(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_INVALID = "pgroute-checks-options-only"

# libpq's messages quote parts of the string, perhaps of a password: only their meaning is passed on.
_GRAMMAR = (
    ('missing "="', "every word of a keyword string needs '=' (quote values that hold spaces)"),
    ("unterminated quoted string", "a quote is not closed"),
    ("percent-encoded", "'%' must be followed by two hexadecimal digits other than 00 (write %25 for '%')"),
    ("IPv6 host address", "an IPv6 address needs a non-empty pair of brackets"),
    ("unexpected character", "an IPv6 address in brackets must be followed by ':', '/', '?' or ','"),
    ("key/value separator", "every URI query parameter needs exactly one '='"),
    ("unexpected spaces", "spaces in URI query parameters must be written as %20"),
)
# Safe to pass on: a service name, a path and a line number, never a value.
_SERVICE = LatePattern(
    r'definition of service ".*" not found|service file ".*" not found'
    r'|(?:syntax error|nested service specifications not supported) in service file ".*", line \d+'
    r'|line \d+ too long in service file ".*"'
)
_UNKNOWN = LatePattern(r'invalid (?:connection option|URI query parameter:?) "(.*)"')
_SCRAM_KEY = LatePattern(r"SCRAM (client|server) key")
_WORD = LatePattern(r"\w+")
_TLS = "expected 'TLSv1', 'TLSv1.1', 'TLSv1.2' or 'TLSv1.3'"
_PROTOCOL = "expected '3.0', '3.2' or 'latest'"
_ACCEPTED = {
    "channel_binding": "expected 'disable', 'prefer' or 'require'",
    "gssencmode": "expected 'disable', 'prefer' or 'require', the last with a libpq built for GSSAPI",
    "sslmode": "expected 'disable', 'allow', 'prefer', 'require', 'verify-ca' or 'verify-full'",
    "sslnegotiation": "expected 'postgres', or 'direct' with sslmode=require or stronger",
    "sslrootcert": "expected a file name, or 'system' with sslmode=verify-full",
    "sslcertmode": "expected 'disable', 'allow' or 'require'",
    "ssl_min_protocol_version": _TLS,
    "ssl_max_protocol_version": _TLS,
    "min_protocol_version": _PROTOCOL,
    "max_protocol_version": _PROTOCOL,
    "require_auth": "expected a list of methods ('scram-sha-256', 'md5', 'password', 'gss', 'sspi', 'oauth',"
    " 'none'), each once, all or none of them with '!'",
    "scram_client_key": "expected a base64 key of 32 bytes",
    "scram_server_key": "expected a base64 key of 32 bytes",
}


class Expanded(NamedTuple):
    """Host lists and parameters after the service file and the PG* environment were merged in."""

    hosts: str
    hostaddrs: str
    params: dict[str, str]
    default_host: str  # the meaning of an empty host: the socket directory, or localhost if libpq has none


class _Answer(NamedTuple):
    options: dict[str, pq.ConninfoOption]
    message: str
    host: str


@cache
def keywords() -> Mapping[str, pq.ConninfoOption]:
    """Return the parameters that this libpq knows, by name (``PQconninfoParse`` of an empty string reads nothing)."""
    return {option.keyword.decode(): option for option in pq.Conninfo.parse(b"")}


def is_secret(keyword: str) -> bool:
    """Return True if the value must never be shown (libpq's ``dispchar``, and the keys that it omits)."""
    return keyword in _SECRETS or (keyword in keywords() and keywords()[keyword].dispchar == b"*")


def parse(dsn: str) -> dict[str, str]:
    """Return the parameters in a URI or keyword string, without merging other sources.

    Raises:
        ConfigError: libpq cannot parse the string. The text quotes at most an unknown keyword.
    """
    if "\0" in dsn:
        raise ConfigError("dsn", dsn, "expected no NUL character", secret=True)
    if too_much := _foreign_scheme(dsn):
        raise ConfigError("dsn", dsn, f"drop {too_much!r}: a URI begins with postgresql://", secret=True)
    # The error is raised outside the handler, because even a suppressed context would contain libpq's text.
    try:
        return {keyword: str(value) for keyword, value in conninfo_to_dict(dsn).items()}
    except UnicodeError:
        reason = "expected text that is UTF-8, also after percent-decoding"
        message = ""
    except psycopg.ProgrammingError as exc:
        message = str(exc)
        reason = next(
            (text for start, text in _GRAMMAR if start in message), "expected a libpq URI or keyword string"
        )
        if "//" in dsn and not dsn.startswith(("postgresql://", "postgres://")):
            reason = "a URI begins with postgresql:// or postgres://"
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        raise ConfigError("dsn", dsn, reason, secret=True)
    name = unknown[1]
    if name == "load_balance_hosts":
        raise ConfigError("keyword", name, f"expected libpq 16 or later, this one is {pq.version() // 10000}")
    raise ConfigError(
        "keyword", name, "expected a libpq connection parameter", secret=not _may_show(name, dsn)
    )


def _foreign_scheme(dsn: str) -> str:
    """Return the part of the scheme that is SQLAlchemy's or JDBC's, empty if there is none."""
    scheme, found, _ = dsn.partition("://")
    if found and scheme.startswith("jdbc:"):
        return "jdbc:"
    base, plus, driver = scheme.partition("+")
    return plus + driver if found and base in ("postgresql", "postgres") and driver.isidentifier() else ""


def _may_show(name: str, dsn: str) -> bool:
    # The rest of an unquoted password with a space, or of one with '/' and '?' in a URI, is read as a keyword.
    before, after = dsn[: dsn.rfind(name)], dsn[dsn.find(name) :]
    return (
        name in dsn
        and _NAME.fullmatch(name) is not None
        and "@" not in after
        and not any(secret in before for secret in _SECRETS)
    )


def expand(given: Mapping[str, str]) -> Expanded:
    """Merge the service file and the PG* environment, but not libpq's defaults, into *given*, which has precedence.

    Raises:
        ConfigError: the service is unknown or its definition invalid, or a merged value is not UTF-8.
    """
    # Two hosts and three addresses fail the very first check, after which every other value can be read.
    merged = _ask({**given, "host": ",", "hostaddr": ",,"})
    if merged.options["host"].val is None:
        reason = merged.message if _SERVICE.fullmatch(merged.message) else "libpq cannot read its definition"
        name = given.get("service", os.environ.get("PGSERVICE"))
        raise ConfigError("service", name, f"expected a service that the service file defines ({reason})")
    # Now the host lists, by an invalid sslmode; the user name avoids a lookup of the user.
    lists = _ask({**given, "user": "x", "password": "x", "sslmode": _INVALID})
    # Three ports for one host fail right after the default host was filled in.
    default = _ask({**given, "host": "", "hostaddr": "", "port": ",,", "user": "x"})

    service = "service" in given or "PGSERVICE" in os.environ
    params: dict[str, str] = {}
    for keyword, option in merged.options.items():
        if keyword in ("host", "hostaddr", "service") or option.val is None:
            continue
        in_environment = option.envvar is not None and option.envvar.decode() in os.environ
        # A user name that was not given is the operating system's, which libpq will find again. With a service
        # the two cannot be distinguished, and keeping it changes nothing.
        found = option.val != option.compiled and (keyword != "user" or service)
        if keyword in given or in_environment or found:
            params[keyword] = _text(option)
    if "service" in given and "PGSERVICE" in os.environ:
        # Otherwise libpq would use the service of the environment.
        params["service"] = given["service"]
    return Expanded(_text(lists.options["host"]), _text(lists.options["hostaddr"]), params, default.host)


def validate(params: Mapping[str, str]) -> None:
    """Let libpq check the values of *params*, except for the host lists and the options about several hosts.

    Raises:
        ConfigError: libpq refuses a value or a combination of values.
    """
    # The value that is invalid on purpose is the one that libpq checks last, so that it checks all others. The host
    # is a socket directory that does not exist, in case a future libpq connects before it checks.
    last = next(
        k for k in ("max_protocol_version", "load_balance_hosts", "target_session_attrs") if k in keywords()
    )
    nowhere = {"host": "/pgroute/nowhere", "hostaddr": "", "port": "1", "user": "x", "password": "x"}
    # Left out of *params*, so that libpq would take them from the environment.
    several = {"target_session_attrs": "any", "load_balance_hosts": "disable"}
    nowhere |= {name: value for name, value in several.items() if name in keywords()}
    asked = {**params, **nowhere, last: _INVALID}
    message = _ask(asked).message
    if _INVALID in message and last in params:
        # Both ends of the protocol range are parsed by the same function (pqParseProtocolVersion).
        message = _ask({**asked, "min_protocol_version": params[last]}).message.replace("min_", "max_")
    if _INVALID in message and {"min_protocol_version", "max_protocol_version"} <= params.keys():
        # Each is valid. Which of them is higher is checked at the very end.
        message = _ask({**params, **nowhere}).message
        if "min_protocol_version" not in message:
            return
    elif _INVALID in message:
        return
    words = _WORD.findall(_SCRAM_KEY.sub(r"scram_\1_key", message))
    named = [word for word in dict.fromkeys(words) if word in _ACCEPTED and word in params]
    if not named:
        raise ConfigError(
            "connection parameters", sorted(params), "expected values that libpq accepts together"
        )
    name, *others = named
    accepted = f"expected a value that goes with {others[0]}" if others else _ACCEPTED[name]
    raise ConfigError(name, params[name], accepted, secret=is_secret(name))


def _ask(params: Mapping[str, str]) -> _Answer:
    conn = pq.PGconn.connect_start(make_conninfo("", **params).encode())
    try:
        options = {option.keyword.decode(): option for option in conn.info}
        return _Answer(options, conn.get_error_message().strip(), conn.host.decode(errors="replace"))
    finally:
        conn.finish()


def _text(option: pq.ConninfoOption) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        return (option.val or b"").decode()
    raise ConfigError(option.keyword.decode(), None, "expected UTF-8 text", secret=True)
