"""A file that takes the place of another when it is complete."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO


class ReplacingFile:
    """Writes beside a path, and renames in the end, so that the path never leads to a part of the data.

    What is no regular file, such as a pipe or a device, cannot be replaced: it is written as it is.

    Args:
        path: where the data are to be; a symbolic link is followed.

    Attributes:
        replaces: it is written beside; otherwise nothing can be taken back.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(os.path.realpath(path))
        self._beside = self._path.with_name(f".pgroute-{os.urandom(8).hex()}.part")
        self._mode: int | None = None
        self._file: FileIO | None = None
        self.replaces: bool = True
        self._kept = False

    def open(self) -> None:
        """Open the file.

        Raises:
            OSError: the path cannot be written.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(found.st_mode):
                self.replaces = False
                self._file = self._path.open("wb", buffering=0)
                return
            self._path.open("ab").close()  # renaming would replace a file that may not be written
            self._mode = stat.S_IMODE(found.st_mode)
        self._file = self._beside.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        """Write all of some bytes."""
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def rewind(self) -> None:
        """Begin from the start."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()

    def save(self) -> None:
        """Have the data written to the disk.

        Raises:
            OSError: they cannot be.
        """
        assert self._file is not None
        if self.replaces:
            os.fsync(self._file.fileno())

    def keep(self) -> None:
        """Put the data in their place; after a crash of the machine they are there as a whole too. May be called again.

        Raises:
            OSError: they cannot be kept.
        """
        assert self._file is not None
        if self.replaces and not self._kept:
            self.save()
            if self._mode is not None:
                os.fchmod(self._file.fileno(), self._mode)
            self._beside.replace(self._path)
            self._kept = True

    def close(self) -> None:
        """Close the file, and remove it if it was not kept."""
        if self._file is not None:
            self._file.close()
            if self.replaces:
                self._beside.unlink(missing_ok=True)
