"""Errors about the credentials of Google Cloud Storage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gllm_storage import AccessDeniedError, GCSStorageClient
from gllm_storage.gcs.connection import connection_of
from gllm_storage.gcs.errors import CredentialsError

if TYPE_CHECKING:
    from pathlib import Path

USER = {"client_id": "id", "client_secret": "secret"}
WRONG = [
    pytest.param("", id="empty"),
    pytest.param("not JSON", id="text"),
    pytest.param("[]", id="list"),
    pytest.param("{}", id="no-fields"),
    pytest.param(json.dumps(USER), id="no-refresh-token"),
    pytest.param(json.dumps({"type": "service_account", "client_email": "a@b"}), id="no-private-key"),
]


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the machine, of gcloud, or of gcsfs's cache."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))


def test_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing GOOGLE_APPLICATION_CREDENTIALS file is an error that names the variable and the file."""
    path = str(tmp_path / "mistyped.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    client = GCSStorageClient({"bucket_name": "models", "endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(AccessDeniedError) as raised:
        client.file_exists("a")
    assert f"GOOGLE_APPLICATION_CREDENTIALS={path!r}" in str(raised.value)


@pytest.mark.parametrize("content", WRONG)
def test_wrong_file(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GOOGLE_APPLICATION_CREDENTIALS file without credentials is an error that names both."""
    path = tmp_path / "key.json"
    path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(CredentialsError, match=r"GOOGLE_APPLICATION_CREDENTIALS=.*key.json"):
        _ = connection_of({}).account


@pytest.mark.parametrize("content", WRONG)
def test_wrong_token_file(content: str, tmp_path: Path) -> None:
    """A key file without credentials is an error that names the file and not only a missing field."""
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(CredentialsError, match=r"the key file .*key.json' has no credentials") as raised:
        _ = connection_of({"token": str(path)}).account
    assert "KeyError" not in str(raised.value)
    assert "secret'" not in str(raised.value)


def test_anonymous_without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, and without any credentials, requests are anonymous."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    assert connection_of({}).account.credentials is None
