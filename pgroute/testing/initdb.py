"""The files of a new server, made by initdb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import USER

if TYPE_CHECKING:
    from pathlib import Path

    from .binaries import ServerBinaries
    from .sandbox import Sandbox


def make_files(server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
    """Run initdb in a new folder. Its pg_hba.conf rejects everybody until the caller replaces it."""
    options = f"-U {USER} -A reject -E UTF8 --locale=C -k --no-sync --no-instructions".split()
    # So that initdb leaves nothing in /dev/shm after SIGKILL; older versions have no such option.
    if server.major >= 16:
        options += ["-c", "dynamic_shared_memory_type=mmap"]
    sandbox.make_folder(folder)
    sandbox.run("initdb", "-D", folder, *options, timeout=timeout)
