"""An object of the user that takes part in no comparison."""

from __future__ import annotations

from typing import Any


class Incomparable:
    """An object whose comparisons are no answers, as those of arrays are none."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


INCOMPARABLE: Any = Incomparable()
