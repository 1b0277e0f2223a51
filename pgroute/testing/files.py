"""Safe access, also as root, to files in folders of the servers' user: no link is followed.

A server executes any SQL of its superuser, including programs (COPY TO PROGRAM), so its folder may hold anything. Each
function takes a folder, whose parent must belong to the current user, and the name of a file below it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from io import FileIO
from typing import TYPE_CHECKING

from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEVER = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: a FIFO must not block


@contextlib.contextmanager
def opened(folder: Path, name: str, flags: int) -> Iterator[FileIO]:
    """Open a file, unbuffered.

    Raises:
        FileNotFoundError: there is none.
        ClusterError: it is a symbolic or hard link or not a regular file, or a folder on the way is a link.
    """
    modes = {os.O_RDONLY: "rb", os.O_WRONLY: "wb", os.O_RDWR: "r+b"}
    with FileIO(_open(folder, name, flags), modes[flags & os.O_ACCMODE]) as file:
        found = os.fstat(file.fileno())
        if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
            raise _refused(folder, name)
        yield file


def read_text(folder: Path, name: str) -> str:
    """Return the content of a file as text."""
    with opened(folder, name, os.O_RDONLY) as file:
        return file.read().decode(errors="replace")


def write(folder: Path, name: str, content: str | bytes) -> None:
    """Replace the content of an existing file."""
    with opened(folder, name, os.O_WRONLY) as file:
        file.truncate()
        _put(file, content)


def append(folder: Path, name: str, text: str) -> None:
    """Append to an existing file."""
    with opened(folder, name, os.O_WRONLY | os.O_APPEND) as file:
        _put(file, text)


def create(folder: Path, name: str, owner: tuple[int, int] | None, content: str = "") -> None:
    """Create a file that only its owner may read.

    Args:
        folder: the folder.
        name: of the file.
        owner: a uid and a gid; None: those of the process.
        content: of the file.

    Raises:
        FileExistsError: the file exists.
    """
    with opened(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        _put(file, content)


def remove(folder: Path, name: str) -> None:
    """Remove a file; a link is removed itself.

    Raises:
        FileNotFoundError: there is none.
        ClusterError: a folder on the way is a link.
    """
    with _opened_folder(folder, name) as (at, last):
        os.unlink(last, dir_fd=at)


def _put(file: FileIO, content: str | bytes) -> None:
    left = memoryview(content.encode() if isinstance(content, str) else content)
    while left:
        left = left[file.write(left) :]


def _open(folder: Path, name: str, flags: int) -> int:
    with _opened_folder(folder, name) as (at, last):
        return os.open(last, flags | NEVER, 0o600, dir_fd=at)


@contextlib.contextmanager
def _opened_folder(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Open the folder that holds a file; give its descriptor, and the file's name there."""
    *below, last = name.split("/")
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NEVER)
        try:
            for part in below:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | NEVER, dir_fd=at)
                os.close(at)
                at = inner
            yield at, last
        finally:
            os.close(at)
    except OSError as error:
        # The errors for links, folders and FIFOs; FreeBSD reports a link as EMLINK.
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise _refused(folder, name) from error
        raise


def _refused(folder: Path, name: str) -> ClusterError:
    return ClusterError(f"{folder / name} is a link, or no file: it was not opened")
