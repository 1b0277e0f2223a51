"""The dashboard and the alert rules ask for metrics that there are, in words that Prometheus understands; the page of
the documentation names every metric.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgroute import Router
from pgroute.contrib.metrics.families import FAMILIES
from pgroute.contrib.metrics.family import COUNTER, HISTOGRAM
from pgroute.contrib.metrics.reading import Reading
from pgroute.contrib.prometheus.__main__ import main
from pgroute.faces import manager_behind

ROOT = Path(__file__).parents[3]
SHIPPED = files("pgroute.contrib.prometheus")
RULES: dict[str, Any] = yaml.safe_load((SHIPPED / "alerts.yml").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((SHIPPED / "dashboard.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# The part of the language that is used here; promtool, where it is found, knows all of it.
KNOWN = {
    *("sum", "min", "max", "by", "ignoring", "and", "unless"),
    *("rate", "increase", "histogram_quantile"),
}
ENDS = {COUNTER: ("_total",), HISTOGRAM: ("_bucket", "_sum", "_count")}
SAMPLES = {
    f"pgroute_{family.name}{end}": {"router", *family.labels} | ({"le"} if end == "_bucket" else set())
    for family in FAMILIES
    for end in ENDS.get(family.kind, ("",))
}
"""The labels of each name on a page."""

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)


def expressions() -> list[tuple[str, str]]:
    """Return all expressions that are shipped, with where they stand; variables of Grafana have a value."""
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    found += [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in PANELS
        for target in panel.get("targets", ())
    ]
    found += [(note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"]]
    return [
        (where, re.sub(r"\$__(rate_interval|range)", "5m", expr).replace("$router", ".+"))
        for where, expr in found
    ]


each_expression = pytest.mark.parametrize(
    "expr", [expr for _, expr in expressions()], ids=[where for where, _ in expressions()]
)


def skeleton(expr: str) -> str:
    """Return an expression without strings and ranges."""
    return re.sub(r"\[[0-9]+[smh]\]", "", re.sub(r'"[^"]*"', '""', expr))


@each_expression
def test_an_expression_is_of_known_words(expr: str) -> None:
    bare = skeleton(expr)
    while (less := re.sub(r"\([^(){}]*\)|\{[^(){}]*\}", "", bare)) != bare:
        bare = less
    assert not set(bare) & set("(){}[]$"), "brackets that do not match"
    without_matchers = re.sub(r"\{[^}]*\}", "", skeleton(expr))
    without_labels = re.sub(r"\b(by|ignoring) *\([^)]*\)", r"\1", without_matchers)
    words = set(re.findall(r"[a-z_]\w*", without_labels))
    assert words - KNOWN <= SAMPLES.keys()
    assert words & SAMPLES.keys()


@each_expression
def test_an_expression_asks_for_labels_that_there_are(expr: str) -> None:
    used = set()
    for name, matchers in re.findall(r"(pgroute_\w+)(?:\{([^}]*)\})?", expr):
        used |= SAMPLES[name]
        asked = set(re.findall(r'(\w+)(?:=~|=|!=|!~)"', matchers))
        assert asked <= SAMPLES[name], name
    for labels in re.findall(r"\b(?:by|ignoring) *\(([^)]*)\)", skeleton(expr)):
        assert set(re.findall(r"\w+", labels)) <= used


def test_the_values_of_labels_that_are_asked_for_exist() -> None:
    known: dict[str, set[str]] = {"state": {"idle", "used"}, "role": {"writer", "reader"}}
    with Router("host=127.0.0.1 port=1") as router:
        reading = Reading("shop", manager_behind(router))
        for family in FAMILIES:
            for values, _ in family.read(reading):
                for label, value in zip(family.labels, values, strict=True):
                    known.setdefault(label, set()).add(value)
    for where, expr in expressions():
        for label, wanted in re.findall(r'(\w+)=~?"([^"]*)"', expr):
            if label != "router":
                assert set(wanted.split("|")) <= known[label], where


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) > 10
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_dashboard_shows_all_that_goes_beyond_pools() -> None:
    shown = " ".join(expr for _, expr in expressions())
    for name in (
        *("without_writer_seconds", "failovers", "failover_duration_seconds", "retries", "commits_unknown"),
        *("split_brain_hosts", "host_staleness_seconds", "readers_on_primary", "position_waits"),
    ):
        assert f"pgroute_{name}" in shown


@promtool
def test_promtool_accepts_the_rules_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [{"record": f"r{n}", "expr": expr} for n, (_, expr) in enumerate(expressions())]
    (tmp_path / "dashboard.yml").write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]})
    )
    (tmp_path / "alerts.yml").write_text((SHIPPED / "alerts.yml").read_text("utf-8"))
    done = subprocess.run(
        ["promtool", "check", "rules", "dashboard.yml", "alerts.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def fires(alert: str, at: str, labels: dict[str, str], *series: tuple[str, str]) -> dict[str, Any]:
    """Return a test of promtool's: with these series, a sample in each minute, there is this alert, and no other."""
    [rule] = [rule for rule in ALERTS if rule["alert"] == alert]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            },
            {
                "expr": "count(ALERTS)",
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            },
            {
                "expr": f"count(ALERTS{{{','.join(f'{k}={json.dumps(v)}' for k, v in labels.items())}, "
                f'severity="{rule["labels"]["severity"]}"}})',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            },
        ],
    }


@promtool
def test_the_alerts_fire_when_they_are_to(tmp_path: Path) -> None:
    shop = {"router": "shop"}
    quiet = fires("PgrouteSplitBrain", "20m", shop, ('pgroute_split_brain_hosts{router="shop"}', "0x20"))
    for test in quiet["promql_expr_test"]:
        test["exp_samples"] = []
    quiet["promql_expr_test"] = quiet["promql_expr_test"][1:]
    tests = [
        quiet,
        fires("PgrouteNoWriter", "2m", shop, ('pgroute_outage_seconds{router="shop"}', "0 10 70")),
        fires(
            "PgrouteNoReader",
            "5m",
            shop,
            ('pgroute_readable{router="shop"}', "0x10"),
            ('pgroute_open{router="shop"}', "1x10"),
            ('pgroute_readable{router="closed"}', "0x10"),
            ('pgroute_open{router="closed"}', "0x10"),
        ),
        fires("PgrouteSplitBrain", "1m", shop, ('pgroute_split_brain_hosts{router="shop"}', "0 2")),
        fires(
            "PgrouteStalePrimary",
            "1m",
            {"host": "a:5432"},
            ('pgroute_host_state{router="shop", host="a:5432", state="stale"}', "0 1"),
            ('pgroute_host_state{router="shop", host="a:5432", state="up"}', "1 0"),
        ),
        fires("PgrouteFailover", "9m", shop, ('pgroute_failovers_total{router="shop"}', "0x5 1x10")),
        fires(
            "PgrouteCommitUnknown",
            "9m",
            shop,
            ('pgroute_commits_unknown_total{router="shop"}', "0x5 2x10"),
            ('pgroute_retries_total{router="shop", cause="commit-unknown"}', "0x5 1x10"),
            ('pgroute_commits_unknown_total{router="once"}', "0x5 2x10"),
            ('pgroute_retries_total{router="once", cause="commit-unknown"}', "0x5 2x10"),
        ),
        fires(
            "PgrouteSessionErrors",
            "15m",
            {**shop, "role": "writer"},
            ('pgroute_session_errors_total{router="shop", role="writer", error="NoHostAvailable"}', "0+1x20"),
            ('pgroute_session_wait_seconds_count{router="shop", role="writer"}', "0+9x20"),
            ('pgroute_session_errors_total{router="shop", role="reader", error="NoHostAvailable"}', "0x20"),
            ('pgroute_session_wait_seconds_count{router="shop", role="reader"}', "0+9x20"),
        ),
        fires(
            "PgroutePoolFull",
            "15m",
            {**shop, "host": "a:5432"},
            ('pgroute_connections{router="shop", role="writer", host="a:5432", state="used"}', "10x20"),
            ('pgroute_connections{router="shop", role="writer", host="a:5432", state="idle"}', "0x20"),
            ('pgroute_connections_max{router="shop", role="writer", host="a:5432"}', "10x20"),
        ),
        fires(
            "PgrouteStaleReplica",
            "10m",
            {**shop, "host": "b:5432"},
            ('pgroute_host_staleness_seconds{router="shop", host="b:5432"}', "40x20"),
            ('pgroute_host_usable{router="shop", host="b:5432"}', "1x20"),
        ),
        fires(
            "PgrouteReadersOnPrimary",
            "25m",
            shop,
            ('pgroute_readers_on_primary_total{router="shop"}', "0+8x30"),
            ('pgroute_session_wait_seconds_count{router="shop", role="reader"}', "0+10x30"),
        ),
        fires(
            "PgrouteHostDown",
            "15m",
            {**shop, "host": "b:5432"},
            ('pgroute_host_usable{router="shop", host="b:5432"}', "0x20"),
            ('pgroute_host_usable{router="shop", host="c:5432"}', "0x20"),
            ('pgroute_host_state{router="shop", host="c:5432", state="drained"}', "1x20"),
            ('pgroute_host_state{router="shop", host="b:5432", state="drained"}', "0x20"),
        ),
    ]
    (tmp_path / "alerts.yml").write_text((SHIPPED / "alerts.yml").read_text("utf-8"))
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "file"), [("alerts", "alerts.yml"), ("dashboard", "dashboard.json")])
def test_both_are_printed_by_a_command(name: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0
    assert capsys.readouterr().out == (SHIPPED / file).read_text("utf-8")


def test_the_command_tells_what_it_can_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["other"]) == 2
    assert capsys.readouterr().err == "usage: python -m pgroute.contrib.prometheus alerts|dashboard\n"


def test_the_page_of_the_documentation_tells_each_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = [
        tuple(cell.strip() for cell in row.split("|")[1:-1])
        for row in re.findall(r"(?m)^\| `pgroute_.*$", page)
    ]
    told = {row[0]: row[1:5] for row in rows if len(row) == 6}
    units = {"s": "seconds", "By": "bytes"}
    assert told == {
        f"`pgroute_{family.name}{'_total' if family.kind == COUNTER else ''}`": (
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels),
            units.get(family.unit, ""),
            family.meaning,
        )
        for family in FAMILIES
    }
    names = {row[0]: row[5].strip("`") for row in rows if len(row) == 6}
    for family in FAMILIES:
        name = names[f"`pgroute_{family.name}{'_total' if family.kind == COUNTER else ''}`"]
        assert name == f"pgroute.{family.otel}" if family.otel else name.startswith("db.client.connection.")


def test_neither_extra_is_needed_by_the_package() -> None:
    code = "import sys, pgroute; print({'prometheus_client', 'opentelemetry'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
