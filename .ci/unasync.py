"""Generates the synchronous twins of pgroute/_async and tests/aio; with --check only compares them."""

from __future__ import annotations

import difflib
import re
import sys
from itertools import islice
from pathlib import Path

# (regular expression, replacement), applied in this order to the whole text of each file. An expression that
# begins or ends with a word character matches at a word boundary there. One that no file uses is a failure:
# delete it, and its row in tests/test_generated.py.
SUBSTITUTIONS = [
    # Markers, for what differs by more than a name.
    (r"(?m)^ *# async-only: begin\n(?:.*\n)*?^ *# async-only: end\n", ""),
    (r"(?m)^.*# async-only\n", ""),
    (r"(?m)^( *)# sync-only: ", r"\1"),
    # The language.
    (r"async def", "def"),
    (r"async with", "with"),
    (r"async for", "for"),
    (r"await ", ""),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"StopAsyncIteration", "StopIteration"),
    # The standard library.
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"Coroutine\[Any, Any, T\]", "T"),
    (r"import asyncio", "import time"),
    (r"asyncio\.sleep", "time.sleep"),
    # Ours and psycopg's: AsyncRouter, AsyncConnectionPool, AsyncIterator, _AsyncSession, ...
    (r"(_*)Async([A-Z]\w*)", r"\1\2"),
    (r"async_(\w+)", r"\1"),
    (r"_async", "_sync"),
    (r"tests([./])aio", r"tests\1sync"),
]
TREES = [
    ("pgroute/_async", "pgroute/_sync"),
    ("pgroute/batch/_async", "pgroute/batch/_sync"),
    ("tests/aio", "tests/sync"),
]
ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Generated from "


def bounded(pattern: str) -> re.Pattern[str]:
    """Compile a pattern so that it begins and ends where words do."""
    start = r"\b" if re.match(r"\w", pattern) else ""
    end = r"\b" if re.search(r"(?<!\\)\w$", pattern) else ""
    return re.compile(start + pattern + end)


def translate(text: str, used: set[str]) -> str:
    """Apply the substitutions to one file's text, noting in `used` those that changed something."""
    for pattern, replacement in SUBSTITUTIONS:
        text, count = bounded(pattern).subn(replacement, text)
        if count:
            used.add(pattern)
    return text


def generate(root: Path, used: set[str], problems: list[str]) -> dict[Path, str]:
    """Return the expected content of every generated file."""
    files = {}
    for source_tree, target_tree in TREES:
        for source in sorted((root / source_tree).rglob("*.py")):
            name = source.relative_to(root).as_posix()
            text = translate(source.read_text("utf-8"), used)
            text = f"{HEADER}{name} by .ci/unasync.py: edit that file, not this one.\n{text}"
            target = root / target_tree / source.relative_to(root / source_tree)
            files[target] = text
            try:
                compile(text, str(target), "exec", dont_inherit=True)
            except SyntaxError as exc:
                problems.append(f"{name}: its translation is not Python: line {exc.lineno}: {exc.msg}")
            problems += [f"{name}: unmatched marker: {left}" for left in re.findall(r"# a?sync-only.*", text)]
    return files


def compare(root: Path, path: Path, expected: str | None) -> list[str]:
    """Return how a file differs from its expected content; None means that it should not exist."""
    name = path.relative_to(root).as_posix()
    if expected is None:
        return [f"{name}: stale: nothing generates it"]
    if not path.exists():
        return [f"{name}: missing"]
    if path.read_bytes() == expected.encode():
        return []
    found, wanted = path.read_text("utf-8").splitlines(), expected.splitlines()
    diff = difflib.unified_diff(found, wanted, name, f"{name} (generated)", lineterm="")
    return [f"{name}: not what its source gives", *islice(diff, 40)]


def write(root: Path, path: Path, expected: str | None) -> list[str]:
    """Write the expected content of a file; delete a stale file only if it was generated."""
    if expected is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(expected, "utf-8")
    elif path.read_text("utf-8").startswith(HEADER):
        path.unlink()
    else:
        return [f"{path.relative_to(root).as_posix()}: not generated, so not deleted: move it out of here"]
    return []


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Generate or check, report problems on stderr, and return the exit status."""
    used: set[str] = set()
    problems: list[str] = []
    wanted: dict[Path, str | None] = {p: None for _, tree in TREES for p in (root / tree).rglob("*.py")}
    wanted.update(generate(root, used, problems))
    act = compare if "--check" in arguments else write
    for path, expected in sorted(wanted.items()):
        problems += act(root, path, expected)
    unused = [pattern for pattern, _ in SUBSTITUTIONS if pattern not in used]
    problems += [f"unused substitution, delete it: {pattern}" for pattern in unused]
    if problems:
        print(*problems, "Generated files are written by: python .ci/unasync.py", sep="\n", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
