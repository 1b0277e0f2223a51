"""A position in the write-ahead log: what a reader must have replayed to see a write."""

from __future__ import annotations

from pgroute.core.late_dataclass import dataclass
from pgroute.core.late_pattern import LatePattern
from pgroute.errors import ConfigError

_TEXT = LatePattern(r"(0|[1-9a-f][0-9a-f]{0,15})-([1-9][0-9]{0,9})-(0|[1-9a-f][0-9a-f]{0,15})")
_MOST_TIMELINE = 2**31 - 1
_WORD = 2**64
_ACCEPTED = "expected the text of a pgroute.Position, such as '6721c5a0f3b2d418-1-3000148'"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a session has written, or read, in the write-ahead log of a cluster.

    As text it has at most 44 characters: hexadecimal digits, decimal digits and "-". They need no quotes in a URL, a
    cookie or a header. `Position.parse` reads it back.

    Attributes:
        system_id: the system identifier of the cluster (``pg_control_system()``).
        timeline: the timeline; each promotion begins a new one.
        lsn: the log sequence number, a number of bytes (PostgreSQL's ``pg_lsn``).

    Raises:
        ConfigError: a value is not a number in its range.
    """

    system_id: int
    timeline: int
    lsn: int

    def __post_init__(self) -> None:
        ranges = {
            "system_id": (-(2**63), 2**63 - 1),
            "timeline": (1, _MOST_TIMELINE),
            "lsn": (0, _WORD - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(name, value, f"expected a whole number from {low} to {high}")

    def __str__(self) -> str:
        return f"{self.system_id % _WORD:x}-{self.timeline}-{self.lsn:x}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that a text stands for.

        Args:
            text: as ``str()`` of a position gives it.

        Raises:
            ConfigError: it is not such a text.
        """
        return parse_position(text, "position")

    @staticmethod
    def later(a: Position | None, b: Position | None) -> Position | None:
        """Return the later one of two positions: of the higher timeline, else of the higher LSN.

        Args:
            a: a position; None: there is none.
            b: likewise.

        Raises:
            ConfigError: they belong to different clusters, or one is something else.
        """
        for value in (a, b):
            given: object = value
            if not (given is None or isinstance(given, Position)):
                raise ConfigError(
                    "position", given, "expected a pgroute.Position or None; Position.parse reads a text"
                )
        if a is None or b is None:
            return a or b
        if a.system_id != b.system_id:
            raise ConfigError("position", str(b), f"expected one of the cluster of {a}")
        return max(a, b, key=lambda position: (position.timeline, position.lsn))


def parse_position(value: object, parameter: str) -> Position:
    """Return a Position, or what its text stands for; ConfigError, naming the parameter, for anything else."""
    if isinstance(value, Position):
        return value
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > _MOST_TIMELINE:
        raise ConfigError(parameter, value, _ACCEPTED)
    number = int(match[1], 16)
    return Position(number - _WORD if number >= _WORD // 2 else number, int(match[2]), int(match[3], 16))
