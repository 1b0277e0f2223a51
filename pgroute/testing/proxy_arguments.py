"""The arguments of `FaultProxy`: their types, and checks that name the accepted values."""

from __future__ import annotations

from typing import Literal, Protocol

Direction = Literal["to_server", "to_client"]
Directions = Literal["to_server", "to_client", "both"]
Affected = Literal["existing", "new", "all"]

LONGEST_DELAY = 86400  # seconds
MAX_RATE = 10**12  # bytes per second


class Endpoint(Protocol):
    """A target of a proxy: a `Node`, another proxy."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


def parse_target(target: object) -> tuple[str, int]:
    """Return the host and port of a target, or raise ValueError."""
    pair = target if isinstance(target, tuple) else (getattr(target, "host", 0), getattr(target, "port", 0))
    match pair:
        case (str(host), int(port)) if 0 < port < 65536:
            return host, port
    raise ValueError(f"target must be a Node or (host, port from 1 to 65535), not {target!r}")


def check_choice(name: str, value: object, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless a value is one of the accepted ones."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ValueError unless a value is a number in a range."""
    if not (isinstance(value, int | float) and least <= value <= most):
        raise ValueError(f"{name} must be a number from {least} to {most}, not {value!r}")


def check_count(name: str, value: object) -> None:
    """Raise ValueError unless a value is an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")


def check_pattern(value: object) -> None:
    """Raise ValueError unless a pattern can be searched for."""
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"pattern must be bytes, at least one, not {value!r}")
