"""Variables in texts: what they are replaced by, and what is refused without showing a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.config import variables

VARIABLES = {"A": "one", "B": "${A}", "EMPTY": "", "_9": "x"}


def expand(*args, **options):
    """Return the whole text."""
    return "".join(part for part, _ in variables.expand(*args, **options))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain $A $ } {", "plain $A $ } {"),
        ("${A}", "one"),
        ("<${A}${A}>", "<oneone>"),
        ("${_9}", "x"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${A:-other}", "one"),
        ("${C:-other}", "other"),
        ("${C:-}", ""),
        ("${C:-a:-b}", "a:-b"),
        ("${C:-a\nb}", "a\nb"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$$ ${A}", "$$ one"),
        # The value of a variable is not expanded, so that there are no circles, and a password may hold anything.
        ("${B}", "${A}"),
    ],
)
def test_variables_are_replaced_once(text, expanded):
    assert expand(text, VARIABLES) == expanded


def test_what_is_written_in_the_text_is_told_from_the_values_of_variables():
    parts = variables.expand("a${A}$${${EMPTY:-b}${EMPTY}c${A:-d}", VARIABLES)
    assert [part for part in parts if part[0]] == [
        ("a", True), ("one", False), ("${", True), ("b", True), ("c", True), ("one", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${C}", "the environment variable C is not set"),
        ("${", "without '}'"),
        ("x ${A", "without '}'"),
        ("${}", "expected ${NAME}"),
        ("${ A }", "expected ${NAME}"),
        ("${9}", "expected ${NAME}"),
        ("${A-x}", "expected ${NAME}"),
        ("${A:?x}", "expected ${NAME}"),
        ("${é}", "expected ${NAME}"),
        ("${C:-${A}}", "the default of C holds another variable"),
        ("${C:-postgresql://app:s3cret@h/x}", "a secret has no default"),
        ("${C:-host=h password=s3cret}", "a secret has no default"),
    ],
)
def test_a_malformed_or_unset_variable_is_refused(text, reason):
    with pytest.raises(ValueError) as caught:
        expand(text, VARIABLES)
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["${C:-x}", "${A:-x}", "${A:-}"])
def test_a_secret_has_no_default(text):
    assert expand("${A}", VARIABLES, secret=True) == "one"
    with pytest.raises(ValueError, match="a secret has no default"):
        expand(text, VARIABLES, secret=True)


@given(st.text())
def test_any_value_arrives_as_it_is(value):
    assert expand("<${A}>", {"A": value}) == f"<{value}>"


@given(st.text(alphabet="${}A:-x"))
def test_any_text_is_expanded_or_refused(text):
    try:
        expand(text, {"A": "one"})
    except ValueError as exc:
        assert str(exc)  # noqa: PT017  (either is right)
    else:
        assert "${A}" not in text.replace("$${", "") or "one" in expand(text, {"A": "one"})
