"""`pgroute init`: what it writes runs as it is, and replaces nothing that is there."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from pgroute import AsyncRouter, Router, from_config
from pgroute.cli import main
from pgroute.testing import LocalCluster

PROGRAMS = {"script": "main.py", "flask": "main.py", "fastapi": "main.py", "django": "database.py"}


def init(capsys, *args):
    status = main(["init", *map(str, args)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("template", PROGRAMS)
def test_what_it_writes_is_a_configuration_and_a_program(tmp_path, capsys, monkeypatch, template):
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@db1,db2:5432/shop")
    folder = tmp_path / "my shop"
    status, out, err = init(capsys, template, "--dir", folder)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["pgroute.toml", PROGRAMS[template]])
    assert f"cd '{folder}'" in out
    router = from_config(folder / "pgroute.toml")
    assert isinstance(router, AsyncRouter if template == "fastapi" else Router)
    program = (folder / PROGRAMS[template]).read_text()
    compile(program, template, "exec")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "110", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_each_comment_of_the_configuration_can_be_used(tmp_path, capsys, monkeypatch):
    """Every commented key is right: with all of them in force the router is made."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@db1,db2:5432/shop")
    init(capsys, "script", "--dir", tmp_path)
    file = tmp_path / "pgroute.toml"
    (tmp_path / "secret").write_text("x")
    text = re.sub(r"(?m)^# (?=\[|\w+ = )", "", file.read_text()).replace(
        "/run/secrets/db-password", str(tmp_path / "secret")
    )
    assert len(tomllib.loads(text)["routers"]["main"]) == 10
    file.write_text(text)
    config = from_config(file)._manager.config
    assert (config.max_lag, config.retry.limit(), config.probe.abort_after) == (5.0, 30.0, 10)


@pytest.mark.parametrize("present", ["pgroute.toml", "main.py"])
@pytest.mark.parametrize("how", ["file", "folder", "dangling link"])
def test_nothing_that_is_there_is_replaced(tmp_path, capsys, present, how):
    thing = tmp_path / present
    if how == "file":
        thing.write_text("mine")
    elif how == "folder":
        thing.mkdir()
    else:
        thing.symlink_to("nowhere")
    status, out, err = init(capsys, "script", "--dir", tmp_path)
    assert (status, out) == (2, "")
    assert err == f"pgroute init: {thing} exists: --force replaces\n"
    assert [path.name for path in tmp_path.iterdir()] == [present]
    if how == "file":
        assert thing.read_text() == "mine"
        assert init(capsys, "script", "--dir", tmp_path, "--force")[0] == 0
        assert "mine" not in thing.read_text()


@pytest.mark.parametrize(("folder", "told"), [("file", "Not a directory"), ("file/below", "Not a directory")])
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path, capsys, folder, told):
    (tmp_path / "file").touch()
    status, _, err = init(capsys, "script", "--dir", tmp_path / folder)
    assert status == 2
    assert err.startswith("pgroute init: cannot write ")
    assert told in err or "File exists" in err


def test_an_unknown_template_ends_with_usage(capsys):
    with pytest.raises(SystemExit):
        main(["init", "rails"])
    assert "invalid choice: 'rails'" in capsys.readouterr().err


@pytest.mark.cluster
def test_the_script_runs(shared: LocalCluster, tmp_path, capsys):
    init(capsys, "script", "--dir", tmp_path)
    environment = {**os.environ, "DATABASE_URL": shared.dsn}
    command = [sys.executable, "-W", "error", "main.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote to the primary, port {shared.primary.port}" in done.stdout
    assert "read from a standby" in done.stdout
    lost = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment, "DATABASE_URL": "nonsense"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert lost.returncode == 1
    assert lost.stderr.startswith("invalid routers.main.dsn '***'")


FIRST_CHECK = {
    "flask": """
import main
print(main.app.test_client().get("/health").status_code)
""",
    "django": """
from django.conf import settings
settings.configure(PGROUTE_CONFIG="pgroute.toml")
import database
print(database.health(None).status_code)
""",
}


@pytest.mark.cluster
@pytest.mark.parametrize("template", FIRST_CHECK)
@pytest.mark.parametrize("status", [200, 503])
def test_the_first_health_check_of_a_process_waits_for_the_probes(
    shared: LocalCluster, tmp_path, capsys, template, status
):
    init(capsys, template, "--dir", tmp_path)
    dsn = shared.dsn if status == 200 else "host=127.0.0.1 port=1"
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CHECK[template]],
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"{status}\n", done.stderr


@contextmanager
def serving(folder, dsn, *command):
    """Run a web application, and give a function that asks it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": dsn},
        stdout=log,
        stderr=log,
    )

    def ask(path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  (of this test)
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)

    try:
        until = time.monotonic() + 30
        while True:
            try:
                ask("/health")
                break
            except (
                urllib.error.URLError,
                http.client.RemoteDisconnected,
            ):  # the port was another's for a moment
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield ask
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("flask", ("-m", "flask", "--app", "main", "run")),
        ("fastapi", ("-m", "uvicorn", "main:app")),
    ],
)
def test_a_web_application_answers(shared: LocalCluster, tmp_path, capsys, template, command):
    init(capsys, template, "--dir", tmp_path)
    primary, *standbys = (f"127.0.0.1:{node.port}" for node in shared.nodes)
    with serving(tmp_path, shared.dsn, *command) as ask:
        status, told = ask("/")
        assert (status, told["read_from"] in standbys) == (200, True)
        assert ask("/tea", "POST") == (200, {"written_to": primary})
        status, told = ask("/health")
        assert (status, told["writable"], set(told["hosts"])) == (200, True, {primary, *standbys})
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("flask", ("-m", "flask", "--app", "main", "run")),
        ("fastapi", ("-m", "uvicorn", "main:app")),
    ],
)
def test_a_web_application_without_a_host_says_so(tmp_path, capsys, template, command):
    init(capsys, template, "--dir", tmp_path)
    file = tmp_path / "pgroute.toml"
    file.write_text(file.read_text().replace("acquire_timeout = 10", "acquire_timeout = 0.5"))
    with serving(tmp_path, "host=127.0.0.1 port=1", *command) as ask:
        assert ask("/") == (503, {"error": "this was not done, try again"})
        assert ask("/tea", "POST") == (503, {"error": "this was not done, try again"})
        assert ask("/health") == (503, {"writable": False, "hosts": {"127.0.0.1:1": "down"}})
