"""A policy of retries as far as a file can say it: the usual strategies of tenacity, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.config_file.place import Place, check_keys, construct, table_at
from pgroute.config_file.values import Option, resolve
from pgroute.core.config.checks import check_integer, check_number
from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STOPS = ("stop_after_delay", "stop_after_attempt")
_WAITS: dict[str, tuple[str, ...]] = {
    "wait_fixed": ("wait",),
    "wait_random": ("min", "max"),
    "wait_exponential": ("multiplier", "min", "max"),
    "wait_random_exponential": ("multiplier", "max"),
}
_BUDGET = ("budget", "budget_floor")
RETRY_KEYS = (*_STOPS, *_WAITS, *_BUDGET)
_NUMBER = Option(text=False)
_OPTIONAL = Option(text=False, none=True)


def read_retry(place: Place, table: Mapping[str, object]) -> RetryPolicy:
    """Return the policy that a table describes; its keys are named as tenacity's strategies.

    Raises:
        ConfigError: a key is unknown, a value is no number that fits, or there are two ways to wait.
    """
    import tenacity

    check_keys(place, table, RETRY_KEYS)
    stops = [_stop(place.below(key), key, table[key]) for key in _STOPS if key in table]
    waits = [_wait(place.below(key), key, table[key]) for key in _WAITS if key in table]
    if len(waits) > 1:
        raise place.error(table, f"expected one of {', '.join(_WAITS)}")
    stop = tenacity.stop_any(*stops) if len(stops) > 1 else next(iter(stops), None)
    budget = {key: resolve(place.below(key), table[key], _OPTIONAL) for key in _BUDGET if key in table}
    return construct(place, RetryPolicy, {"stop": stop, "wait": waits[0] if waits else None, **budget})


def _stop(place: Place, key: str, value: object) -> Any:
    import tenacity

    number = resolve(place, value, _NUMBER)
    if key == "stop_after_attempt":
        _checked(place, number, lambda: check_integer(key, number, low=1))
    else:
        _checked(place, number, lambda: check_number(key, number))
    return getattr(tenacity, key)(number)


def _wait(place: Place, key: str, value: object) -> Any:
    import tenacity

    known = _WAITS[key]
    if len(known) == 1:
        value = {known[0]: value}
    table = table_at(place, value)
    check_keys(place, table, known)
    arguments = {}
    for name, given in table.items():
        inner = place if len(known) == 1 else place.below(name)
        arguments[name] = number = resolve(inner, given, _NUMBER)
        _checked(inner, number, lambda: check_number(key, number))  # noqa: B023  (called at once)
    return getattr(tenacity, key)(**arguments)


def _checked(place: Place, value: object, check: Callable[[], None]) -> None:
    try:
        check()
    except ConfigError as exc:
        accepted = exc.accepted
    else:
        return
    raise place.error(value, accepted)
