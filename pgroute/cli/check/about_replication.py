"""Whether a commit waits for standbys, and whether there are as many as it waits for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgroute.cli.check.finding import Finding, Result

if TYPE_CHECKING:
    from pgroute.cli.check.ask import Answers

_COUNTED = re.compile(r"\s*(?:(?:ANY|FIRST)\s+)?([0-9]+)\s*\(", re.IGNORECASE)
"""The beginning of a synchronous_standby_names that says how many; a mere list means one."""


def about_replication(answers: Answers) -> Finding:
    """Return what is to say about the replication from one host."""
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
        # A managed service may replicate by other means, which cannot be seen.
        text = "no synchronous standby by PostgreSQL's own replication: unless the storage is replicated,"
        return Finding("replication", Result.NOTE, f"{text} a failover may lose acknowledged transactions")
    if answers.standby:
        return Finding("replication", Result.OK, f"synchronous: {names}, synchronous_commit = {commit}")
    needed, attached = _needed(names), answers.synchronous
    if attached is not None and attached < needed:
        some = f"{attached} of {needed} synchronous standbys are attached"
        there = some if attached else "no synchronous standby is attached"
        return Finding("replication", Result.FAIL, f"{there}, so that COMMIT waits ({names})")
    if attached is None or not answers.reads_stats:
        text = f"synchronous: {names}, synchronous_commit = {commit}; whether enough standbys are attached cannot be"
        hint = "" if answers.reads_stats else ": GRANT pg_read_all_stats"
        return Finding("replication", Result.NOTE, f"{text} seen{hint}")
    text = f"synchronous: {names}, {attached} attached, synchronous_commit = {commit}"
    return Finding("replication", Result.OK, text)


def _needed(names: str) -> int:
    """Return for how many standbys a commit waits."""
    counted = _COUNTED.match(names)
    return 1 if counted is None else int(counted[1])
