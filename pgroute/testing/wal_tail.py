"""What a standby has received of its old primary's WAL and never replayed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from . import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LINE = re.compile(r"(\d+)\t([0-9A-F]+)/([0-9A-F]+)\t")  # of a timeline history file
_ZEROS = bytes(1 << 20)


def clear_tail(data_dir: Path, history: str, segment_size: int) -> None:
    """Clear the WAL of each old timeline from the place where the primary's history left it.

    The first half of a record may stand there, whose second half no server has. pg_rewind leaves it, as it asks what
    was replayed. PostgreSQL then waits for the second half, takes the new timeline's WAL for it, and ends.

    Args:
        data_dir: the folder of a stopped server, which has replayed nothing beyond those places.
        history: the primary's timeline history file.
        segment_size: bytes of a WAL file.
    """
    present = {path.name for path in (data_dir / "pg_wal").iterdir()}
    for timeline, fork in _forks(history):
        segment, offset = divmod(fork, segment_size)
        high, low = divmod(segment, (1 << 32) // segment_size)
        last = f"{timeline:08X}{high:08X}{low:08X}"
        if last in present:
            _clear_from(data_dir, f"pg_wal/{last}", offset, segment_size)
        for name in present:
            if name[:8] == last[:8] and len(name) == len(last) and name > last:
                files.remove(data_dir, f"pg_wal/{name}")


def _forks(history: str) -> Iterator[tuple[int, int]]:
    """Each earlier timeline, and the position in bytes at which the next one left it."""
    for line in history.splitlines():
        if match := _LINE.match(line):
            timeline, high, low = match.groups()
            yield int(timeline), (int(high, 16) << 32) + int(low, 16)


def _clear_from(data_dir: Path, name: str, offset: int, size: int) -> None:
    with files.opened(data_dir, name, os.O_WRONLY) as file:
        file.seek(offset)
        while offset < size:
            offset += file.write(_ZEROS[: size - offset])
