"""A file that takes the place of another when it is complete."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
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


def test_part_of_a_file_that_is_nobody_elses_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"before")
    path.chmod(0o640)
    file = ReplacingFile(path)
    file.open()
    try:
        [part] = tmp_path.glob(".pgroute-*.part")
        assert part.stat().st_mode & 0o777 == 0o600
        file.keep()
    finally:
        file.close()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_and_group_stay(temporary: Path) -> None:
    path = temporary / "data"
    path.write_bytes(b"before")
    path.chmod(0o640)
    os.chown(path, 65534, 65533)
    written(path, b"after")
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65533, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_group_that_cannot_stay_leaves_no_rights_to_another(temporary: Path) -> None:
    path = temporary / "data"
    path.write_bytes(b"before")
    path.chmod(0o664)
    os.chown(path, 65534, 65533)
    temporary.chmod(0o777)
    os.seteuid(65534)
    try:
        written(path, b"after")
    finally:
        os.seteuid(0)
    found = path.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (65534, 0o644)


def test_names_are_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    synced: list[set[str]] = []

    def note(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append({"part" if name.endswith(".part") else name for name in names(tmp_path)})
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    file = ReplacingFile(path)
    file.open()
    file.save()
    file.keep()
    file.close()
    assert synced == [{"part"}, {"data"}]


def test_data_are_kept_when_no_file_can_be_opened_any_more(tmp_path: Path) -> None:
    path = tmp_path / "data"
    file = ReplacingFile(path)
    file.open()
    file.write(b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        file.save()
        file.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        file.close()
    assert path.read_bytes() == b"1"


@pytest.mark.parametrize("error", [errno.EBADF, errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_cannot_save_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    written(tmp_path / "data", b"1")
    assert (tmp_path / "data").read_bytes() == b"1"


def test_folder_that_may_not_be_read(temporary: Path) -> None:
    temporary.chmod(0o333)
    me = os.geteuid()
    if me == 0:  # who may read everything
        os.seteuid(65534)
    try:
        written(temporary / "data", b"1")
    finally:
        os.seteuid(me)
        temporary.chmod(0o777)
    assert (temporary / "data").read_bytes() == b"1"


def test_descriptor_that_was_opened_to_read_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"before")
    for name in (path, tmp_path):
        reading = os.open(name, os.O_RDONLY)
        file = ReplacingFile(f"/dev/fd/{reading}")
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            file.open()
        file.close()
        assert caught.value.errno == errno.EBADF
        os.close(reading)
    assert path.read_bytes() == b"before"


def test_data_that_are_nowhere_else_stay_beside_a_path_that_cannot_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    file = ReplacingFile(path)
    file.open()
    file.write(b"1")
    file.lasting = True
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        file.keep()
    file.close()
    assert file.beside.read_bytes() == b"1"


def test_what_the_process_has_open_is_written_on(tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "link"
    link.symlink_to("/dev/stdout")
    code = (
        "import sys; from pgroute.runtime.replacing import ReplacingFile\n"
        "print('before', flush=True)\n"
        "file = ReplacingFile(sys.argv[1]); file.open(); file.write(b'data\\n'); file.keep(); file.close()\n"
        "print('after')"
    )
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", str(link)):
        with log.open("wb") as out:
            subprocess.run([sys.executable, "-c", code, path], stdout=out, check=True)
        assert log.read_text() == "before\ndata\nafter\n"
        assert sorted(names(tmp_path)) == ["link", "log"]


def test_descriptor_that_does_not_block_gets_all() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    file = ReplacingFile(f"/dev/fd/{writing}")
    file.open()
    os.close(writing)
    reader.start()
    file.write(b"1" * 1_000_000)
    file.close()
    reader.join()
    assert got == [b"1" * 1_000_000]


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
