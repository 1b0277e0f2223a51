"""From results to rows of text, the same for the terminal and for docs/performance.md."""

from __future__ import annotations

import collections


def tables(results):
    """Yield name, title, header and rows of every table for the results by part."""
    if found := results.get("staleness"):
        yield "staleness", "staleness against the truth", *staleness_rows(found["rows"])
        yield (
            "refused",
            "readers with a max_lag after the primary was killed",
            *refused_rows(found["refused"]),
        )
    if found := results.get("pairs"):
        row = found["rows"][0]
        title = f"{row['pairs']} pairs of a write and a read, by {row['threads']} threads"
        yield "pairs", title, *pairs_rows(found["rows"])
    if found := results.get("failover"):
        crashes = f"{len(found['rounds'])} crashes of an asynchronous primary"
        yield "positions", f"positions of acknowledged writes after {crashes}", *positions_rows(found["rows"])
        yield "users", f"users who write and read through {crashes}", *users_rows(found["rounds"])
    if found := results.get("cost"):
        yield "reads cost", "time of a session, against a plainer one", *cost_rows(found["rows"])
        yield "round trips", "round trips of a session", *turns_rows(found["turns"])
        yield "many hosts", "choosing a host, without the session", *hosts_rows(found["hosts"])


def staleness_rows(rows):
    """Return header and rows for the measured staleness."""
    header = [
        "scene",
        "standby",
        "probes every",
        "moments",
        "least above the truth",
        "most above it",
        "bound",
        "below the truth",
        "beyond the bound",
    ]
    return header, [
        [
            row["scene"],
            row["standby"],
            time(row["interval"]),
            str(row["moments"]),
            time(row["least_above"]),
            time(row["most_above"]),
            time(row["bound"]),
            str(row["below_truth"] + row.get("below_truth_later", 0)),
            str(row["beyond_bound"]),
        ]
        for row in rows
    ]


def refused_rows(rows):
    """Return header and rows for the readers of a cluster without a primary."""
    header = ["max_lag", "last served", "first refused", "refused before the kill", "served too late"]
    return header, [
        [
            time(row["max_lag"]),
            f"{time(row['last_served'])} after it",
            f"{time(row['first_refused'])} after it",
            str(row["refused_before"]),
            str(row["served_too_late"]),
        ]
        for row in rows
    ]


def pairs_rows(rows):
    """Return header and rows for the pairs."""
    header = [
        "replay delay",
        "sessions",
        "pause before the read",
        "stale reads",
        "read on a standby",
        "acquire, median",
        "acquire, p99",
    ]
    return header, [
        [
            time(row["delay"]),
            "writer(), reader()" if row["wait"] is None else f"causal(), wait={row['wait']:g}",
            time(row["think"]),
            str(row["stale"]),
            f"{row['standby_share'] * 100:.1f} %",
            time(row["acquire_median_ms"] / 1e3),
            time(row["acquire_p99_ms"] / 1e3),
        ]
        for row in rows
    ]


def positions_rows(rows):
    """Return header and rows for the positions."""
    header = ["asked", "positions", "lost", "told", "silent", "kept, but PositionLost"]
    return header, [
        [row["asked"], *(str(row[key]) for key in ("positions", "lost", "told", "silent", "false_alarms"))]
        for row in rows
    ]


def users_rows(rounds):
    """Return header and the row for the users."""
    errors = sum((collections.Counter(r["errors"]) for r in rounds), collections.Counter())
    row = [str(sum(r[key] for r in rounds)) for key in ("reads", "silent", "told")]
    told = ", ".join(f"{name} {count}" for name, count in errors.items()) or "none"
    return ["reads", "missed a write silently", "PositionLost", "other errors"], [[*row, told]]


def cost_rows(rows):
    """Return header and rows for the ratios."""
    header = ["face", "workers", "session", "time", "compared with", "ratio", "quartiles"]
    found = []
    for row in rows:
        line = [row["face"], str(row["workers"]), row["kind"], f"{row['us']:.0f} us"]
        if row["over"] is not None:
            low, high = row["quartiles"]
            line += [row["over"], f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}"]
        found.append(line + [""] * (len(header) - len(line)))
    return header, found


def turns_rows(rows):
    """Return header and rows for the round trips."""
    return ["session with one statement", "round trips"], [
        [row["kind"], f"{row['round_trips']:g}"] for row in rows
    ]


def hosts_rows(rows):
    """Return header and rows for the choice among hosts."""
    return ["step", "3 hosts", "50 hosts"], [
        [row["choice"], f"{row['3_hosts_us']:.1f} us", f"{row['50_hosts_us']:.1f} us"] for row in rows
    ]


def time(seconds):
    """Return a time as text, as short as it can be read."""
    if seconds == 0:
        return "0"
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
