"""Which processes share a watch: those that would observe the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgroute import ProbeOptions
from pgroute.core.config.dsn import Params
from pgroute.core.model.roles import HostKey
from pgroute.monitor.shared import identity as module
from pgroute.monitor.shared.identity import NotShareable, identity

ADDRESS, NAME = HostKey("127.0.0.1", 5432), HostKey("db.test", 5432)
PARAMS = {"user": "app", "password": "secret", "dbname": "shop", "sslmode": "verify-full"}


def which(key: HostKey = ADDRESS, params: dict[str, str] | None = None, **changed: Any) -> str:
    arguments = {"resolver": "system", "options": ProbeOptions(share=True), "source": None, **changed}
    return identity(key, Params(PARAMS | (params or {})), **arguments).digest(b"key", 16)


@pytest.mark.parametrize(
    "other",
    [
        {"key": HostKey("127.0.0.1", 5433)},
        {"key": HostKey("127.0.0.1", 5432, "127.0.0.1")},
        *({"params": {name: "other"}} for name in (*PARAMS, "options", "sslcert", "target")),
    ],
    ids=str,
)
def test_another_host_or_parameter_is_another_watch(other: dict[str, Any]) -> None:
    assert which() == which()
    assert which(**other) != which()


def test_what_is_shown_of_a_process_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before = which()
    monkeypatch.setenv("PGAPPNAME", "other")
    assert which(params={"application_name": "worker 7"}) == before
    assert which(options=ProbeOptions(interval=7.0, abort_after=None, share=True)) == before


def test_how_long_a_probe_may_take_is_a_difference() -> None:
    """A slow host is up for the patient process, and down for the other."""
    assert which(options=ProbeOptions(timeout=3.0)) != which()


def test_a_working_directory_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(NotShareable, match="working directory"):
        which(params={"sslrootcert": "root.crt"})


@pytest.mark.parametrize("name", ["PGSSLROOTCERT", "PGPASSFILE", "HOME", "KRB5CCNAME"])
def test_what_libpq_takes_from_the_environment_is_a_difference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = which()
    monkeypatch.setenv(name, "/other")
    assert which() != before


def test_the_working_directory_is_a_difference_only_where_a_path_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute, relative = {"sslrootcert": "/root.crt"}, {"sslrootcert": "root.crt"}
    before = which(params=absolute), which(params=relative)
    monkeypatch.chdir(tmp_path)
    after = which(params=absolute), which(params=relative)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_how_names_are_looked_up_is_a_difference_where_there_is_one() -> None:
    rarely = ProbeOptions(max_ttl=100.0, share=True)
    assert which(options=rarely) == which()
    assert which(NAME, options=rarely) != which(NAME)
    assert which(NAME, resolver="dns") != which(NAME)


@pytest.mark.parametrize("other", [{"check_system_id": False}, {"system_id": 1}])
def test_to_which_cluster_a_name_is_followed_is_a_difference(other: dict[str, Any]) -> None:
    options = ProbeOptions(share=True, **other)
    assert which(options=options) == which()
    assert which(NAME, options=options) != which(NAME)


def test_a_python_that_keeps_to_fips_has_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise ValueError("[digital envelope routines] unsupported")

    for name in hashlib.algorithms_available - {"sha224", "sha256", "sha384", "sha512"}:
        if hasattr(hashlib, name):
            monkeypatch.setattr(hashlib, name, refused)
    assert len(which()) == 32
    assert which() == which()


def test_a_digest_depends_on_the_key() -> None:
    watch = identity(
        ADDRESS, Params(PARAMS), resolver="system", options=ProbeOptions(share=True), source=None
    )
    assert watch.digest(b"key", 16) != watch.digest(b"another", 16)


@pytest.mark.parametrize("number", range(4))
def test_other_namespaces_are_a_difference(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = which()
    monkeypatch.setattr(
        module,
        "_NAMESPACES",
        tuple("pid" if n == number else name for n, name in enumerate(module._NAMESPACES)),
    )
    assert which() != before


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"options": ProbeOptions(share=False)}, "share=False"),
        ({"source": object()}, "credentials"),
        ({"key": NAME, "resolver": object()}, "resolver"),
    ],
    ids=["option", "credentials", "resolver"],
)
def test_what_only_this_process_has_is_not_shared(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(NotShareable, match=why):
        which(**changed)


def test_an_address_is_shared_whatever_looks_names_up() -> None:
    assert which(resolver=object())


def test_other_systems_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32"))
    with pytest.raises(NotShareable, match="Linux"):
        which()


def test_without_proc_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NAMESPACES", ("none",))
    with pytest.raises(NotShareable, match="namespaces"):
        which()


def test_another_user_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before = which()
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    assert which() != before
