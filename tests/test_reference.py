"""The generator of the reference: what makes its check fail."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
assert spec is not None
assert spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.fixture
def tree(tmp_path):
    """A copy of the package and of its reference."""
    shutil.copytree(ROOT / "pgroute", tmp_path / "pgroute", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pytest_pgroute.py", tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / reference.TARGET, tmp_path / reference.TARGET)
    return tmp_path


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_committed_reference_is_what_the_docstrings_give(capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_check_shows_an_edited_reference_and_a_run_mends_it(tree, capsys):
    path = tree / reference.TARGET
    wanted = path.read_text("utf-8")
    edit(path, "The pools of one role.", "The pools.")
    # To read the whole package takes a second or two.
    assert reference.conclude(wanted, [], ["--check"], tree) == 1
    said = capsys.readouterr().err
    assert "-The pools.\n+The pools of one role." in said
    assert "python .ci/reference.py" in said
    assert reference.conclude(wanted, [], [], tree) == 0
    assert path.read_bytes() == (ROOT / reference.TARGET).read_bytes()


OPTIONS, HOSTS = "core/config/options.py", "core/model/host.py"
LACKS = [
    (
        OPTIONS,
        "  max_size: the",
        "  most: the",
        "PoolOptions: does not describe max_size",
        "PoolOptions: describes most, which is not there",
    ),
    (OPTIONS, ": seconds after which a", ": after which a", "PoolOptions(max_lifetime): is a number of"),
    (HOSTS, "  rtt: seconds that", "  rtt: what", "HostInfo.rtt: is a number of what?"),
    (HOSTS, "  UP: it answers.\n", "\n", "HostState: does not describe UP"),
    (
        "_sync/pool_control.py",
        '"""Return the counters by role and host."""',
        "",
        "PoolControl.stats: has no docstring",
    ),
    (
        "__init__.py",
        '    "Topology",\n',
        '    "Topology", "new",\n',
        "pgroute.new: either public or in a chapter",
    ),
    ("testing/proxy.py", "self.host: str =", "self.host =", "FaultProxy.host: has no annotation"),
    (
        "core/model/roles.py",
        "        READER: reading only",
        "        READERS: reading only",
        "Role: does not describe READER",
    ),
]


def test_what_docstrings_lack_fails_the_check_and_a_run_too(tree, capsys):
    # All at once, and each one told: to read the whole package takes a second or two.
    for file, old, new, *_ in LACKS:
        edit(tree / "pgroute" / file, old, new)
    document = reference.Reference(tree)
    wanted = document.text()
    for arguments in (["--check"], []):
        assert reference.conclude(wanted, document.problems, arguments, tree) == 1
        told = capsys.readouterr().err
        assert [text for _, _, _, *said in LACKS for text in said if text not in told] == []
