"""What a credentials function may answer, and what becomes of the DSN's own parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pgroute import ConfigError, CredentialRequest, HostKey, PoolOptions, ProbeOptions, Router
from pgroute.core.config.credentials import (
    ACCEPTED,
    BadCredentials,
    login_of,
    read_credentials,
    request_for,
    with_credentials,
)
from pgroute.core.config.router_config import make_config

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "returned a NoneType, expected a mapping"),
        (SECRET, "returned a str, expected a mapping"),
        ([("password", SECRET)], "returned a list, expected a mapping"),
        ({"pasword": SECRET}, "returned an unknown key; did you mean 'password'?"),
        ({SECRET: "password"}, f"returned an unknown key; accepted are {', '.join(ACCEPTED)}"),
        ({1: SECRET}, "returned a key of type int, expected a str"),
        ({"host": SECRET}, "returned 'host', which belongs in the DSN; accepted are user, password"),
        ({"dbname": SECRET}, "returned 'dbname', which belongs in the DSN; accepted are user, password"),
        ({"password": 5432}, "returned a int for 'password', expected a str"),
        ({"password": SECRET.encode()}, "returned a bytes for 'password', expected a str"),
        ({"password": None}, "returned a NoneType for 'password', expected a str"),
        ({"password": SECRET + "\0"}, "returned a NUL character or a lone surrogate in 'password'"),
        ({"user": SECRET + "\ud800"}, "returned a NUL character or a lone surrogate in 'user'"),
    ],
)
def test_an_unusable_answer_is_told_without_its_values(answer: Any, text: str) -> None:
    with pytest.raises(BadCredentials) as caught:
        read_credentials(answer)
    assert str(caught.value).startswith(text)
    assert SECRET not in str(caught.value)


def test_any_mapping_is_an_answer_and_its_repr_hides_secrets() -> None:
    class Lazy(Mapping[str, str]):
        def __getitem__(self, key: str) -> str:
            return SECRET

        def __iter__(self) -> Iterator[str]:
            return iter(["password"])

        def __len__(self) -> int:
            return 1

    found = read_credentials(Lazy())
    assert dict(found) == {"password": SECRET}
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("params", "given", "merged"),
    [
        ({"user": "a", "password": "p"}, {"password": "q"}, {"user": "a", "password": "q"}),
        ({"user": "a", "password": "p"}, {}, {"user": "a", "password": "p"}),
        ({"user": "a", "password": "p"}, {"user": "b"}, {"user": "b", "password": "p"}),
        ({"password": "p"}, {"passfile": "/f"}, {"password": "", "passfile": "/f"}),
        ({}, {"passfile": "/f"}, {"password": "", "passfile": "/f"}),
        ({"passfile": "/f"}, {"password": "q"}, {"passfile": "/f", "password": "q"}),
        ({"scram_client_key": "k", "scram_server_key": "s"}, {"password": "q"}, {"password": "q"}),
        ({"password": "p"}, {"scram_client_key": "k"}, {"password": "", "scram_client_key": "k"}),
        (
            {"password": "p"},
            {"sslcert": "/c", "sslkey": "/k"},
            {"password": "p", "sslcert": "/c", "sslkey": "/k"},
        ),
    ],
)
def test_what_is_given_overrides_what_libpq_would_prefer(
    params: dict[str, str], given: dict[str, str], merged: dict[str, str]
) -> None:
    assert dict(with_credentials(params, given)) == merged


def test_a_login_is_what_a_server_may_refuse() -> None:
    params = {"host": "a", "port": "1", "hostaddr": "", "user": "u", "dbname": "d", "connect_timeout": "5"}
    assert dict(login_of({**params, "application_name": "x"})) == {"user": "u", "dbname": "d"}


@pytest.mark.parametrize(
    ("key", "host"),
    [
        (HostKey("db1", 5432), "db1"),
        (HostKey("db1.example.com.", 5432), "db1.example.com"),
        (HostKey("db1", 5432, "10.0.0.1"), "db1"),
        (HostKey("", 5432, "10.0.0.1"), "10.0.0.1"),
        (HostKey("/run/postgresql", 5432), "/run/postgresql"),
    ],
)
def test_the_request_names_the_host_as_the_dsn_does(key: HostKey, host: str) -> None:
    assert request_for(key, "probe") == CredentialRequest(host, 5432, "probe", refused=False)


def test_a_request_can_be_copied_and_compared() -> None:
    request = CredentialRequest("db1", 5432, "writer")
    assert copy.deepcopy(request) == request
    assert len({request, CredentialRequest("db1", 5432, "writer", refused=True)}) == 2


@pytest.mark.parametrize("value", [{"password": SECRET}, SECRET, 5])
def test_credentials_must_be_a_function(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Router("postgresql://app@db1/shop", credentials=value)
    assert str(caught.value).startswith(f"invalid credentials '{type(value).__name__}': expected a function")
    assert SECRET not in str(caught.value)


def test_logins_that_a_function_decides_tell_nothing_of_each_other() -> None:
    def made(credentials: Any) -> Any:
        return make_config(
            "postgresql://app@db1/shop",
            writer=PoolOptions(),
            reader=PoolOptions(),
            balance=None,
            reader_attrs="any",
            host_options=None,
            probe=ProbeOptions(),
            resolver="system",
            addresses="one-host",
            retry=None,
            acquire_timeout=1.0,
            schema="pgroute",
            schema_owner=None,
            kwargs=None,
            configure=None,
            reset=None,
            credentials=credentials,
        )

    with_function, without = made(lambda _: {}), made(None)
    assert (without.same_login, without.writer.as_probe, without.reader.as_probe) == (True, True, True)
    found = (with_function.same_login, with_function.writer.as_probe, with_function.reader.as_probe)
    assert found == (False, False, False)
