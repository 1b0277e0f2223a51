"""The folder in which the processes of one user meet: closed to all others, gone when the last process leaves."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from pgroute.runtime.fork import Inherited, forked

if TYPE_CHECKING:
    from pgroute.monitor.shared.identity import Identity

_KEY = "key"
_KEY_BYTES = 32
_ATTEMPTS = 8
_PAUSE = 0.001
_NAME_BYTES = 12
_OVERFLOW_UID = 65534


class Unusable(Exception):
    """Processes cannot meet here; the text says why."""


class Folder:
    """The folder, used by one process. Whoever uses it holds a shared lock on it, so that the last one can tell.

    All files are opened relative to the folder, so that it cannot be replaced by another meanwhile. The lock also keeps
    systemd-tmpfiles from cleaning it up.

    It is entered by `renew`.
    """

    def __init__(self) -> None:
        self.fd: int = -1
        self._path = Path()
        self._key = b""
        self._inherited: Inherited | None = None
        forked.register(self)

    def _open(self) -> None:
        if fcntl is None:
            raise Unusable("this system has no flock()")
        self._path = _place()  # anew: the one before may be gone for good
        self.fd = _enter(self._path)
        self._inherited = Inherited(self.fd)
        try:
            self._key = _read_key(self.fd)
        except OSError as exc:
            self.close()
            raise Unusable(f"{self._path}: {exc.strerror}") from None
        except Unusable:
            self.close()
            raise

    def name(self, watch: Identity) -> str:
        """Return the name of a watch, which can be seen by all users of the machine as that of a socket."""
        return watch.digest(self._key, _NAME_BYTES)

    @property
    def location(self) -> str:
        """Its path, for people."""
        return str(self._path)

    @property
    def current(self) -> bool:
        """Whether it is still the one that others find by its path."""
        return _is_at(self._path, self.fd)

    def renew(self) -> None:
        """Enter it, or go to the folder that is at the path now, if this one was removed.

        Raises:
            Unusable: there is none that is certainly closed to other users, or nothing can be written to it.
        """
        if self.fd >= 0 and self.current:
            return
        self.close()
        self._open()

    def names(self) -> list[str]:
        """Return the names of all files."""
        return os.listdir(self.fd)  # noqa: PTH208  (a descriptor)

    def path(self, name: str) -> str:
        """Return the path of a file that is short enough for a socket, whatever the path of the folder."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def remove(self, name: str) -> None:
        """Remove a file, if it is there and that is possible."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.fd)

    def close(self) -> None:
        """Leave the folder; the last one removes it."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        try:
            with contextlib.suppress(OSError):
                # The locks of others, killed ones apart, would be in the way.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(self._path, fd):
                    for name in os.listdir(fd):  # noqa: PTH208  (a descriptor)
                        os.unlink(name, dir_fd=fd)
                    self._path.rmdir()
        finally:
            os.close(fd)

    def after_fork(self) -> None:
        """Close the descriptor in a forked child: it would keep the lock for as long as the child lives."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and self._inherited is not None:
            self._inherited.close()


def _place() -> Path:
    """Return where the folder has to be."""
    uid = os.geteuid()
    _check_uid(uid)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _private(runtime, uid):
        return Path(runtime, "pgroute")
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  (closed to others below)
    if not temporary.startswith("/"):
        raise Unusable("TMPDIR is a relative path")
    try:
        mode = Path(temporary).stat().st_mode
    except OSError as exc:
        raise Unusable(f"{temporary}: {exc.strerror}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise Unusable(f"{temporary} lets others replace files (it is not sticky)")
    return Path(temporary, f"pgroute-{uid}")


def _check_uid(uid: int) -> None:
    """Refuse the user id that stands for all users that are unknown in a user namespace."""
    if uid == _OVERFLOW_UID:
        with contextlib.suppress(OSError):
            if Path("/proc/self/uid_map").read_text("ascii").split() == ["0", "0", "4294967295"]:
                return
        raise Unusable(f"user id {uid} may stand for several users")


def _private(path: str, uid: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def _enter(path: Path) -> int:
    """Make the folder if it is missing, open it, and lock it with all who use it."""
    uid = os.geteuid()
    for _ in range(_ATTEMPTS):
        fd = -1
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            found = os.fstat(fd)
            if found.st_uid != uid or found.st_mode & 0o077:
                raise Unusable(f"{path} is not closed to other users")
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if _is_at(path, fd):
                entered, fd = fd, -1
                return entered
        except (FileNotFoundError, BlockingIOError):
            if not path.parent.is_dir():
                raise Unusable(f"{path.parent} is no folder") from None
            time.sleep(_PAUSE)  # the last process removes it at this moment
        except OSError as exc:
            raise Unusable(f"{path}: {exc.strerror}") from None
        finally:
            if fd >= 0:
                os.close(fd)
    raise Unusable(f"{path} is being removed")


def _is_at(path: Path, fd: int) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _read_key(folder: int) -> bytes:
    """Return the key of the folder; the first process makes it."""
    try:
        fd = os.open(_KEY, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        _make_key(folder)
        fd = os.open(_KEY, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        key = os.read(fd, _KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != _KEY_BYTES:
        raise Unusable("the key in the folder is none")
    return key


def _make_key(folder: int) -> None:
    """Make the key in one step: nobody finds a part of one."""
    name = f"{_KEY}.{os.urandom(8).hex()}"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        os.write(fd, os.urandom(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(name, _KEY, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=folder)
