"""Runs pytest with the branch coverage of pgroute/core ahead of its last line; arguments go to pytest.

Tests of properties run unmeasured: each tries hundreds of inputs, which measuring makes take several times as long, and
what core does is covered by an example that can be read, or is not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

UNMEASURED = ("hypothesis", "many")
"""The marks of tests of properties: that which Hypothesis's plugin gives, and our own."""


class CoreCoverage:
    """Prints the branch coverage of core ahead of pytest's last line."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """Measure nothing while a test of a property runs."""
        if not any(item.get_closest_marker(mark) for mark in UNMEASURED):
            return (yield)
        self.measured.stop()
        try:
            return (yield)
        finally:
            self.measured.start()

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Stop measuring and report; a run that imported nothing of core has nothing to report."""
        self.measured.stop()
        self.measured.save()
        terminalreporter.section("branch coverage of pgroute/core")
        try:
            self.measured.report(include=["pgroute/core/*"], file=terminalreporter)
        except coverage.exceptions.NoDataError as exc:
            terminalreporter.line(str(exc))


def main(arguments: list[str]) -> int:
    """Run tests in this process, so that coverage sees the imports that pytest's plugins make."""
    os.chdir(Path(__file__).resolve().parents[1])
    measured = coverage.Coverage()
    measured.start()
    return pytest.main(arguments, plugins=[CoreCoverage(measured)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
