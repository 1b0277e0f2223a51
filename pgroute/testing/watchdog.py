"""Waits until the process that started it dies, and then removes that process's servers and files.

It runs as `python watchdog.py FOLDER` beside each cluster, so it imports very little while it waits, and
executes `processes.py` in the end. It notices the death by the end of file on its standard input, a pipe.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def _watch(folder: str) -> None:
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    owner = os.getppid()
    # A forked child of the owner may hold the pipe open, so the parent's pid is checked too.
    while not select.select([0], [], [], 0.5)[0] and os.getppid() == owner:
        pass
    program = f"{os.path.dirname(__file__)}/processes.py"  # noqa: PTH120  (pathlib takes longer than all the rest)
    os.execv(sys.executable, [sys.executable, "-I", "-S", program, folder])  # noqa: S606


if __name__ == "__main__":
    _watch(sys.argv[1])
