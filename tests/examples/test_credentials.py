"""The credentials functions among the examples: a mounted secret, IAM tokens, a static role of Vault."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pgroute import CredentialRequest, NoHostAvailable, Router
from tests.examples.application import ROOT
from tests.examples.test_examples import run
from tests.support import password_of

REQUEST = CredentialRequest("db1.example.com", 5432, "writer")
AGAIN = CredentialRequest("db1.example.com", 5432, "writer", refused=True)


def load(name):
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_a_secret_is_rotated_without_a_refused_login():
    out = run("rotating_secret.py")
    found = re.fullmatch(
        r"6 rotations, (\d+) sessions \((\d+) as shop_a, (\d+) as shop_b\), 0 logins refused\n", out
    )
    assert found, out
    assert min(map(int, found.groups())) > 100


def test_a_mounted_secret_is_read_from_one_version(tmp_path):
    example = load("rotating_secret")
    secret = example.MountedSecret(tmp_path)
    example.mount(tmp_path, "a", "one")
    assert secret(REQUEST) == {"user": "a", "password": "one"}
    example.mount(tmp_path, "b", "two")
    assert secret(REQUEST) == {"user": "b", "password": "two"}


def test_a_plain_folder_is_a_secret_too(tmp_path):
    (tmp_path / "username").write_text("a\n")
    (tmp_path / "password").write_text("one\n")
    assert load("rotating_secret").MountedSecret(tmp_path)(REQUEST) == {"user": "a", "password": "one"}


class Signer:
    """Stands in for boto3's client."""

    def __init__(self):
        self.asked: list[object] = []

    def generate_db_auth_token(self, **asked):
        self.asked.append(asked)
        return f"token-{len(self.asked)}"


def test_a_token_is_signed_for_each_host_and_again_when_it_is_old_or_refused(monkeypatch):
    example = load("credentials_aws")
    signer = Signer()
    tokens = example.IamTokens("app", "eu-central-1", signer)
    assert tokens(REQUEST) == tokens(REQUEST) == {"user": "app", "password": "token-1"}
    assert signer.asked == [
        {"DBHostname": "db1.example.com", "Port": 5432, "DBUsername": "app", "Region": "eu-central-1"}
    ]
    assert tokens(CredentialRequest("db2.example.com", 5432, "probe"))["password"] == "token-2"
    assert tokens(AGAIN)["password"] == "token-3"
    monkeypatch.setattr(example, "GOOD_FOR", -1.0)
    assert tokens(REQUEST)["password"] == "token-4"


class Vault:
    """Answers as Vault does for one static role."""

    def __init__(self, user, password, ttl=3600):
        self.data = {"username": user, "password": password, "ttl": ttl}
        self.status = 200
        self.asked: list[object] = []
        vault = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                vault.asked.append((self.path, self.headers["X-Vault-Token"]))
                self.send_response(vault.status)
                self.end_headers()
                self.wfile.write(json.dumps({"data": vault.data}).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("hvs.1\n")
    return file


def test_a_password_of_vault_is_kept_until_it_is_rotated_or_refused(token_file, monkeypatch):
    example = load("credentials_vault")
    with Vault("app", "one") as vault:
        role = example.VaultRole(vault.address, "shop", token_file)
        assert role(REQUEST) == role(REQUEST) == {"user": "app", "password": "one"}
        assert vault.asked == [("/v1/database/static-creds/shop", "hvs.1")]
        vault.data["password"] = "two"
        assert role(AGAIN)["password"] == "two"
        vault.data.update(password="three", ttl=0)
        assert role(AGAIN)["password"] == "three"
        assert role(REQUEST)["password"] == "three"
        assert len(vault.asked) == 4


def test_a_router_logs_in_with_what_vault_says(token_file, pgroute_shared_cluster):
    node = pgroute_shared_cluster.nodes[0]
    dsn = f"postgresql://nobody@{node.host}:{node.port}/postgres?passfile=/dev/null"
    with Vault("postgres", password_of(node)) as vault:
        role = load("credentials_vault").VaultRole(vault.address, "shop", token_file)
        with Router(dsn, credentials=role) as router, router.writer() as conn:
            assert conn.info.user == "postgres"
        assert len(vault.asked) == 1, "probes and pools share what is kept"


def test_what_vault_refuses_is_the_reason(token_file):
    with Vault("postgres", "x") as vault:
        vault.status = 403
        role = load("credentials_vault").VaultRole(vault.address, "shop", token_file)
        with (
            Router("postgresql://127.0.0.1:1/db", credentials=role) as router,
            pytest.raises(NoHostAvailable, match="raised HTTPError: HTTP Error 403: Forbidden") as caught,
        ):
            router.getconn("writer", timeout=0.3)
    assert "hvs.1" not in str(caught.value)
