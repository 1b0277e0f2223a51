"""Every regular expression of the package takes time in proportion to its text, however hostile that is."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

import pgroute
from pgroute.core.late_pattern import LatePattern

PACKAGE = Path(pgroute.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
ATTRIBUTE = re.compile(r"\b(\w+)(?=\.(\w+))")
LENGTH = 50_000
CPU_SECONDS = 2.0  # for what takes milliseconds; a text read again and again takes minutes
# Texts are made of these, and of what the expression itself is made of.
PIECES = [*" \n\ta0A_-'\":(", "\n ", "a ", "a.", '" ', ":  ", "a:", "--"]


def patterns() -> Iterator[tuple[str, re.Pattern[Any], list[str]]]:
    """Yield every compiled expression that a module has: its name, itself, the methods that are called of it."""
    called: dict[str, set[str]] = {}
    for source in SOURCES.values():
        for name, method in ATTRIBUTE.findall(source):
            called.setdefault(name, set()).add(method)
    settings.configure()  # without which Django's modules cannot be imported
    for module in pkgutil.walk_packages([str(PACKAGE)], "pgroute."):
        if module.name == "pgroute.__main__":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            pattern = value.compiled if isinstance(value, LatePattern) else value
            if isinstance(pattern, re.Pattern):
                yield f"{module.name}.{name}", pattern, sorted(called.get(name, ()))


def hostile_texts(pattern: re.Pattern[Any]) -> Iterator[str | bytes]:
    """Yield long texts that nearly match: one piece over and over, and an end that fits nowhere."""
    binary = isinstance(pattern.pattern, bytes)
    source = pattern.pattern.decode("latin-1") if binary else pattern.pattern
    source = re.sub(r"\\u(....)", lambda escape: chr(int(escape[1], 16)), source)
    literals = re.split(r"[\\|()\[\]{}?*+^$.]+", source)
    for piece in dict.fromkeys((*PIECES, *re.findall(r"\W", source), *filter(None, literals))):
        text = (piece * (LENGTH // len(piece) + 1))[:LENGTH] + "\0"
        yield text.encode("latin-1") if binary else text


def work_through() -> None:
    """Apply them all; one that is slow ends the process.

    Prints what it does; in the end how many there are, and those of which no method is called.
    """
    found, unused = 0, []
    for name, pattern, methods in patterns():
        found += 1
        if not methods:
            unused.append(name)
        for text in hostile_texts(pattern):
            for method in methods:
                print(f"{name}.{method} of {text[:20]!r}", flush=True)
                signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
                result = getattr(pattern, method)(*(("", text) if method == "sub" else (text,)))
                if method == "finditer":
                    list(result)
                signal.setitimer(signal.ITIMER_PROF, 0)  # what is imported next takes its time
    print(found, *unused)


def apart() -> subprocess.CompletedProcess[str]:
    """Work through them in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), str(PACKAGE.parent)])
    return subprocess.run(
        [sys.executable, "-c", "import test_regexes; test_regexes.work_through()"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_expression_is_slow_on_a_hostile_text_or_escapes_the_search() -> None:
    done = apart()
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]} {done.stderr}"
    *_, end = done.stdout.splitlines()
    found, *unused = end.split()
    assert int(found) > 0
    assert unused == []


def inline(path: str, source: str) -> Iterator[str]:
    """Yield where a module calls a function of re elsewhere than for an attribute of its own, or under another name."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        renamed = isinstance(node, ast.Import) and any(n.name == "re" and n.asname for n in node.names)
        if isinstance(node, ast.stmt) and (
            renamed or (isinstance(node, ast.ImportFrom) and node.module == "re")
        ):
            yield f"{path}:{node.lineno}"
    at_the_top = {id(node.value) for node in tree.body if isinstance(node, ast.Assign)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in at_the_top:
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id="re")) | ast.Name(id="LatePattern"):
                yield f"{path}:{node.lineno}"


def test_no_expression_is_hidden_from_the_search() -> None:
    elsewhere = {path: source for path, source in SOURCES.items() if path != "core/late_pattern.py"}
    assert [place for path, source in elsewhere.items() for place in inline(path, source)] == []


def test_what_would_escape_the_search_is_found() -> None:
    hidden = ["import re as r", "from re import compile", "def f():\n    re.sub('', '', '')", "X = (re.compile(''),)",
              "class C:\n    X = re.compile('')", "f(LatePattern(''))"]  # fmt: skip
    assert [source for source in hidden if not list(inline("x.py", source))] == []
    assert list(inline("x.py", "import re\nX = re.compile('')\n")) == []
