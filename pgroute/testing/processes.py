"""Finds, signals and ends the processes of a cluster's servers.

`watchdog.py` runs it as the script `python processes.py FOLDER`, which ends the servers and removes the folder. It must
not import anything outside the standard library.

The kernel calls a process by the file that it was started from, and its forks too, also as orphans. So each server is
started from a link of a name of its own. Linux shows that name, owners and parents to everybody; the working directory
and the program only to root with CAP_SYS_PTRACE, which containers leave off, and to the owner.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

PROGRAMS = "programs"
"""The folder of the links. It belongs to the servers' user, as all their processes do."""

IPC_RMID = 0
_LINUX = sys.platform == "linux"


class Process(NamedTuple):
    """One process: `name` is what the kernel calls it, `started` tells it from a later one with the same pid."""

    parent: int
    state: str
    started: str
    name: str
    command: str


def link_name(data_dir: Path) -> str:
    """Return the name of the link that the server of a data directory is started from.

    Nobody else has it: the folder above has a random name. It is as long as the kernel keeps it.
    """
    digest = hashlib.sha256(os.fsencode(data_dir)).digest()
    return f"postgres{base64.urlsafe_b64encode(digest)[:7].decode()}"


def members(folder: Path, server: str | None = None, *, children: Collection[int] = ()) -> dict[int, str]:
    """Return the pids of the live processes of servers, and when they were started. Zombies are left out.

    Args:
        folder: the cluster's.
        server: the name of one server; None: all servers, and other programs that run from links in the folder.
        children: of them, those that this process has started and not waited for. They have another name until their
            program begins, and where that is a script that executes the server.
    """
    links = folder / PROGRAMS
    try:
        uid = links.lstat().st_uid
        names = {link_name(path) for path in (folder.iterdir() if server is None else [folder / server])}
    except FileNotFoundError:
        return {}
    everybody = _processes(uid, children, commands=server is None)
    program = f"{links}/" if server is None else f"{links}/{link_name(folder / server)} "
    me = os.getpid()  # a later process with the pid of a child is another one's child
    found = {
        pid
        for pid, process in everybody.items()
        if process.name in names
        or process.command.startswith(program)
        or (pid in children and process.parent == me)
    }
    # A server executes programs too, and so does initdb.
    while more := {pid for pid, process in everybody.items() if process.parent in found} - found:
        found |= more
    return {pid: everybody[pid].started for pid in found if everybody[pid].state not in "ZX"}


def visible(pid: int) -> bool:
    """Return whether a process is shown to this one."""
    try:
        return not _LINUX or bool(_process(pid))
    except OSError:
        return False


def send(
    sig: signal.Signals, folder: Path, server: str | None = None, *, children: Collection[int] = ()
) -> list[int]:
    """Send `sig` to all members and return their pids."""
    found = members(folder, server, children=children)
    for pid, started in found.items():
        _signal(pid, started, sig)
    return list(found)


def freeze(folder: Path, server: str, *, children: Collection[int], timeout: float = 5.0) -> None:
    """Send SIGSTOP to all members until each one is stopped; raise TimeoutError after `timeout` seconds.

    The last look finds nobody that was not stopped before it: nobody was left to begin another process meanwhile.
    """
    deadline = time.monotonic() + timeout
    stopped: set[int] = set()
    while running := {
        pid: started
        for pid, started in members(folder, server, children=children).items()
        if pid not in stopped
    }:
        for pid, started in running.items():
            _signal(pid, started, signal.SIGSTOP)
        stopped.update(pid for pid in running if _stopped(pid))
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {folder / server} did not stop within {timeout} s")
        time.sleep(0.001)


def end(
    folder: Path, server: str | None = None, *, children: Collection[int] = (), timeout: float = 10.0
) -> None:
    """SIGKILL all members, also stopped ones, until none is left; then remove their shared memory.

    Raises TimeoutError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while send(signal.SIGKILL, folder, server, children=children):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {folder / (server or '')} survived SIGKILL for {timeout} s")
        time.sleep(0.002)
    for lock in folder.glob(f"{server or '*'}/postmaster.pid"):
        _remove_segment(lock)


def _processes(uid: int, children: Collection[int], *, commands: bool) -> dict[int, Process]:
    """Return the processes of a user, and these children."""
    if not _LINUX:
        return _listed(uid, children)
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  (with hundreds of entries, Path objects take three times as long)
        if entry.isdigit():
            pid = int(entry)
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}").st_uid == uid or pid in children:  # noqa: PTH116  (as above)
                    found[pid] = _process(pid, command=commands)
    return found


def _process(pid: int, *, command: bool = False) -> Process:
    """Read what Linux tells of a process. OSError: it is gone, or hidden."""
    head, _, rest = _content(f"/proc/{pid}/stat").rpartition(")")
    fields = rest.split()
    line = _content(f"/proc/{pid}/cmdline").replace("\0", " ") if command else ""
    return Process(int(fields[1]), fields[0], fields[19], head.partition("(")[2], line)


def _content(path: str) -> str:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (as above)
        return file.read().decode(errors="replace")


def _listed(uid: int, children: Collection[int]) -> dict[int, Process]:
    """Return the processes of a user as `ps` tells them: without the names of forks, so orphans are not found."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,uid=,stat=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    found: dict[int, Process] = {}
    for line in listing.stdout.splitlines():
        pid, parent, owner, state, *program = line.split(None, 4)
        if int(owner) == uid or int(pid) in children:
            found[int(pid)] = Process(int(parent), state[0], "", "", "".join(program))
    return found


def _signal(pid: int, started: str, sig: signal.Signals) -> None:
    """Send a signal to a member, unless it is gone."""
    with contextlib.suppress(OSError):
        handle = None
        with contextlib.suppress(AttributeError, OSError):  # not Linux, an old kernel, or gone
            handle = os.pidfd_open(pid)
        try:
            # While the handle is open the pid cannot be reused, so the checked process is the one that gets the signal.
            if _LINUX and _process(pid).started != started:
                return
            if handle is None:
                os.kill(pid, sig)
            else:
                signal.pidfd_send_signal(handle, sig)
        finally:
            if handle is not None:
                os.close(handle)


def _stopped(pid: int) -> bool:
    try:
        return not _LINUX or _process(pid).state in "TtZX"
    except OSError:
        return True


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
        ours = row["shmid"] == shmid and row["cuid"] == found.st_uid and found.st_nlink <= 1
        if same_key and ours and ctypes.CDLL(None).shmctl(shmid, IPC_RMID, None) != 0:
            _remove_as(found, shmid)


def _remove_as(owner: os.stat_result, shmid: int) -> None:
    """Remove a segment as its owner: root needs CAP_SYS_ADMIN for those of others, which containers leave off."""
    program = shutil.which("ipcrm", path="/usr/bin:/bin")
    if program is not None and os.geteuid() == 0:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [program, "-m", str(shmid)],
                cwd="/",
                user=owner.st_uid,
                group=owner.st_gid,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10.0,
                check=False,
            )


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


def _clear_away(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            end(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _clear_away(Path(sys.argv[1]))
