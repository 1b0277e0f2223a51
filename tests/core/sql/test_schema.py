"""The name of a schema as it stands in statements."""

from __future__ import annotations

import pytest

from pgroute.core.sql.schema import Schema, check_schema, definition, identifier, rights
from pgroute.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("pgroute", "pgroute"),
        ("order", '"order"'),
        ("Shop", '"Shop"'),
        ('a"b', '"a""b"'),
        ("a\\b", '"a\\b"'),
        ("{0}", '"{0}"'),
        ("100%", 'U&"100\\+000025"'),
        ('ü\\"', 'U&"\\+0000fc\\\\"""'),
        ("\U0001f418", 'U&"\\+01f418"'),
    ],
)
def test_a_name_is_quoted_in_ascii_and_without_per_cent_signs(name: str, quoted: str) -> None:
    assert identifier(name) == quoted
    assert Schema(name).sql == quoted.encode()
    for text in (definition(name), rights("app", name)):
        assert f" {quoted}.once " in text
        assert "pgroute." not in text.replace(f"{quoted}.", "")


def test_a_long_dsn_in_the_place_of_the_name_is_not_cut_before_its_password_is_found() -> None:
    with pytest.raises(ConfigError) as caught:
        check_schema(f"postgresql://app:hunter2-{'x' * 100}@db1/shop", None)
    assert caught.value.value == "***"
