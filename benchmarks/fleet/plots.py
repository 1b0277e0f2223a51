"""Draws the figures of the simulated fleets."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.plots import HEADING, STYLE

COLOURS = {1: "#a8c5d1", 10: "#6fa3b8", 100: "#d9a05b", 1000: "#b5651d", 10_000: "#1f6f8b"}
BLUE, ORANGE, GREY = "#1f6f8b", "#d0782a", "#8a8a8a"


def crash(known):
    """Logins at the new primary, clients served, and probes, after a crash of the largest fleet and smaller ones."""
    runs = [found for name, found in known.items() if name.startswith("crash ")]
    runs.sort(key=lambda found: found["clients"])
    largest = max(runs, key=lambda f: f["clients"])
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.9))
    logins, served, probes = axes
    shown = largest["logins_curve"][:30]
    logins.bar([0.1 * i + 0.05 for i in range(len(shown))], shown, width=0.085, color=BLUE)
    logins.axhline(largest["capacity"], color=ORANGE, linewidth=1.5)
    logins.text(3.0, largest["capacity"], "capacity ", ha="right", va="bottom", color=ORANGE)
    logins.set_ylim(0, 1.25 * largest["capacity"])
    logins.set_title(f"Logins per second, {largest['clients']:,} clients")
    for found in runs:
        curve = found["curve"][:61]
        served.plot(
            [i / 20 for i in range(len(curve))],
            [100 * share for share in curve],
            color=COLOURS.get(found["clients"], GREY),
            linewidth=2,
            label=f"{found['clients']:,}",
        )
    served.axhline(99, color=GREY, linewidth=1, linestyle=":")
    served.axvline(2, color=GREY, linewidth=1, linestyle=":")
    served.set_title("Clients served, %")
    served.legend(title="clients", frameon=False, loc="lower right")
    for panel in (logins, served):
        panel.set_xlabel("seconds after the promotion")
        panel.set_xlim(0, 3)
    for found in runs:
        rate = found["probes_curve"]
        probes.plot(
            [0.1 * i + 0.5 for i in range(0, len(rate), 10)],
            [max(sum(rate[i : i + 10]) / 10 / found["clients"], 0.05) for i in range(0, len(rate), 10)],
            color=COLOURS.get(found["clients"], GREY),
            linewidth=2,
        )
    probes.set_yscale("log")
    probes.set_yticks([0.1, 1, 10, 50, 200], ["0.1", "1", "10", "50", "200"])
    probes.set_title("Probes per second, client and host")
    probes.set_xlabel("seconds; crash at 2, promotion at 6")
    figure.suptitle("A fleet follows a promotion", **HEADING)
    return figure


def sweep(known):
    """What the spread of the first logins costs and saves."""
    runs = known["sweep spread"]
    figure, panel = plt.subplots(figsize=(6.4, 3.9))
    spreads = [found["settings"]["spread"] for found in runs]
    panel.plot(spreads, [10 * f["logins_peak"] for f in runs], color=BLUE, marker="o", linewidth=2)
    panel.axhline(10 * runs[0]["capacity"], color=ORANGE, linewidth=1.5)
    panel.text(max(spreads), 10 * runs[0]["capacity"], "capacity", ha="right", va="bottom", color=ORANGE)
    panel.set_ylabel("logins per second, most", color=BLUE)
    panel.set_xlabel("spread of the first logins, seconds (default 1.4)")
    panel.set_ylim(0, None)
    other = panel.twinx()
    other.plot(spreads, [f["served_99"] for f in runs], color=GREY, marker="s", linewidth=2)
    other.axhline(2.0, color=GREY, linewidth=1, linestyle=":")
    other.set_ylabel("seconds until 99 % are served", color=GREY)
    other.set_ylim(0, None)
    figure.suptitle("1000 clients at a new primary, times ten", **HEADING)
    return figure


def draw(known, folder, suffix="svg"):
    """Write the plots of what is known."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "y"}):
        for name, plot in (("fleet-crash", crash), ("fleet-spread", sweep)):
            if plot is sweep and "sweep spread" not in known:
                continue
            figure = plot(known)
            figure.tight_layout()
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(folder / f"{name}.{suffix}", metadata=metadata, dpi=80)
            plt.close(figure)
