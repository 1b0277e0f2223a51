"""A file that takes the place of another when it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO

_DESCRIPTORS = ("/proc/", "/dev/fd/")
"""Links in these folders lead to what a process has open, whatever that is called, and whether it has a name at all."""


class ReplacingFile:
    """Writes beside a path, and renames in the end, so that the path never leads to a part of the data.

    What is no regular file, such as a pipe or a device, cannot be replaced: it is written as it is. So is what a
    process has open, such as /dev/stdout.

    Args:
        path: where the data are to be; a symbolic link is followed.

    Attributes:
        beside: the path that is written, if it replaces.
        lasting: whether `close` leaves there what was not kept.
        replaces: it is written beside; otherwise nothing can be taken back.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = _destination(os.fspath(path))
        self.beside: Path = self._path.with_name(f".pgroute-{os.urandom(8).hex()}.part")
        self.lasting: bool = False
        self._old: os.stat_result | None = None
        self._file: FileIO | None = None
        self._folder: int | None = None
        self.replaces: bool = True
        self._kept = False

    def open(self) -> None:
        """Open the file.

        Raises:
            OSError: the path cannot be written.
        """
        path = self._path
        if _is_open_already(path):
            self.replaces = False
            self._file = _open_again(path)
            return
        try:
            found = path.stat()
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(found.st_mode):
                self.replaces = False
                self._file = path.open("wb", buffering=0)
                return
            path.open("ab").close()  # renaming would replace a file that may not be written
            self._old = found
        # Who may not read the old file is not to read the data meanwhile.
        usual = 0o666 if self._old is None else 0o600
        new = os.open(self.beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, usual)
        self._file = os.fdopen(new, "wb", buffering=0)
        # Now, as it is too late to fail once the file has its name.
        with suppress(PermissionError):  # it may be written, not read
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def write(self, data: bytes) -> None:
        """Write all of some bytes."""
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            count = self._file.write(rest)
            if count is None:  # a descriptor that the process has open may be one that does not block
                waiting = select.poll()
                waiting.register(self._file, select.POLLOUT)
                waiting.poll()
            else:
                rest = rest[count:]

    def rewind(self) -> None:
        """Begin from the start."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()

    def save(self) -> None:
        """Have the data written to the disk, with the name of the file that has them.

        Raises:
            OSError: they cannot be.
        """
        assert self._file is not None
        if self.replaces:
            os.fsync(self._file.fileno())
            self._save_names()

    def keep(self) -> None:
        """Put the data in their place; after a crash of the machine they are there as a whole too. May be called again.

        Raises:
            OSError: they cannot be kept.
        """
        assert self._file is not None
        if self.replaces and not self._kept:
            os.fsync(self._file.fileno())
            if self._old is not None:
                self._take_rights(self._file.fileno(), self._old)
            self.beside.replace(self._path)
            self._kept = True
            self._save_names()

    def _take_rights(self, file: int, old: os.stat_result) -> None:
        """Give the file the rights of the old one: its owner and group as far as this process may."""
        mode, new = stat.S_IMODE(old.st_mode), os.fstat(file)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            for owner in (old.st_uid, -1):
                with suppress(OSError):
                    os.fchown(file, owner, old.st_gid)
                    break
            else:  # the group that it has now was one of the others
                mode = mode & ~0o070 | (mode & 0o007) << 3
        os.fchmod(file, mode)

    def _save_names(self) -> None:
        """Have the names in the folder written to the disk, where that can be done."""
        if self._folder is not None:
            try:
                os.fsync(self._folder)
            except OSError as exc:
                if exc.errno not in (errno.EBADF, errno.EINVAL, errno.ENOTSUP):  # not every file system can
                    raise

    def close(self) -> None:
        """Close the file, and remove it if it was not kept and is not lasting."""
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)
        if self._file is not None:
            self._file.close()
            if self.replaces and not self.lasting:
                self.beside.unlink(missing_ok=True)


def _destination(path: str) -> Path:
    """Return where a path leads, without following links to what a process has open."""
    for _ in range(40):  # as many as Linux follows
        found = Path(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH120, PTH119
        if _is_open_already(found) or not os.path.islink(found):  # noqa: PTH114  (Path's raises for a name that is too long)
            return found
        path = os.path.join(found.parent, found.readlink())  # noqa: PTH118  (a link may end in a slash)
    return Path(os.path.realpath(path))


def _is_open_already(path: Path) -> bool:
    return str(path).startswith(_DESCRIPTORS) and (path.parent.name == "fd" or path.is_symlink())


def _open_again(path: Path) -> FileIO:
    """Open what a process has open, so that what it holds stays."""
    parent = path.parent
    own = parent.name == "fd" and (parent.is_relative_to(f"/proc/{os.getpid()}") or parent == Path("/dev/fd"))
    if own and path.name.isdecimal() and path.exists():
        # With a position of its own, it would write over what this process has written.
        copy = os.dup(int(path.name))
        try:
            if fcntl.fcntl(copy, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # the first write would tell
                raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(path))
            return os.fdopen(copy, "wb", buffering=0)
        except BaseException:
            os.close(copy)
            raise
    return path.open("ab", buffering=0)
