"""What is refused is shown to nobody: not by the error, nor by the frames that it comes through, nor by a repr."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import pytest

import pgroute
from pgroute import AsyncRouter, ConfigError, HostOptions, PoolOptions, ProbeOptions, Router
from pgroute.batch import BatchJob
from pgroute.monitor import host_watcher, probe_connect
from tests.support import eventually

SECRET = "s3cr3tPW"
PACKAGE = str(Path(pgroute.__file__).parent)
DSNS = [
    f"host=h password=a {SECRET}",
    f"host=h password='{SECRET}",
    f"postgresql://u:{SECRET}%zz@h/db",
    f"postgresql://u:{SECRET}%ff@h/db",
    f"postgresql://u:{SECRET}@[::1/db",
    f"postgresql://u:{SECRET}/pw@h/db",
    f"postgresql://u:a@{SECRET}@h/db",
    f"postgresql://u:{SECRET}@h:0/db",
    f"postgresql://u:{SECRET}@h/db?sslmode=bogus",
    f"postgresql://u:{SECRET}@h/db?bogus=1",
    f"postgresql://u:{SECRET}@h/db?service=missing",
    f"postgresql://u:{SECRET}@h1,h2/db?target_session_attrs=Primary",
    f"postgresql://u:{SECRET}@h1,h2/db?port=1,2,3",
    f"postgresql://u:{SECRET}@h\0/db",
    f"postgresql://u:{SECRET}\ud800@h/db",
    f"host=h password={SECRET} hostaddr=x",
    f"host=h password={SECRET} connect_timeout=x",
    f"jdbc:postgresql://u:{SECRET}@h/db",
]
GOOD = f"postgresql://u:{SECRET}@h/db"
HIDDEN = {"password": SECRET}
REFUSED: list[Callable[[Any], object]] = [
    *(lambda cls, dsn=dsn: cls(dsn) for dsn in DSNS),
    lambda cls: cls(GOOD, balance="x"),
    lambda cls: cls(GOOD, acquire_timeout=-1),
    lambda cls: cls(GOOD, passwrod=SECRET),
    lambda cls: cls(GOOD, host_options={"x": HostOptions()}),
    lambda cls: cls(GOOD, srv_domains="x"),
    lambda cls: cls(GOOD, connection_class=int),
    lambda cls: cls("host=h", kwargs={**HIDDEN, "sslmode": "bogus"}),
    lambda cls: cls("host=h", kwargs={**HIDDEN, "host": "x"}),
    lambda cls: cls("host=h", kwargs={**HIDDEN, "sslpassword": f"{SECRET}\0"}),
    lambda cls: cls("host=h", probe=ProbeOptions(kwargs={**HIDDEN, "connect_timeout": 3})),
    lambda cls: cls("host=h", writer=PoolOptions(kwargs={**HIDDEN, "bogus": 3})),
    lambda cls: cls("host=h", writer={"kwargs": HIDDEN}),
    lambda cls: cls("host=h", probe={"kwargs": HIDDEN}),
    lambda cls: cls("host=h", retry={"scram_client_key": SECRET}),
    lambda cls: cls("host=h", host_options={"h": HIDDEN}),
    lambda cls: cls("host=h", host_options={GOOD: HostOptions()}),
    lambda cls: cls("host=h", host_options={GOOD: 5}),
    lambda cls: cls("host=h", host_options={GOOD: 5}, addresses="expand"),
    lambda cls: cls("host=h", host_options={"password": SECRET}),
    lambda cls: cls("host=h", host_options={"password": SECRET}, addresses="expand"),
    lambda cls: cls("host=h", zone=f"u:{SECRET}@h/db"),
    lambda cls: cls("host=h", **{GOOD: 1}),
    lambda cls: cls("host=h", resolver=urlsplit(GOOD)),
    lambda cls: cls("host=h", schema={GOOD}),
    lambda cls: cls("host=h", host_options=[GOOD]),
    lambda cls: cls("host=h", balance=GOOD),
    lambda cls: cls("host=h", kwargs={"host": GOOD}),
    lambda cls: cls("host=h", kwargs={"dbname": GOOD}),
    lambda cls: cls("host=h", kwargs={"dbname": f"host=h password={SECRET}", "sslmode": "bogus"}),
    lambda cls: cls("host=h", kwargs={GOOD: 1}),
    lambda cls: cls(f"host=h sslmode={GOOD}"),
    lambda cls: cls(f"host=h port={GOOD}"),
    lambda cls: cls(f"service={GOOD}"),
    lambda cls: cls(f"dbname={GOOD}"),
    lambda _: PoolOptions(kwargs=HIDDEN, min_size=-1),
    lambda _: PoolOptions(settings={"app.token": SECRET}, min_size=-1),
    lambda _: PoolOptions(settings={"app.token": SECRET.encode()}),
    lambda _: PoolOptions(settings={"app.token": SECRET * 5000}),
    lambda _: ProbeOptions(kwargs=HIDDEN, interval=-1),
]  # fmt: skip


def frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the package's frames in the tracebacks of an error and of those behind it."""
    seen: BaseException | None = error
    while seen is not None:
        step = seen.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename.startswith((PACKAGE, "<string>")):
                yield step.tb_frame
            step = step.tb_next
        seen = seen.__cause__ or seen.__context__


def shown(error: BaseException) -> Iterator[str]:
    """Yield what a tool shows of an error: its text, and the variables of our frames."""
    yield from (str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error)))
    for frame in frames(error):
        for name, value in frame.f_locals.items():
            yield f"{frame.f_code.co_qualname}: {name} = {value!r}"


@pytest.mark.parametrize("cls", [Router, AsyncRouter])
@pytest.mark.parametrize("refused", REFUSED)
def test_no_refusal_shows_a_secret_by_its_frames(cls, refused):
    with pytest.raises(ConfigError) as caught:
        refused(cls)
    assert [text for text in shown(caught.value) if SECRET in text] == []


def test_a_fault_in_the_watch_shows_no_secret_by_its_frames(monkeypatch, caplog):
    async def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(probe_connect, "_establish", fail)
    with Router(f"postgresql://u:{SECRET}@127.0.0.1:1/db"):
        eventually(lambda: caplog.records)
    error = caplog.records[0].exc_info[1]
    assert str(error) == "a fault of ours"
    assert len(list(frames(error))) > 2
    assert [text for text in shown(error) if SECRET in text] == []


def test_a_fault_at_the_beginning_of_a_watch_shows_no_secret_by_its_frames(monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(host_watcher.HostWatcher, "start", fail)
    with Router(f"postgresql://u:{SECRET}@127.0.0.1:1/db"):
        eventually(lambda: caplog.records)
    error = caplog.records[0].exc_info[1]
    assert str(error) == "a fault of ours"
    assert len(list(frames(error))) > 2
    assert [text for text in shown(error) if SECRET in text] == []


@pytest.mark.parametrize("cls", [Router, AsyncRouter, BatchJob])
def test_what_was_not_made_has_a_repr(cls):
    assert repr(cls.__new__(cls)) == f"<{cls.__name__} not made>"


def test_signatures_stay_what_they_are():
    assert "srv_domains" in inspect.signature(Router).parameters
    assert list(inspect.signature(PoolOptions).parameters)[:2] == ["min_size", "max_size"]


def test_a_long_value_is_shown_in_part():
    text = str(ConfigError("x", "y" * 100_000, "expected less"))
    assert len(text) < 600
    assert text.endswith("expected less")
