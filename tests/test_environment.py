"""What the tests show does not depend on the machine: on its variables, its servers, its folder for temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgroute.testing import available_versions, binaries, find_server
from pgroute.testing.account import EXECUTE, server_account
from tests import environment, majors
from tests.conftest import VERSIONS

ROOT = Path(__file__).parents[1]

FOREIGN = (
    "PGSSLMODE",
    "PGHOSTADDR",
    "PGPASSWORD",
    "PGDATABASE",
    "PGOPTIONS",
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "COLUMNS",
    "OTEL_SDK_DISABLED",
    "PYTEST_ADDOPTS",
    "PYTHONSAFEPATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
)


def neutral(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> Any:
    """Return what is left of an environment."""
    monkeypatch.setattr(os, "environ", {**given})
    environment.neutralize()
    return os.environ


def test_variables_that_would_change_the_results_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"PATH": "/bin", "PGROUTE_IMAGE": "own", "TZ": "Pacific/Apia", "PYTEST_XDIST_WORKER": "gw1"}
    assert neutral(monkeypatch, others | dict.fromkeys(FOREIGN, "1")) == others


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_servers_of_the_tests_are_asked_past_a_proxy_and_others_by_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    neutral(monkeypatch, {"http_proxy": "http://127.0.0.1:1", name: "inside.example"})
    asked = ("127.0.0.1:8008", "localhost", "inside.example", "deb.debian.org")
    past = [bool(urllib.request.proxy_bypass(host)) for host in asked]
    assert past == [True, True, True, False]


def test_where_no_host_is_asked_by_a_proxy_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    neutral(monkeypatch, {"http_proxy": "http://127.0.0.1:1", "no_proxy": "*"})
    assert urllib.request.proxy_bypass("deb.debian.org")


def test_files_in_memory_may_take_what_every_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo, most = tmp_path / "meminfo", tmp_path / "memory.max"

    def room() -> int:
        return environment.room(tmp_path, meminfo, tmp_path)

    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=4000, f_frsize=1000))
    assert room() == 4_000_000
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\n")
    assert room() == 3000 * 1024
    most.write_text("max\n")
    (tmp_path / "memory.current").write_text("7000000\n")
    assert room() == 3000 * 1024
    most.write_text("9000000\n")
    assert room() == 2_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers are another user's")
def test_a_folder_for_temporary_files_is_where_the_servers_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = request.getfixturevalue("temporary")
    account = server_account()
    assert account is not None
    assert account.may(EXECUTE, folder)


PROFILE = "import hypothesis, tests.conftest; print(hypothesis.settings.default)"


def test_hypothesis_does_the_same_where_ci_is_set() -> None:
    others = {name: value for name, value in os.environ.items() if name != "CI"}
    here, there = (
        subprocess.run(
            [sys.executable, "-c", PROFILE],
            cwd=ROOT,
            env=others | given,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for given in ({}, {"CI": "true"})
    )
    assert here == there
    for told in ("database=None", "deadline=None", "derandomize=True", "too_slow"):
        assert told in here


@pytest.mark.parametrize(
    ("there", "left", "found"),
    [
        ([13, 15, 16, 17, 18, 19], [13, 17, 19], [15, 16, 18]),
        ([15, 18], [], [15, 18]),
        ([14, 17], [], [14, 17]),
        ([], [], []),
    ],
)
def test_majors_that_are_not_tested_are_found_only_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, there: list[int], left: list[int], found: list[int]
) -> None:
    def examine(bindir: Path) -> binaries.ServerBinaries:
        return binaries.ServerBinaries(bindir, int(bindir.name), f"{bindir.name}.1")

    monkeypatch.setattr(binaries, "_bindirs", lambda: [Path(f"/{major}") for major in there])
    monkeypatch.setattr(binaries, "_examine", examine)
    monkeypatch.setenv(majors.LEFT_OUT, "")
    assert [server.major for server in majors.leave_out_others()] == left
    assert [server.major for server in available_versions()] == found
    if found:
        assert find_server().major == found[-1]


@pytest.mark.skipif(len(VERSIONS) < 2, reason="there is one server only")
def test_programs_that_tests_start_find_the_same_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(majors.LEFT_OUT, str(VERSIONS[-1]))
    code = "from pgroute.testing.cluster import find_server; print(find_server().major)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{VERSIONS[-2]}\n"
