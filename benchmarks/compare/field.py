"""One process for each contender, commanded through a pipe: none of them shares an interpreter with another."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import traceback
from multiprocessing.connection import wait

_START = 60.0


class Field:
    """The processes, as a context manager.

    Args:
        names: of the contenders.
        runner: called in each process with the name; its methods are the commands.
    """

    def __init__(self, names, runner):
        self._runner = runner
        self._context = multiprocessing.get_context("spawn")
        self._processes = dict.fromkeys(names)

    def __enter__(self):
        for name in self._processes:
            self._start(name)
        return self

    def __exit__(self, *exc):
        for process, pipe in filter(None, self._processes.values()):
            pipe.close()
            process.kill()
            process.join()

    def ask(self, *command, timeout, names=None):
        """Send a command to all, or to some, and return their answers by name.

        A process that has not answered in time, or whose answer is an exception, is replaced by a new one and has no
        answer here.
        """
        asked = list(self._processes if names is None else names)
        for name in asked:
            with contextlib.suppress(OSError):
                self._processes[name][1].send(command)
        answers = {}
        until = time.monotonic() + timeout
        waiting = {self._processes[name][1]: name for name in asked}
        while waiting and (left := until - time.monotonic()) > 0:
            for pipe in wait(waiting, left):
                name = waiting.pop(pipe)
                with contextlib.suppress(EOFError, OSError):
                    answers[name] = pipe.recv()
        for name in asked:
            answer = answers.get(name)
            if answer is None or isinstance(answer, _Failure):
                print(
                    f"  {name}: {'no answer' if answer is None else answer.text} to {command[0]!r}",
                    flush=True,
                )
                answers.pop(name, None)
                self._start(name)
        return answers

    def _start(self, name):
        if (old := self._processes[name]) is not None:
            old[1].close()
            old[0].kill()
            old[0].join()
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=_run, args=(self._runner, theirs, name), daemon=True)
        process.start()
        theirs.close()
        self._processes[name] = (process, mine)
        if not mine.poll(_START) or mine.recv() != "ready":
            raise RuntimeError(f"the process of {name} did not start")


def login_name(name):
    """Return the application_name by which a server knows a contender."""
    return name.replace(" ", "-")


class _Failure:
    def __init__(self, text):
        self.text = text


def _run(runner, pipe, name):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that commands
    os.environ["PGAPPNAME"] = login_name(name)
    logging.disable(logging.CRITICAL)  # each failover is a storm of warnings: not what is shown here
    pipe.send("ready")
    commands = runner(name)
    with contextlib.suppress(EOFError, OSError):
        while True:
            verb, *args = pipe.recv()
            try:
                answer = getattr(commands, verb)(*args)
            except Exception:  # noqa: BLE001  (told to the one that commands)
                answer = _Failure(traceback.format_exc(limit=-3))
            pipe.send(answer)
