"""The picture of a run: throughput over time, with the fault, the promotion and the first write marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgroute.cli.demo.report import STEP, span
from pgroute.cli.errors import CommandError
from pgroute.cli.spark import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pgroute.cli.demo.outcome import Outcome

_COLOURS = {
    "F": "#c1272d",
    "P": "#1f5fa8",
    "W": "#1a7f37",
    "S": "#c1272d",
    "E": "#6b5b95",
    "R": "#666666",
    "T": "#b06a00",
}


def check(name: str) -> None:
    """Raise CommandError unless a picture can be drawn and written; call it before starting a cluster."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise CommandError(
            '--plot needs the package matplotlib: pip install matplotlib (the extra "plot" brings it)'
        ) from None
    mpl.use("agg")
    path = Path(name)
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as exc:
        raise CommandError(f"{name} cannot be written: {exc.strerror}") from None


def draw(outcome: Outcome, name: str) -> None:
    """Draw the picture, in the format of the file name's ending."""
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {"svg.fonttype": "none", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, (writes, reads) = plt.subplots(2, 1, sharex=True, figsize=(9, 5.2), height_ratios=(3, 2))
        account = outcome.account
        _fill(writes, outcome, account.writes, "#2a6f97", "writes per second")
        _fill(reads, outcome, account.reads, "#5c9ead", "reads per second")
        at = [moment - outcome.began_at for moment in account.errors]
        if at:
            writes.plot(
                at, [0] * len(at), "x", color="#c1272d", markersize=5, clip_on=False, label="error", zorder=5
            )
            figure.legend(loc="upper right", frameon=False)
        for moment in outcome.moments:
            for axes in (writes, reads):
                axes.axvline(
                    moment.at - outcome.began_at, color=_COLOURS[moment.mark], linewidth=1.1, zorder=4
                )
        _label(writes, outcome)
        reads.set_xlabel("seconds")
        reads.set_xlim(0, outcome.ended_at - outcome.began_at)
        figure.suptitle(_title(outcome), x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.tight_layout(rect=(0, 0, 1, 0.99))
        figure.savefig(name, dpi=150, facecolor="white")
        plt.close(figure)


def _fill(axes: Axes, outcome: Outcome, moments: list[float], colour: str, label: str) -> None:
    histogram = Histogram(outcome.began_at, STEP)
    histogram.update(moments)
    slots = int((outcome.ended_at - outcome.began_at) / STEP)
    counts = (histogram.counts + [0] * slots)[:slots]
    edges = [slot * STEP for slot in range(slots + 1)]
    axes.stairs([count / STEP for count in counts], edges, fill=True, color=colour, alpha=0.75, linewidth=0)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def _label(axes: Axes, outcome: Outcome) -> None:
    """Write the labels above the lines, in several rows where two would touch."""
    width = outcome.ended_at - outcome.began_at
    ends: list[float] = []
    for moment in outcome.moments:
        x = moment.at - outcome.began_at
        text = moment.label
        needed = len(text) * width * 0.0098
        right = x + needed > width
        left = x - needed if right else x
        row = next((r for r, end in enumerate(ends) if end < left), len(ends))
        ends[row:] = [x + (0 if right else needed), *ends[row + 1 :]]
        axes.annotate(
            text,
            (x, 1.02 + row * 0.075),
            xycoords=("data", "axes fraction"),
            ha="right" if right else "left",
            color=_COLOURS[moment.mark],
            fontsize=9,
        )


def _title(outcome: Outcome) -> str:
    text = f"pgroute demo: {outcome.fault}"
    if outcome.promoted_at is not None and outcome.first_after is not None:
        text += f"; first write at most {span(outcome.promoted_at, outcome.first_after)} after the promotion"
    return text
