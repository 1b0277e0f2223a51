"""The messages between processes that share a watch: none is lost in translation, and nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.printable import MOST, printable
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.wire import (
    MOST_BYTES,
    Ask,
    BadMessage,
    Beat,
    Enter,
    Message,
    Need,
    Note,
    Refused,
    Welcome,
    decode,
    encode,
)

HOST = HostKey("db.test", 5432)
OTHER = HostKey("other.test", 1)

times = st.floats(0.0, 1e9)
periods = st.floats(1e-3, 1e9)
positions = st.none() | st.integers(0, 2**64 - 1)
texts = st.text(max_size=30).map(printable)
paths = st.none() | st.text(st.characters(), max_size=30)
faults = st.builds(
    Fault,
    st.sampled_from(FaultKind),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    texts,
)
needs = st.builds(Need, periods, periods, st.none() | times, st.integers(0, 2**31 - 1))
answers = st.builds(
    Answer,
    host=st.just(HOST),
    role=st.sampled_from(HostRole),
    sent_at=times,
    read_only=st.booleans(),
    timeline=st.none() | st.integers(1, 2**32 - 1),
    lsn=positions,
    flushed=positions,
    replayed=positions,
    flush_delay=st.floats(0.0, 1e15),
    system_id=st.none() | st.integers(-(2**63), 2**63 - 1),
    started_at=st.none() | st.floats(0.0, 1e12),
    address=paths,
    rtt=times,
    fresh=st.booleans(),
    server_version=st.integers(0, 2**31 - 1),
    reduced=texts,
)
messages = st.one_of(
    answers,
    st.builds(Failure, st.just(HOST), faults, times, st.booleans()),
    needs,
    st.builds(Enter, st.text("0123456789abcdef", max_size=64), needs),
    st.builds(Ask, times, st.booleans()),
    st.just(Refused()),
    st.builds(Welcome, st.text("0123456789abcdef", max_size=64)),
    st.builds(Beat, st.booleans()),
    st.builds(Note, texts),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(messages)
def test_each_message_arrives_as_it_was_sent(message: Message) -> None:
    data = encode(message)
    assert len(data) <= MOST_BYTES
    assert decode(data, HOST) == message


@pytest.mark.parametrize("character", ["x", "\\", "\u00e9", "\U0001f600"])
def test_the_longest_texts_fit(character: str) -> None:
    fault = Fault(FaultKind.OTHER, reason=character * 5000)
    message = decode(encode(Failure(HOST, fault, 1.0)), HOST)
    assert isinstance(message, Failure)
    assert len(message.fault.reason) == MOST


def test_an_observation_is_of_the_host_whose_watch_is_shared_whatever_the_other_process_watches() -> None:
    assert decode(encode(Answer(OTHER, HostRole.PRIMARY, 1.0)), HOST) == Answer(HOST, HostRole.PRIMARY, 1.0)
    assert b"other.test" not in encode(Answer(OTHER, HostRole.PRIMARY, 1.0))


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_refused(data: bytes) -> None:
    refused_or_sound(data)


@given(
    st.sampled_from(["answer", "failure", "need", "enter", "ask", "refused", "welcome", "beat", "note"]),
    values,
)
def test_json_is_a_message_or_refused(kind: str, value: Any) -> None:
    refused_or_sound(json.dumps([kind, value]).encode())


@given(messages, st.data())
def test_a_message_of_which_a_value_was_changed_is_sound_or_refused(
    message: Message, data: st.DataObject
) -> None:
    kind, told = json.loads(encode(message))
    told[data.draw(st.sampled_from(sorted(told)) if told else st.text(max_size=5))] = data.draw(values)
    refused_or_sound(json.dumps([kind, told]).encode())


def refused_or_sound(data: bytes) -> None:
    """A message that is accepted is one that might have been sent."""
    try:
        message = decode(data, HOST)
    except BadMessage:
        return
    assert decode(encode(message), HOST) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * MOST_BYTES,
        b'["beat",{"linked":true}]' + b" " * MOST_BYTES,
        b'["beat",{"linked":1}]',
        b'["beat",{}]',
        b'["beat",{"linked":true,"more":1}]',
        b'["beat"]',
        b'[["beat"],{}]',
        b'{"beat":{"linked":true}}',
        b'["hello",{}]',
        b'["ask",{"since":NaN}]',
        b'["ask",{"since":Infinity}]',
        b'["ask",{"since":true}]',
        b'["ask",{"since":-1.0}]',
        b'["ask",{"since":1e400}]',
        b'["answer",{"role":"primary"}]',
        b'["answer",{"role":"boss","sent_at":1.0}]',
        b'["answer",{"role":"primary","sent_at":1.0,"host":["a",1]}]',
        b'["answer",{"role":"primary","sent_at":1.0,"timeline":0}]',
        b'["answer",{"role":"primary","sent_at":1.0,"lsn":18446744073709551616}]',
        b'["answer",{"role":"primary","sent_at":1.0,"lsn":' + b"9" * 5000 + b"}]",
        b'["failure",{"fault":{},"sent_at":1.0}]',
        b'["failure",{"fault":"timeout","sent_at":1.0}]',
        b'["note",{"text":"' + b"x" * 1001 + b'"}]',
    ],
    ids=lambda data: str(data[:30]),
)  # fmt: skip
def test_nonsense_is_refused_without_being_quoted(data: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(data, HOST)
    assert len(str(caught.value)) < 60


def test_texts_are_made_printable_at_the_reader_too() -> None:
    assert decode(b'["note",{"text":"a\\u001b[31m\\nb"}]', HOST) == Note("a\\x1b[31m b")
