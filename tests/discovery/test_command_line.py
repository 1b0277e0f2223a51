"""What the command line tells of an adviser."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pgroute.cli import main
from pgroute.testing import LocalCluster
from tests.discovery.rest_api import RestApi, member, whole

pytestmark = pytest.mark.cluster


@pytest.fixture
def api(shared: LocalCluster) -> Iterator[RestApi]:
    names = enumerate(shared.nodes, 1)
    members = [member(f"n{n}", node.host, node.port, tags={"noloadbalance": n == 3}) for n, node in names]
    members.append(member("n4", "127.0.0.1", 1))
    with RestApi(whole({"members": members, "scope": "shop", "pause": True})) as api:
        yield api


def test_status_tells_what_the_adviser_says(
    shared: LocalCluster, api: RestApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", shared.dsn, "--discovery", api.url]) == 0
    out = capsys.readouterr().out
    assert "streaming, no reads" in out
    assert f"Patroni: 4 members of shop, by {api.url}" in out.replace("\n", "")
    assert "paused: it does not fail over by itself" in out.replace("\n", " ")
    assert main(["status", shared.dsn, "--discovery", api.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["adviser"] == {
        "name": "Patroni",
        "answering": True,
        "source": api.url,
        "error": "",
        "scope": "shop",
        "members": 4,
        "paused": True,
        "switchover": "",
        "strangers": {"n4": told["adviser"]["strangers"]["n4"]},
    }
    assert [host["advice"]["no_reads"] for host in told["hosts"]] == [False, False, True]


def test_check_warns_of_a_pause_and_of_an_api_that_does_not_answer(
    shared: LocalCluster, api: RestApi, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", shared.dsn, "--discovery", api.url, "--json"])
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["discovery"]["result"] == "warn"
    assert "paused" in found["discovery"]["text"]
    main(["check", shared.dsn, "--discovery", "http://127.0.0.1:1", "--json"])
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["discovery"]["result"] == "warn"
    assert "it said nothing yet" in found["discovery"]["text"]
