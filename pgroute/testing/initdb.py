"""The files of a new server: made by initdb, or copied from what it made before, which takes a tenth of the time."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING

from . import files
from .binaries import find_server
from .errors import ClusterError
from .sandbox import Sandbox
from .server import USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .binaries import ServerBinaries

IDENTIFIER = struct.Struct("=Q")
CHECKSUM = struct.Struct("=I")
CONTROL_DATA = range(200, 512, 4)
"""Where the checksum of pg_control may stand: its data grows with the versions, and stays below a sector."""
IDENTIFIER_IN_WAL = 24
"""Where the first page of a file of WAL has the system identifier (XLogLongPageHeaderData)."""
_WAL_FILE = re.compile(r"[0-9A-F]{24}")


class InitdbCache:
    """What initdb has made, kept for the next `LocalCluster(cache=)`, which starts in about half the time then.

    A context manager. For each PostgreSQL that is used it keeps some 40 MB in a temporary folder, until the block ends.
    Every cluster has a system identifier of its own nonetheless.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._sandbox: Sandbox | None = None
        self._kept: dict[ServerBinaries, Path] = {}
        self._safety_net: weakref.finalize[..., InitdbCache] | None = None

    def __enter__(self) -> Self:
        with self._lock:
            if self._sandbox is not None:
                raise ClusterError("the cache is in use already")
            self._owner = os.getpid()
            self._sandbox = Sandbox(find_server())
            self._safety_net = weakref.finalize(self, self._sandbox.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            assert self._sandbox is not None
            assert self._safety_net is not None
            self._sandbox.close()
            self._safety_net.detach()
            self._sandbox = None
            self._kept = {}

    def fill(self, server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
        """Make the files of a new server in a sandbox of its own.

        Raises:
            ClusterError: the cache is not entered, or a program failed.
        """
        if self._owner not in (0, os.getpid()):
            make_files(
                server, sandbox, folder, timeout
            )  # a forked child: the lock and the files are its parent's
            return
        with self._lock:
            if self._sandbox is None:
                raise ClusterError("the cache is not in use: start clusters within its `with` statement")
            kept = self._kept.get(server)
            if kept is None:
                make_files(server, sandbox, folder, timeout)
                kept = self._sandbox.folder / str(len(self._kept))
                self._sandbox.copy(folder, kept, timeout=timeout)
                make_sparse(kept)
                self._kept[server] = kept
                return
            sandbox.copy(kept, folder, timeout=timeout)
        if not give_identifier(folder):
            shutil.rmtree(folder)
            make_files(server, sandbox, folder, timeout)


def make_files(server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
    """Run initdb in a new folder. Whoever uses the files says who is let in: nobody, until then."""
    options = f"-U {USER} -A reject -E UTF8 --locale=C -k --no-sync --no-instructions".split()
    # SIGKILL of initdb, too, leaves nothing in /dev/shm; older ones cannot be told.
    if server.major >= 16:
        options += ["-c", "dynamic_shared_memory_type=mmap"]
    sandbox.make_folder(folder)
    sandbox.run("initdb", "-D", folder, *options, timeout=timeout)


def make_sparse(folder: Path) -> None:
    """Make holes of the zeros at the ends of the files of WAL, as most of the first one is: copies have them too."""
    for name in wal_files(folder):
        with files.opened(folder, name, os.O_RDWR) as file:
            content = file.read()
            file.truncate(len(content.rstrip(b"\0")))
            file.truncate(len(content))


def wal_files(folder: Path) -> list[str]:
    """Return the names of the files of WAL of a server's folder, relative to that."""
    return [f"pg_wal/{path.name}" for path in (folder / "pg_wal").iterdir() if _WAL_FILE.fullmatch(path.name)]


def give_identifier(folder: Path) -> bool:
    """Give a server that was never started another system identifier, made of time and chance as initdb does.

    It is the first field of pg_control, whose checksum (CRC-32C) follows the data, and stands at the head of each file
    of WAL, of which there is one yet. See pg_control.h and xlog_internal.h of PostgreSQL. Returns False, and changes
    nothing, where the files are of another kind.
    """
    control = "global/pg_control"
    data = bytearray(files.read(folder, control))
    place = None
    for at, value in enumerate(checksums(data[: CONTROL_DATA.stop])):
        if at in CONTROL_DATA and CHECKSUM.unpack_from(data, at) == (value,):
            place = at
            break
    segments = wal_files(folder)
    if place is None or len(segments) != 1:
        return False
    identifier = IDENTIFIER.pack(int(time.time()) << 32 | secrets.randbits(32))
    with files.opened(folder, segments[0], os.O_RDWR) as wal:
        wal.seek(IDENTIFIER_IN_WAL)
        if wal.read(IDENTIFIER.size) != data[: IDENTIFIER.size]:
            return False
        wal.seek(IDENTIFIER_IN_WAL)
        wal.write(identifier)
    data[: IDENTIFIER.size] = identifier
    *_, value = checksums(data[:place])
    CHECKSUM.pack_into(data, place, value)
    with files.opened(folder, control, os.O_RDWR) as file:
        file.write(data)
    return True


def checksums(data: bytes | bytearray) -> Iterator[int]:
    """Yield the CRC-32C (RFC 3720, appendix B.4) of nothing, of the first byte, of the first two and so on."""
    value = 0xFFFFFFFF
    yield 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value ^ 0xFFFFFFFF
