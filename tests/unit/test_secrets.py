"""A secret is in no error, none of its causes, no log record and no event."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import FsspecStorageClient, get_storage_client, storage_client_from_url
from gllm_storage.azure.errors import unusable_account
from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.errors import OURS, Remedy, StorageError, redacted
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


SHOWN = [
    ("https://user:SECRET@host/b", "https://user:***@host/b"),
    ("https://github_pat_SECRET@host/b", "https://***@host/b"),
    ("https://SECRET:@host/b", "https://***@host/b"),
    ("https://u:a/SECRET@host", "https://u:***@host"),
    ("https://u:p@SECRET@host/x", "https://u:***@host/x"),
    ("https://u:SEC/RET@SECRET@host/x", "https://u:***@host/x"),
    ("sftp://:SECRET@host, then ftp://u:SECRET@host", "sftp://:***@host, then ftp://u:***@host"),
    ("simplecache::https://u:SECRET@host/x", "simplecache::https://u:***@host/x"),
    (
        "https://a.blob.core.windows.net/c/x?sv=2024&sig=SECRET%3D&se=9",
        "https://a.blob.core.windows.net/c/x?sv=2024&sig=***&se=9",
    ),
    ("https://b.s3.amazonaws.com/k?X-Amz-Security-Token=SECRET&X-Amz-Signature=SECRET", None),
    ("https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Signature=SECRET&Expires=1", None),
    ("https://storage.googleapis.com/b/k?X-Goog-Signature=SECRET", None),
    ("https://oauth2.googleapis.com/tokeninfo?access_token=SECRET", None),
    ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET==;EndpointSuffix=x", None),
    ("Invalid header value b'SECRET\\n'", "Invalid header value b'***'"),
    ("Invalid leading whitespace, reserved character(s), or return character(s) in header value: 'Bearer SECRET\\n'", None),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=range(len(SHOWN)))
def test_redacted(text: str, shown: str | None) -> None:
    """Messages show neither passwords of URLs nor values that grant access."""
    assert "SEC" not in redacted(text)
    assert shown is None or redacted(text) == shown
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://models/team@v1/a:b@c",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/a@b",
        "abfs://container@account.dfs.core.windows.net/a",
        "file:///home/a@b:c@d",
        "sftp://me@host/a",
        "http://127.0.0.1:9000/b/x:y@z",
        "http://[::1]:9000/b/x@z",
        "signature of the object, for token and key",
    ],
)
def test_not_redacted(text: str) -> None:
    """A text without a secret is unchanged."""
    assert redacted(text) == text


@pytest.mark.parametrize("url", [text for text, _ in SHOWN if "://" in text and "," not in text])
@pytest.mark.parametrize("verb", ["upload", "info", "list", "prefix", "endpoint", "url"])
def test_url_as_argument(url: str, verb: str) -> None:
    """A URL with a secret in place of a remote path, a prefix, an endpoint or a store is not shown."""
    client = get_storage_client("memory", {"bucket_name": "models"})
    calls: dict[str, Callable[[], object]] = {
        "upload": lambda: client.upload_file(__file__, url),
        "info": lambda: client.info(url),
        "list": lambda: list(client.list_files(url)),
        "prefix": lambda: get_storage_client("s3", {"bucket_name": "models", "prefix": url}),
        "endpoint": lambda: get_storage_client("s3", {"bucket_name": "models", "endpoint_url": f"{url} "}),
        "url": lambda: storage_client_from_url(f"no-{url}"),
    }
    with pytest.raises(ValueError, match=r"\*\*\*|scheme") as caught:
        calls[verb]()
    assert "SEC" not in "".join(traceback.format_exception(caught.value))


BAD = "hunter2-SECRET\n"
CONFIGS: list[tuple[str, dict[str, str]]] = [
    *[
        ("s3", {"bucket_name": "models", "aws_access_key_id": "k", "aws_secret_access_key": "s", name: BAD})
        for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    ],
    *[
        ("azure", {"container_name": "models", "account_name": "acc1", name: f"sig={BAD}"})
        for name in ("account_key", "sas_token")
    ],
    ("azure", {"container_name": "models", "connection_string": f"AccountName=a;AccountKey={BAD}"}),
    ("gcs", {"bucket_name": "models", "token": BAD}),
]


@pytest.mark.parametrize(("provider", "config"), CONFIGS)
def test_newline_in_config(provider: str, config: dict[str, str]) -> None:
    """A credential with a newline is refused by the constructor; the error does not contain the credential."""
    with pytest.raises(ValueError, match=r"control character|neither") as caught:
        get_storage_client(provider, config)
    assert "SECRET" not in f"{caught.value}"


OPTIONS: list[Callable[[], Any]] = [
    lambda: S3FileSystem(key="k", secret="s", token=BAD, skip_instance_cache=True),
    lambda: S3FileSystem(key="k", secret=BAD, skip_instance_cache=True),
    lambda: GCSFileSystem(token=BAD, skip_instance_cache=True),
    lambda: AzureBlobFileSystem(account_name="acc1", sas_token=f"sig={BAD}", skip_instance_cache=True),
    lambda: AzureBlobFileSystem(account_name="acc1", account_key=BAD, skip_instance_cache=True),
]


@pytest.mark.parametrize("make", OPTIONS, ids=["s3-token", "s3-secret", "gcs", "azure-sas", "azure-key"])
def test_newline_in_option(make: Callable[[], Any]) -> None:
    """The same for the options of a filesystem."""
    with pytest.raises((ValueError, *OURS), match="control character") as caught:
        make()
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_newline_in_environment(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of the environment with a newline is refused by the first verb, before a request is sent."""
    for each, value in {**ENVIRONMENT, name: BAD}.items():
        monkeypatch.setenv(each, value)
    config = {"bucket_name": "models", "endpoint_url": "http://127.0.0.1:9", "region_name": "x", "engine": engine}
    with pytest.raises(StorageError, match="control character") as caught:
        get_storage_client("s3", config).file_exists("a")
    assert caught.value.remedy is Remedy.CHECK_CREDENTIALS
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", [name for name in FILESYSTEMS if "bad" not in name])
def test_causes_without_request(name: str) -> None:
    """The causes of an error hold no request, which has the credentials in its headers."""
    with no_waits(), pytest.raises(StorageError) as caught:
        FILESYSTEMS[name]().cat_file("models/a")
    seen = 0
    cause: BaseException | None = caught.value.__cause__
    while cause is not None:
        seen += 1
        held = {**vars(cause), **getattr(cause, "kwargs", {})}
        assert held.get("request") is None
        assert getattr(held.get("response"), "request", None) is None
        cause = cause.__cause__ or cause.__context__
    assert seen
