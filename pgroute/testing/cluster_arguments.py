"""The arguments of `LocalCluster`: checks that raise ValueError and name the accepted values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_MOST_STANDBYS = 1000
_MOST_MAJOR = 1000


def check_standbys(standbys: object, *, synchronous: object) -> None:
    """Raise ValueError unless there may be so many standbys."""
    if not isinstance(synchronous, bool):
        raise _refusal("synchronous must be True or False", synchronous)
    least = int(synchronous)
    if isinstance(standbys, bool) or not isinstance(standbys, int) or not least <= standbys <= _MOST_STANDBYS:
        raise _refusal(f"standbys must be at least {least}, at most {_MOST_STANDBYS}", standbys)


def check_addresses(addresses: object) -> None:
    """Raise ValueError unless these are addresses; a text is no list of them."""
    good = isinstance(addresses, Sequence) and not isinstance(addresses, (str, bytes))
    if not good or not all(isinstance(each, str) for each in addresses):  # type: ignore[attr-defined]
        raise _refusal("addresses must be a list or tuple of texts", addresses)


def check_version(version: object) -> None:
    """Raise ValueError unless this is how a version is given."""
    number = isinstance(version, int) and not isinstance(version, bool) and 0 <= version <= _MOST_MAJOR
    if not (version is None or isinstance(version, str) or number):
        raise _refusal("version must be such as 16, '16' or '16.14', or None", version)


def check_dbname(dbname: object) -> None:
    """Raise ValueError unless a name needs no quotes."""
    if not isinstance(dbname, str) or not dbname.isidentifier() or not dbname.isascii():
        raise _refusal("dbname must be a plain name", dbname)


def check_settings(settings: object) -> None:
    """Raise ValueError unless these are settings by name, as text, or None."""
    if settings is None:
        return
    if not isinstance(settings, Mapping):
        raise _refusal("settings must be a mapping or None", settings)
    if not all(isinstance(each, str) for pair in settings.items() for each in pair):
        raise _refusal("settings must be texts, such as {'work_mem': '4MB'}", settings)


def check_timeout(timeout: object) -> None:
    """Raise ValueError unless this is a number of seconds."""
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < math.inf:  # type: ignore[operator]
        raise _refusal("timeout must be a number of seconds above 0", timeout)


def _refusal(accepted: str, value: object) -> ValueError:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001  (such as an int of thousands of digits)
        shown = f"that {type(value).__name__}"
    return ValueError(f"{accepted}, not {shown}")
