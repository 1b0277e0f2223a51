"""What of a machine's environment would change what the tests show: it is taken out before the first of them.

Programs that tests start inherit what is left.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
"""Where the clusters' files are if there is plenty of it: on some disks a cluster takes ten seconds to make."""

PLENTY = 4 * 2**30

OWN = "PGROUTE_"
PREFIXES = (
    "PG",  # libpq's
    "OTEL_",
    "LC_",
    "LANG",
)
NAMES = {
    # What a terminal can show, or what shows as much in a pipe.
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLUMNS",
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "PYTHON_COLORS",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    # Of the run at hand, which has read it; tests run pytest too.
    "PYTEST_ADDOPTS",
    # Programs then fail at their first write, and otherwise at their last.
    "PYTHONUNBUFFERED",
    # Examples import what is beside them.
    "PYTHONSAFEPATH",
}

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def neutralize() -> None:
    """Take out of this process's environment what the tests must not depend on."""
    for name in list(os.environ):
        if name in NAMES or (name.startswith(PREFIXES) and not name.startswith(OWN)):
            del os.environ[name]
    # The others are for docker/build.
    if any(name.lower().endswith("_proxy") for name in os.environ):
        past = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if past != "*":
            past = ",".join(filter(None, [past, *LOOPBACK]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = past


def use_memory() -> None:
    """Have temporary files made in memory if there is plenty, and TMPDIR says nothing else."""
    with contextlib.suppress(OSError):
        if "TMPDIR" in os.environ or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
            return
        if os.access(MEMORY, os.W_OK) and room(MEMORY) >= PLENTY:
            os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def room(folder: Path, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes files may take in a tmpfs, whose pages count as memory of the container too."""
    there = os.statvfs(folder)
    limits = [there.f_bavail * there.f_frsize]
    with contextlib.suppress(OSError, StopIteration):
        told = meminfo.read_text().splitlines()
        limits.append(next(int(line.split()[1]) for line in told if line.startswith("MemAvailable:")) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max": it has no limit of its own
        most = int((cgroup / "memory.max").read_text())
        limits.append(most - int((cgroup / "memory.current").read_text()))
    return min(limits)
