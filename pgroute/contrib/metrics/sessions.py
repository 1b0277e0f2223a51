"""The metrics of sessions and of what was run again in them."""

from __future__ import annotations

from pgroute.contrib.metrics.family import COUNTER, GAUGE, HISTOGRAM, SECONDS, Family, single

SESSIONS: tuple[Family, ...] = (
    Family(
        "session_wait_seconds",
        HISTOGRAM,
        ("role",),
        "seconds from asking for a session to its connection, the wait for a host included",
        lambda r: [((role,), waits) for role, waits in r.waits.items()],
        unit=SECONDS,
    ),
    Family(
        "session_use_seconds",
        HISTOGRAM,
        ("role", "host"),
        "seconds for which sessions had their connections",
        lambda r: [((role, str(host)), found.used) for (role, host), found in r.hosts.items()],
        unit=SECONDS,
    ),
    Family(
        "sessions_waiting",
        GAUGE,
        ("role",),
        "callers that wait for a host; those in the queue of a pool are requests_waiting",
        lambda r: [((role,), count) for role, count in r.waiting.items()],
    ),
    Family(
        "session_errors",
        COUNTER,
        ("role", "error"),
        "sessions that could not be had, by the error",
        lambda r: [
            ((role, error), count)
            for role, errors in r.counts.session_errors.items()
            for error, count in errors.items()
        ],
        "session.errors",
        "{session}",
    ),
    Family(
        "sessions_aborted",
        COUNTER,
        (),
        "sessions in flight that were cut because their host was beyond hope",
        single(lambda r: r.counts.sessions_aborted),
        "sessions.aborted",
        "{session}",
    ),
    Family(
        "retries",
        COUNTER,
        ("cause",),
        "transactions and statements that were run again, by cause",
        lambda r: [((cause,), count) for cause, count in r.counts.retries.items()],
        "retries",
        "{retry}",
    ),
    Family(
        "commits_unknown",
        COUNTER,
        (),
        "COMMITs whose outcome was not known at first; those that once= ran again are retries too",
        single(lambda r: r.counts.commits_unknown),
        "commits.unknown",
        "{commit}",
    ),
    Family(
        "readers_on_primary",
        COUNTER,
        (),
        "readers that the primary has served though a standby was preferred",
        single(lambda r: r.counts.readers_on_primary),
        "readers.on_primary",
        "{session}",
    ),
    Family(
        "position_waits",
        COUNTER,
        ("outcome",),
        "standbys asked for their position: far enough in time (met), or the next host was taken (behind)",
        lambda r: [((outcome,), count) for outcome, count in r.counts.position_waits.items()],
        "position.waits",
        "{wait}",
    ),
    Family(
        "position_wait_seconds",
        COUNTER,
        (),
        "seconds of these waits",
        single(lambda r: r.counts.position_wait_seconds),
        "position.wait_time",
        SECONDS,
    ),
)
