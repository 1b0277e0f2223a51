"""A user's position in a signed cookie."""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from itsdangerous import BadSignature, TimestampSigner

from pgroute.core.config.checks import check_bool, check_integer
from pgroute.core.config.discreet import discreet
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.position import Position
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

SameSite = Literal["lax", "strict", "none"]

COOKIE = "pgroute-position"

_SHORTEST_KEY = 16
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token, RFC 9110, 5.6.2


@dataclass(frozen=True, slots=True)
class PositionCookie:
    """The cookie: its attributes, and what signs and reads its value.

    Attributes:
        name: of the cookie.
        max_age: seconds after which it is worthless.
        path, domain, secure, samesite: as in RFC 6265bis, 4.1.2.
    """

    name: str
    max_age: int
    path: str
    domain: str | None
    secure: bool
    samesite: SameSite
    _signer: TimestampSigner = field(repr=False)

    def read(self, value: str | None) -> Position | None:
        """Return the position in a cookie, None if there is none: it is missing, forged, too old or garbage."""
        if not value:
            return None
        try:
            return Position.parse(self._signer.unsign(value, max_age=self.max_age).decode())
        except (BadSignature, ConfigError, UnicodeDecodeError):
            return None

    def write(self, position: Position) -> str:
        """Return the value of the cookie."""
        return self._signer.sign(str(position)).decode()


def cookie_name(database: str, usual: str) -> str:
    """Return the name of the cookie for a database of an application, which may have several."""
    return COOKIE if database == usual else f"{COOKIE}-{database}"


@discreet
def position_cookie(
    secret_key: str | bytes | Sequence[str | bytes],
    *,
    name: str = COOKIE,
    max_age: int = 600,
    path: str = "/",
    domain: str | None = None,
    secure: bool = True,
    samesite: SameSite = "lax",
) -> PositionCookie:
    """Return the cookie.

    Args:
        secret_key: signs it: at least 16 characters, the same in each process. Of several the last one signs, and all
            are accepted.
        name: of the cookie.
        max_age: seconds after which it is worthless: longer than any standby lags that is used.
        path: the browser sends it below this path only.
        domain: the browser sends it to this domain and those below it; None: only to the host that has set it.
        secure: the browser sends it over TLS only.
        samesite: "lax", "strict" or "none", which needs *secure*.

    Raises:
        ConfigError: an argument is invalid; the error does not show the key.
    """
    keys: list[Any] = [secret_key] if isinstance(secret_key, str | bytes) else _items(secret_key)
    if not keys or not all(isinstance(key, str | bytes) and len(key) >= _SHORTEST_KEY for key in keys):
        raise ConfigError(
            "secret_key",
            "...",
            f"expected a secret of at least {_SHORTEST_KEY} characters, or a list of them",
        )
    if not _is_text(name) or not _COOKIE_NAME.fullmatch(name):
        raise ConfigError("name", name, "expected a name for a cookie: letters, digits, - and _")
    check_integer("max_age", max_age, low=1)
    check_bool("secure", secure)
    if not _is_text(samesite) or samesite not in ("lax", "strict", "none"):
        raise ConfigError("samesite", samesite, 'expected "lax", "strict" or "none"')
    if samesite == "none" and not secure:
        raise ConfigError("samesite", samesite, "expected secure=True with it: browsers drop such cookies")
    for option, value in (("path", path), ("domain", "" if domain is None else domain)):
        if not (_is_text(value) and value.isprintable() and ";" not in value):
            raise ConfigError(option, value, "expected a printable text without semicolons")
    signer = TimestampSigner(keys, salt="pgroute.position")
    return PositionCookie(name, max_age, path, domain, secure, samesite, signer)


def _items(value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        return []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
