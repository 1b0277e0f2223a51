"""The documentation: its programs run and print what it says, its Python compiles, its links lead somewhere.

A comment above a fenced block says what is done with it. ``run: NAME`` runs it as a file of that name, ``test_*.py``
under pytest, beside the page's blocks that are marked ``save: NAME``. ``output: NAME`` is what that program prints, but
for its numbers.
"""

from __future__ import annotations

import ast
import html
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import markdown  # type: ignore[import-untyped]  # its stubs are a distribution of their own
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])

BLOCK = re.compile(r"(?m)^(?:<!-- (\w+): (\S+) -->\n)?(```|~~~)(\w*)\n((?s:.*?))^\3$")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"(?m)^#{1,6} +(.+)$")


class Block(NamedTuple):
    """A fenced block, with the mark above it if there is one."""

    mark: str
    name: str
    language: str
    text: str
    line: int


def blocks(page):
    text = page.read_text("utf-8")
    found = []
    for match in BLOCK.finditer(text):
        mark, name, _, language, body = match.groups(default="")
        found.append(Block(mark, name, language, body, text[: match.start(5)].count("\n")))
    return found


def prose(page):
    """Return a page without its code."""
    return re.sub(r"`[^`\n]+`", "", BLOCK.sub("", page.read_text("utf-8")))


def page_name(page):
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)

PROGRAMS = [(page, block) for page in PAGES for block in blocks(page) if block.mark == "run"]


def plain(text):
    """Return what a program prints without what is another each time: ports, times, the widths of columns."""
    return [re.sub(r"\d+(\.\d+)?", "0", " ".join(line.split())) for line in text.strip().splitlines()]


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("page", "program"),
    [pytest.param(page, block, id=block.name) for page, block in PROGRAMS],
)
def test_a_program_runs_as_printed(page, program, tmp_path):
    for block in blocks(page):
        if block == program or block.mark == "save":
            (tmp_path / block.name).write_text(block.text, "utf-8")
    command = [sys.executable, "-W", "error", program.name]
    if program.name.startswith("test_"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", program.name]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for block in blocks(page):
        if (block.mark, block.name) == ("output", program.name):
            assert plain(done.stdout) == plain(block.text)


def test_these_pages_have_programs_that_run():
    assert {page.name for page, _ in PROGRAMS} == {
        "configuration.md",
        "getting-started.md",
        "reads.md",
        "testing.md",
    }


@each_page
def test_python_compiles(page):
    """Allowed are indented pieces, `await` and the like outside of functions, and the reference's signatures."""
    for block in blocks(page):
        if block.language != "python":
            continue
        text, where = textwrap.dedent(block.text), f"{page_name(page)}:{block.line}"
        try:
            compile(text, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError:
            if page.name != "reference.md":
                raise
            compile(re.sub(r"^[\w.]+\(", "def signature(", text).rstrip() + ": ...", where, "exec")


def slug(heading):
    """Return the anchor that a code host gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(page):
    return [slug(heading) for heading in HEADING.findall(BLOCK.sub("", page.read_text("utf-8")))]


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and anchors(target).count(anchor) != 1:
            broken.append(f"{link}: no such heading, or several")
    assert broken == []


@each_page
def test_the_site_shows_what_code_hosts_show(page):
    """The site is made by another Markdown than theirs, which sees lists and tables in other places."""
    text = page.read_text("utf-8")
    there = MarkdownIt("commonmark").enable("table").render(text)
    here = markdown.markdown(text, extensions=["fenced_code", "sane_lists", "tables"])
    tags = re.compile(r"<(h\d|ol|ul|li|table|tr|th|td|pre|blockquote)\b")
    assert Counter(tags.findall(here)) == Counter(tags.findall(there))
    code = re.compile(r"<code>([^<]*)</code>")
    assert [html.unescape(text) for text in code.findall(here)] == [
        html.unescape(text) for text in code.findall(there)
    ]


@each_page
def test_the_tests_that_it_names_are_there(page):
    known = {path.name for path in ROOT.glob("tests/**/*.py")} | {block.name for block in blocks(page)}
    named = re.findall(r"`((?:tests/)?[\w/]*?test_\w+\.py)`", page.read_text("utf-8"))
    missing = [name for name in named if not ((ROOT / name).exists() or name in known)]
    assert missing == []


def texts():
    """Return all texts in the package's source, a f-string as the parts between its values."""
    files = [path for path in ROOT.glob("pgroute/**/*.py") if "_sync" not in path.parts]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    constants = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in constants if isinstance(node.value, str))


def test_the_messages_in_troubleshooting_are_those_of_the_package():
    """In tables whose first column is headed "message"; … stands for a value."""
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    tables = re.findall(r"(?m)^\| message \|.*\n((?:\|.*\n)+)", page)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()[1:]]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    known = texts()
    assert [m for m in messages if any(part.strip() not in known for part in m.split("…"))] == []
    assert len(messages) > 50
