"""`pgroute status` on real clusters: what it prints, and what it ends with."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time

import psycopg
import pytest
from rich.console import Console

from pgroute import Router
from pgroute.cli import main
from pgroute.cli.hosts import lay_out
from pgroute.cli.status import observe
from pgroute.testing import LocalCluster
from tests.support import dsn_at, dsn_with, within


@pytest.fixture(scope="module")
def cluster():
    """A healthy cluster."""
    with LocalCluster(standbys=1) as cluster:
        yield cluster


def status_of(capsys, *args):
    """Run the command and return its exit status, stdout and stderr."""
    status = main(["status", *args])
    out, err = capsys.readouterr()
    return status, out, err


def test_healthy_cluster_is_ok(cluster, capsys):
    status, out, err = status_of(capsys, cluster.dsn)
    assert (status, err) == (0, "")
    primary, standby = (f"127.0.0.1:{node.port}" for node in cluster.nodes)
    lines = out.splitlines()
    assert lines[0].split() == ["host", "role", "state", "timeline", "lag", "staleness", "rtt", "reason"]
    assert lines[1].startswith(f"{primary}  primary  up     1 ")
    assert lines[2].startswith(f"{standby}  standby  up     >=1 ")
    assert lines[-3:] == [
        f"writers  {primary}",
        f"readers  {standby}",
        "ok: writable and readable, every host is up",
    ]


def test_json_has_the_documented_keys(cluster, capsys):
    status, out, _ = status_of(capsys, cluster.dsn, "--json")
    told = json.loads(out)
    primary, standby = (f"127.0.0.1:{node.port}" for node in cluster.nodes)
    assert status == 0
    hosts = told.pop("hosts")
    assert told == {
        "verdict": "ok",
        "writable": True,
        "readable": True,
        "writers": [primary],
        "readers": [standby],
        "primary": primary,
        "split_brain": [],
        "complete": True,
        "adviser": None,
    }
    assert [set(host) for host in hosts] == 2 * [
        {
            "host", "port", "address", "origin", "role", "state", "reason", "usable", "read_only", "timeline",
            "lag_bytes", "staleness_seconds", "rtt_seconds", "server_version", "system_id",
            "zone", "advice",
        }
    ]  # fmt: skip
    assert [host["role"] for host in hosts] == ["primary", "standby"]


def test_environment_serves_without_a_dsn(cluster, capsys, monkeypatch):
    node = cluster.nodes[0]
    where = {"HOST": node.host, "PORT": str(node.port), "USER": "postgres", "PASSFILE": str(node.passfile)}
    for name, value in where.items():
        monkeypatch.setenv(f"PG{name}", value)
    status, out, _ = status_of(capsys)
    assert status == 0
    assert f"127.0.0.1:{node.port}  primary" in out


def test_a_second_name_of_a_host_is_no_trouble(cluster, capsys):
    node = cluster.nodes[0]
    dsn = dsn_at(f"127.0.0.1:{node.port},localhost:{node.port}", cluster)
    status, out, _ = status_of(capsys, dsn)
    assert status == 0
    assert "alias" in out


def test_read_only_primary_is_degraded(cluster, capsys):
    primary = cluster.nodes[0]
    with psycopg.connect(primary.conninfo, autocommit=True) as conn:
        conn.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        status, out, _ = status_of(capsys, cluster.dsn)
    finally:
        with psycopg.connect(f"{primary.conninfo} options='-c default_transaction_read_only=off'") as conn:
            conn.execute("ALTER ROLE postgres RESET default_transaction_read_only")
    assert status == 1
    assert f"writers  nowhere: the primary 127.0.0.1:{primary.port} is read-only" in out
    assert out.splitlines()[-1] == "degraded: not writable"


def test_stopped_standby_degrades_and_nobody_is_unusable(capsys):
    with LocalCluster(standbys=1) as cluster:
        primary, standby = cluster.nodes
        standby.stop()
        status, out, _ = status_of(capsys, cluster.dsn)
        assert status == 1
        assert f"readers  127.0.0.1:{primary.port}" in out
        assert out.splitlines()[-1] == f"degraded: 127.0.0.1:{standby.port} is down"
        primary.stop()
        status, out, _ = status_of(capsys, cluster.dsn)
        assert status == 2
        assert "writers  nowhere: no host can be used" in out
        assert out.splitlines()[-1] == "unusable: neither writable nor readable"


def test_without_a_primary_it_is_readable_and_degraded(capsys):
    with LocalCluster(standbys=1) as cluster:
        cluster.nodes[0].stop()
        status, out, _ = status_of(capsys, cluster.dsn)
    assert status == 1
    assert "writers  nowhere: no primary" in out
    assert "not writable" in out


def test_two_primaries_are_told_as_split_brain(capsys):
    with LocalCluster(standbys=2) as cluster:
        old, *standbys = cluster.nodes
        old.kill()
        for node in standbys:
            node.promote()
        status, out, _ = status_of(capsys, cluster.dsn)
        assert status == 2
        names = " and ".join(sorted(f"127.0.0.1:{node.port}" for node in standbys))
        assert f"writers  nowhere: split brain between {names}" in out
        _, out, _ = status_of(capsys, cluster.dsn, "--json")
        assert len(json.loads(out)["split_brain"]) == 2


def test_silent_host_does_not_hold_it_up(cluster, capsys):
    standby = cluster.nodes[1]
    standby.freeze()
    try:
        begun = time.monotonic()
        status, out, _ = status_of(capsys, cluster.dsn, "--timeout", "0.6")
        assert time.monotonic() - begun < within(2)
    finally:
        standby.thaw()
    assert status == 1
    assert "connecting took over 0.3 s" in out


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("host=h1,h2 port=1,2,3", "invalid port '1,2,3'"),
        ("host=h port=0", "invalid port '0'"),
        ("host=h target_session_attrs=Primary", "invalid target_session_attrs 'Primary'"),
        ("host=h service=nowhere", "invalid service 'nowhere'"),
        ("no dsn", "invalid dsn"),
    ],
)
def test_bad_dsn_is_told_in_one_line(capsys, dsn, told):
    status, out, err = status_of(capsys, dsn)
    assert (status, out) == (2, "")
    assert err.startswith("pgroute status: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_wrong_password_is_told_and_not_shown(capsys, arguments):
    with LocalCluster(standbys=0) as cluster:
        [node] = cluster.nodes
        dsn = f"postgresql://postgres:hunter2@127.0.0.1:{node.port}/postgres"
        status, out, err = status_of(capsys, dsn, *arguments)
    assert status == 2
    assert "rejected" in out
    assert "password authentication failed" in out
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hunter2@h:99999/x", "host=h password='hunter2", "password=hunter2 x"]
)
def test_password_of_a_bad_dsn_is_not_shown(capsys, dsn):
    status, out, err = status_of(capsys, dsn)
    assert status == 2
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["status", "--timeout", "0"],
        ["status", "--timeout", "nan"],
        ["demo", "--writers", "0"],
    ],
)
def test_bad_arguments_end_with_usage(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: pgroute" in capsys.readouterr().err


def test_version_and_module_entry():
    done = subprocess.run(
        [sys.executable, "-m", "pgroute", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "pgroute 0.1.0\n"


def test_help_does_not_import_rich():
    code = "import sys; from pgroute.cli import main\ntry: main(['--help'])\nfinally: print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", [["status", "host=localhost"], ["demo"]])
def test_missing_rich_is_told_in_one_line(command):
    code = (
        f"import sys; sys.modules['rich'] = None\nfrom pgroute.cli import main; sys.exit(main({command!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    text = 'this needs the package rich: pip install rich (the extra "cli" brings it)'
    assert done.stderr == f"pgroute {command[0]}: {text}\n"


def test_json_needs_no_rich(cluster):
    code = (
        "import sys; sys.modules['rich'] = None\n"
        f"from pgroute.cli import main; sys.exit(main(['status', '--json', {cluster.dsn!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "ok"


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_colours_that_are_forced_into_a_pipe_leave_its_lines_whole(cluster, terminal):
    dsn = dsn_with(cluster.dsn, user="nobody-here")
    script = f"import sys; from pgroute.cli import main; sys.exit(main(['status', {dsn!r}]))"
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "80", "TERM": terminal}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    assert plain[0].split() == ["host", "role", "state", "timeline", "lag", "staleness", "rtt", "reason"]
    assert plain[1].endswith('password authentication failed for user "nobody-here"')
    assert ("\x1b[31m" in done.stdout) == (terminal == "xterm")


def test_characters_that_the_encoding_of_the_output_lacks_are_escaped(cluster):
    dsn = dsn_with(cluster.dsn, user="\u0438")
    done = subprocess.run(
        [sys.executable, "-m", "pgroute", "status", dsn],
        capture_output=True,
        text=True,
        encoding="latin-1",
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.stderr == ""
    assert r'password authentication failed for user "\u0438"' in done.stdout
    assert done.stdout.splitlines()[-1] == "unusable: neither writable nor readable"


def test_a_dsn_that_the_encoding_of_the_output_lacks_is_not_printed_as_another(cluster):
    dsn = dsn_with(cluster.dsn, application_name="\u0438")
    done = subprocess.run(
        [sys.executable, "-m", "pgroute", "dsn", dsn],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "codec can't encode character" in done.stderr


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (80, ["host", "role", "state", "timeline", "lag", "staleness", "rtt"]),
        (40, ["host", "role", "state", "lag"]),
        (24, ["host", "role"]),
        (12, ["host"]),
    ],
)
def test_narrow_terminal_drops_other_columns_before_the_host(cluster, width, columns):
    dsn = dsn_with(cluster.dsn, user="nobody-here")
    with Router(dsn) as router:
        topology = observe(router, 5.0)
    output = io.StringIO()
    screen = Console(width=width, file=output, force_terminal=True, color_system=None)
    table, reasons = lay_out(screen, topology)
    screen.print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines[0].split() == columns
    hosts = [f"127.0.0.1:{node.port}" for node in cluster.nodes]
    assert "".join(line.split("  ")[0].strip() for line in lines[1:]) == "".join(hosts)
    assert [str(reason).partition(": ")[0] for reason in reasons] == hosts
