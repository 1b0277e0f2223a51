"""A file that takes the place of another when it is complete."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pgroute.runtime.replacing import ReplacingFile


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def written(path: Path, *parts: bytes, keep: bool = True) -> None:
    file = ReplacingFile(path)
    file.open()
    try:
        for part in parts:
            file.write(part)
        if keep:
            file.keep()
    finally:
        file.close()


def test_data_are_there_in_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    file = ReplacingFile(path)
    file.open()
    file.write(b"12")
    assert not path.exists()
    file.rewind()
    file.write(b"3")
    file.keep()
    file.close()
    assert path.read_bytes() == b"3"
    assert names(tmp_path) == ["data"]


def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"before")
    written(path, b"after", keep=False)
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["data"]


def test_rights_stay_and_new_ones_are_usual(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        written(old, b"1")
        written(new, b"1")
    finally:
        os.umask(before)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o640


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder / "data")
    for content in (b"1", b"2"):
        written(link, content)
        assert link.is_symlink()
        assert (folder / "data").read_bytes() == content
    assert names(folder) == ["data"]


def test_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    file = ReplacingFile(path)
    file.open()
    assert not file.replaces
    file.write(b"1" * 200_000)
    file.keep()
    file.close()
    reader.join()
    assert got == [b"1" * 200_000]
    assert path.is_fifo()


def test_what_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "none" / "data", FileNotFoundError),
        (tmp_path / ("x" * 300), OSError),
    ):
        file = ReplacingFile(path)
        with pytest.raises(error):
            file.open()
        file.close()
    assert names(tmp_path) == []


def test_file_that_may_not_be_written_is_not_replaced(temporary: Path) -> None:
    path = temporary / "data"
    path.write_bytes(b"before")
    path.chmod(0o444)
    temporary.chmod(0o777)
    me = os.geteuid()
    if me == 0:  # who may write everything
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            ReplacingFile(path).open()
    finally:
        os.seteuid(me)
    assert names(temporary) == ["data"]
