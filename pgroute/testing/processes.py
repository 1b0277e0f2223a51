"""Find, signal and end the server processes below a folder; as a script, end them for an owner that is gone.

Run as `python processes.py FOLDER BINDIR` it ends the servers and removes the folder; `watchdog.py` does that. It must
not import anything outside the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROC = Path("/proc/self/cwd").exists()
IPC_RMID = 0


def members(folder: Path, bindir: Path) -> list[int]:
    """Return the pids of live server processes of `bindir` that work below `folder` (resolved paths).

    Each PostgreSQL process stays in its data directory all its life, orphans too. Zombies are not listed.
    """
    if not _PROC:
        return _descendants(folder)
    names = os.listdir("/proc")  # noqa: PTH208  (hundreds, nearly all of them somebody else's: paths take three times as long)
    return [int(name) for name in names if name.isdigit() and _belongs(name, folder, bindir)]


def send(sig: signal.Signals, folder: Path, bindir: Path) -> list[int]:
    """Send `sig` to all members and return their pids."""
    pids = members(folder, bindir)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            _send_one(pid, sig, folder, bindir)
    return pids


def freeze(folder: Path, bindir: Path, *, timeout: float = 5.0) -> None:
    """Send SIGSTOP to all members, again until each is seen stopped. Raises TimeoutError after `timeout`
    seconds.
    """
    deadline = time.monotonic() + timeout
    while not all(_stopped(pid) for pid in send(signal.SIGSTOP, folder, bindir)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"server processes below {folder} did not stop within {timeout} s")
        time.sleep(0.002)


def end(folder: Path, bindir: Path, *, timeout: float = 10.0) -> None:
    """SIGKILL all members until none is left (stopped ones too), then remove what the kernel keeps of them.

    Raises TimeoutError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while send(signal.SIGKILL, folder, bindir):
        if time.monotonic() > deadline:
            raise TimeoutError(f"server processes below {folder} survived SIGKILL for {timeout} s")
        time.sleep(0.002)
    for lock in (folder / "postmaster.pid", *folder.glob("*/postmaster.pid")):
        _remove_segment(lock)


def _belongs(pid: int | str, folder: Path, bindir: Path) -> bool:
    try:
        if not f"{os.readlink(f'/proc/{pid}/cwd')}/".startswith(f"{folder}/"):  # noqa: PTH115  (as above)
            return False
        program = Path(f"/proc/{pid}/exe").readlink()
    except OSError:  # gone, a zombie, or another user's
        return False
    return program.parent == bindir or "postgres" in program.name


def _send_one(pid: int, sig: signal.Signals, folder: Path, bindir: Path) -> None:
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or gone
        os.kill(pid, sig)
        return
    try:
        # With the handle open the pid cannot be reused, so what we look at is what we hit.
        if _belongs(pid, folder, bindir):
            signal.pidfd_send_signal(handle, sig)
    finally:
        os.close(handle)


def _stopped(pid: int) -> bool:
    if not _PROC:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"TtZX"
    except OSError:
        return True


def _descendants(folder: Path) -> list[int]:
    """The same list for systems without /proc: the postmasters of the lock files and all processes below
    them.
    """
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    fields = [line.split(None, 3) for line in listing.stdout.splitlines()]
    rows = [(int(row[0]), int(row[1]), row[2], row[3]) for row in fields if len(row) == 4]
    locks = [folder / "postmaster.pid", *folder.glob("*/postmaster.pid")]
    roots = {int(_read(lock)[0].split("\n", 1)[0]) for lock in locks if lock.exists()}
    found = [pid for pid, _, _, command in rows if pid in roots and str(folder) in command]
    for pid in found:
        found += (child for child, parent, _, _ in rows if parent == pid)
    zombies = {pid for pid, _, state, _ in rows if state.startswith("Z")}
    return [pid for pid in found if pid not in zombies]


def _remove_segment(lock: Path) -> None:
    """Remove the System V shared memory segment that a killed server leaves, named in line 7 of its lock
    file.
    """
    try:
        text, found = _read(lock)
        key, shmid = map(int, text.split("\n")[6].split())
        table = Path("/proc/sysvipc/shm").read_text().splitlines()
    except (OSError, IndexError, ValueError):
        return
    names = table[0].split()
    for line in table[1:]:
        row = {name: int(value) for name, value in zip(names, line.split(), strict=False)}
        # The file's owner can have written anything there: of other users nothing is removed.
        same_key = (row["key"] - key) % 2**32 == 0  # one is printed signed, the other not
        # Whoever is still attached is dead, and the kernel about to take its memory apart: the segment goes with it.
        if same_key and row["shmid"] == shmid and row["cuid"] == found.st_uid and found.st_nlink <= 1:
            ctypes.CDLL(None).shmctl(shmid, IPC_RMID, None)


def _read(lock: Path) -> tuple[str, os.stat_result]:
    """Return a lock file's content and what it is, following no link and waiting for no pipe (as `files.py`)."""
    with open(lock, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        return file.read(4096), os.fstat(file.fileno())


def _clear_away(folder: Path, bindir: Path) -> None:
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            end(folder, bindir)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _clear_away(Path(sys.argv[1]), Path(sys.argv[2]))
