"""What the answers of the hosts mean for a router: findings, from values alone."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Self

from pgroute import HostState, Role
from pgroute.cli.status import assess
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pgroute import HostInfo, HostKey, Topology
    from pgroute.cli.check.ask import Answers
    from pgroute.core.config.router_config import RouterConfig

_SKEW = 1.0
"""Seconds between two clocks that are worth a warning."""
_LONG = 600
"""Seconds after which a dead client is noticed late."""
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_DURATION = re.compile(r"([0-9]+)(ms|s|min|h|d|)")
_PASSING = (HostState.SUSPECT, HostState.BUSY, HostState.STARTING)
_VERIFYING = ("verify-ca", "verify-full")
_LACKS = {
    "pg_control_system": "hosts of another cluster cannot be recognised",
    "pg_walfile_name": "a stale primary cannot be recognised",
    "pg_current_wal_lsn": "a stale primary cannot be recognised",
}


class Result(enum.Enum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the audit.

    Attributes:
        check: what was looked at, one word.
        result: how serious it is.
        text: what was found, and what to do.
    """

    check: str
    result: Result
    text: str

    def as_json(self) -> dict[str, str]:
        """Return it for --json."""
        return {"check": self.check, "result": self.result.value, "text": self.text}


@dataclass(frozen=True, slots=True)
class Plan:
    """How many connections the application may open, and how it connects.

    Attributes:
        processes: how many processes with such a router there are.
        writers: connections of the writers' pool to one host, in each process.
        readers: those of the readers' pool.
        readers_on_primary: those of the readers' pool to the primary.
        by_role: the user of each of "writer", "reader" and "probe"; empty for the operating system's.
        sslmode: as given, "prefer" by default.
        tcp_user_timeout: milliseconds, 0 for none.
        abort_after: seconds; None: never.
        reader_attrs: which hosts readers accept.
    """

    processes: int
    writers: int
    readers: int
    readers_on_primary: int
    by_role: tuple[tuple[str, str], ...]
    sslmode: str
    tcp_user_timeout: int
    abort_after: float | None

    @classmethod
    def of(cls, config: RouterConfig, processes: int) -> Self:
        """Return the plan of a router's configuration."""
        readers = config.reader.options
        on_primary = readers.max_size_on_primary
        watch = config.watch.params
        users = {
            Role.WRITER.value: config.writer.dsn.params,
            Role.READER.value: config.reader.dsn.params,
            "probe": watch,
        }
        return cls(
            processes=processes,
            writers=config.writer.options.max_size,
            readers=readers.max_size,
            readers_on_primary=readers.max_size if on_primary is None else min(on_primary, readers.max_size),
            by_role=tuple((role, params.get("user", "")) for role, params in users.items()),
            sslmode=config.writer.dsn.params.get("sslmode", "prefer"),
            tcp_user_timeout=int(config.writer.dsn.params.get("tcp_user_timeout", "0")),
            abort_after=config.probe.abort_after,
        )

    @property
    def users(self) -> set[str]:
        """The users that are named."""
        return {user for _, user in self.by_role if user}

    def needed(self) -> dict[str, int]:
        """Return the most connections of all processes to one host, by what they are for.

        Any host may become the primary, and then serves writers too.
        """
        readers = max(self.readers_on_primary, self.readers - self.writers)
        each = {Role.WRITER.value: self.writers, Role.READER.value: readers, "probe": 1}
        return {name: number * self.processes for name, number in each.items()}

    def needed_by(self, user: str, probe: str) -> int:
        """Return the most connections of one user; *probe* is the server's name for the probes' user."""
        named = {role: name or probe for role, name in self.by_role}
        return sum(number for role, number in self.needed().items() if named[role] == user)


def status_of(findings: Iterable[Finding]) -> int:
    """Return the exit status."""
    results = {finding.result for finding in findings}
    return 2 if Result.FAIL in results else 1 if Result.WARN in results else 0


def cluster_findings(
    topology: Topology, refused: Mapping[str, str], answers: Mapping[HostKey, Answers], plan: Plan
) -> Iterator[Finding]:
    """Yield what is to say about all hosts together."""
    assessment = assess(topology)
    for role, hosts in (("writer", assessment.writers), ("reader", assessment.readers)):
        if refused[role]:
            yield Finding(role, Result.FAIL, f"no session: {refused[role]}")
        elif role == "reader" and topology.primary is not None and hosts == (topology.primary,):
            yield Finding(
                role, Result.WARN, f"sessions go to the primary {hosts[0].key}: there is no standby"
            )
        else:
            yield Finding(role, Result.OK, f"sessions go to {', '.join(str(host.key) for host in hosts)}")
    yield from _about_versions(answers)
    yield from _about_client(plan, answers)


def _about_versions(answers: Mapping[HostKey, Answers]) -> Iterator[Finding]:
    versions = sorted({answer.version for answer in answers.values() if answer.version})
    if versions:
        text = "PostgreSQL " + ", ".join(map(_version, versions))
        yield Finding("version", Result.OK if len(versions) == 1 else Result.NOTE, text)


def _about_client(plan: Plan, answers: Mapping[HostKey, Answers]) -> Iterator[Finding]:
    if all(answer.local for answer in answers.values() if not answer.failure):
        return
    if plan.abort_after is not None:
        text = (
            f"sessions at a dead host end after {plan.abort_after:g} s (abort_after) if another host serves"
        )
        yield Finding("dead host", Result.OK, text)
    elif plan.tcp_user_timeout:
        text = f"sessions at a dead host end by tcp_user_timeout={plan.tcp_user_timeout} ms"
        yield Finding("dead host", Result.OK, text)
    else:
        text = (
            "sessions at a dead host hang for many minutes: set abort_after, or tcp_user_timeout in the DSN"
        )
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
        found.append(_about_replication(answers))
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
        text = "a pooler is in between: max_connections is that of the server behind it, and settings may not hold"
        yield Finding("pooler", Result.NOTE, f"{text} (docs/deploying.md)")


def _about_rights(host: HostInfo, answers: Answers) -> Iterator[Finding]:
    if answers.lacking:
        names = [name.removeprefix("pg_catalog.").partition("(")[0] for name in answers.lacking]
        lost = sorted({_LACKS[name] for name in names if name in _LACKS}) or ["the lag is not exact"]
        text = f"{answers.user} may not execute {', '.join(names)}: {', '.join(lost)}"
        yield Finding("rights", Result.WARN, text)
    elif host.degraded:
        yield Finding("rights", Result.WARN, host.degraded)
    elif answers.reads_stats is False:
        text = "cannot read pg_stat_wal_receiver, which tells a standby's timeline at once after a failover"
        yield Finding("rights", Result.NOTE, f"{answers.user} {text}: GRANT pg_read_all_stats")
    elif answers.reads_stats:
        yield Finding("rights", Result.OK, f"{answers.user} may ask for everything that the probes can use")


def _about_tls(plan: Plan, answers: Answers) -> Finding:
    if not answers.tls:
        if answers.local:
            return Finding("tls", Result.OK, "none: the connection does not leave this machine")
        return Finding("tls", Result.WARN, f"none (sslmode={plan.sslmode}): use sslmode=verify-full")
    if plan.sslmode in _VERIFYING or answers.local:
        return Finding("tls", Result.OK, f"{answers.tls}, sslmode={plan.sslmode}")
    text = f"{answers.tls}, but the server's certificate is not checked (sslmode={plan.sslmode}): use verify-full"
    return Finding("tls", Result.NOTE, text)


def _about_connections(plan: Plan, answers: Answers) -> Iterator[Finding]:
    most = _number(answers, "max_connections")
    reserved = _number(answers, "superuser_reserved_connections") + _number(answers, "reserved_connections")
    needed = plan.needed()
    total = sum(needed.values())
    parts = " + ".join(f"{number} {name}" for name, number in needed.items())
    processes = f"{plan.processes} process{'es' if plan.processes > 1 else ''}"
    text = f"{processes} may open {total} ({parts}) of {most - reserved}"
    if answers.in_use is not None:
        text += f"; {answers.in_use} are open now"
    fits = total <= most - reserved
    yield Finding("connections", Result.OK if fits else Result.FAIL, text)
    for user, limit in answers.limits.items():
        by_user = plan.needed_by(user, answers.user)
        if by_user > limit:
            text = f"{processes} may open {by_user} as {user}, whose CONNECTION LIMIT is {limit}"
            yield Finding("connections", Result.FAIL, text)
    if answers.database_limit is not None and total > answers.database_limit:
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


def _about_replication(answers: Answers) -> Finding:
    names, commit = (answers.settings.get(f"synchronous_{what}", "") for what in ("standby_names", "commit"))
    if commit in ("off", "local"):
        text = f"synchronous_commit = {commit}: a failover may lose acknowledged transactions"
        return Finding("replication", Result.WARN if names else Result.NOTE, text)
    if not names and answers.standby:
        text = (
            "not synchronous if it becomes the primary, unless a manager sets synchronous_standby_names then"
        )
        return Finding("replication", Result.NOTE, text)
    if not names:
        return Finding(
            "replication", Result.NOTE, "asynchronous: a failover may lose acknowledged transactions"
        )
    if answers.synchronous == 0:
        text = f"no synchronous standby is attached, so that COMMIT waits ({names})"
        return Finding("replication", Result.FAIL, text)
    attached = f", {answers.synchronous} attached" if answers.synchronous else ""
    return Finding("replication", Result.OK, f"synchronous: {names}{attached}, synchronous_commit = {commit}")


def _about_keepalives(answers: Answers) -> Iterator[Finding]:
    idle = _seconds(answers.settings.get("tcp_keepalives_idle", "0"))
    others = [
        answers.settings.get(name, "0") for name in ("tcp_user_timeout", "client_connection_check_interval")
    ]
    if answers.local or answers.pooled:
        return
    if 0 < idle < _LONG or any(value not in ("0", "") for value in others):
        yield Finding("keepalives", Result.OK, f"the server looks for a lost client after {idle:g} s")
    else:
        text = "a lost client keeps its locks for hours: lower tcp_keepalives_idle on the server"
        yield Finding("keepalives", Result.NOTE, f"{text} (now {idle:g} s)")


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


def _seconds(text: str) -> float:
    """Return a setting in seconds, such as "7200", "30s" or "2min"; 0 for what is none."""
    found = _DURATION.fullmatch(text)
    return 0.0 if found is None else int(found[1]) * _UNITS[found[2]]


def _version(number: int) -> str:
    return f"{number // 10000}.{number % 10000}"
