"""The files of a new server, made once and copied for each cluster: making them takes longer than a start."""

from __future__ import annotations

import secrets
import shutil
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING

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

FIRST_SEGMENT = "pg_wal/000000010000000000000001"
IDENTIFIER = struct.Struct("=Q")
CHECKSUM = struct.Struct("=I")
CONTROL_DATA = range(200, 512, 4)
"""Where the checksum of pg_control may stand: its data grows with the versions, and stays below a sector."""
IDENTIFIER_IN_WAL = 24
"""Where the first page of a file of WAL has the system identifier (XLogLongPageHeaderData)."""


class Template:
    """The files of new servers, for `LocalCluster(template=)`: such a cluster starts in about half the time.

    A context manager. The files are made when the first cluster asks for them, take some 40 MB of a temporary folder,
    and are gone when the block ends. Every cluster has a system identifier of its own nonetheless.

    Args:
        version: which PostgreSQL (16, "16", "16.14"); None: the newest found.

    Attributes:
        server: that PostgreSQL.

    Raises:
        ServerNotFound: there is no such PostgreSQL.
    """

    def __init__(self, version: str | int | None = None) -> None:
        self.server: ServerBinaries = find_server(version)
        self._sandbox: Sandbox | None = None
        self._made = False
        self._lock = threading.Lock()
        self._safety_net: weakref.finalize[..., Template] | None = None

    def __enter__(self) -> Self:
        if self._sandbox is None:
            self._sandbox = Sandbox(self.server)
            self._safety_net = weakref.finalize(self, self._sandbox.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sandbox, self._sandbox, self._made = self._sandbox, None, False
        if sandbox is not None:
            sandbox.close()
        if self._safety_net is not None:
            self._safety_net.detach()

    def fill(self, sandbox: Sandbox, folder: Path, timeout: float) -> None:
        """Make the files of a new server in a sandbox.

        Raises:
            ClusterError: the template is not entered, or a program failed.
        """
        if self._sandbox is None:
            raise ClusterError("the template is not in use: clusters are made within its `with` statement")
        kept = self._sandbox.folder / "data"
        with self._lock:
            if not self._made:
                make_files(self._sandbox, self.server.major, kept, timeout)
                self._made = True
        sandbox.run("/bin/cp", "-Rp", kept, folder, timeout=timeout)
        if not give_identifier(folder):
            shutil.rmtree(folder)
            make_files(sandbox, self.server.major, folder, timeout)


def make_files(sandbox: Sandbox, major: int, folder: Path, timeout: float) -> None:
    """Run initdb."""
    options = f"-U {USER} -A trust -E UTF8 --locale=C -k --no-sync --no-instructions".split()
    # SIGKILL of initdb, too, leaves nothing in /dev/shm; older ones cannot be told.
    if major >= 16:
        options += ["-c", "dynamic_shared_memory_type=mmap"]
    sandbox.run("initdb", "-D", folder, *options, timeout=timeout)


def give_identifier(folder: Path) -> bool:
    """Give a server that was never started another system identifier, made of time and chance as initdb does.

    It is the first field of pg_control, whose checksum (CRC-32C) follows the data, and stands at the head of each file
    of WAL, of which there is one. See pg_control.h and xlog_internal.h of PostgreSQL. Returns False, and changes
    nothing, where pg_control is not as it has been up to PostgreSQL 18.
    """
    identifier = IDENTIFIER.pack(int(time.time()) << 32 | secrets.randbits(32))
    with (folder / "global/pg_control").open("r+b") as control:
        data = bytearray(control.read(CONTROL_DATA.stop + CHECKSUM.size))
        place = None
        for at, value in enumerate(checksums(data)):
            if at in CONTROL_DATA and CHECKSUM.unpack_from(data, at) == (value,):
                place = at
                break
        if place is None:
            return False
        data[: IDENTIFIER.size] = identifier
        *_, value = checksums(data[:place])
        CHECKSUM.pack_into(data, place, value)
        control.seek(0)
        control.write(data)
    with (folder / FIRST_SEGMENT).open("r+b") as segment:
        segment.seek(IDENTIFIER_IN_WAL)
        segment.write(identifier)
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
