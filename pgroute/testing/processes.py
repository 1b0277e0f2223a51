"""Finds, signals and ends the server processes below a folder.

`watchdog.py` runs it as the script `python processes.py FOLDER BINDIR`, which ends the servers and removes the folder.
It must not import anything outside the standard library.
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

    The working directory of a PostgreSQL process is its data directory, also if it is an orphan. Zombies are left out.
    """
    if not _PROC:
        return _descendants(folder)
    names = os.listdir("/proc")  # noqa: PTH208  (with hundreds of entries, Path objects take three times as long)
    return [int(name) for name in names if name.isdigit() and _belongs(name, folder, bindir)]


def send(sig: signal.Signals, folder: Path, bindir: Path) -> list[int]:
    """Send `sig` to all members and return their pids."""
    pids = members(folder, bindir)
    for pid in pids:
        _signal(pid, sig, folder, bindir)
    return pids


def freeze(folder: Path, bindir: Path, *, timeout: float = 5.0) -> None:
    """Send SIGSTOP to all members until each one is stopped; raise TimeoutError after `timeout` seconds.

    The last look finds nobody that was not stopped before it: nobody was left to begin another process meanwhile.
    """
    deadline = time.monotonic() + timeout
    stopped: set[int] = set()
    while running := [pid for pid in members(folder, bindir) if pid not in stopped]:
        for pid in running:
            _signal(pid, signal.SIGSTOP, folder, bindir)
        stopped.update(pid for pid in running if _stopped(pid))
        if time.monotonic() > deadline:
            raise TimeoutError(f"server processes below {folder} did not stop within {timeout} s")
        time.sleep(0.001)


def end(folder: Path, bindir: Path, *, timeout: float = 10.0) -> None:
    """SIGKILL all members, also stopped ones, until none is left; then remove their shared memory.

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


def _signal(pid: int, sig: signal.Signals, folder: Path, bindir: Path) -> None:
    """Send a signal to a member, unless it is gone."""
    with contextlib.suppress(ProcessLookupError):
        try:
            handle = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, or gone
            os.kill(pid, sig)
            return
        try:
            # While the handle is open the pid cannot be reused, so the checked process is the one that gets the signal.
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
    """Return the members on a system without /proc: the postmasters of the lock files and their descendants."""
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
    """Remove the System V shared memory segment of a killed server, which line 7 of its lock file names."""
    try:
        text, found = _read(lock)
        key, shmid = map(int, text.split("\n")[6].split())
        table = Path("/proc/sysvipc/shm").read_text().splitlines()
    except (OSError, IndexError, ValueError):
        return
    names = table[0].split()
    for line in table[1:]:
        row = {name: int(value) for name, value in zip(names, line.split(), strict=False)}
        # The owner of the file may have written anything there, so only segments of that owner are removed.
        same_key = (row["key"] - key) % 2**32 == 0  # one is printed signed, the other not
        # Attached processes are dead already; the segment goes with the last of them.
        if same_key and row["shmid"] == shmid and row["cuid"] == found.st_uid and found.st_nlink <= 1:
            ctypes.CDLL(None).shmctl(shmid, IPC_RMID, None)


def _read(lock: Path) -> tuple[str, os.stat_result]:
    """Return the content and status of a lock file, without following a link or blocking on a pipe (as `files.py`)."""
    with open(lock, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        return file.read(4096), os.fstat(file.fileno())


def remove(folder: Path, *, timeout: float = 5.0) -> None:
    """Remove a folder, also if a program that nobody knows of still writes there: it fails as soon as it is gone.

    Tries for `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
        shutil.rmtree(folder, ignore_errors=True)


def _clear_away(folder: Path, bindir: Path) -> None:
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            end(folder, bindir)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _clear_away(Path(sys.argv[1]), Path(sys.argv[2]))
