"""What stands for modules and primitives in the modules under test, as long as a history lasts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

_UNDER_TEST = ("pgroute", "psycopg_pool", "tenacity")


class Time:
    """The module `time` with another clock."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.monotonic = now
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Chance:
    """The module `random` that gives the same numbers in each run of a history."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def Random(self, *_: object) -> Random:  # noqa: N802  (as the module's)
        return Random(self._rng.random())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


@contextlib.contextmanager
def replaced(
    stand_ins: list[tuple[object, object]], by_name: Mapping[tuple[str, str], object]
) -> Iterator[None]:
    """Put others in the place of some objects.

    Args:
        stand_ins: pairs of an object and what stands for it, wherever a module under test has it as a global.
        by_name: what stands for a module's global.
    """
    wanted = {id(old): new for old, new in stand_ins}
    before: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in tuple(sys.modules.items()):
        if name.partition(".")[0] in _UNDER_TEST and not name.startswith("pgroute.testing"):
            names = vars(module)
            before += [(names, key, value) for key, value in names.items() if id(value) in wanted]
    changes = [(names, key, wanted[id(value)]) for names, key, value in before]
    for (module_name, key), value in by_name.items():
        names = vars(sys.modules[module_name])
        before.append((names, key, names[key]))
        changes.append((names, key, value))
    try:
        for names, key, value in changes:
            names[key] = value
        yield
    finally:
        for names, key, value in reversed(before):
            names[key] = value
