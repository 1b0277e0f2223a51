"""Tests for pgroute.core.late_dataclass: a class of it is used as one of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import threading
import typing
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import pytest

import pgroute
from pgroute.core import late_dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

Decorate = Any  # a decorator with the parameters of dataclasses.dataclass


def sample(decorate: Decorate, **options: Any) -> Any:
    @decorate(frozen=True, slots=True, **options)
    class Sample:
        """All kinds of fields."""

        first: int
        second: str = "two"
        third: list[int] = dataclasses.field(default_factory=list, compare=False)
        hidden: str = dataclasses.field(default="secret", repr=False)
        fixed: int = dataclasses.field(default=4, init=False)
        made: list[int] = dataclasses.field(default_factory=list, init=False, hash=False)
        unset: int = dataclasses.field(init=False, repr=False, compare=False)
        keyword: float = dataclasses.field(default=0.5, kw_only=True)
        shared: ClassVar[int] = 7

        def __post_init__(self) -> None:
            object.__setattr__(self, "unset", self.first + 1)

    return Sample


OPTIONS: list[dict[str, Any]] = [{}, {"kw_only": True}, {"repr": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_does_what_that_of_the_standard_library_does(options: dict[str, Any]) -> None:
    ours, theirs = sample(late_dataclass.late, **options), sample(dataclasses.dataclass, **options)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    assert inspect.get_annotations(ours.__init__) == inspect.get_annotations(theirs.__init__)
    assert ours.__match_args__ == theirs.__match_args__
    assert [(f.name, f.type, f.kw_only) for f in dataclasses.fields(ours)] == [
        (f.name, f.type, f.kw_only) for f in dataclasses.fields(theirs)
    ]
    for cls in (ours, theirs):
        one, same, other = cls(first=1, third=[3]), cls(first=1), cls(first=2, second="zwei", keyword=1)
        assert (one == same, one == other, one != 1) == (True, False, True)
        assert (one.unset, one.fixed, one.made, same.third, cls.shared) == (2, 4, [], [], 7)
        with pytest.raises(TypeError, match="first"):
            cls()
        with pytest.raises(TypeError, match="nonsense"):
            cls(first=1, nonsense=1)
    assert dataclasses.asdict(ours(first=1)) == dataclasses.asdict(theirs(first=1))
    assert hash(ours(first=1)) == hash(theirs(first=1))
    assert dataclasses.replace(ours(first=1), first=5).unset == 6
    if options != {"repr": False}:
        assert repr(ours(first=1)) == repr(theirs(first=1))
    assert "secret" not in repr(ours(first=1))


def test_a_default_can_be_told_from_a_value_given() -> None:
    given: list[int] = []
    assert sample(late_dataclass.late)(1, third=given).third is given


def test_its_instances_are_frozen() -> None:
    instance = sample(late_dataclass.late)(1)
    for name in ("first", "another"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(instance, name, 2)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(instance, name)
    assert not hasattr(instance, "__dict__")


@pytest.mark.parametrize("which", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])  # noqa: S301 (our own)
def test_it_can_be_copied(which: Callable[[Any], Any]) -> None:
    options = pgroute.PoolOptions(max_size=3, settings={"work_mem": "1MB"})
    assert which(options) == options


def test_classes_may_be_derived_from_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Derived(pgroute.Position):
        name: str = "x"

    class Plain(pgroute.Position):
        pass

    position = pgroute.Position(1, 1, 2)
    assert Derived(1, 1, 2).name == "x"
    plain = Plain(1, 1, 2)
    plain.anything = 1  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.lsn = 3  # type: ignore[misc]
    assert plain != position


def test_methods_of_its_own_are_kept() -> None:
    @late_dataclass.late(frozen=True, slots=True)
    class Own:
        """With methods of its own."""

        value: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    made: Any = Own
    assert (repr(made(1)), made(1) == made(2), hash(made(1))) == ("own", True, 5)


def test_it_looks_like_one_of_the_standard_library() -> None:
    ours, theirs = sample(late_dataclass.late), sample(dataclasses.dataclass)
    for flag in ("init", "repr", "eq", "frozen"):
        assert getattr(ours.__dataclass_params__, flag) == getattr(theirs.__dataclass_params__, flag)
    assert ours(1).__getstate__() == theirs(1).__getstate__()
    assert {name for name in vars(theirs) if name.startswith("__")} <= set(vars(ours))


@pytest.mark.parametrize(
    "use", [lambda one, other: one == other, lambda one, _: repr(one), lambda one, _: hash(one)]
)
def test_an_interrupt_at_the_first_use_of_a_method_is_not_lost(use: Callable[[Any, Any], Any]) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(_frame: Any, event: str, _arg: Any) -> None:
        if event == "call" and _frame.f_code.co_name in {"_eq", "_repr", "_hash"}:
            raise Interrupt

    cls = sample(late_dataclass.late)
    one, other = cls(1), cls(1)
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(Interrupt):
            use(one, other)
    finally:
        sys.settrace(before)
    assert one == other
    assert use(one, other) == use(other, one)


def test_annotations_are_those_of_the_module_in_which_it_was_made() -> None:
    names = typing.get_type_hints(pgroute.PoolOptions.__init__)
    assert names["min_size"] is int
    assert "Mapping" in str(names["settings"])


def test_a_module_that_was_forgotten_is_not_missed() -> None:
    with mock.patch.dict(sys.modules):
        made = sample(late_dataclass.late)
        sys.modules.pop(__name__, None)
        assert made(1) == made(1)


def test_others_are_refused() -> None:
    for options in ({"frozen": False, "slots": True}, {"frozen": True, "slots": False}):
        with pytest.raises(TypeError, match="frozen dataclasses with slots"):
            late_dataclass.late(**options)


def test_its_methods_may_be_first_used_by_many_threads_at_once() -> None:
    for _ in range(20):
        cls = sample(late_dataclass.late)
        start = threading.Barrier(8)
        made: list[Any] = []

        def use(cls: Any = cls, start: threading.Barrier = start, made: list[Any] = made) -> None:
            start.wait()
            made.append(cls(1))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 8
        assert len(set(made)) == 1


def test_importing_compiles_no_method() -> None:
    program = (
        "import dataclasses, pgroute; from pgroute.core.late_dataclass import LateInit\n"
        "from pgroute import AsyncRouter, Router\n"
        "late = [isinstance(vars(value)['__init__'], LateInit) for value in vars(pgroute).values()"
        " if dataclasses.is_dataclass(value) and isinstance(value, type)]\n"
        "print(len(late), all(late))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    number, all_late = done.stdout.split()
    assert int(number) > 10
    assert all_late == "True"
