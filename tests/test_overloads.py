"""Overloads show what there is: all parameters of the function behind them, with their defaults."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest

from pgroute import AsyncRouter, Router, from_config

FUNCTIONS: list[Callable[..., Any]] = [
    from_config,
    *(getattr(cls, name) for cls in (Router, AsyncRouter) for name in ("__init__", "fetch", "fetchrow")),
]
NOT_SHOWN = {"unknown", "connection_class"}
"""What refuses other arguments, and the parameter that one overload leaves out on purpose."""


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_overloads_have_the_parameters_of_the_function(function: Callable[..., Any]) -> None:
    behind = inspect.signature(function).parameters
    overloads = typing.get_overloads(inspect.unwrap(function))
    shown = [inspect.signature(overload).parameters for overload in overloads]
    assert len(shown) >= 2
    for parameters in shown:
        assert list(parameters) == [name for name in behind if name in parameters], "in the same order"
        assert behind.keys() - parameters.keys() <= NOT_SHOWN
        for name, parameter in parameters.items():
            assert parameter.default in (behind[name].default, parameter.empty, ...), name
            assert parameter.kind == behind[name].kind


def test_options_of_a_transaction_are_those_of_the_decorator() -> None:
    for cls in (Router, AsyncRouter):
        options, run = (inspect.signature(f).parameters for f in (cls.transaction, cls.run))
        given = [parameter for parameter in options.values() if parameter.kind is parameter.KEYWORD_ONLY]
        assert [(p.name, p.default) for p in given] == [
            (p.name, p.default) for p in run.values() if p.kind is p.KEYWORD_ONLY
        ]
        *_, shown = typing.get_overloads(cls.transaction)
        assert [p for p in inspect.signature(shown).parameters if p != "self"] == [p.name for p in given]
