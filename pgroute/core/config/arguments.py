"""Which values psycopg's own arguments of ``connect`` take; psycopg itself looks at them late or never."""

from __future__ import annotations

from pgroute.core.config.checks import check_callable
from pgroute.errors import ConfigError


def check_argument(name: str, value: object) -> None:
    """Check an argument of ``psycopg.connect`` that is no libpq parameter.

    Args:
        name: one of `PSYCOPG_ARGUMENTS`.
        value: as the user has given it; None is psycopg's default for each.

    Raises:
        ConfigError: psycopg would read it as something else, or fail with it in each session.
    """
    if value is None:
        return
    match name:
        case "autocommit":
            fits, accepted = isinstance(value, bool), "expected True, False or None"
        case "prepare_threshold":
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            accepted = "expected a whole number of at least 0, or None"
        case "context":
            fits, accepted = hasattr(value, "adapters"), "expected an object with adapters, or None"
        case _:
            check_callable(name, value)
            return
    if not fits:
        raise ConfigError(name, value, accepted)
