"""`pgroute demo` as a user runs it: the rows agree, and nothing is left behind in whatever way it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pgroute.cli import main
from pgroute.cli.demo.faults import FAULTS as FAULTS_OF_DEMO
from pgroute.cli.demo.faults import crash
from pgroute.cli.demo.load import Account, Acknowledged
from pgroute.cli.demo.outcome import Moment, Outcome
from pgroute.cli.demo.plot import check, draw
from pgroute.cli.demo.report import show_outcome
from pgroute.cli.demo.stage import Fault
from pgroute.cli.terminal import open_console

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


def all_gone(folder):
    """Wait until nothing lives in a folder any more."""
    deadline = time.monotonic() + 20.0
    while found := leftovers(folder):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def leftovers(folder):
    """What lives in a folder: files, and processes that work there or name it."""
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(command)
            except OSError:
                continue
    return found


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
        "3 writers and 2 readers (threads) start on primary node1",
        "killing node1: SIGKILL to all its processes",
        f"promoting {promoted}",
        f"{promoted} has left recovery, seen by a session outside the router",
        f"first write on {promoted} acknowledged",
        "node1 comes back as a standby (pg_rewind)",
    ]
    assert f"router: primary is {promoted}, timeline 2" in out
    assert re.search(r"^promotion to first write +at most \d+ ms$", out, re.MULTILINE)
    assert re.search(r"^reads .* during the outage$", out, re.MULTILINE)
    assert re.search(r"^read errors +none$", out, re.MULTILINE)
    marks = re.findall(r"^([A-Z]) +\d+\.\d\d s  (\w.*)$", out, re.MULTILINE)
    assert marks == [
        ("F", "node1 killed"), ("P", f"{promoted} promoted"), ("W", "first write"), ("R", "node1 comes back"),
    ]  # fmt: skip
    assert "\x1b" not in out
    assert leftovers(temporary) == []


# For other servers, and for the logs of other programs.
HOSTILE = {
    "FORCE_COLOR": "1",
    "TERM": "xterm",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "system",
    "PGHOSTADDR": "192.0.2.1",
    "PGSERVICE": "defined-nowhere",
    "PGDATESTYLE": "nonsense",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGTARGETSESSIONATTRS": "standby",
}


COLOUR = r"\x1b\[[0-9;]*m"


def test_variables_that_were_meant_for_others_do_not_spoil_the_demo(temporary, monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    with start(temporary, "--duration", "3", "--writers", "1", "--readers", "1") as demo:
        out, err = demo.communicate(timeout=90)
    assert (demo.returncode, err) == (0, ""), out
    assert "has left recovery, seen by a session outside the router" in out
    assert re.sub(COLOUR, "", out).endswith("Every acknowledged row is there exactly once.\n")
    assert re.search(COLOUR, out), "colours are forced"
    assert "\x1b" not in re.sub(COLOUR, "", out), "but not a screen or a cursor"


def test_servers_that_serve_nobody_in_time_are_told(monkeypatch, capsys):
    monkeypatch.setitem(FAULTS_OF_DEMO, "crash", Fault(crash, {"acquire_timeout": 0.0001}))
    monkeypatch.setenv("PGSSLMODE", "require")
    assert main(["demo"]) == 2
    _, err = capsys.readouterr()
    assert re.match(r"pgroute demo: no writer session \(read-write\) within 0.0001 s\n", err)
    assert "Traceback" not in err
    assert os.environ["PGSSLMODE"] == "require", "given back"


@pytest.mark.parametrize(
    "moment",
    ["PostgreSQL", "killing", "promoting"],
)
def test_ctrl_c_leaves_nothing_behind(temporary, moment):
    with start(temporary, "--duration", "3") as demo:
        for line in demo.stdout:
            if moment in line:
                break
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    all_gone(temporary)


def test_ctrl_c_while_the_servers_start_leaves_nothing_behind(temporary):
    with start(temporary) as demo:
        eventually(lambda: list(temporary.glob("*/node1")), "initdb at work")
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    all_gone(temporary)


def test_unknown_server_version_is_told_with_what_to_do(temporary):
    with start(temporary, "--pg-version", "9.1") as demo:
        out, err = demo.communicate(timeout=30)
    assert (demo.returncode, out) == (2, "")
    assert err.startswith("pgroute demo: no PostgreSQL 9.1 server binaries found")
    assert "pip install" in err


FAULTS = {
    "freeze": ("node1 frozen", "node. promoted", "first write", "node1 thawed", "node1 comes back"),
    "switchover": ("node1 shut down", "node. promoted", "first write", "node1 comes back"),
    "split-brain": (
        "node1 killed", "both standbys promoted", "node. shut down", "first write", "node1 comes back",
    ),
    "standby-loss": ("node3 killed", "node3 started"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    FAULTS,
)
def test_every_fault_is_played_to_its_end(temporary, fault):
    face = ["--async"] if fault in ("freeze", "standby-loss") else []
    with start(temporary, "--fault", fault, "--duration", "4", *face) as demo:
        out, err = demo.communicate(timeout=90)
    assert (demo.returncode, err) == (0, ""), out
    marks = re.findall(r"^[A-Z] +\d+\.\d\d s  (\w.*)$", out, re.MULTILINE)
    assert len(marks) == len(FAULTS[fault])
    assert all(re.fullmatch(expected, mark) for expected, mark in zip(FAULTS[fault], marks, strict=True)), out
    [(acknowledged, found)] = re.findall(
        r"^rows +(\d+) acknowledged, (\d+) of them found$", out, re.MULTILINE
    )
    assert int(acknowledged) == int(found) > 20
    states = re.findall(
        r"node\d (primary|standby) up", re.findall(r"^hosts at the end.*$", out, re.MULTILINE)[0]
    )
    assert sorted(states) == ["primary", "standby", "standby"]
    if fault == "split-brain":
        assert re.search(r"^read errors +SplitBrainError \d+$", out, re.MULTILINE)
        assert "router: split brain between node" in out
    else:
        # One for each read that was under way at the standby that was killed, but no other.
        [errors] = re.findall(r"^read errors +(.*)$", out, re.MULTILINE)
        assert sum(map(int, re.findall(r"\d+", errors))) <= (4 if fault == "standby-loss" else 0), out
    if fault == "freeze":
        assert "stale primary: on timeline 1 while timeline 2 was seen" in out
    assert out.endswith("Every acknowledged row is there exactly once.\n")
    assert leftovers(temporary) == []


def test_async_demo_is_ended_by_ctrl_c(temporary):
    with start(temporary, "--async", "--fault", "freeze", "--duration", "3") as demo:
        for line in demo.stdout:
            if "freezing" in line:
                break
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "")
    all_gone(temporary)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """Matplotlib with its fonts, which it keeps open."""
    for ending in ("svg", "png"):
        draw(outcome([1, 2]), str(tmp_path_factory.mktemp("fonts") / f"run.{ending}"))


@pytest.mark.usefixtures("fonts")
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_picture_shows_the_run(tmp_path, ending):
    name = str(tmp_path / f"run.{ending}")
    check(name)
    assert not Path(name).exists()
    draw(outcome([1, 2]), name)
    picture = Path(name).read_bytes()
    if ending == "png":
        assert picture.startswith(b"\x89PNG")
    else:
        root = ET.fromstring(picture)  # noqa: S314  (our own)
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"node1 killed", "first write", "writes per second", "reads per second", "seconds"} <= {*texts}
        assert "pgroute demo: crash; first write at most 500 ms after the promotion" in texts


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("run.gif", "'run.gif' does not end in one of .svg, .png, .pdf"),
        ("no/such/folder/run.svg", "no/such/folder/run.svg cannot be written: No such file or directory"),
    ],
)
def test_picture_that_cannot_be_written_is_told_before_anything_is_started(temporary, name, told):
    with start(temporary, "--plot", name) as demo:
        out, err = demo.communicate(timeout=30)
    assert (demo.returncode, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def outcome(found, unknown=(), acknowledged=((1, 1.0, 1), (2, 2.0, 2))):
    """Facts, made up."""
    account = Account()
    account.acknowledged = [Acknowledged(row, at, port) for row, at, port in acknowledged]
    account.writes = [at for _, at, _ in acknowledged]
    account.errors = [1.3]
    account.unknown = list(unknown)
    account.sessions = [(1.9, 2)]
    return Outcome(
        fault="crash",
        account=account,
        found=Counter(found),
        began_at=0.5,
        ended_at=3.5,
        fault_at=1.2,
        old_port=1,
        new_port=2,
        promoted_at=1.5,
        moments=(Moment(1.2, "F", "node1 killed"), Moment(2.0, "W", "first write")),
        hosts=(),
    )


def test_rows_agree_when_each_acknowledged_one_is_there_once():
    assert outcome([1, 2]).kept


def test_rows_of_unknown_fate_may_be_there_or_not():
    assert outcome([1, 2, 3], unknown=[3, 4]).kept


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        ("missing", outcome([2])),
        ("duplicated", outcome([1, 2, 2])),
        ("duplicated", outcome([1, 2, 3, 3], unknown=[3])),
        ("unexpected", outcome([1, 2, 5])),
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
    assert re.search(r"^DUPLICATED +1: id 5$", out, re.MULTILINE)
    assert re.search(r"^UNEXPECTED +1: id 5$", out, re.MULTILINE)
    assert out.endswith("The rows do not match the results of the writers.\n")


def test_writes_that_never_resume_are_a_failure():
    assert not outcome([1], acknowledged=[(1, 1.0, 1)]).kept
