"""Draws docs/img/*.svg from benchmarks/results.json.

python -m benchmarks.plots [--json FILE] [--out FOLDER] [--format svg|png]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.compare.summary import NEVER, names_in, ratios, recovered_after

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {
    "pgroute": "#1f6f8b",
    "psycopg_pool": "#b5651d",
    "psycopg_pool tuned": "#d99a5b",
    "hasql": "#6a4c93",
    "hasql tuned": "#a98fc9",
}
STYLE = {
    "figure.facecolor": "#ffffff",
    "savefig.facecolor": "#ffffff",
    "axes.facecolor": "#ffffff",
    "axes.edgecolor": "#8a8a8a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e3e3e3",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "xtick.color": "#222222",
    "ytick.color": "#222222",
    "ytick.major.size": 0,
    "svg.hashsalt": "pgroute",  # equal figures, equal files
}
TITLES = {
    "crash": "Primary killed",
    "freeze": "Primary frozen",
    "switchover": "Switchover",
}
INTERVAL_LINES = (("#1f6f8b", 2.0), ("#d0782a", 1.6))
HEADING = {"x": 0.01, "ha": "left", "fontsize": 12, "fontweight": "bold"}
TICKS = [0.001, 0.01, 0.1, 1.0, 10.0]


def colour(name):
    return COLOURS[name.removesuffix(" async")]


def clock(value):
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


def steady(results):
    """Ratios to psycopg_pool alone: median and quartiles, one panel for each face."""
    faces = [f for f in ("sync", "async") if any(r["face"] == f for r in results)]
    figure, axes = plt.subplots(1, len(faces), figsize=(5.0 * len(faces), 4.1), squeeze=False)
    for panel, face in zip(axes[0], faces, strict=True):
        at, places, labels = 0.0, [], []
        for result in (r for r in results if r["face"] == face):
            for name in names_in(result):
                shares = ratios(result, name)
                if name.removesuffix(" async") == "psycopg_pool" or len(shares) < 2:
                    continue
                low, middle, high = statistics.quantiles(shares, n=4)
                panel.plot([low, high], [at, at], color=colour(name), linewidth=4, alpha=0.45)
                panel.plot([middle], [at], "o", color=colour(name), markersize=7)
                panel.annotate(
                    f"{middle:.2f}",
                    (middle, at),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                )
                places.append(at)
                plural = "s" if result["workers"] > 1 else ""
                labels.append(f"{name.removesuffix(' async')}, {result['workers']} worker{plural}")
                at += 1
            at += 0.6
        panel.axvline(1, color="#555555", linewidth=1)
        panel.set_yticks(places, labels)
        panel.set_ylim(at - 0.6, -1)
        panel.set_title("threads" if face == "sync" else "asyncio")
    ends = [end for panel in axes[0] for end in panel.dataLim.intervalx]
    for panel in axes[0]:
        panel.set_xlim(min(ends) - 0.08, max(1.05, *ends) + 0.08)
    figure.suptitle("Sessions per second, psycopg_pool alone = 1", **HEADING)
    figure.supxlabel("The median of the rounds and their quartiles; less than 1 is slower.", fontsize=9)
    return figure


def failover(results):
    """The first write and the last writer's after the promotion: a dot for each trial, a mark for the censored."""
    rows = [(r, pick) for r in results for pick in ((min, max) if r["writers"] > 1 else (min,))]
    names = names_in(results[0])
    figure, axes = plt.subplots(
        1, len(rows), figsize=(3.0 * len(rows) + 1.9, 3.7), sharey=True, squeeze=False
    )
    bound = results[0]["bound"]
    rng = random.Random(1)
    for panel, (result, pick) in zip(axes[0], rows, strict=True):
        for at, name in enumerate(names):
            times = recovered_after(result, name, pick)
            seen = [max(t, TICKS[0]) for t in times if t != NEVER]
            spread = [at + rng.uniform(-0.22, 0.22) for _ in times]
            panel.plot(seen, spread[: len(seen)], "o", color=colour(name), markersize=4.5, alpha=0.6, mew=0)
            if lost := times.count(NEVER):
                panel.plot([bound * 1.25], [at], ">", color=colour(name), markersize=7)
                panel.annotate(
                    f"{lost}",
                    (bound * 1.25, at),
                    (7, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                )
            middle = statistics.median_high(times)
            if middle != NEVER:
                panel.plot([middle] * 2, [at - 0.34, at + 0.34], color="#222222", linewidth=1.6)
        panel.axvline(bound, color="#999999", linewidth=1, linestyle=":")
        panel.set_xscale("log")
        panel.set_xlim(TICKS[0] / 1.5, bound * 5)
        panel.set_xticks(TICKS, [clock(t) for t in TICKS])
        panel.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        who = "1 writer" if result["writers"] == 1 else f"{result['writers']} writers"
        panel.set_title(f"{who}: {'first' if pick is min else 'last'} to write")
    title = f"{TITLES[results[0]['scenario']]}: from the visible promotion to the first acknowledged write"
    figure.suptitle(title, **HEADING)
    note = f"A dot is a failover, the bar their median. A triangle: not within {bound:g} s (dotted), and how often."
    figure.supxlabel(note, fontsize=9)
    return figure


def stale(result):
    """Callers that saw an error, and the time until all callers are served."""
    names = names_in(result)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.5), sharey=True)
    for at, name in enumerate(names):
        mine = [r[name] for r in result["rounds"] if name in r]
        failed = statistics.median_high([m["callers_failed"] for m in mine])
        left.barh(at, failed, color=colour(name), height=0.6)
        left.annotate(
            f"{failed:g}", (failed, at), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
        waits = [NEVER if m["all_served_after"] is None else m["all_served_after"] for m in mine]
        wait = statistics.median_high(waits)
        text = f"not within {result['bound']:g} s" if wait == NEVER else f"{wait:.2f} s"
        shown = min(wait, result["bound"])
        right.barh(at, shown, color=colour(name), height=0.6, hatch="///" if wait == NEVER else None)
        right.annotate(text, (shown, at), (4, 0), textcoords="offset points", va="center", fontsize=9)
    for panel, title in (
        (left, "callers that saw an error"),
        (right, "seconds until all callers are served"),
    ):
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.margins(x=0.22)
        panel.set_title(title)
    left.set_xticks(range(0, 1001, 250))
    title = f"Restart under {result['connections']} idle connections, then {result['connections']} callers"
    figure.suptitle(title, **HEADING)
    return figure


def staleness(pictures):
    """The truth and what is measured with two probe intervals, and how far apart they are."""
    scenes = (
        ("pause", "Replay paused under a steady writer", "what the standby misses"),
        ("kill", "Primary killed", "time without a primary"),
    )
    figure, axes = plt.subplots(
        2, 2, figsize=(9.6, 4.6), sharex="col", sharey="row", width_ratios=(1.5, 1), height_ratios=(1.6, 1)
    )
    for (upper, lower), (name, title, label) in zip(axes.T, scenes, strict=True):
        picture = pictures[name]
        for trace, (shade, width) in zip(picture["traces"], INTERVAL_LINES, strict=True):
            text = f"measured, probes every {clock(trace['interval'])}"
            upper.plot(trace["at"], trace["measured"], color=shade, linewidth=width, label=text)
            pairs = zip(trace["truth"], trace["measured"], strict=True)
            lower.plot(trace["at"], [found - true for true, found in pairs], color=shade, linewidth=width)
            lower.axhline(2 * trace["interval"] + 0.1, color=shade, linewidth=1.2, linestyle=":")
        trace = picture["traces"][0]
        upper.plot(
            trace["at"], trace["truth"], color="#222222", linewidth=1.3, linestyle=(0, (4, 2)), label=label
        )
        for event in ("paused", "resumed", "killed"):
            if event in picture:
                for panel in (upper, lower):
                    panel.axvline(picture[event], color="#999999", linewidth=1, linestyle=":")
                place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
                upper.annotate(event, (picture[event], 1), (3, -7), fontsize=8.5, **place)
        upper.set_title(title)
        upper.set_xlim(0, trace["at"][-1])
        upper.set_ylim(0, 23)
        upper.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(0, 0.93))
        lower.set_ylim(0, 2.6)
        lower.set_xlabel("seconds", fontsize=9)
        for panel in (upper, lower):
            panel.grid(axis="y")
            panel.xaxis.set_major_locator(mpl.ticker.MultipleLocator(5))
    axes[0][0].set_ylabel("staleness, s", fontsize=9)
    axes[1][0].set_ylabel("above the truth, s\n(dotted: the bound)", fontsize=9)
    return figure


def figures(results):
    """Yield the name and the figure of each scenario that was measured."""
    found = {r["scenario"]: [s for s in results if s["scenario"] == r["scenario"]] for r in results}
    for scenario, mine in found.items():
        if scenario == "steady":
            yield scenario, steady(mine)
        elif scenario == "stale":
            yield scenario, stale(mine[0])
        elif scenario != "hotpath":
            yield scenario, failover(mine)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    args = parser.parse_args()
    mpl.use("svg" if args.format == "svg" else "agg")
    mpl.rcParams.update(STYLE)
    mpl.rcParams["figure.constrained_layout.use"] = True
    mpl.rcParams["savefig.pad_inches"] = 0.15
    mpl.rcParams["savefig.bbox"] = "tight"
    args.out.mkdir(parents=True, exist_ok=True)
    measured = json.loads(args.json.read_text())
    drawn = list(figures(measured.get("results", [])))
    if found := measured.get("reads", {}).get("staleness"):
        drawn.append(("staleness", staleness(found["pictures"])))
    for name, figure in drawn:
        path = args.out / f"{name}.{args.format}"
        figure.savefig(path, dpi=110, metadata={"Date": None} if args.format == "svg" else None)
        print(path)


if __name__ == "__main__":
    main()
