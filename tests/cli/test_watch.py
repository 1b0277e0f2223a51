"""What follows a cluster: `watch`, `status --watch`, `dsn`, `wait`, and the view on a terminal of 80 by 24."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyte
import pytest

from pgroute import HostKey
from pgroute.cli import main
from pgroute.cli.dsn import single_host
from pgroute.core.config.dsn import parse_dsn
from pgroute.testing import LocalCluster
from tests.support import dsn_at, dsn_with

PROGRAM = """
import signal, sys
from pgroute.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cluster():
    """A healthy cluster; nobody breaks it."""
    with LocalCluster(standbys=1) as cluster:
        yield cluster


class Terminal:
    """A command on a terminal of its own.

    Attributes:
        screen: what is seen.
        raw: all that was written.
    """

    def __init__(self, *arguments, columns=80, lines=24, program=PROGRAM, **environment):
        self.screen = pyte.Screen(columns, lines)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        command = [sys.executable, "-c", program, *arguments]
        env = {**os.environ, "TERM": "xterm", **environment}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            env.pop(name, None)
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def read(self):
        """Take in what was written; return whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], 0.05)
        if ready:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return False
            self.raw += data
            self._stream.feed(data)
        return True

    def see(self, pattern, *, timeout=30.0):
        """Wait until the screen shows it; return the screen's lines."""
        deadline = time.monotonic() + timeout
        while True:
            lines = [line.rstrip() for line in self.screen.display]
            if re.search(pattern, "\n".join(lines), re.MULTILINE):
                return lines
            assert time.monotonic() < deadline, "\n".join(lines)
            assert self.read(), "\n".join(lines)

    def press(self, keys):
        os.write(self._master, keys)

    def interrupt(self, *numbers):
        """Send signals, Ctrl-C by default; several arrive at once."""
        for number in (signal.SIGSTOP, *(numbers or [signal.SIGINT]), signal.SIGCONT):
            self._process.send_signal(number)

    def echoes(self):
        """Return whether the terminal is as a shell expects it: keys are shown, and read as lines."""
        _, _, _, modes, *_ = termios.tcgetattr(self._master)
        return modes & termios.ECHO and modes & termios.ICANON

    def end(self, *, timeout=60.0):
        """Wait for the end and return the exit status."""
        deadline = time.monotonic() + timeout
        while self.read():
            assert time.monotonic() < deadline
        return self._process.wait()


def test_watch_fills_a_terminal_follows_a_failover_and_gives_the_terminal_back():
    with LocalCluster(standbys=1) as cluster:
        old, new = cluster.nodes
        with Terminal("watch", cluster.dsn) as terminal:
            lines = terminal.see(r"^ok: writers to")
            assert lines[0].startswith("pgroute watch    2 hosts    0:0")
            assert lines[2].split() == [
                "host",
                "role",
                "state",
                "timeline",
                "lag",
                "staleness",
                "rtt",
                "reason",
            ]
            assert lines[3].startswith(f"{old.host}:{old.port}  primary  up     1 ")
            assert f"ok: writers to {old.host}:{old.port}; readers to {new.host}:{new.port}" in lines
            old.kill()
            terminal.see(r"^degraded: writers to nowhere")
            terminal.see(rf"^{old.host}:{old.port}  primary  down   1 ")
            terminal.see(rf"^{old.host}:{old.port}: Connection refused$")
            new.promote()
            terminal.see(r"primary is .*, timeline 2, after \d+\.\d s without one$")
            terminal.see(rf"^degraded: writers to {new.host}:{new.port}; readers to {new.host}:{new.port}$")
            terminal.interrupt()
            assert terminal.end() == 130
        assert terminal.raw.startswith(b"\x1b[?1049h")
        _, _, stays = terminal.raw.partition(b"\x1b[?25h\x1b[?1049l")
        assert b"timeline 2" in stays, "what happened is told again, to stay"
        assert b"Traceback" not in terminal.raw


def test_q_ends_the_watch(cluster):
    with Terminal("watch", cluster.dsn) as terminal:
        assert "q ends" in terminal.see(r"^ok: writers to")[0]
        terminal.press(b"x")
        terminal.press(b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("numbers", "status"),
    [([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGTERM, signal.SIGHUP], 129)],
    ids=["term", "hup", "both"],
)
def test_a_signal_that_ends_the_watch_gives_the_terminal_back(cluster, numbers, status):
    with Terminal("watch", cluster.dsn) as terminal:
        terminal.see(r"^ok: writers to")
        assert not terminal.echoes()
        terminal.interrupt(*numbers)
        assert terminal.end() == status
        assert terminal.echoes()
    assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert b"Traceback" not in terminal.raw


def test_a_signal_that_is_ignored_stays_so(cluster):
    program = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{PROGRAM}"
    with Terminal("watch", cluster.dsn, program=program) as terminal:
        terminal.see(r"^ok: writers to")
        terminal.interrupt(signal.SIGHUP)
        terminal.press(b"q")
        assert terminal.end() == 0


def test_a_program_that_runs_a_command_keeps_its_handlers(capsys):
    def own(*_):
        pass

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGHUP, own)
    try:
        assert main(["status", "no dsn"]) == 2
        with ThreadPoolExecutor() as threads:
            assert threads.submit(main, ["status", "no dsn"]).result(30) == 2
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == [before[0], own]
    finally:
        signal.signal(signal.SIGHUP, before[1])
    assert capsys.readouterr().err.count("invalid dsn") == 2


def test_long_reasons_stand_below_the_hosts_on_a_narrow_terminal(cluster):
    port = cluster.nodes[0].port
    dsn = dsn_at(f"127.0.0.1:{port},no-such-host.invalid:5432", cluster)
    with Terminal("watch", dsn, columns=70) as terminal:
        lines = terminal.see(r"^degraded: ")
        [told] = [line for line in lines if line.startswith("no-such-host.invalid:5432: ")]
        assert "resolve" in told
        assert len(told) <= 70


def test_watch_of_more_hosts_than_the_screen_has_lines_shows_the_first(cluster):
    hosts = ",".join(f"127.0.0.1:{port}" for port in (cluster.nodes[0].port, *range(1, 20)))
    with Terminal("watch", dsn_at(hosts, cluster), lines=12) as terminal:
        lines = terminal.see(rf"^127\.0\.0\.1:{cluster.nodes[0].port} +primary")
        assert lines[0].startswith("pgroute watch    20 hosts")


def test_watch_on_a_terminal_that_cannot_redraw_is_a_line_for_each_change(cluster):
    with Terminal("watch", cluster.dsn, TERM="dumb") as terminal:
        lines = terminal.see(r"ok: writers to")
        assert re.match(r"\d\d:\d\d:\d\d\.\d\d\d  ", lines[0])
        terminal.interrupt()
        assert terminal.end() == 130
    assert b"\x1b" not in terminal.raw


def test_status_on_a_narrow_terminal_shows_whole_reasons_below_the_hosts(cluster):
    with Terminal("status", dsn_with(cluster.dsn, user="nobody-here")) as terminal:
        lines = terminal.see(r"^unusable")
        assert lines[0].split() == ["host", "role", "state", "timeline", "lag", "staleness", "rtt"]
        assert any('password authentication failed for user "nobody-here"' in line for line in lines)
        assert terminal.end() == 2


def run(*arguments, stdout=subprocess.PIPE, **options):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, **options)


def until(lines, *patterns):
    """Read lines until each pattern was met, in any order, and return the last that met one."""
    left = {*patterns}
    for line in lines:
        met = {pattern for pattern in left if re.search(pattern, line)}
        left -= met
        if met and not left:
            return line
    raise AssertionError(left)


def test_piped_watch_is_a_line_for_each_change():
    with LocalCluster(standbys=1) as cluster:
        old, new = cluster.nodes
        with run("watch", cluster.dsn) as watch:
            line = until(watch.stdout, "ok: ")
            where = f"writers to {old.host}:{old.port}; readers to {new.host}:{new.port}"
            assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d\d\d  ok: {where}\n", line)
            old.kill()
            until(watch.stdout, f"no primary: {old.host}:{old.port} was the last")
            new.promote()
            # Changes and where sessions go are told by two threads.
            where = f"{new.host}:{new.port}"
            until(watch.stdout, f"primary is {where}, timeline 2", f"degraded: writers to {where}")
            watch.send_signal(signal.SIGINT)
            out, err = watch.communicate(timeout=30)
        assert (watch.returncode, err) == (130, "")
        assert "\x1b" not in out


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_variable_for_colours_does_not_make_a_pipe_a_screen(cluster, variable):
    environment = {**os.environ, variable: "1", "TERM": "xterm"}
    with run("watch", cluster.dsn, env=environment) as watch:
        line = until(watch.stdout, "ok: ")
        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=30)
    assert (watch.returncode, err) == (130, "")
    assert "\x1b" not in line + out


def test_status_watch_tells_each_change_as_a_line_of_json():
    with LocalCluster(standbys=1) as cluster:
        old, new = cluster.nodes
        with run("status", cluster.dsn, "--watch", "--json") as status:
            first = json.loads(status.stdout.readline())
            assert (first["verdict"], first["writers"]) == ("ok", [f"{old.host}:{old.port}"])
            old.kill()
            for line in status.stdout:
                told = json.loads(line)
                if told["hosts"][0]["state"] == "down":
                    break
            assert (told["verdict"], told["writable"], told["readable"]) == ("degraded", False, True)
            assert told["at"] > first["at"]
            new.promote()
            for line in status.stdout:
                told = json.loads(line)
                if told["writable"]:
                    break
            assert told["writers"] == [f"{new.host}:{new.port}"]
            status.send_signal(signal.SIGINT)
            _, err = status.communicate(timeout=30)
        assert (status.returncode, err) == (130, "")


def test_status_watch_says_nothing_while_nothing_changes(cluster):
    with run("status", cluster.dsn, "--watch", "--json") as status:
        status.stdout.readline()
        with psycopg.connect(cluster.primary.conninfo, autocommit=True) as conn:
            # Lag and round-trip times change meanwhile; several rounds of probes pass.
            asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgroute-monitor'"
            assert conn.execute(asked).fetchone() == (1,)
            conn.execute("CREATE TABLE noise AS SELECT generate_series(1, 1000)")
            conn.execute("SELECT pg_sleep(2.2)")
            conn.execute("DROP TABLE noise")
        status.send_signal(signal.SIGINT)
        out, _ = status.communicate(timeout=30)
    assert out == ""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "command",
    [("status",), ("status", "--watch"), ("status", "--json"), ("check",), ("watch",), ("dsn",)],
    ids=" ".join,
)
def test_reader_of_a_pipe_may_leave(cluster, command, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)  # before there is a process that might write
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writer, "wb") as pipe, run(*command, cluster.dsn, stdout=pipe, env=env) as process:
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(("role", "index"), [("writer", 0), ("reader", 1)])
def test_dsn_gives_a_single_host_that_holds_the_role(cluster, capsys, role, index):
    node = cluster.nodes[index]
    assert main(["dsn", cluster.dsn, "--role", role]) == 0
    out, err = capsys.readouterr()
    there = f"host={node.host} port={node.port} user=postgres passfile={node.passfile} dbname=postgres\n"
    assert (out, err) == (there, "")
    with psycopg.connect(out) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (role == "reader",)


def test_dsn_keeps_what_it_was_given_but_not_the_password(cluster, capsys, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "from the environment")
    node = cluster.nodes[0]
    params = {"target_session_attrs": "standby", "load_balance_hosts": "random"}
    dsn = dsn_with(cluster.dsn, application_name="a b", **params)
    assert main(["dsn", dsn]) == 0
    assert capsys.readouterr().out == (
        f"host={node.host} port={node.port} user=postgres passfile={node.passfile} dbname=postgres "
        "application_name='a b'\n"
    )
    node.execute("CREATE ROLE spaced LOGIN PASSWORD 'se cret'")
    cluster.catch_up()
    assert main(["dsn", dsn_with(cluster.dsn, user="spaced", password="se cret"), "--with-password"]) == 0
    node.execute("DROP ROLE spaced")
    assert "password='se cret'" in capsys.readouterr().out


@pytest.fixture(params=["environment", "service"])
def wants_a_writer(request, monkeypatch, tmp_path):
    """Have libpq ask for a primary unless it is told something else."""
    if request.param == "environment":
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    else:
        (tmp_path / "services").write_text("[here]\ntarget_session_attrs=read-write\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGSERVICE", "here")


@pytest.mark.usefixtures("wants_a_writer")
def test_what_dsn_prints_leads_to_a_standby_where_libpq_is_to_ask_for_a_primary(cluster, capsys):
    assert main(["dsn", cluster.dsn, "--role", "reader"]) == 0
    out, _ = capsys.readouterr()
    assert "target_session_attrs=any" in out
    with psycopg.connect(out) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_what_dsn_prints_is_not_sent_elsewhere_by_an_address_in_the_environment(cluster, monkeypatch):
    node = cluster.nodes[0]
    dsn = parse_dsn(cluster.dsn)
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.77")
    with psycopg.connect(single_host(dsn, HostKey(node.host, node.port), passwords=False)) as conn:
        assert conn.info.hostaddr == "127.0.0.1"


def test_dsn_prints_an_absolute_name_as_it_is_in_a_certificate():
    dsn = parse_dsn("postgresql://app@db1.example.com.,db2.example.com./shop")
    printed = single_host(dsn, dsn.hosts[0], passwords=False)
    assert printed == "host=db1.example.com port=5432 user=app dbname=shop"


@pytest.mark.parametrize("command", ["dsn", "wait"])
def test_what_is_not_there_in_time_is_told_with_status_1(capsys, command):
    assert main([command, "postgresql://app:secret@127.0.0.1:1/shop", "--timeout", "0.3"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pgroute {command}: no writer session (read-write) within 0.3 s\n  127.0.0.1:1: ")
    assert "secret" not in err


@pytest.mark.parametrize("command", ["dsn", "wait", "watch", "status"])
def test_dsn_that_cannot_be_used_is_status_2(capsys, command):
    assert main([command, "postgresql://a:0/"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pgroute {command}: invalid port")


def test_wait_returns_once_the_role_can_be_had(capsys):
    with LocalCluster(standbys=1) as cluster:
        old, new = cluster.nodes
        old.kill()
        with run("wait", cluster.dsn, "--timeout", "50") as wait:
            deadline = time.monotonic() + 20
            watched = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgroute-monitor'"
            while new.execute(watched) == [(0,)]:
                assert time.monotonic() < deadline
            assert wait.poll() is None
            new.promote()
            out, err = wait.communicate(timeout=60)
        assert (wait.returncode, err) == (0, "")
        assert re.fullmatch(rf"writer at {new.host}:{new.port} after \d+\.\d s\n", out)
        assert main(["wait", cluster.dsn, "--role", "reader", "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")


def test_bash_completes_commands_options_choices_and_files(tmp_path):
    with tempfile.NamedTemporaryFile("w", suffix=".bash") as script:
        script.write(
            subprocess.run(
                [sys.executable, "-m", "pgroute", "completion", "bash"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        script.flush()
        completed = {}
        (tmp_path / "shop.toml").touch()
        for words in (
            "pgroute w", "pgroute demo --fault s", "pgroute demo --d", "pgroute batch s", "pgroute wait sh",
        ):  # fmt: skip
            *before, last = words.split()
            asked = f"""
                source {script.name}
                COMP_WORDS=({words}); COMP_CWORD={len(before)}
                _shtab_pgroute pgroute {last} {before[-1]}
                echo "${{COMPREPLY[@]}}"
            """
            done = subprocess.run(
                ["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            completed[words] = sorted(done.stdout.split())
    assert completed == {
        "pgroute w": ["wait", "watch"],
        "pgroute demo --fault s": ["split-brain", "standby-loss", "switchover"],
        "pgroute demo --d": ["--duration"],
        "pgroute batch s": ["show"],
        "pgroute wait sh": ["shop.toml"],
    }


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "split-brain" in capsys.readouterr().out


def test_demo_on_a_terminal_shows_the_view_and_then_the_report(tmp_path_factory):
    with Terminal("demo", "--duration", "3") as terminal:
        lines = terminal.see(r"^reads .* [1-9]\d* /s$")
        assert lines[0].startswith("pgroute demo: crash    PostgreSQL ")
        assert re.match(r"node1 :\d+  primary  up     1 ", lines[3])
        assert [line.split()[0] for line in lines if line.endswith("/s")] == ["writes", "reads"]
        terminal.see(r"killing node1")
        terminal.see(r"^Every acknowledged row is there exactly once\.")
        assert terminal.end() == 0
    view, _, report = terminal.raw.partition(b"\x1b[?1049l")
    assert b"\x1b[?1049h" in view
    assert b"killing node1" in report
    assert re.search("[▁▂▃▄▅▆▇█]", report.decode())


def test_demo_on_a_terminal_that_cannot_redraw_is_lines_and_the_report():
    with Terminal("demo", "--duration", "3", TERM="dumb", columns=120, lines=60) as terminal:
        terminal.see(r"^ *\d+\.\d\d s  killing node1")
        terminal.see(r"^Every acknowledged row is there exactly once\.")
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_demo_on_a_terminal_gives_it_back_after_a_signal(number, status):
    with Terminal("demo", "--fault", "freeze", "--duration", "3") as terminal:
        terminal.see(r"freezing node1")
        terminal.interrupt(number)
        assert terminal.end() == status
    assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert b"Traceback" not in terminal.raw
