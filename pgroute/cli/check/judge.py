"""What the answers of the hosts mean for a router: findings, from values alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgroute import HostState
from pgroute.cli.check.about_replication import about_replication
from pgroute.cli.check.finding import Finding, Result
from pgroute.cli.check.sessions import about_sessions
from pgroute.monitor.probe_statement import lost_without

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgroute import HostInfo, HostKey, Role
    from pgroute.cli.check.ask import Answers
    from pgroute.cli.check.plan import Plan
    from pgroute.cli.check.sessions import Trial

_SKEW = 1.0
"""Seconds between two clocks that are worth a warning."""
_LONG = 600
"""Seconds after which a dead client is noticed late."""
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+)(ms|s|min|h|d|)")
_PASSING = (HostState.SUSPECT, HostState.BUSY, HostState.STARTING)
_VERIFYING = ("verify-ca", "verify-full")


def cluster_findings(
    trials: Mapping[Role, Trial], answers: Mapping[HostKey, Answers], plan: Plan
) -> Iterator[Finding]:
    """Yield what is to say about all hosts together."""
    yield from about_sessions(trials, plan)
    yield from _about_versions(answers)
    yield from _about_client(plan, answers)


def _about_versions(answers: Mapping[HostKey, Answers]) -> Iterator[Finding]:
    versions = sorted({answer.version for answer in answers.values() if answer.version})
    if versions:
        text = "PostgreSQL " + ", ".join(map(_version, versions))
        yield Finding("version", Result.OK if len(versions) == 1 else Result.NOTE, text)


def _about_client(plan: Plan, answers: Mapping[HostKey, Answers]) -> Iterator[Finding]:
    far = [answer for answer in answers.values() if not (answer.failure or answer.near)]
    if not far:
        return
    forwarded = any(answer.local for answer in far)
    if plan.abort_after is not None:
        text = (
            f"sessions at a dead host end after {plan.abort_after:g} s (abort_after) if another host serves"
        )
        yield Finding("dead host", Result.OK, text)
    elif plan.tcp_user_timeout and not forwarded:
        text = f"sessions at a dead host end by tcp_user_timeout={plan.tcp_user_timeout} ms"
        yield Finding("dead host", Result.OK, text)
    else:
        # What forwards on this machine acknowledges data itself.
        also = "" if forwarded else ", or tcp_user_timeout in the DSN"
        text = f"sessions at a dead host hang for many minutes: set abort_after{also}"
        yield Finding("dead host", Result.WARN, text)


def host_findings(host: HostInfo, answers: Answers, plan: Plan) -> list[Finding]:
    """Return what is to say about one host."""
    found = [_about_reach(host, answers)]
    if answers.connect is None:
        return found
    found += _about_state(host)
    found += _about_pooler(answers)
    found += _about_rights(host, answers)
    found.append(_about_tls(plan, answers))
    if answers.settings:
        found += _about_connections(plan, answers)
        found += _about_hot_standby(answers)
        found.append(about_replication(answers))
        found += _about_keepalives(answers)
    found += _about_clock(answers)
    found += [Finding("unknown", Result.NOTE, f"{about}: {why}") for about, why in answers.refused.items()]
    return found


def _about_reach(host: HostInfo, answers: Answers) -> Finding:
    if answers.connect is None or answers.failure:
        result = Result.WARN if host.state in _PASSING else Result.FAIL
        return Finding("reach", result, answers.failure)
    forwarded = f"; forwarded to {answers.server}" if answers.server and not answers.pooled else ""
    return Finding(
        "reach", Result.OK, f"logged in as {answers.user} in {answers.connect * 1000:.1f} ms{forwarded}"
    )


def _about_state(host: HostInfo) -> Iterator[Finding]:
    if host.state in (HostState.UP, HostState.ALIAS):
        return
    result = Result.WARN if host.state in _PASSING else Result.FAIL
    yield Finding("state", result, f"{host.state.value}: {host.reason}")


def _about_pooler(answers: Answers) -> Iterator[Finding]:
    if answers.pooled:
        text = (
            "a pooler is in between: what is told here is of the server behind it, and settings may not hold"
        )
        yield Finding("pooler", Result.NOTE, f"{text} (docs/deploying.md)")


def _about_rights(host: HostInfo, answers: Answers) -> Iterator[Finding]:
    if answers.lacking:
        names = [name.removeprefix("pg_catalog.").partition("(")[0] for name in answers.lacking]
        text = f"{answers.acts_as} may not execute {', '.join(names)}"
        lost = "; ".join(lost_without(answers.lacking))
        yield Finding("rights", Result.WARN, f"{text}: {lost}")
    if host.degraded:
        yield Finding("rights", Result.WARN, host.degraded)
    if answers.lacking or host.degraded:
        return
    if answers.reads_stats is False:
        text = "cannot read pg_stat_wal_receiver, which tells a standby's timeline at once after a failover"
        yield Finding("rights", Result.NOTE, f"{answers.acts_as} {text}: GRANT pg_read_all_stats")
    elif answers.reads_stats:
        text = f"{answers.acts_as} may ask for everything that the probes can use"
        yield Finding("rights", Result.OK, text)


def _about_tls(plan: Plan, answers: Answers) -> Finding:
    if answers.gss:
        return Finding("tls", Result.OK, "none, but GSSAPI encrypts the connection")
    if not answers.tls:
        if answers.near:
            return Finding("tls", Result.OK, "none: the connection does not leave this machine")
        if answers.local:
            text = "none up to what forwards on this machine; how it reaches the server"
            return Finding("tls", Result.NOTE, f"{text} ({answers.server}) is not known here")
        return Finding("tls", Result.WARN, f"none (sslmode={plan.sslmode}): use sslmode=verify-full")
    # TLS ends at a pooler, and goes through what only forwards.
    there = f"{answers.tls} up to the pooler" if answers.pooled else answers.tls
    if plan.sslmode in _VERIFYING or answers.near or (answers.local and answers.pooled):
        return Finding("tls", Result.OK, f"{there}, sslmode={plan.sslmode}")
    text = f"{there}, but the server's certificate is not checked (sslmode={plan.sslmode}): use verify-full"
    return Finding("tls", Result.NOTE, text)


def _about_connections(plan: Plan, answers: Answers) -> Iterator[Finding]:
    most = _number(answers, "max_connections")
    reserved = _number(answers, "superuser_reserved_connections") + _number(answers, "reserved_connections")
    needed = plan.needed()
    total = sum(needed.values())
    parts = " + ".join(f"{number} {name}" for name, number in needed.items())
    processes = f"{plan.processes} process{'es' if plan.processes > 1 else ''}"
    text = f"{processes} may open {total} ({parts})"
    if answers.pooled:
        # The pooler shares fewer connections to the server among them, and the limits are for those.
        limits = "compare with max_client_conn and default_pool_size there"
        yield Finding("connections", Result.NOTE, f"{text} to the pooler: {limits}")
        return
    text += f" of {most - reserved}"
    if answers.in_use is not None:
        text += f"; {answers.in_use} are open now"
    fits = total <= most - reserved
    yield Finding("connections", Result.OK if fits else Result.FAIL, text)
    for user, limit in answers.limits.items():
        by_user = plan.needed_by(user, answers.user)
        if by_user > limit:
            text = f"{processes} may open {by_user} as {user}, whose CONNECTION LIMIT is {limit}"
            yield Finding("connections", Result.FAIL, text)
    limited = set(plan.users_by_role(answers.user).values()) - answers.superusers
    if limited and answers.database_limit is not None and total > answers.database_limit:
        text = (
            f"{processes} may open {total}, the CONNECTION LIMIT of the database is {answers.database_limit}"
        )
        yield Finding("connections", Result.FAIL, text)


def _about_hot_standby(answers: Answers) -> Iterator[Finding]:
    match answers.settings.get("hot_standby"):
        case "on":
            yield Finding("hot_standby", Result.OK, "on")
        case "off":
            text = "off: as a standby this host refuses readers, and its state is not known"
            yield Finding("hot_standby", Result.WARN, text)


def _about_keepalives(answers: Answers) -> Iterator[Finding]:
    if answers.near or answers.pooled:
        return
    idle, interval, count = (
        _seconds(answers, f"tcp_keepalives_{name}") for name in ("idle", "interval", "count")
    )
    unacknowledged = _seconds(answers, "tcp_user_timeout", unit=0.001)
    # Linux waits for as long as tcp_user_timeout says, whatever the number of keepalives (tcp(7)).
    after = idle + max(interval, unacknowledged - idle) if unacknowledged else idle + interval * count
    others = ""
    if unacknowledged:
        others += f"; data on its way, after {unacknowledged:g} s (tcp_user_timeout)"
    if every := _seconds(answers, "client_connection_check_interval"):
        others += f"; a running query, every {every:g} s (client_connection_check_interval)"
    if not idle:
        text = "when the server notices the loss of an idle client is not known, and it keeps its locks until then"
        yield Finding("keepalives", Result.NOTE, f"{text}: set tcp_keepalives_idle there{others}")
    elif after < _LONG:
        text = f"the server notices the loss of an idle client after {after:g} s"
        yield Finding("keepalives", Result.OK, text + others)
    else:
        text = (
            f"the server notices the loss of an idle client after {after:g} s, and keeps its locks until then"
        )
        advice = "lower tcp_keepalives_idle, _interval and _count on the server"
        yield Finding("keepalives", Result.NOTE, f"{text}: {advice}{others}")


def _about_clock(answers: Answers) -> Iterator[Finding]:
    if answers.offset is None:
        return
    text = f"{answers.offset:+.3f} s from the clock here, +/- {answers.offset_error:.3f} s"
    apart = abs(answers.offset) - answers.offset_error > _SKEW
    why = ": now() jumps at a failover, and logs do not agree" if apart else ""
    yield Finding("clock", Result.WARN if apart else Result.OK, text + why)


def _number(answers: Answers, name: str) -> int:
    text = answers.settings.get(name, "")
    return int(text) if text.isdecimal() else 0


def _seconds(answers: Answers, name: str, unit: float = 1.0) -> float:
    """Return a setting in seconds, such as "7200", "30s" or "2min"; 0 for what is none.

    Args:
        answers: of the host.
        name: of the setting.
        unit: seconds that a number alone stands for.
    """
    found = _DURATION.fullmatch(answers.settings.get(name, ""))
    return 0.0 if found is None else int(found[1]) * (_UNITS.get(found[2]) or unit)


def _version(number: int) -> str:
    return f"{number // 10000}.{number % 10000}"
