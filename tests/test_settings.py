"""What is given as a setting arrives at the server just so, or is refused."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgroute import ConfigError, PoolOptions, Router
from pgroute.core.config.settings import join_options, startup_options
from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

AWKWARD = st.text(st.sampled_from(" \t\n\v\f\r\\'\"=-c,;$%ü€\u0085\u00a0\u2028\0"), max_size=12)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=AWKWARD | st.text(max_size=30),
    options=st.sampled_from([None, "-c jit=off", "-c pgroute.other=x\\ "]),
)
def test_any_text_arrives_as_it_was_given_or_is_refused(
    shared: LocalCluster, value: str, options: str | None
) -> None:
    try:
        ours = startup_options({"pgroute.test": value, "statement_timeout": "77ms"})
    except ConfigError:
        assert "\0" in value
        return
    with psycopg.connect(shared.primary.conninfo, options=join_options(options, ours)) as conn:
        found = conn.execute("SELECT current_setting('pgroute.test'), current_setting('statement_timeout')")
        assert found.fetchone() == (value, "77ms")


@pytest.mark.parametrize(
    "value", ["app,\n  public", "app,\tpublic\r\n", "a\n-c statement_timeout=1ms", "\\", ""]
)
def test_a_pool_sends_white_space_as_it_is(shared: LocalCluster, value: str) -> None:
    given = PoolOptions(settings={"pgroute.test": value})
    with Router(shared.dsn, writer=given, reader=given) as router:
        for session in (router.writer(), router.reader()):
            with session as conn:
                assert conn.execute("SELECT current_setting('pgroute.test')").fetchone() == (value,)
                assert conn.execute("SHOW statement_timeout").fetchone() == ("0",)
