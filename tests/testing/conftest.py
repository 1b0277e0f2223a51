"""The tests of `LocalCluster` itself ask its servers as its users do."""

from __future__ import annotations

import pytest

from pgroute.testing.query import run_query


@pytest.fixture(autouse=True)
def real_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgroute.testing.server.run_query", run_query)
