"""Output that cannot be written, and arguments that are in no encoding: a message, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgroute.cli import main

INSTALL = "-m pgroute install --sql"


def shell(command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        check=False,
        env=os.environ | {"PYTHON": sys.executable} | variables,
    )


def test_a_full_disk_is_told() -> None:
    done = shell(f'"$PYTHON" {INSTALL} > /dev/full')
    assert done.returncode == 2
    assert done.stderr == "pgroute install: [Errno 28] No space left on device\n"


def test_without_an_output_nothing_is_told() -> None:
    done = shell(f'"$PYTHON" {INSTALL} >&-')
    assert (done.returncode, done.stderr) == (0, "")


both_ways = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@both_ways
@pytest.mark.parametrize(
    "command", ["pgroute dsn nonsense", "pgroute nonsense", "pgroute.contrib.prometheus nonsense"]
)
def test_an_error_that_cannot_be_written_keeps_its_status(command: str, unbuffered: str) -> None:
    done = shell(f'"$PYTHON" -m {command} 2> /dev/full', PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout) == (2, "")


HELP = ["pgroute --help", "pgroute --version", "pgroute status --help", "pgroute batch list --help"]
PRINTING = [*HELP, "pgroute.contrib.prometheus alerts", "pgroute.contrib.prometheus dashboard"]


@both_ways
@pytest.mark.parametrize("command", PRINTING)
def test_the_reader_of_what_is_only_printed_may_leave(command: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@both_ways
@pytest.mark.parametrize("command", PRINTING)
def test_a_full_disk_is_told_of_what_is_only_printed(command: str, unbuffered: str) -> None:
    done = shell(f'"$PYTHON" -m {command} > /dev/full', PYTHONUNBUFFERED=unbuffered)
    program = command.split(maxsplit=1)[0]
    assert (done.returncode, done.stderr) == (2, f"{program}: [Errno 28] No space left on device\n")


def test_help_is_printed_whole() -> None:
    done = shell('"$PYTHON" -m pgroute status --help')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pgroute status ")


@pytest.mark.parametrize(
    "command",
    [
        "pgroute dsn 'host=h port=0'",
        "pgroute dsn 'host=127.0.0.1 port=1' --timeout 0.3",
        "pgroute dsn --no-such-option",
        "pgroute",
        "pgroute demo --pg-version 9.1",
        "pgroute.contrib.prometheus",
    ],
)
def test_an_error_does_not_take_the_place_of_the_output(command: str) -> None:
    """`psql "$(pgroute dsn DSN 2>&-)"` would take it for a conninfo."""
    done = shell(f'"$PYTHON" -m {command} 2>&-')
    assert (done.returncode, done.stdout) == (1 if "timeout" in command else 2, "")


def test_a_folder_whose_name_cannot_be_printed_gets_its_files(tmp_path: Path) -> None:
    done = shell(
        "\"$PYTHON\" -m pgroute init script --dir $'\\xff'", tmp_path, PYTHONIOENCODING="utf-8:strict"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert r"wrote \udcff/pgroute.toml and \udcff/main.py" in done.stdout
    assert sorted(path.name for path in (tmp_path / "\udcff").iterdir()) == ["main.py", "pgroute.toml"]


@pytest.mark.parametrize("action", ["show", "reset"])
def test_a_job_that_cannot_have_this_name_is_told(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", action, "host=127.0.0.1 port=1", "\udcff"]) == 2
    assert r"pgroute batch: invalid job '\udcff': expected 1 to 512 bytes" in capsys.readouterr().err


def test_a_file_with_a_number_as_password_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("D", "postgresql://app@127.0.0.1:1/shop")
    file = tmp_path / "f.toml"
    file.write_text('[routers.shop]\ndsn = "${D}"\n[routers.shop.kwargs]\npassword = 12345\n')
    file.chmod(0o644)
    assert main(["check", str(file), "--timeout", "0.3"]) == 2
    assert "password" in "".join(capsys.readouterr())
