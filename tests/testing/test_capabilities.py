"""LocalCluster under root as containers have it: without the capability to look into other users' processes."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import EACH_VERSION
from tests.testing.test_local_cluster import eventually, nothing_left, processes_below, segments

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]

# What Docker leaves to root.
KEPT = (
    "audit_write,chown,dac_override,fowner,fsetid,kill,mknod,net_bind_service,net_raw,setfcap,setgid,setpcap,setuid,"
    "sys_chroot"
)


@functools.cache
def as_in_a_container() -> list[str]:
    """Return a command that runs the one after it as root with few capabilities."""
    if os.geteuid() != 0:
        pytest.skip("only root has capabilities to leave off")
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("no setpriv, which leaves off capabilities")
    kept = ",".join(f"+{name}" for name in KEPT.split(","))
    command = [program, f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--"]
    done = subprocess.run([*command, program, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this setpriv cannot leave off capabilities: {done.stderr}")
    return command


def start_in_a_container(code: str, *, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start an interpreter that runs `code`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    return subprocess.Popen(
        [*before, *as_in_a_container(), sys.executable, "-c", HELPERS + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run_in_a_container(code: str, *, before: Sequence[str] = ()) -> str:
    """Return what an interpreter prints that runs `code`."""
    with start_in_a_container(code, before=before) as child:
        try:
            output, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, output
    return output


HELPERS = """
import os, signal, sys, time
import psycopg
from pathlib import Path
from pgroute.testing import ClusterError, LocalCluster, processes

def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

def ended(pid):
    try:
        return state(pid) == "Z"
    except FileNotFoundError:
        return True

def in_time(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def session(node):
    return psycopg.connect(node.conninfo, autocommit=True)

"""


@pytest.mark.parametrize("version", EACH_VERSION)
def test_each_process_of_a_server_is_frozen_thawed_and_killed(version: int) -> None:
    folder = run_in_a_container(
        f"""
        with LocalCluster(1, version={version}) as cluster:
            node = cluster.primary
            try:
                os.readlink(f"/proc/{{node.pid}}/cwd")
            except PermissionError:
                pass
            else:
                sys.exit("the servers' processes can be looked into")
            with session(node) as conn:
                backends = [pid for (pid,) in conn.execute("SELECT pid FROM pg_stat_activity")]
                assert len(backends) > 3
                node.freeze()
                there = [pid for pid in backends if not ended(pid)]  # some sessions were at their end
                assert len(there) > 3
                assert {{state(pid) for pid in [node.pid, *there]}} == {{"T"}}
                other = cluster.nodes[1]
                assert other.execute("SELECT 1") == [(1,)]
                node.thaw()
                assert conn.execute("SELECT 2").fetchall() == [(2,)]
                postmaster = node.pid
                assert "T" not in {{state(pid) for pid in [postmaster, *there] if not ended(pid)}}
                node.kill()
                assert all(ended(pid) for pid in [postmaster, *backends])
                assert other.execute("SELECT 1") == [(1,)]
            node.start(wait=False)  # its program may not have begun yet
            node.freeze()
            node.thaw()
            node.wait_ready()
            node.stop("immediate")
            node.start()
            node.freeze()
            print(node.data_dir.parent)
        """
    )
    assert nothing_left(Path(folder.strip()))


def test_no_shared_memory_is_left() -> None:
    before = segments()
    made = run_in_a_container(
        """
        def segments():
            rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
            return {row.split()[1] for row in rows if int(row.split()[4]) in pids}

        with LocalCluster(1) as cluster:
            pids = [node.pid for node in cluster.nodes]
            print(*segments())
            cluster.standbys[0].kill()
        """
    )
    assert len(set(made.split()) - before) == 2
    assert not segments() & set(made.split())


def test_orphans_are_those_of_their_server() -> None:
    run_in_a_container(
        """
        with LocalCluster(1) as one, LocalCluster(0) as two:
            nodes = [*one.nodes, *two.nodes]
            assert nodes[0].name == nodes[2].name
            sessions = [session(node) for node in nodes]
            backends = [conn.info.backend_pid for conn in sessions]
            for node in nodes:
                postmaster = node.pid
                node.freeze()
                os.kill(postmaster, signal.SIGKILL)
                in_time(lambda: not node.running)
            for number, node in enumerate(nodes):
                assert {state(pid) for pid in backends[number:]} == {"T"}
                node.kill()
                assert all(ended(pid) for pid in backends[:number + 1])
            for conn in sessions:
                conn.close()
            for node in nodes:
                node.start()
            one.stop()
            assert nodes[2].execute("SELECT 1") == [(1,)]
        """
    )


def test_a_program_of_a_server_is_frozen_and_killed_with_it() -> None:
    run_in_a_container(
        """
        with LocalCluster(0) as cluster:
            node = cluster.primary
            told = node.data_dir / "told"
            conn = session(node)
            program = f"echo $$ > {told}; exec sleep 60"
            conn.pgconn.send_query(f"COPY (SELECT 1) TO PROGRAM '{program}'".encode())
            in_time(lambda: told.exists() and told.read_text().strip())
            pid = int(told.read_text())
            node.freeze()
            assert state(pid) == "T"
            node.kill()
            in_time(lambda: ended(pid))
            conn.close()
        """
    )


def test_nothing_is_left_when_the_python_process_is_killed() -> None:
    before = segments()
    code = """
        with LocalCluster(1) as cluster:
            cluster.standbys[0].freeze()
            print(cluster.primary.data_dir.parent, flush=True)
            time.sleep(600)
    """
    with start_in_a_container(code) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        try:
            assert len(processes_below(folder)) > 10
            made = segments(folder) - before
            child.kill()
            child.wait(10)
            eventually(lambda: nothing_left(folder), "no folder and no process")
            eventually(lambda: not segments() & made, "no shared memory")
        finally:
            child.kill()


def test_a_program_that_prepares_a_server_ends_with_the_python_process() -> None:
    code = """
        from pgroute.testing import find_server
        from pgroute.testing.initdb import run_initdb
        from pgroute.testing.sandbox import Sandbox
        server = find_server()
        sandbox = Sandbox(server)
        data_dir = sandbox.folder / "node1"
        run_initdb(server, sandbox, data_dir, 60)
        print(sandbox.folder, flush=True)
        sandbox.run("postgres", "--single", "-D", data_dir, "postgres", stdin="SELECT pg_sleep(60)\\n")
    """
    with start_in_a_container(code) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        try:
            eventually(lambda: any("--single" in command for command in processes_below(folder)), "it runs")
            child.kill()
            child.wait(10)
            eventually(lambda: nothing_left(folder), "no folder and no process")
        finally:
            child.kill()


def test_hidden_processes_are_an_error() -> None:
    hiding = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=4 proc /proc && exec "$@"', "sh"]
    done = subprocess.run([*hiding, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"/proc cannot be mounted with hidepid: {done.stderr}")
    folder = run_in_a_container(
        """
        with LocalCluster(0) as cluster:
            node = cluster.primary
            assert not Path(f"/proc/{node.pid}").exists()
            for act in (node.freeze, node.kill):
                try:
                    act()
                except ClusterError as error:
                    assert "hidden" in str(error)
                else:
                    sys.exit(f"{act} says nothing")
            assert not node.running
            print(node.data_dir.parent)
        """,
        before=hiding,
    )
    assert nothing_left(Path(folder.strip()))
