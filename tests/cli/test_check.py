"""`pgroute check` on real clusters: what it finds, how it shows that, and what it ends with."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import sys
from functools import partial

import pytest
from rich.console import Console

from pgroute import HostInfo, HostKey, HostRole, HostState, Router
from pgroute.cli import main
from pgroute.cli.check.about_file import about_file
from pgroute.cli.check.ask import ask_all
from pgroute.cli.check.finding import Finding, Result
from pgroute.cli.check.show import show
from pgroute.cli.parser import make_parser
from pgroute.cli.status import observe
from pgroute.config_file.tables import read_router
from pgroute.testing import LocalCluster
from tests.aio.test_pooler import PROGRAM, pooler
from tests.support import dsn_at, dsn_with, eventually, password_of

CHECKS = {
    "findings": {"writer", "reader", "version"},
    "primary": {"reach", "rights", "tls", "connections", "hot_standby", "replication", "clock"},
}


def check(capsys, *args):
    """Run the command and return its exit status and output."""
    status = main(["check", *args])
    out, err = capsys.readouterr()
    return status, out, err


def check_json(capsys, *args):
    status, out, err = check(capsys, *args, "--json")
    assert err == ""
    return status, json.loads(out)


def found(told, name):
    """Return the findings of one check at all hosts, as result and text."""
    return [
        (f["result"], f["text"]) for host in told["hosts"] for f in host["findings"] if f["check"] == name
    ]


def about(told, name):
    """Return the finding about the whole cluster, as result and text."""
    [found] = [(f["result"], f["text"]) for f in told["findings"] if f["check"] == name]
    return found


def file_of(folder, cluster, *lines, user="postgres@"):
    """Write a configuration file for a cluster, and return its name."""
    hosts = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
    file = folder / "pgroute.toml"
    dsn = f"postgresql://{user}{hosts}/postgres?password=&passfile={cluster.passfile}"
    file.write_text("\n".join([f"[routers.a]\ndsn = '{dsn}'", *lines]))
    return str(file)


@contextlib.contextmanager
def role(cluster, name, options="", grants=""):
    """Make a role that may log in, and give the DSN of the cluster for it."""
    password = password_of(cluster)
    cluster.primary.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {options}")
    if grants:
        cluster.primary.execute(grants)
    cluster.catch_up()
    try:
        yield dsn_with(cluster.dsn, user=name)
    finally:
        cluster.primary.execute(f"DROP OWNED BY {name}")
        cluster.primary.execute(f"DROP ROLE {name}")


def test_a_healthy_cluster_passes(shared: LocalCluster, capsys):
    status, told = check_json(capsys, shared.dsn)
    assert status == 0, told
    assert (told["verdict"], told["router"], told["processes"]) == ("ok", None, 1)
    assert {f["check"] for f in told["findings"]} == CHECKS["findings"]
    primary = told["hosts"][0]
    assert {f["check"] for f in primary["findings"]} == CHECKS["primary"]
    assert [host["role"] for host in told["hosts"]] == ["primary", "standby", "standby"]
    assert {(f["result"]) for host in told["hosts"] for f in host["findings"]} <= {"ok", "note"}
    assert about(told, "writer") == ("ok", f"a session went to 127.0.0.1:{shared.primary.port}")
    assert about(told, "reader") in [
        ("ok", f"a session went to 127.0.0.1:{node.port} (prefer-standby)") for node in shared.nodes[1:]
    ]


@pytest.mark.parametrize("attrs", ["primary", "any", "standby"])
def test_where_readers_go_is_judged_by_what_the_router_accepts(shared: LocalCluster, tmp_path, capsys, attrs):
    _, told = check_json(capsys, file_of(tmp_path, shared, f"reader_attrs = '{attrs}'"))
    nodes = {"primary": shared.nodes[:1], "any": shared.nodes, "standby": shared.nodes[1:]}[attrs]
    assert about(told, "reader") in [
        ("ok", f"a session went to 127.0.0.1:{node.port} ({attrs})") for node in nodes
    ]


def test_readers_whose_standbys_all_lag_go_to_the_primary(any_cluster: LocalCluster, tmp_path, capsys):
    primary, *standbys = any_cluster.nodes
    for node in standbys:
        node.pause_replay()
    primary.execute("CREATE TABLE t ()")
    _, told = check_json(capsys, file_of(tmp_path, any_cluster, "max_lag = 1"))
    for node in standbys:
        node.resume_replay()
    names = ", ".join(f"127.0.0.1:{node.port}" for node in standbys)
    text = (
        f"a session went to the primary 127.0.0.1:{primary.port}: no standby is chosen now by max_lag = 1 s"
    )
    assert about(told, "reader") == ("warn", f"{text} ({names})")


def test_a_primary_that_comes_after_the_probes_is_where_the_session_went(
    any_cluster: LocalCluster, capsys, monkeypatch
):
    primary = any_cluster.primary
    primary.stop()

    def start_first(*args):
        primary.start()
        return ask_all(*args)

    monkeypatch.setattr("pgroute.cli.check.ask_all", start_first)
    _, told = check_json(capsys, any_cluster.dsn, "--timeout", "30")
    assert about(told, "writer") == ("ok", f"a session went to 127.0.0.1:{primary.port}")


def test_the_screen_says_what_all_hosts_have_in_common_once(shared: LocalCluster, capsys):
    status, out, _ = check(capsys, shared.dsn)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "the cluster"
    assert "all 3 hosts" in lines
    assert out.count("the connection does not leave this machine") == 1
    assert f"127.0.0.1:{shared.primary.port}  primary" in lines
    assert lines[-1].endswith(("note", "notes"))


def test_pools_times_processes_are_compared_with_max_connections(shared: LocalCluster, capsys):
    status, told = check_json(capsys, shared.dsn, "--processes", "1000")
    assert status == 2
    assert told["processes"] == 1000
    told_of_each = found(told, "connections")  # how many are in use differs
    assert {result for result, _ in told_of_each} == {"fail"}
    for _, text in told_of_each:
        assert text.startswith("1000 processes may open 21000 (10000 writer + 10000 reader + 1000 probe) of ")


def test_a_role_with_a_limit_and_a_database_with_one(shared: LocalCluster, capsys):
    with role(shared, "few", "CONNECTION LIMIT 20") as dsn:
        status, told = check_json(capsys, dsn)
    assert status == 2
    assert ("fail", "1 process may open 21 as few, whose CONNECTION LIMIT is 20") in found(
        told, "connections"
    )


def test_a_limit_does_not_bind_a_superuser(shared: LocalCluster, capsys):
    with role(shared, "chief", "SUPERUSER CONNECTION LIMIT 2") as dsn:
        shared.primary.execute("ALTER DATABASE postgres CONNECTION LIMIT 20")
        shared.catch_up()
        try:
            status, told = check_json(capsys, dsn)
        finally:
            shared.primary.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")
    assert (status, {result for result, _ in found(told, "connections")}) == (0, {"ok"})


def test_connections_of_the_pools_are_not_those_of_a_user_that_only_the_probes_have(
    shared: LocalCluster, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("PGUSER", raising=False)
    user = pwd.getpwuid(os.geteuid()).pw_name
    with contextlib.ExitStack() as stack:
        if user != "postgres":
            stack.enter_context(role(shared, user))
        stack.enter_context(role(shared, "watch", "CONNECTION LIMIT 5"))
        file = file_of(tmp_path, shared, "probe = {kwargs = {user = 'watch'}}", user="")
        status, told = check_json(capsys, file)
    assert (status, {result for result, _ in found(told, "connections")}) == (0, {"ok"})


def test_who_has_logged_in_counts_and_not_whose_rights_it_takes(shared: LocalCluster, capsys):
    shared.primary.execute("CREATE ROLE acting")
    try:
        grants = "GRANT acting TO few; ALTER ROLE few SET role = 'acting'"
        with role(shared, "few", "CONNECTION LIMIT 20", grants) as dsn:
            _, told = check_json(capsys, dsn)
    finally:
        shared.primary.execute("DROP ROLE acting")
    assert {text.rpartition(" in ")[0] for _, text in found(told, "reach")} == {"logged in as few"}
    assert {text.partition(" ")[0] for _, text in found(told, "rights")} == {"acting"}
    failures = [text for result, text in found(told, "connections") if result == "fail"]
    assert failures == ["1 process may open 21 as few, whose CONNECTION LIMIT is 20"] * 3


def test_a_plain_role_misses_the_timeline_of_a_standby_only(shared: LocalCluster, capsys):
    with role(shared, "plain") as dsn:
        status, told = check_json(capsys, dsn)
    assert status == 0
    [(result, text)] = set(found(told, "rights"))
    assert (result, text.partition(",")[0]) == ("note", "plain cannot read pg_stat_wal_receiver")


def test_the_settings_of_a_role_do_not_keep_it_from_asking(shared: LocalCluster, capsys):
    settings = {
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "default_transaction_read_only": "on",
        "client_encoding": "latin1",
        "search_path": "nowhere",
    }
    grants = "".join(f"ALTER ROLE strict SET {name} = '{value}';" for name, value in settings.items())
    with role(shared, "strict", grants=grants) as dsn:
        _, told = check_json(capsys, dsn)
    assert [result for result, _ in found(told, "reach")] == ["ok"] * 3
    assert all(
        text.endswith(" of 97; 0 are open now") or " of " in text for _, text in found(told, "connections")
    )
    assert len(found(told, "connections")) == len(found(told, "clock")) == 3


def test_missing_rights_are_told_with_what_they_cost_and_end_no_other_question(
    any_cluster: LocalCluster, capsys
):
    for function in ("pg_control_system()", "pg_walfile_name(pg_lsn)"):
        any_cluster.primary.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    any_cluster.primary.execute("REVOKE SELECT ON pg_settings FROM PUBLIC")
    with role(any_cluster, "plain") as dsn:
        status, told = check_json(capsys, dsn)
    assert status == 1
    assert [result for result, _ in found(told, "reach")] == ["ok"] * 3
    refused = ("note", "the settings: permission denied for view pg_settings")
    assert found(told, "unknown") == [refused] * 3, "the other questions are answered"
    assert len(found(told, "clock")) == 3
    for result, text in found(told, "rights"):
        assert result == "warn"
        assert text.startswith("plain may not execute pg_walfile_name, pg_control_system: ")
        assert "hosts of another cluster cannot be recognised" in text


def test_what_a_missing_right_costs_is_what_the_probes_do_not_learn(any_cluster: LocalCluster, capsys):
    known = {
        "a stale primary cannot be recognised": lambda primary, _: primary.timeline is None,
        "a standby's timeline and staleness are not known": lambda _, standby: standby.timeline is None,
        "the lag is not known": lambda _, standby: standby.lag_bytes is None,
        "hosts of another cluster cannot be recognised": lambda primary, _: primary.system_id is None,
    }
    functions = (
        "pg_walfile_name(pg_lsn)",
        "pg_last_wal_replay_lsn()",
        "pg_control_recovery()",
        "pg_postmaster_start_time()",
    )
    with role(any_cluster, "plain") as dsn:
        for function in functions:
            any_cluster.primary.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
            any_cluster.catch_up()
            with Router(dsn) as router:
                primary, standby, _ = observe(router, 20.0).hosts
            _, told = check_json(capsys, dsn)
            any_cluster.primary.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
            [(result, text)] = {*found(told, "rights")}
            told_as = f"plain may not execute {function.partition('(')[0]}"
            assert (result, text.partition(": ")[0]) == ("warn", told_as)
            lost = {loss for loss, is_lost in known.items() if is_lost(primary, standby)}
            assert lost
            assert {loss for loss in known if loss in text} == lost, function


def test_replication_and_hot_standby(any_cluster: LocalCluster, capsys):
    primary, _, other = any_cluster.nodes
    status, told = check_json(capsys, any_cluster.dsn)
    text = "no synchronous standby by PostgreSQL's own replication: unless the storage is replicated,"
    assert found(told, "replication")[0] == ("note", f"{text} a failover may lose acknowledged transactions")
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'")
    primary.execute("SELECT pg_reload_conf()")
    other.stop()
    deadline = 50
    while found(told, "replication")[0][0] != "fail" and (deadline := deadline - 1):
        status, told = check_json(capsys, any_cluster.dsn, "--timeout", "1")
    assert status == 2
    assert found(told, "replication")[0] == (
        "fail",
        "no synchronous standby is attached, so that COMMIT waits (ANY 1 (nobody))",
    )
    assert found(told, "reach")[2][0] == "fail"
    primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
    primary.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("names", ["ANY 2 (*)", "FIRST 2 (*)"])
def test_commit_that_waits_for_more_standbys_than_are_attached_is_a_failure(
    any_cluster: LocalCluster, capsys, names
):
    def set_names(to):
        primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{to}'")
        primary.execute("SELECT pg_reload_conf()")
        eventually(lambda: primary.execute("SHOW synchronous_standby_names") == [(to,)])

    def told_to(dsn):
        return found(check_json(capsys, dsn)[1], "replication")[0]

    primary, _, other = any_cluster.nodes
    with role(any_cluster, "plain") as plain:
        set_names(names)
        told = f"synchronous: {names}, 2 attached, synchronous_commit = on"
        eventually(lambda: told_to(any_cluster.dsn) == ("ok", told), 30)
        cannot_see = "whether enough standbys are attached cannot be seen: GRANT pg_read_all_stats"
        told = f"synchronous: {names}, synchronous_commit = on; {cannot_see}"
        assert told_to(plain) == ("note", told)
        other.stop()
        lost = f"1 of 2 synchronous standbys are attached, so that COMMIT waits ({names})"

        def fails_at(dsn):
            return told_to(dsn) == ("fail", lost)

        for dsn in (any_cluster.dsn, plain):
            eventually(partial(fails_at, dsn), 30)
        set_names("")
        other.start()


def test_the_only_host_is_a_note_and_a_standby_that_is_missing_a_warning(capsys):
    with LocalCluster(standbys=0) as cluster:
        where = f"127.0.0.1:{cluster.primary.port}"
        status, told = check_json(capsys, cluster.dsn)
        assert status == 0
        assert about(told, "reader") == ("note", f"a session went to the primary {where}, the only host")
        status, told = check_json(capsys, dsn_at(f"{where},127.0.0.1:1", cluster))
        assert status == 2
        text = f"a session went to the primary {where}: there is no standby"
        assert about(told, "reader") == ("warn", text)


def test_the_time_limit_is_told_to_be_for_each_step(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["check", "--help"])
    assert "wait at most S seconds for each step" in " ".join(capsys.readouterr().out.split())


def test_a_frozen_host_does_not_hold_it_up(any_cluster: LocalCluster, capsys):
    standby = any_cluster.nodes[2]
    standby.freeze()
    try:
        status, told = check_json(capsys, any_cluster.dsn, "--timeout", "1")
    finally:
        standby.thaw()
    assert status == 2
    [finding] = told["hosts"][2]["findings"]
    assert (finding["check"], finding["result"]) in {("reach", "fail"), ("reach", "warn")}
    assert [f["result"] for f in told["hosts"][0]["findings"] if f["check"] == "reach"] == ["ok"]


def test_nobody_there(capsys):
    status, told = check_json(capsys, "postgresql://app:hunter2@127.0.0.1:1/x", "--timeout", "0.5")
    assert status == 2
    assert found(told, "reach") == [("fail", "Connection refused")]
    assert "hunter2" not in json.dumps(told)


def test_a_wrong_password_is_told_and_not_shown(shared: LocalCluster, capsys):
    hosts = f"127.0.0.1:{shared.primary.port}"
    dsn = f"postgresql://postgres:hunter2@{hosts}/postgres"
    status, out, err = check(capsys, dsn, "--timeout", "1")
    assert status == 2
    assert "password authentication failed" in out
    assert "hunter2" not in out + err


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
def test_a_pooler_in_between_is_noticed(shared: LocalCluster, capsys):
    with pooler(shared.primary) as port:
        status, told = check_json(capsys, dsn_at(f"127.0.0.1:{port}", shared), "--processes", "24")
    [(result, text)] = found(told, "pooler")
    assert result == "note"
    assert "a pooler is in between" in text
    text = "24 processes may open 504 (240 writer + 240 reader + 24 probe) to the pooler"
    limits = "compare with max_client_conn and default_pool_size there"
    assert found(told, "connections") == [("note", f"{text}: {limits}")]
    assert status == 0


@pytest.fixture
def secret_in_environment(monkeypatch):
    """Variables with a password, alone and in a DSN."""
    monkeypatch.setenv("PGROUTE_TEST_SECRET", "hunter2")
    monkeypatch.setenv("PGROUTE_TEST_DSN", "postgresql://app:hunter2@127.0.0.1:1/shop")
    monkeypatch.setenv("PGROUTE_TEST_BASE", "postgresql://app@127.0.0.1:1/shop")
    monkeypatch.setenv("PGROUTE_TEST_HOST", "127.0.0.1")


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_a_configuration_file_is_audited(shared: LocalCluster, tmp_path, capsys, suffix):
    hosts = ",".join(f"{node.host}:{node.port}" for node in shared.nodes)
    dsn = f"postgresql://postgres@{hosts}/postgres"
    texts = {
        "toml": f"[routers.a]\ndsn = '{dsn}'\nkind = 'async_pool'\nconfigure = 'no_such_module_here:x'\n",
        "yaml": f"routers:\n  a:\n    dsn: {dsn}\n    kind: pool\n",
    }
    file = tmp_path / f"shop.{suffix}"
    file.write_text(
        texts[suffix].replace("configure = 'no_such_module_here:x'\n", "configure = 'os:abort'\n")
    )
    (tmp_path / "password").write_text(password_of(shared))
    with file.open("a") as opened:
        opened.write(
            "[routers.a.kwargs]\npassword = {from_file = 'password'}\n[routers.a.writer]\nmax_size = 30\n"
            if suffix == "toml"
            else "    kwargs: {password: {from_file: password}}\n    writer: {max_size: 30}\n"
        )
    status, told = check_json(capsys, str(file), "--router", "a", "--processes", "2")
    assert status in (0, 2)
    assert told["router"] == "a"
    assert "2 processes may open 82 (60 writer + 20 reader + 2 probe)" in found(told, "connections")[0][1]
    assert ("ok", f"{file} holds no password") in [(f["result"], f["text"]) for f in told["findings"]]


@pytest.mark.parametrize("kind", ["connection", "async_connection"])
def test_a_router_of_one_connection_for_each_role_needs_no_more(shared: LocalCluster, capsys, tmp_path, kind):
    file = tmp_path / "pgroute.toml"
    text = f"[routers.a]\ndsn = '{shared.dsn}'\nkind = '{kind}'\nwriter = {{ max_size = 30 }}\n"
    file.write_text(text)
    _, told = check_json(capsys, str(file), "--processes", "1000")
    expected = "1000 processes may open 3000 (1000 writer + 1000 reader + 1000 probe) of "
    assert found(told, "connections")[0][1].startswith(expected)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_credentials_function_of_a_file_is_asked(
    shared: LocalCluster, tmp_path, monkeypatch, capsys, kind
):
    password = password_of(shared)
    module = f"credentials_for_a_check_{kind[0]}"
    (tmp_path / f"{module}.py").write_text(
        f"asked = []\n{kind} give(request):\n    asked.append(request)\n    return {{'password': {password!r}}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    hosts = ",".join(f"{node.host}:{node.port}" for node in shared.nodes)
    file = tmp_path / "shop.toml"
    dsn = f"postgresql://postgres@{hosts}/postgres"
    file.write_text(f"[routers.a]\ndsn = '{dsn}'\ncredentials = '{module}:give'\n")
    _, told = check_json(capsys, str(file))
    assert [text.rpartition(" in ")[0] for _, text in found(told, "reach")] == ["logged in as postgres"] * 3
    assert {request.role for request in sys.modules[module].asked} == {"probe", "writer", "reader"}
    assert password not in json.dumps(told)


def test_a_credentials_function_that_fails_is_the_reason(tmp_path, monkeypatch, capsys):
    (tmp_path / "no_credentials_for_a_check.py").write_text(
        "def give(_):\n    raise OSError('vault is sealed')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "shop.toml"
    file.write_text(
        "[routers.a]\ndsn = 'host=127.0.0.1 port=1'\ncredentials = 'no_credentials_for_a_check:give'\n"
    )
    _, told = check_json(capsys, str(file), "--timeout", "0.5")
    [(result, text)] = found(told, "reach")
    assert (result, "raised OSError: vault is sealed" in text) == ("fail", True), text


@pytest.mark.parametrize(
    ("mode", "where", "judged"),
    [
        (0o644, "dsn = 'host=127.0.0.1 port=1 password=hunter2'", ("warn", "others may read it (mode 644)")),
        (0o604, "kwargs = {password = 'hunter2'}", ("warn", "others may read it (mode 604)")),
        (0o633, "kwargs = {password = 'hunter2'}", ("ok", "only its owner may read it")),
        (0o600, "writer = {kwargs = {password = 'hunter2'}}", ("ok", "only its owner may read it")),
        (0o600, "probe = {kwargs = {password = 'hunter2'}}", ("ok", "only its owner may read it")),
        (0o644, "kwargs = {password = '${PGROUTE_TEST_SECRET}'}", ("ok", "holds no password")),
        (0o644, "kwargs = {password = {from_env = 'PGROUTE_TEST_SECRET'}}", ("ok", "holds no password")),
        (0o644, "dsn = '${PGROUTE_TEST_DSN}'", ("ok", "holds no password")),
        (
            0o644,
            "dsn = 'postgresql://app:${PGROUTE_TEST_SECRET}@127.0.0.1:1/x'",
            ("ok", "holds no password"),
        ),
        (
            0o644,
            "dsn = 'host=${PGROUTE_TEST_HOST} port=1 password=${PGROUTE_TEST_SECRET}'",
            ("ok", "holds no password"),
        ),
        (
            0o644,
            "dsn = '${PGROUTE_TEST_BASE}?password=${PGROUTE_TEST_SECRET}&sslmode=disable'",
            ("ok", "holds no password"),
        ),
        # Values of variables that happen to hold what is written here.
        (
            0o644,
            "kwargs = {password = 'hunter2', application_name = '${PGROUTE_TEST_SECRET}'}",
            ("warn", "others may read it"),
        ),
        (0o644, "kwargs = {password = '${PGROUTE_TEST_SECRET}7'}", ("warn", "others may read it")),
        (
            0o644,
            "dsn = 'host=${PGROUTE_TEST_HOST} port=1 password=127'",
            ("warn", "others may read it"),
        ),
        (
            0o644,
            "dsn = 'postgresql://app:hunter2@${PGROUTE_TEST_HOST}:1/${PGROUTE_TEST_SECRET}'",
            ("warn", "others may read it"),
        ),
        (0o644, "dsn = '${PGROUTE_TEST_BASE}?password=hunter2'", ("warn", "others may read it")),
        (
            0o644,
            "dsn = 'postgresql://app:x${PGROUTE_TEST_SECRET}@127.0.0.1:1/x'",
            ("warn", "others may read it"),
        ),
    ],
)
@pytest.mark.usefixtures("secret_in_environment")
def test_a_password_in_a_file_that_others_read_is_a_warning(tmp_path, capsys, mode, where, judged):
    result, part = judged
    file = tmp_path / "x.toml"
    file.write_text("[routers.a]\n" + where + ("" if "dsn" in where else "\ndsn = 'host=127.0.0.1 port=1'"))
    file.chmod(mode)
    _, told = check_json(capsys, str(file), "--timeout", "0.2")
    [finding] = [f for f in told["findings"] if f["check"] == "file"]
    assert (finding["result"], part in finding["text"]) == (result, True), finding
    assert "hunter2" not in json.dumps(told)


@pytest.mark.parametrize(
    ("mode", "reader", "judged"),
    [
        (0o640, "owner", ("warn", "its group may read it (mode 640): chmod 600, or {from_file=}")),
        (0o644, "owner", ("warn", "others may read it (mode 644): chmod 600, or {from_file=}")),
        (0o640, "another user", ("note", "its group may read it (mode 640)")),
        (0o640, "root", ("note", "its group may read it (mode 640)")),
        (0o644, "another user", ("warn", "others may read it (mode 644): chmod o-r, or {from_file=}")),
        (0o600, "another user", ("ok", "only its owner may read it")),
    ],
)
def test_a_file_that_is_made_for_an_application_of_its_group_is_not_to_be_taken_from_it(
    tmp_path, monkeypatch, mode, reader, judged
):
    result, part = judged
    file = tmp_path / "x.toml"
    file.write_text("[routers.a]\ndsn = 'host=127.0.0.1 password=hunter2'")
    file.chmod(mode)
    if os.geteuid() == 0 and reader != "root":
        os.chown(file, 12345, -1)
    owner = file.stat().st_uid
    user = {"owner": owner, "another user": owner + 1, "root": 0}[reader]
    monkeypatch.setattr("os.geteuid", lambda: user)
    finding = about_file(read_router(file, None))
    assert (finding.result.value, finding.text.endswith(part)) == (result, True), finding


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.toml"], "cannot be read: No such file or directory"),
        (["host=h", "--router", "a"], "--router is for a configuration file"),
        (["x.toml", "--resolver", "dns"], "are for a DSN: a file has its own"),
        (["x.toml", "--router", "b"], "invalid name 'b': expected one of a"),
        (["no dsn"], "invalid dsn"),
    ],
)
def test_what_cannot_be_audited_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("[routers.a]\n")
    status, out, err = check(capsys, *arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("processes", ["0", "-1", "x", "1e3", "100001"])
def test_what_is_no_number_of_processes_ends_with_usage(capsys, processes):
    with pytest.raises(SystemExit):
        main(["check", "--processes", processes])
    assert "is not an integer from 1 to 100000" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 100])
def test_every_line_fits_the_terminal(width):
    long = "a-very-long-host-name.of-a-cluster.in-some-region.example.com"
    host = HostInfo(HostKey(long, 5432), HostState.UP, "", True, 0.0, 1, role=HostRole.PRIMARY)
    findings = [Finding("connections", Result.FAIL, "word " * 30), Finding("tls", Result.OK, "x" * 150)]
    output = io.StringIO()
    screen = Console(width=width, file=output, force_terminal=True, color_system=None, markup=False)
    show(screen, findings, [(host, findings)])
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("word") == 60
    assert lines[-1] == "2 failures"
