"""The generator of the synchronous code: what it writes, and everything that makes its check fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "unasync.py"
spec = importlib.util.spec_from_file_location("unasync", SCRIPT)
assert spec is not None
assert spec.loader is not None
unasync = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unasync)

SOURCE = '"""A module."""\n\n\nasync def answer():\n    return await thing()\n'


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree with one async module, its generated twin, and a table that has nothing to spare."""
    monkeypatch.setattr(unasync, "SUBSTITUTIONS", [(r"async def", "def"), (r"await ", "")])
    (tmp_path / "pgroute/_async").mkdir(parents=True)
    (tmp_path / "pgroute/_async/router.py").write_text(SOURCE)
    assert unasync.main([], tmp_path) == 0
    assert unasync.main(["--check"], tmp_path) == 0
    return tmp_path


def check(tree, capsys):
    capsys.readouterr()
    status = unasync.main(["--check"], tree)
    return status, capsys.readouterr().err


def test_generated_file_names_its_source(tree):
    text = (tree / "pgroute/_sync/router.py").read_text()
    header, body = text.split("\n", 1)
    assert header.startswith("# Generated from pgroute/_async/router.py")
    assert body == '"""A module."""\n\n\ndef answer():\n    return thing()\n'


def test_subfolders_and_tests_are_generated(tree):
    for source in ("pgroute/_async/inner/pools.py", "tests/aio/test_router.py"):
        (tree / source).parent.mkdir(parents=True)
        (tree / source).write_text(SOURCE)
    assert unasync.main([], tree) == 0
    assert (tree / "pgroute/_sync/inner/pools.py").exists()
    assert (tree / "tests/sync/test_router.py").exists()


def test_check_shows_an_edited_generated_file(tree, capsys):
    path = tree / "pgroute/_sync/router.py"
    path.write_text(path.read_text().replace("thing()", "other()"))
    status, said = check(tree, capsys)
    assert status == 1
    assert "-    return other()\n+    return thing()" in said
    assert "python .ci/unasync.py" in said
    assert "other()" in path.read_text()


@pytest.mark.parametrize("tail", ["extra = 1\n", "\n"])
def test_check_sees_what_follows_the_expected_text(tree, capsys, tail):
    with (tree / "pgroute/_sync/router.py").open("a") as file:
        file.write(tail)
    status, said = check(tree, capsys)
    assert status == 1
    assert "pgroute/_sync/router.py: not what its source gives" in said


def test_check_sees_other_line_endings(tree, capsys):
    path = tree / "pgroute/_sync/router.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(tree, capsys)[0] == 1


def test_check_sees_a_truncated_file(tree, capsys):
    path = tree / "pgroute/_sync/router.py"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert check(tree, capsys)[0] == 1


def test_check_sees_a_missing_file(tree, capsys):
    (tree / "pgroute/_sync/router.py").unlink()
    status, said = check(tree, capsys)
    assert status == 1
    assert "pgroute/_sync/router.py: missing" in said


def test_stale_generated_file_fails_the_check_and_is_deleted_by_a_run(tree, capsys):
    (tree / "pgroute/_async/pool").mkdir()
    (tree / "pgroute/_async/pool/role_pool.py").write_text(SOURCE)
    unasync.main([], tree)
    (tree / "pgroute/_async/pool/role_pool.py").unlink()
    status, said = check(tree, capsys)
    assert status == 1
    assert "pgroute/_sync/pool/role_pool.py: stale" in said
    assert unasync.main([], tree) == 0
    assert not (tree / "pgroute/_sync/pool/role_pool.py").exists()


def test_hand_written_file_among_the_generated_is_refused_but_kept(tree, capsys):
    path = tree / "pgroute/_sync/mine.py"
    path.write_text(SOURCE)
    assert check(tree, capsys)[0] == 1
    assert unasync.main([], tree) == 1
    assert path.read_text() == SOURCE


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_unused_substitution_fails_both_modes(tree, capsys, monkeypatch, arguments):
    monkeypatch.setattr(unasync, "SUBSTITUTIONS", [*unasync.SUBSTITUTIONS, (r"never_there", "")])
    assert unasync.main(arguments, tree) == 1
    assert "unused substitution, delete it: never_there" in capsys.readouterr().err


def test_untranslated_await_is_refused(tree, capsys):
    (tree / "pgroute/_async/router.py").write_text(SOURCE.replace("await ", "await\\\n        "))
    assert unasync.main([], tree) == 1
    assert "pgroute/_async/router.py: its translation is not Python: line 6" in capsys.readouterr().err


def test_unmatched_marker_is_refused(tree, capsys):
    (tree / "pgroute/_async/router.py").write_text(f"{SOURCE}# async-only: begin\n")
    assert unasync.main([], tree) == 1
    assert "unmatched marker: # async-only: begin" in capsys.readouterr().err


def test_substitution_matches_whole_words(monkeypatch):
    monkeypatch.setattr(unasync, "SUBSTITUTIONS", [(r"word", "name"), (r"ends ", "")])
    assert unasync.translate("word sword words ends (word) bends", set()) == "name sword words (name) bends"


@pytest.mark.parametrize(
    ("source", "generated"),
    [
        ("async def f(): ...\n", "def f(): ...\n"),
        ("x = await (a or b)\n", "x = (a or b)\n"),
        ("async with a, b as c:\n", "with a, b as c:\n"),
        ("async for a in b:\n", "for a in b:\n"),
        ("raise StopAsyncIteration\n", "raise StopIteration\n"),
        ("def __aenter__(self): self.__aexit__()\n", "def __enter__(self): self.__exit__()\n"),
        ("AsyncConnectionPool[_AsyncSession[Asyncish]]\n", "ConnectionPool[_Session[Asyncish]]\n"),
        (
            "from pgroute._async.pool.role_pool import x_async\n",
            "from pgroute._sync.pool.role_pool import x_async\n",
        ),
        ("a: Awaitable[T] | Awaitable[Mapping[T]]\n", "a: T | Awaitable[Mapping[T]]\n"),
        ("a: Coroutine[Any, Any, T] | Coroutine[Any, Any, Any]\n", "a: T | Coroutine[Any, Any, Any]\n"),
        ("a = 1  # async-only\nb = 2\n", "b = 2\n"),
        ("    # sync-only: a = 1\n", "    a = 1\n"),
        ("a\n    # async-only: begin\n    b\n\n    # async-only: end\nc\n", "a\nc\n"),
    ],
)
def test_substitution(source, generated):
    assert unasync.translate(source, set()) == generated


def test_committed_files_are_what_their_sources_give(capsys):
    assert unasync.main(["--check"]) == 0, capsys.readouterr().err
