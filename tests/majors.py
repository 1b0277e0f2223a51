"""The majors of PostgreSQL that the tests are for. Any other one that a machine has would be its oldest or newest."""

from __future__ import annotations

import os
from pathlib import Path

from pgroute.testing import binaries

TESTED = (15, 16, 18)

LEFT_OUT = "PGROUTE_TESTS_LEFT_OUT"
"""The variable of the environment that tells the programs that tests start which majors are left out."""


def leave_out_others() -> list[binaries.ServerBinaries]:
    """Have no server of another major found, unless there are no others; return those that are left out."""
    found = binaries.available_versions()
    others = [server for server in found if server.major not in TESTED]
    if len(others) == len(found):
        return []
    os.environ[LEFT_OUT] = ",".join(str(server.major) for server in others)
    leave_out()
    return others


def leave_out() -> None:
    """Have no server found of the majors that the environment names."""
    majors = os.environ.get(LEFT_OUT, "").split(",")
    examine = binaries._examine

    def examine_tested(bindir: Path) -> binaries.ServerBinaries | None:
        server = examine(bindir)
        return None if server is not None and str(server.major) in majors else server

    if any(majors):
        binaries._examine = examine_tested  # type: ignore[assignment]
