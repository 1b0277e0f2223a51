"""The commands about batch jobs."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import Router
from pgroute.batch import BatchJob, Chunk, Keyset
from pgroute.cli import main
from pgroute.testing import LocalCluster
from tests.batching import Ground, ground_of

pytestmark = pytest.mark.cluster

AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def ground(shared: LocalCluster) -> Iterator[Ground]:
    """A database with a job that is finished, one that is not, and one with chunks that were set aside."""

    def nothing(conn: Any, chunk: Chunk) -> None:
        """Do nothing."""

    def stop(conn: Any, chunk: Chunk) -> None:
        if chunk.number == 2:
            raise KeyError(chunk.number)

    def reject(conn: Any, chunk: Chunk) -> None:
        conn.execute("SELECT 1 / %s", (int(chunk.number % 2 == 0),))

    with ground_of(shared) as ground:
        ground.items(45)
        with Router(ground.dsn) as router:
            BatchJob(router, "done", range(25), chunk_size=10).run(nothing)
            with pytest.raises(KeyError):
                BatchJob(router, "half done", (n for n in range(45)), chunk_size=10).run(stop)
            source = Keyset("SELECT id FROM item", "id")
            BatchJob(router, "poisoned", source, chunk_size=10, on_error="reject").run(reject)
        yield ground


def pgroute(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run a command and return its exit status, stdout and stderr."""
    status = main(["batch", *args])
    return (status, *capsys.readouterr())


def test_list_has_a_line_for_each_job(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = pgroute(capsys, "list", ground.dsn)
    assert (status, err) == (0, "")
    told = [re.split(r"  +", AT.sub("AT", line)) for line in out.splitlines()]
    assert told == [
        ["job", "state", "chunks", "rows", "rejected", "started", "finished"],
        ["done", "finished", "3 of 3", "25 of 25", "0", "AT", "AT"],
        ["half done", "open", "2 of ?", "20 of ?", "0", "AT", "-"],
        ["poisoned", "finished", "3 of 5", "25 of 45", "2", "AT", "AT"],
    ]


def test_list_as_json_has_the_documented_keys(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = pgroute(capsys, "list", ground.dsn, "--json")
    assert status == 0
    first, second, third = json.loads(out)
    assert AT.fullmatch(first.pop("started_at"))
    assert AT.fullmatch(first.pop("finished_at"))
    assert first == {
        "job": "done", "source": "items", "chunk_size": 10, "state": "finished", "chunks": 3, "chunks_done": 3,
        "rows": 25, "rows_done": 25, "rejected": 0,
    }  # fmt: skip
    assert (second["finished_at"], second["chunks"], second["rows"]) == (None, None, None)
    assert re.fullmatch("keyset:[0-9a-f]{64} by id bigint", third["source"])


def test_no_jobs(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.execute("DELETE FROM pgroute.batch_job")
    assert pgroute(capsys, "list", ground.dsn) == (0, "no jobs\n", "")
    assert pgroute(capsys, "list", ground.dsn, "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(("job", "expected"), [("done", 0), ("half done", 1), ("poisoned", 1)])
def test_show_says_by_its_status_whether_all_is_applied(
    ground: Ground, capsys: pytest.CaptureFixture[str], job: str, expected: int
) -> None:
    status, out, err = pgroute(capsys, "show", ground.dsn, job)
    assert (status, err) == (expected, "")
    assert re.match(f"job +{job}\nsource +", out)
    assert ("division by zero" in out) == (job == "poisoned")


def test_show_as_json_has_the_chunks_that_were_set_aside(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = pgroute(capsys, "show", ground.dsn, "poisoned", "--json")
    assert status == 1
    told = json.loads(out)
    assert (told["job"], told["state"], told["rejected"]) == ("poisoned", "finished", 2)
    first, second = told["rejects"]
    assert AT.fullmatch(first.pop("at"))
    assert "division by zero" in first.pop("error")
    assert first == {"chunk": 1, "rows": 10, "after": ["10"], "upto": ["20"], "sqlstate": "22012"}
    assert second["chunk"] == 3


@pytest.mark.parametrize("answer", ["", "n\n", "yess\n"])
def test_reset_asks_first(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    status, out, err = pgroute(capsys, "reset", ground.dsn, "half done")
    assert (status, err) == (1, "")
    assert out.startswith("'half done' is open, 2 chunks (20 rows) are done. Reset it")
    assert ground.rows()["batch_job"] == 3


@pytest.mark.parametrize("way", ["y\n", "YES\n", "--yes"])
def test_reset_forgets_a_job_and_no_other(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(way))
    options = [way] if way == "--yes" else []
    status, out, err = pgroute(capsys, "reset", ground.dsn, "poisoned", *options)
    assert (status, err) == (0, "")
    assert out.endswith("'poisoned' was reset\n")
    assert ground.execute("SELECT job FROM pgroute.batch_job ORDER BY job") == [("done",), ("half done",)]
    assert ground.rows()["batch_reject"] == 0


@pytest.mark.parametrize("action", ["show", "reset"])
def test_a_job_that_is_not_there(ground: Ground, capsys: pytest.CaptureFixture[str], action: str) -> None:
    status, out, err = pgroute(capsys, action, ground.dsn, "jbo")
    assert (status, out) == (2, "")
    assert err == "pgroute batch: no job 'jbo': see `pgroute batch list DSN`\n"


def test_a_database_without_the_tables(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.execute("DROP SCHEMA pgroute CASCADE")
    status, out, err = pgroute(capsys, "list", ground.dsn)
    assert (status, out) == (2, "")
    assert "run `pgroute install DSN`" in err


def test_jobs_in_a_schema_of_any_name(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    name = 'a`>`b "c" {d} %s'
    quoted = name.replace('"', '""')
    ground.execute(f'ALTER SCHEMA pgroute RENAME TO "{quoted}"')
    try:
        status, out, err = pgroute(capsys, "list", ground.dsn, "--schema", name, "--json")
        assert (status, err) == (0, "")
        assert {job["job"] for job in json.loads(out)} == {"done", "half done", "poisoned"}
        status, out, err = pgroute(capsys, "reset", ground.dsn, "poisoned", "--yes", "--schema", name)
        assert (status, err) == (0, "")
    finally:
        ground.execute(f'ALTER SCHEMA "{quoted}" RENAME TO pgroute')
    assert ground.execute("SELECT job FROM pgroute.batch_job ORDER BY job") == [("done",), ("half done",)]


def test_nobody_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = pgroute(capsys, "list", "host=127.0.0.1 port=1", "--timeout", "0.5")
    assert (status, out) == (2, "")
    assert err.startswith("pgroute batch: no primary is available:\n")


def test_a_dsn_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = pgroute(capsys, "list", "host=a,b port=1,2,3")
    assert status == 2
    assert err.startswith("pgroute batch: invalid ")


def test_help_tells_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["batch", "show", "--help"])
    assert caught.value.code == 0
    assert "exit status:" in capsys.readouterr().out


def test_reset_does_not_wait_for_ever_for_a_chunk_in_work(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(f"{ground.cluster.primary.conninfo} dbname={ground.name}") as conn:
        conn.execute(
            "UPDATE pgroute.batch_chunk SET done_at = now() WHERE job = 'half done' AND done_at IS NULL"
        )
        status, _, err = pgroute(capsys, "reset", ground.dsn, "half done", "--yes", "--timeout", "2")
    assert status == 2
    assert err.startswith("pgroute batch: a chunk of 'half done' is still being processed after 2 s: ")
    assert ground.rows()["batch_job"] == 3


def test_jobs_of_a_database_without_an_encoding(
    shared: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    node = shared.primary
    node.execute("CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        dsn = f"{node.conninfo} dbname=raw"

        def reject(conn: Any, chunk: Chunk) -> None:
            conn.execute("SELECT 1 / 0")

        assert main(["install", dsn]) == 0
        with Router(dsn) as router:
            BatchJob(router, "caf\u00e9", range(3), chunk_size=10, on_error="reject").run(reject)
        capsys.readouterr()
        status, out, err = pgroute(capsys, "list", dsn)
        assert (status, err) == (0, "")
        assert out.splitlines()[1].startswith("caf\u00e9  finished  0 of 1  0 of 3  1 ")
        status, out, err = pgroute(capsys, "show", dsn, "caf\u00e9")
        assert (status, err) == (1, "")
        assert out.startswith("job           caf\u00e9\nsource        items\n")
        assert "22012" in out
        status, out, err = pgroute(capsys, "show", dsn, "caf\u00e9", "--json")
        assert (status, err) == (1, "")
        told = json.loads(out)
        assert (told["job"], told["state"], told["rejects"][0]["sqlstate"]) == (
            "caf\u00e9",
            "finished",
            "22012",
        )
    finally:
        node.execute("DROP DATABASE raw WITH (FORCE)")


def test_what_others_wrote_into_the_tables_is_shown_and_not_obeyed(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[2J\x1b]0;title\x07[red]job[/red] [/no]\r\nFORGED \u202e"
    error = "Error: [link=file:///etc]\x9b31m\x1b[2J " + "x" * 20_000 + "\nFORGED"
    ground.execute(
        "INSERT INTO pgroute.batch_job (job, source, chunk_size) VALUES (%s, %s, 1)",
        [name, "\x1b[2J\nFORGED"],
    )
    ground.execute(
        "INSERT INTO pgroute.batch_reject (job, chunk, row_count, after, upto, sqlstate, error)"
        " VALUES (%s, 0, 1, %s, %s, %s, %s)",
        [name, ["\x1b[2J", "\nFORGED"], ["\r"], "\x1b\nFORGED", error],
    )
    for command in (["list", ground.dsn], ["show", ground.dsn, name]):
        _, out, _ = pgroute(capsys, *command)
        lines = out.split("\n")
        assert [line for line in lines if not line.isprintable() or line.startswith("FORGED")] == []
        assert "[red]job[/red] [/no]" in out
        assert len(out) < 10_000
        _, out, _ = pgroute(capsys, *command, "--json")
        assert out.isascii()
        assert out.replace("\n", "").isprintable()
    told = json.loads(out)
    assert told["job"] == name
    assert told["rejects"][0]["after"] == ["\x1b[2J", "\nFORGED"]
    shown = told["rejects"][0]["error"]
    assert shown.isprintable()
    assert len(shown) == 8192
