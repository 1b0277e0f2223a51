"""Draws the shipped dashboard through a failover, from a real Prometheus that scrapes a real router.

    python -m benchmarks.dashboard [--out docs/img/dashboard.svg] [--before 15] [--outage 5] [--after 25]

Needs the program `prometheus` (Debian: apt-get install prometheus), which listens on loopback and stores into a
temporary folder. Titles, units, legends and expressions are those of the dashboard.json that the package ships; the
drawing is this script's, not Grafana's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import psycopg
from prometheus_client import CollectorRegistry, start_http_server

import pgroute
from benchmarks.plots import STYLE
from pgroute.contrib.prometheus import RouterCollector
from pgroute.testing import LocalCluster

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
RATE = "4s"
STEP = 0.5
COLOURS = ("#1f6f8b", "#d0782a", "#6a4c93", "#5b8c3e", "#b03a48", "#8a8a8a", "#3d5a98", "#c2a13a")
COLUMNS, ROW = 24, 0.42
SETTLING = 10.0
"""Seconds until Prometheus has started and has rates."""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def work(router, role, stop):
    """Write or read until stopped, with pauses of 20 ms on average."""
    rng = random.Random()
    while not stop.wait(0.04 * rng.random()):
        with contextlib.suppress(psycopg.Error):
            if role == "writer":
                router.run(lambda conn: conn.execute("INSERT INTO orders DEFAULT VALUES"))
            else:
                with router.reader(max_lag=5.0) as conn:
                    conn.execute("SELECT count(*) FROM orders WHERE id > 0")


@contextlib.contextmanager
def prometheus(scraped):
    """Run Prometheus; yields the address of its API."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(port=scraped))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        process = subprocess.Popen(command)
        try:
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def working(router):
    stop = threading.Event()
    threads = [
        threading.Thread(target=work, args=(router, role, stop))
        for role in ["writer", "reader"]
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def failover(cluster, args):
    """Kill the primary, promote a standby, and bring the old one back; returns how long each part took."""
    time.sleep(args.before)
    old = cluster.primary
    killed_at = time.time()
    old.kill()
    time.sleep(args.outage)
    promoted_at = time.time()
    new = cluster.promote()
    time.sleep(args.after / 2)
    old.rejoin(new)
    time.sleep(args.after / 2)
    return killed_at, promoted_at


def ask(api, expression, begun, ended):
    """Return the series of an expression of the dashboard: labels, times, values."""
    seconds = max(1, round(ended - begun))
    for name, value in (("$router", ".*"), ("$__rate_interval", RATE), ("$__range", f"{seconds}s")):
        expression = expression.replace(name, value)
    query = urllib.parse.urlencode({"query": expression, "start": begun, "end": ended, "step": STEP})
    with urllib.request.urlopen(f"{api}/query_range?{query}", timeout=10) as answer:  # noqa: S310  (http)
        found = json.load(answer)
    assert found["status"] == "success", found
    return [
        (
            series["metric"],
            [at - begun for at, _ in series["values"]],
            [float(value) for _, value in series["values"]],
        )
        for series in found["data"]["result"]
    ]


def named(legend, labels, names):
    """Return a legend as Grafana fills it in; hosts have short names, because ports differ from run to run."""
    if legend in ("", "__auto", None):
        legend = ", ".join(f"{{{{{name}}}}}" for name in labels if name != "__name__")
    text = re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend)
    for host, name in names.items():
        text = text.replace(host, name)
    return text


def shown(value, unit):
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or not value else f"{value * 1e3:.3g} ms"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 1024:.3g} KiB" if value >= 1024 else f"{value:.0f} B"
    return f"{value:.3g}{'/s' if unit == 'ops' else ''}"


def mapped(defaults, value):
    """Return the text and colour that the panel has for a value."""
    for mapping in defaults.get("mappings", ()):
        option = mapping["options"].get(f"{value:g}")
        if option:
            return option["text"], option["color"]
    colour = None
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return None, colour


TINTS = {"green": "#dcebd5", "red": "#f2d0d3", "orange": "#f8e3cd", None: "#f4f4f4"}


def draw_stat(axes, panel, series):
    defaults = panel["fieldConfig"]["defaults"]
    value = series[0][0][2][-1] if series and series[0] else None
    text, colour = mapped(defaults, value) if value is not None else ("no data", None)
    axes.set_facecolor(TINTS.get(colour, TINTS[None]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    text = shown(value, defaults.get("unit")) if text is None else text
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=15, transform=axes.transAxes)


def draw_states(axes, panel, series, names):
    rows = sorted(
        (named(target.get("legendFormat"), labels, names), times, values)
        for target, found in zip(panel["targets"], series, strict=True)
        for labels, times, values in found
    )
    for number, (_, times, values) in enumerate(reversed(rows)):
        for at, value in zip(times, values, strict=True):
            if value:
                axes.barh(number, STEP, left=at, height=0.6, color=COLOURS[0], linewidth=0)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)], fontsize=6)
    axes.grid(visible=False)


def with_gaps(times, values):
    """Return the points of a line, with a break wherever there is no value."""
    points = []
    for at, value in zip(times, values, strict=True):
        if points and at - points[-1][0] > 1.5 * STEP:
            points.append((at, float("nan")))
        points.append((at, value))
    return zip(*points, strict=True)


def draw_lines(axes, panel, series, names):
    number = 0
    for target, found in zip(panel["targets"], series, strict=True):
        for labels, times, values in found:
            label = named(target.get("legendFormat"), labels, names)
            axes.plot(
                *with_gaps(times, values), color=COLOURS[number % len(COLOURS)], linewidth=1.1, label=label
            )
            number += 1
    unit = panel["fieldConfig"]["defaults"].get("unit")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.set_ylim(bottom=0)
    if number:
        axes.legend(fontsize=5, frameon=False, ncols=1 + number // 4, loc="upper left", labelspacing=0.2)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#8a8a8a", transform=axes.transAxes)


def draw(dashboard, asked, marks, length, names):
    panels = dashboard["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    figure = plt.figure(figsize=(15, ROW * height))
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / COLUMNS, place["y"] / height
        if panel["type"] == "row":
            figure.text(
                0.01, 1 - top - 0.5 / height, panel["title"], va="center", fontsize=11, fontweight="bold"
            )
            continue
        width, tall = place["w"] / COLUMNS, place["h"] / height
        axes = figure.add_axes(
            (left + 0.035, 1 - top - tall + 0.9 / height, width - 0.045, tall - 2.0 / height)
        )
        axes.set_title(panel["title"], fontsize=8)
        axes.tick_params(labelsize=6)
        series = asked[panel["id"]]
        if panel["type"] == "stat":
            draw_stat(axes, panel, series)
            continue
        if panel["type"] == "state-timeline":
            draw_states(axes, panel, series, names)
        else:
            draw_lines(axes, panel, series, names)
        axes.set_xlim(0, length)
        for mark in marks:
            axes.axvline(mark, color="#b03a48", linewidth=0.7, linestyle=":")
    return figure


def measure(dashboard, args):
    """Return what Prometheus answers to each panel's expressions, when the faults were, and the names of the hosts."""
    with LocalCluster(standbys=2) as cluster:
        cluster.primary.execute("CREATE TABLE orders (id bigserial PRIMARY KEY)")
        cluster.catch_up()
        names = {f"127.0.0.1:{node.port}": f"db{number}" for number, node in enumerate(cluster.nodes, 1)}
        registry = CollectorRegistry()
        with pgroute.Router(cluster.dsn, name="shop") as router:
            registry.register(RouterCollector(router))
            server, serving = start_http_server(0, "127.0.0.1", registry)
            try:
                with prometheus(server.server_port) as api:
                    router.wait()
                    with working(router):
                        time.sleep(SETTLING)
                        begun = time.time()
                        faults = failover(cluster, args)
                        ended = time.time()
                    asked = {
                        panel["id"]: [ask(api, target["expr"], begun, ended) for target in panel["targets"]]
                        for panel in dashboard["panels"]
                        if panel["type"] != "row"
                    }
            finally:
                server.shutdown()
                server.server_close()
                serving.join()
    return asked, [at - begun for at in faults], ended - begun, names


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--out", type=Path, nargs="+", default=[Path("docs/img/dashboard.svg")], help="SVG or PNG files"
    )
    parser.add_argument("--before", type=float, default=15.0, help="seconds before the crash (default 15)")
    parser.add_argument("--outage", type=float, default=5.0, help="seconds until the promotion (default 5)")
    parser.add_argument("--after", type=float, default=25.0, help="seconds after it (default 25)")
    args = parser.parse_args()
    if shutil.which("prometheus") is None:
        parser.error("prometheus is not installed (Debian: apt-get install prometheus)")
    logging.disable(logging.CRITICAL)
    text = resources.files("pgroute.contrib.prometheus").joinpath("dashboard.json").read_text("utf-8")
    dashboard = json.loads(text)
    asked, marks, length, names = measure(dashboard, args)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "y"}):
        figure = draw(dashboard, asked, marks, length, names)
        for out in args.out:
            figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=80)
    print(f"{sum(bool(any(found)) for found in asked.values())} of {len(asked)} panels have data")


if __name__ == "__main__":
    main()
