"""From results to rows of text, the same for the terminal and for docs/performance.md."""

from __future__ import annotations

import collections
import math
import statistics

from benchmarks.failover import percentile

from .steady import BASE

NEVER = math.inf


def names_in(result):
    """Return the contenders of a result, in their order."""
    found = {}
    for part in result.get("rounds") or [trial["contenders"] for trial in result["trials"]]:
        found |= dict.fromkeys(part)
    return sorted(found, key=_rank)


def ratios(result, name):
    """Return psycopg_pool's time over that of a contender, for each round; above 1 is quicker."""
    base = BASE[result["face"]]
    return [r[base] / r[name] for r in result["rounds"] if base in r and name in r]


def recovered_after(result, name, pick):
    """Return for each trial the seconds from the promotion to min (the first) or max (the last) of the writers."""
    found = []
    for trial in result["trials"]:
        if name in trial["contenders"]:
            times = trial["contenders"][name]["recovered_after"]
            found.append(pick(NEVER if t is None else t for t in times))
    return found


def steady_rows(results):
    """Return title, header and rows for the steady state."""
    rows = []
    for result in results:
        for name in names_in(result):
            micros = statistics.median(r[name] for r in result["rounds"]) * 1e6
            row = [result["face"], str(result["workers"]), name, f"{micros:.0f} us"]
            shares = ratios(result, name) if name != BASE[result["face"]] else []
            if len(shares) > 1:
                low, middle, high = statistics.quantiles(shares, n=4)
                row += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
            rows.append(row + [""] * (6 - len(row)))
    return ["face", "workers", "library", "a session", "ratio", "quartiles"], rows


def hotpath_rows(results):
    """Return header and rows for the parts of a session."""
    faces = {result["face"]: result["rounds"] for result in results if result["rounds"]}
    parts = dict.fromkeys(name for rounds in faces.values() for name in rounds[0])
    rows = []
    for part in sorted(parts, key=_part_rank):
        row = [part]
        for rounds in faces.values():
            times = [r[part] for r in rounds if part in r]
            row.append(f"{statistics.median(times) * 1e6:.1f} us" if times else "")
        rows.append(row)
    return ["part", *faces], rows


def failover_rows(result):
    """Return header and rows for one kind of failover with one number of writers."""
    header = ["library", "first write"]
    many = result["writers"] > 1
    if many:
        header += ["last writer"]
    header += [f"not within {result['bound']:g} s", "errors seen", "logins per s"]
    switched = result["scenario"] == "switchover"
    if switched:
        header += ["read-only sessions", "reader left on the primary"]
    rows = []
    for name in names_in(result):
        mine = [t["contenders"][name] for t in result["trials"] if name in t["contenders"]]
        firsts = recovered_after(result, name, min)
        lasts = recovered_after(result, name, max)
        row = [name, _middle_and_p95(firsts, result)]
        if many:
            row += [_middle_and_p95(lasts, result)]
        errors = [sum(t["errors"].values()) for t in mine]
        row += [
            f"{lasts.count(NEVER)} of {len(lasts)}",
            f"{statistics.median(errors):g}, at most {max(errors)}",
        ]
        row.append(f"{statistics.median(t.get('logins_per_second', 0) for t in mine):.1f}")
        if switched:
            refused = [t["errors"].get("ReadOnlySqlTransaction", 0) for t in mine]
            stayed = [t["reader_on_primary"] for t in mine if t.get("reader_on_primary") is not None]
            row += [f"{sum(refused)} in all", f"{sum(stayed)} of {len(stayed)}"]
        rows.append(row)
    return header, rows


def stale_rows(result):
    """Return header and rows for the restart under idle connections."""
    rows = []
    for name in names_in(result):
        mine = [r[name] for r in result["rounds"] if name in r]
        served = [NEVER if m["all_served_after"] is None else m["all_served_after"] for m in mine]
        errors = sum((collections.Counter(m["errors"]) for m in mine), collections.Counter())
        row = [
            name,
            *(
                f"{statistics.median_high(m[key] for m in mine):g}"
                for key in ("callers_failed", "failed_calls")
            ),
        ]
        row += [_middle(served, result), str(max(m["callers"] - m["served"] for m in mine))]
        rows.append([*row, ", ".join(errors) or "none"])
    header = [
        "library",
        "callers that saw an error",
        "failed calls",
        "all served after",
        "never served",
        "errors",
    ]
    return header, rows


def balance_rows(result):
    """Return header and rows for the balancing policies; the shares are those of the replica that suffers."""
    header = ["policy", "equal: p50, p99", "shares"]
    header += [
        "one slow: p50, p99",
        "its share first, then",
        "one killed: p99, slowest",
        "errors",
        "back: share",
        "10 s later",
    ]
    rows = []
    for name, phases in result["contenders"].items():
        equal, slow, down = phases["equal"], phases["slow"], phases["down"]
        rows.append(
            [
                name,
                _pair(equal["p50"], equal["p99"]),
                " ".join(f"{share:.0%}" for share in equal["shares"]),
                _pair(slow["p50"], slow["p99"]),
                f"{phases['slowing']['shares'][-1]:.1%}, {slow['shares'][-1]:.1%}",
                _pair(down["p99"], down["most"]),
                str(sum(down["errors"].values())),
                f"{phases['returning']['shares'][-1]:.1%}",
                f"{phases['returned']['shares'][-1]:.1%}",
            ]
        )
    return header, rows


def _pair(one, two):
    return f"{one * 1000:.1f}, {two * 1000:.1f} ms"


def tables(results):
    """Yield title, header and rows of every table for a list of results."""
    steady = [r for r in results if r["scenario"] == "steady"]
    if steady:
        yield "steady", "acquire + SELECT 1 + release", *steady_rows(steady)
    hotpath = [r for r in results if r["scenario"] == "hotpath"]
    if hotpath:
        yield "hotpath", "the parts of a session, one worker", *hotpath_rows(hotpath)
    for result in results:
        if result["scenario"] == "stale":
            yield "stale", f"restart under {result['connections']} idle connections", *stale_rows(result)
        elif result["scenario"] == "balance":
            yield "balance", "sessions and replicas by policy", *balance_rows(result)
        elif result.get("trials"):
            writers = result["writers"]
            title = f"{result['scenario']}, {writers} writer{'s' if writers > 1 else ''}"
            yield f"{result['scenario']} {writers}", title, *failover_rows(result)


def brief(results):
    """Return header and rows that tell the most in the least room."""
    failovers = {(r["scenario"], r["writers"]): r for r in results if r.get("trials")}
    wanted = [
        key for key in (("crash", 1), ("crash", 20), ("freeze", 1), ("switchover", 20)) if key in failovers
    ]
    header = ["library", "session, ratio"]
    header += [f"{scenario}, {writers} writer{'s' * (writers > 1)}" for scenario, writers in wanted]
    names = dict.fromkeys(name for key in wanted for name in names_in(failovers[key]))
    rows = []
    for name in names:
        shares = [
            statistics.median(ratios(r, name))
            for r in results
            if r["scenario"] == "steady" and r["workers"] == 1 and r["rounds"] and name in r["rounds"][0]
        ]
        row = [name, f"{shares[0]:.2f}" if shares else "-"]
        for key in wanted:
            times = recovered_after(failovers[key], name, max)
            row.append(_middle(times, failovers[key]) if times else "-")
        rows.append(row)
    return header, rows


def seconds(value, bound):
    """Return a time as text, as short as it can be read."""
    if value == NEVER:
        return f"> {bound:g} s"
    return f"{value * 1e3:.0f} ms" if abs(value) < 1 else f"{value:.1f} s"


def _middle(values, result):
    # Of two in the middle the later: with one that was not within the bound there is no mean.
    return seconds(statistics.median_high(values), result["bound"])


def _middle_and_p95(values, result):
    return f"{_middle(values, result)} (p95 {seconds(percentile(values, 0.95), result['bound'])})"


def _part_rank(part):
    # A session's SQL, then what each library adds, then the parts of that.
    words = ("kept", "nothing is done, psycopg_pool", "nothing", "SELECT 1, psycopg_pool", "SELECT 1, ", "")
    return next(rank for rank, word in enumerate(words) if word in part)


def _rank(name):
    order = ("pgroute", "psycopg_pool", "psycopg_pool tuned", "hasql", "hasql tuned")
    return order.index(name.removesuffix(" async")), name
