"""A password in the URL of an endpoint is in no error, no log record and no event."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import FsspecStorageClient
from gllm_storage.azure.errors import unusable_account
from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.errors import StorageError
from gllm_storage.gcs.filesystem import GCSFileSystem
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.store.retry import subscribe
from gllm_storage.testing import no_waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.store.retry import RetryEvent

SECRET = "secretpw"
ENDPOINT = f"http://user:{SECRET}@127.0.0.1:9"
S3: dict[str, Any] = {"key": "k", "secret": "s", "endpoint_url": ENDPOINT, "client_kwargs": {"region_name": "us-east-1"}}
AZURE: dict[str, Any] = {"account_name": "acc1", "endpoint_url": f"{ENDPOINT}/acc1"}
CONNECTION_STRING = f"AccountName=acc1;AccountKey=a2V5;BlobEndpoint={ENDPOINT}/acc1"
FILESYSTEMS: dict[str, Callable[[], Any]] = {
    "s3": lambda: S3FileSystem(**S3, skip_instance_cache=True),
    "s3-boto3": lambda: S3FileSystem(**S3, engine="boto3", skip_instance_cache=True),
    "gcs": lambda: GCSFileSystem(endpoint_url=ENDPOINT, token="anon", skip_instance_cache=True),
    "azure": lambda: AzureBlobFileSystem(**AZURE, account_key="a2V5", skip_instance_cache=True),
    "azure-bad-key": lambda: AzureBlobFileSystem(**AZURE, account_key="x", skip_instance_cache=True),
    "azure-string": lambda: AzureBlobFileSystem(connection_string=CONNECTION_STRING, skip_instance_cache=True),
}


@pytest.mark.parametrize("name", FILESYSTEMS)
def test_endpoint_password(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A request to an unreachable endpoint does not show its password."""
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    caplog.set_level(logging.INFO, "gllm_storage")
    try:
        with no_waits(), pytest.raises(StorageError) as caught:
            FILESYSTEMS[name]().cat_file("models/a")
    finally:
        unsubscribe()
    assert bool(events) == ("bad" not in name)
    shown = [*traceback.format_exception(caught.value), caplog.text, repr(events), repr(caught.value.details)]
    assert [each for each in shown if SECRET in each] == []


def test_unusable_account() -> None:
    """An account that the SDK refuses does not show the password of its URL."""
    error = unusable_account(ValueError(f"cannot parse {ENDPOINT}"), ENDPOINT)
    assert SECRET not in f"{error} {error.details}"


def test_foreign_filesystem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that cannot be made does not show the password of its URL."""

    def fail(url: str, **_: Any) -> None:
        raise OSError(f"cannot connect to {url}")

    client = FsspecStorageClient({"url": f"sftp://user:{SECRET}@127.0.0.1:9/models"})
    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(StorageError, match="cannot connect") as caught:
        client.info("a")
    assert SECRET not in f"{caught.value} {caught.value.details}"
