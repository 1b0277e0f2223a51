"""The folder in which processes meet: only one that is certainly closed to other users is used, and none is left."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgroute.monitor.shared import folder as module
from pgroute.monitor.shared.folder import Folder, Unusable
from pgroute.monitor.shared.identity import Identity
from pgroute.monitor.shared.turns import Follow, Lead, take_place
from tests.shared_watch.entered import entered
from tests.support import Background

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be other users")
OTHER_USER = 4321


def own(place: Path) -> Path:
    return place / f"pgroute-{os.geteuid()}"


def test_the_folder_and_the_key_are_for_the_user_alone(place: Path) -> None:
    umask = os.umask(0)
    try:
        folder = entered()
    finally:
        os.umask(umask)
    with contextlib.closing(folder):
        assert own(place).stat().st_mode & 0o777 == 0o700
        assert (own(place) / "key").stat().st_mode & 0o777 == 0o600
        assert len((own(place) / "key").read_bytes()) == 32


def test_the_last_one_to_leave_removes_the_folder_with_what_killed_ones_have_left(place: Path) -> None:
    one, other = entered(), entered()
    (own(place) / "left.0.s").touch()
    one.close()
    assert own(place).is_dir()
    other.close()
    assert not own(place).exists()


def test_the_folder_of_a_session_is_taken_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = place / "runtime"
    runtime.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with contextlib.closing(entered()) as folder:
        assert folder.location == str(runtime / "pgroute")
    assert list(runtime.iterdir()) == []
    runtime.chmod(0o750)
    with contextlib.closing(entered()) as folder:
        assert folder.location == str(own(place))


def test_a_folder_that_others_may_enter_is_refused(place: Path) -> None:
    own(place).mkdir()
    own(place).chmod(0o750)
    with pytest.raises(Unusable, match="not closed to other users"):
        entered()


def test_a_link_in_the_place_of_the_folder_is_refused(place: Path) -> None:
    (place / "elsewhere").mkdir(0o700)
    own(place).symlink_to(place / "elsewhere")
    with pytest.raises(Unusable):
        entered()
    assert list((place / "elsewhere").iterdir()) == []


def test_a_place_where_others_may_replace_the_folder_is_refused(place: Path) -> None:
    place.chmod(0o777)
    with pytest.raises(Unusable, match="not sticky"):
        entered()
    place.chmod(0o1777)
    entered().close()


@AS_ROOT
def test_the_folder_of_another_user_is_refused(place: Path) -> None:
    own(place).mkdir(0o700)
    os.chown(own(place), OTHER_USER, OTHER_USER)
    with pytest.raises(Unusable, match="not closed to other users"):
        entered()


@pytest.mark.parametrize("there", ["missing", "file"])
def test_a_place_that_is_none_is_refused(there: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if there == "file":
        (place / there).touch()
    monkeypatch.setenv("TMPDIR", str(place / there))
    with pytest.raises(Unusable):
        entered()


def test_a_relative_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "tmp")
    with pytest.raises(Unusable, match="relative"):
        entered()


def test_a_full_disk_is_told_and_leaves_no_part_of_a_key(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(Unusable, match="No space left"):
            entered()
    assert not own(place).exists()


def test_a_key_that_is_none_is_refused(place: Path) -> None:
    own(place).mkdir(0o700)
    (own(place) / "key").write_bytes(b"short")
    with pytest.raises(Unusable, match="key"):
        entered()


def test_a_user_id_that_may_stand_for_several_users_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    monkeypatch.setattr(module, "Path", lambda *_: SimpleNamespace(read_text=lambda _: "0 100000 65536"))
    with pytest.raises(Unusable, match="several users"):
        entered()


def test_a_system_without_locks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    with pytest.raises(Unusable, match="flock"):
        entered()


def test_a_path_that_is_too_long_for_a_socket_is_none_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = place / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    with contextlib.closing(entered()) as folder, contextlib.closing(entered()) as other:
        lead = take_place(folder, "watch")
        assert isinstance(lead, Lead)
        follow = take_place(other, "watch")
        assert isinstance(follow, Follow)
        follow.sock.close()
        lead.close()


def test_names_tell_nothing_to_those_without_the_key(place: Path) -> None:
    secret = Identity(["password"])
    with contextlib.closing(entered()) as folder:
        first = folder.name(secret)
        assert first == folder.name(Identity(["password"]))
        assert first != folder.name(Identity(["other"]))
    with contextlib.closing(entered()) as folder:
        assert folder.name(secret) != first
    assert "password" not in repr(secret)


def test_a_folder_that_was_removed_is_made_again(place: Path) -> None:
    with contextlib.closing(entered()) as folder:
        for path in own(place).iterdir():
            path.unlink()
        own(place).rmdir()
        before = folder.current
        folder.renew()
        assert (before, folder.current) == (False, True)
        assert folder.names() == ["key"]
    assert not own(place).exists()


def entered_at_last() -> Folder:
    """Enter the folder as a watch does: if another process takes long to remove it, again a while later."""
    until = time.monotonic() + 10.0
    while True:
        try:
            return entered()
        except Unusable as exc:
            if "is being removed" not in str(exc) or time.monotonic() > until:
                raise


def test_processes_that_come_and_go_at_once_are_not_in_each_others_way(place: Path) -> None:
    def come_and_go() -> None:
        for _ in range(100):
            with contextlib.closing(entered_at_last()) as folder:
                assert "key" in folder.names()

    # A lock is one of an open file, so threads are to each other as processes are.
    with Background() as background:
        for handle in [background.start(come_and_go) for _ in range(3)]:
            handle.result()
    assert not own(place).exists()


@AS_ROOT
def test_another_user_reaches_no_socket(place: Path) -> None:
    with contextlib.closing(entered()) as folder, contextlib.closing(take_place(folder, "watch")) as lead:  # type: ignore[type-var]
        assert isinstance(lead, Lead)
        code = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", code, f"{folder.location}/watch.0.s"],
            user=OTHER_USER, group=OTHER_USER, extra_groups=[], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "PermissionError" in done.stderr
