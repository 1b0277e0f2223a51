"""What a credentials function is asked, and which of its answers are accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pgroute.core.config import libpq
from pgroute.core.config.dsn import Params
from pgroute.core.late_dataclass import dataclass
from pgroute.core.spelling import nearest
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey

ACCEPTED = (
    "user",
    "password",
    "passfile",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "scram_client_key",
    "scram_server_key",
)
"""The libpq parameters that a credentials function may give."""

_INSTEAD_OF_PASSWORD = frozenset({"passfile", "scram_client_key"})
_KEYS = ("scram_client_key", "scram_server_key")
_NOT_OF_A_LOGIN = frozenset(
    {"application_name", "fallback_application_name", "connect_timeout", "host", "hostaddr", "port"}
)


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """What a credentials function is asked for: the login of one new connection.

    Attributes:
        host: the name of the host, as in the DSN; its address or socket directory if it has no name.
        port: its port.
        role: whose connection it is: of the "writer" pool, the "reader" pool, or the "probe" of the monitor.
        refused: the host refused the last login of that role. Answer from the source, not from a cache.
    """

    host: str
    port: int
    role: Literal["writer", "reader", "probe"]
    refused: bool = False


Credentials: TypeAlias = "Callable[[CredentialRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]"


class BadCredentials(Exception):
    """An answer is not usable. The text shows no value, and no key that may be one."""


def check_credentials(value: object) -> None:
    """Raise ConfigError unless *value* is None or callable. The error does not show it: it may be a mapping."""
    if value is not None and not callable(value):
        accepted = "expected a function that takes a CredentialRequest and returns a mapping, or None"
        raise ConfigError("credentials", type(value).__name__, accepted)


def request_for(key: HostKey, role: Literal["writer", "reader", "probe"]) -> CredentialRequest:
    """Return the request for a login at a host."""
    host = key.host if key.is_socket else key.host.removesuffix(".")
    return CredentialRequest(host or key.hostaddr or "", key.port, role)


def read_credentials(answer: Any) -> Params:
    """Return what a credentials function has returned, checked.

    Raises:
        BadCredentials: it cannot be used.
    """
    if not isinstance(answer, Mapping):
        raise BadCredentials(f"returned a {type(answer).__name__}, expected a mapping")
    found: dict[str, str] = {}
    for name, value in answer.items():
        if not isinstance(name, str) or name not in ACCEPTED:
            raise BadCredentials(_refusal(name))
        if name not in libpq.keywords():
            raise BadCredentials(f"returned {name!r}, which this libpq does not know")
        if not isinstance(value, str):
            raise BadCredentials(f"returned a {type(value).__name__} for {name!r}, expected a str")
        if "\0" in value or value != value.encode(errors="ignore").decode():
            raise BadCredentials(f"returned a NUL character or a lone surrogate in {name!r}")
        found[name] = str(value)
    return Params(found)


def _refusal(name: object) -> str:
    if not isinstance(name, str):
        return f"returned a key of type {type(name).__name__}, expected a str"
    if name in libpq.keywords():
        return f"returned {name!r}, which belongs in the DSN; accepted are {', '.join(ACCEPTED)}"
    # The key itself is not shown: a mapping the wrong way round has a secret there.
    near = nearest(name, ACCEPTED)
    hint = f"did you mean {near!r}?" if near else f"accepted are {', '.join(ACCEPTED)}"
    return f"returned an unknown key; {hint}"


def with_credentials(params: Mapping[str, str], given: Mapping[str, str]) -> Params:
    """Return the connection parameters with those of a credentials function, which override them.

    A password file or a key that is given is used even if the parameters hold a password, which libpq would prefer; and
    a password even if they hold a key.
    """
    merged = {**params, **given}
    if "password" not in given and _INSTEAD_OF_PASSWORD & given.keys():
        merged["password"] = ""  # not absent: libpq would take PGPASSWORD
    if ("password" in given or "passfile" in given) and "scram_client_key" not in given:
        for name in _KEYS:
            merged.pop(name, None)
    return Params(merged)


def login_of(params: Mapping[str, str]) -> Params:
    """Return the parameters for which a server may refuse a connection."""
    return Params({name: value for name, value in params.items() if name not in _NOT_OF_A_LOGIN})
