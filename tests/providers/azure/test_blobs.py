"""Blobs of other clients: replaced, damaged, of another type or with uncommitted blocks; and URLs with an account."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import random
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from azure.storage.blob import ContentSettings

from gllm_storage import AzureStorageClient, IntegrityError, ObjectExistsError, StorageError, StorageUnavailableError
from gllm_storage.errors import Remedy
from gllm_storage.store.retry import no_waits
from gllm_storage.testing.faults import CallAfter
from tests.promises.faulty import AZURE, NAME, SMALL, behind_proxy, content_of
from tests.rig import azure_config
from tests.servers import AzureServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers
    from tests.promises.faulty import Faulty

LARGE = AZURE.large


@pytest.fixture
def faulty(servers: Servers) -> Iterator[Faulty]:
    with no_waits(), behind_proxy(AZURE, servers) as each:
        yield each


def blob_of(faulty: Faulty, name: str = NAME) -> Any:
    """The SDK's own client of a blob."""
    container = faulty.rig.microsoft.container
    return container.get_blob_client(faulty.rig.key(name))


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "only said to be packed"])
def test_content_encoding(size: int, packed: bool, faulty: Faulty, tmp_path: Path) -> None:
    """A blob with ``Content-Encoding: gzip`` is downloaded as it is stored."""
    content = gzip.compress(content_of(size)) if packed else content_of(size)
    blob_of(faulty).upload_blob(content, content_settings=ContentSettings(content_encoding="gzip"))
    client = faulty.client()
    assert client.download_file(NAME, tmp_path / "a").read_bytes() == content
    with client.open(NAME, "rb") as file:
        assert file.read() == content


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "blocks"])
def test_replaced_by_other(size: int, faulty: Faulty, tmp_path: Path) -> None:
    """A blob that another client replaced with the same metadata is not reported as damaged."""
    client, (old, new) = faulty.client(), (content_of(size, 1), content_of(size, 2))
    (tmp_path / "a").write_bytes(old)
    client.upload_file(tmp_path / "a", NAME)
    blob = blob_of(faulty)
    blob.upload_blob(new, overwrite=True, metadata=blob.get_blob_properties().metadata)
    assert client.download_file(NAME, tmp_path / "b").read_bytes() == new


@pytest.mark.parametrize("with_settings", [True, False])
def test_appended_by_other(with_settings: bool, faulty: Faulty, tmp_path: Path) -> None:
    """A blob that another client appended to with the same metadata is not reported as damaged."""
    client, content = faulty.client(), content_of(LARGE)
    (tmp_path / "a").write_bytes(content)
    client.upload_file(tmp_path / "a", NAME)
    blob = blob_of(faulty)
    known = blob.get_blob_properties()
    length = len(blob.get_block_list("committed")[0][0].id)
    blob.stage_block("x" * length, b"more")
    kept = {"content_settings": known.content_settings} if with_settings else {}
    blob.commit_block_list([*blob.get_block_list("all")[0], *blob.get_block_list("all")[1]], metadata=known.metadata, **kept)
    assert client.download_file(NAME, tmp_path / "b").read_bytes() == content + b"more"


def test_damaged_blob(faulty: Faulty, tmp_path: Path) -> None:
    """Damaged content under the old properties is an `IntegrityError`."""
    client, content = faulty.client(), content_of(LARGE)
    (tmp_path / "a").write_bytes(content)
    client.upload_file(tmp_path / "a", NAME)
    blob = blob_of(faulty)
    known = blob.get_blob_properties()
    # Simulate damage in the store: other content of the same size, with unchanged metadata and checksum.
    blob.stage_block("x" * 32, content_of(LARGE, 2))
    blob.commit_block_list(["x" * 32], metadata=known.metadata, content_settings=known.content_settings)
    with pytest.raises(IntegrityError):
        client.download_file(NAME, tmp_path / "b")


@pytest.mark.parametrize("length", [5, 8, 12, 20, 48, 64])
def test_binary_block_ids(length: int, faulty: Faulty, tmp_path: Path) -> None:
    """Uncommitted blocks of another tool, with binary ids, do not prevent the creation of a blob."""
    block_id = b"\x80" + random.Random(length).randbytes(length - 1)
    blob_of(faulty)._client.block_blob.stage_block(base64.b64encode(block_id).decode(), 1, body=b"q")
    (tmp_path / "a").write_bytes(content_of(LARGE))
    faulty.client().upload_file(tmp_path / "a", NAME, check_conflict=True)
    faulty.assert_holds(content_of(LARGE))


@pytest.mark.parametrize("length", [1, 3, 4])
def test_short_block_ids(length: int, faulty: Faulty, tmp_path: Path) -> None:
    """Uncommitted blocks with ids that are too short to be told apart do not prevent a large upload."""
    blob_of(faulty)._client.block_blob.stage_block(base64.b64encode(b"x" * length).decode(), 1, body=b"q")
    (tmp_path / "a").write_bytes(content_of(LARGE))
    faulty.client().upload_file(tmp_path / "a", NAME)
    faulty.assert_holds(content_of(LARGE))


@pytest.mark.parametrize("kind", ["page", "append"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "blocks"])
def test_create_over_other_kind(kind: str, size: int, faulty: Faulty, tmp_path: Path) -> None:
    """An exclusive create over a page blob or an append blob is a conflict."""
    (tmp_path / "a").write_bytes(content_of(size))
    blob = blob_of(faulty)
    make = {"page": lambda: blob.create_page_blob(512), "append": blob.create_append_blob}[kind]
    faulty.inject("HeadBlob", CallAfter(make))
    with pytest.raises(ObjectExistsError):
        faulty.client().upload_file(tmp_path / "a", NAME, check_conflict=True)
    with pytest.raises(ObjectExistsError):
        faulty.client().upload_file(tmp_path / "a", NAME, check_conflict=True)


def test_replace_other_kind(faulty: Faulty, tmp_path: Path) -> None:
    """A large upload over an append blob is an error with a remedy."""
    (tmp_path / "a").write_bytes(content_of(LARGE))
    blob_of(faulty).create_append_blob()
    with pytest.raises(StorageError, match="append blob") as caught:
        faulty.client().upload_file(tmp_path / "a", NAME)
    assert (caught.value.code, caught.value.remedy) == ("InvalidBlobType", Remedy.DELETE_FIRST)


@pytest.mark.parametrize("host", ["dfs.core.windows.net", "blob.core.windows.net"])
def test_url_with_account(host: str, faulty: Faulty, tmp_path: Path) -> None:
    """All methods accept a URL that names the account."""
    faulty.put(b"content")
    client = faulty.client()
    account = client.config["account_name"]
    url = f"abfs://models@{account}.{host}/{faulty.rig.key(NAME)}"
    filesystem = client.filesystem
    assert client.download_file(url, tmp_path / "a").read_bytes() == b"content"
    assert (filesystem.exists(url), filesystem.isfile(url), filesystem.info(url)["size"]) == (True, True, 7)
    assert filesystem.cat_file(url) == b"content"
    with filesystem.open(url) as file:
        assert file.read() == b"content"
    filesystem.put_file(str(tmp_path / "a"), f"{url}2")
    filesystem.get_file(f"{url}2", str(tmp_path / "b"))
    filesystem.rm_file(f"{url}2")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert faulty.rig.keys() == [NAME]


def test_url_of_other_account(faulty: Faulty, tmp_path: Path) -> None:
    """No method accepts a URL of another account."""
    client = faulty.client()
    url = f"abfs://models@another.dfs.core.windows.net/{faulty.rig.key(NAME)}"
    (tmp_path / "a").write_bytes(b"a")
    faulty.put(b"of this account")
    calls = (
        lambda: client.upload_file(tmp_path / "a", url),
        lambda: client.filesystem.put_file(str(tmp_path / "a"), url),
        lambda: client.filesystem.open(url, "wb"),
        lambda: client.filesystem.info(url),
        lambda: client.filesystem.ls(url),
        lambda: client.filesystem.find(url),
        lambda: client.filesystem.rm(url, recursive=True),
        lambda: client.filesystem.rm([url]),
        lambda: client.filesystem.cat_file(url, 0, 1),
    )
    for call in calls:
        with pytest.raises(ValueError, match="another"):
            call()
    assert faulty.rig.keys() == [NAME]


def test_path_object(faulty: Faulty) -> None:
    """A path object can be opened and listed."""
    faulty.put(b"content")
    path, filesystem = PurePosixPath(f"models/{faulty.rig.key(NAME)}"), faulty.client().filesystem
    with filesystem.open(path) as file:
        assert file.read() == b"content"
    assert filesystem.ls(path.parent, detail=False) == [str(path)]


def test_containers(faulty: Faulty) -> None:
    """The root lists the containers."""
    filesystem = faulty.client().filesystem
    assert "models" in filesystem.ls("", detail=False)
    assert "models" in [each["name"] for each in filesystem.ls("/", detail=True)]


def test_listing_cache(servers: Servers) -> None:
    """With adlfs's listing cache, a listing shows the files that this filesystem wrote."""
    from gllm_storage.azure.filesystem import AzureBlobFileSystem

    server = servers.get("azurite")
    assert isinstance(server, AzureServer)
    options = AzureStorageClient(azure_config(server)).settings.filesystem_options()
    filesystem = AzureBlobFileSystem(**{**options, "use_listings_cache": True}, skip_instance_cache=True)
    with behind_proxy(AZURE, servers) as faulty:
        folder = f"models/{faulty.rig.prefix}"
        faulty.put(b"a", "a")
        assert filesystem.ls(folder, detail=False) == [f"{folder}/a"]
        filesystem.pipe_file(f"{folder}/b", b"b")
        assert filesystem.ls(folder, detail=False) == [f"{folder}/a", f"{folder}/b"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"metadata": {"step": 1}}, ValueError),
        ({"metadata": {"step": "漢"}}, ValueError),
        ({"metadata": {"step": "a\nb"}}, ValueError),
        ({"metadata": {"no-identifier": "a"}}, ValueError),
        ({"content_settings": "text/plain"}, TypeError),
        ({"content_settings": {"content_typ": "text/plain"}}, TypeError),
        ({"content_settings": {"content_disposition": "漢"}}, ValueError),
    ],
    ids=str,
)
def test_refused_metadata(options: dict[str, Any], error: type[Exception], faulty: Faulty, tmp_path: Path) -> None:
    """Metadata and content settings that Azure does not accept are refused before a request."""
    (tmp_path / "a").write_bytes(b"a")
    client = faulty.client()
    with pytest.raises(error, match=r"metadata|content_settings"):
        client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), **options)
    assert faulty.proxy.requests == []


def test_no_secret_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logs and tracebacks do not show signatures."""
    caplog.set_level(logging.INFO, "gllm_storage")
    token = "sv=2026-10-06&sr=c&sp=rcwl&se=2030-01-01T00%3A00%3A00Z&sig=c2VjcmV0LXNpZ25hdHVyZQ%3D%3D"
    config = {"container_name": "models", "account_name": "account", "sas_token": token}
    client = AzureStorageClient({**config, "endpoint_url": "http://127.0.0.1:1/account", "max_attempts": "2"})
    with no_waits(), pytest.raises(StorageUnavailableError) as caught:
        client.download_file("a", tmp_path / "a")
    shown = [caplog.text]
    error: BaseException | None = caught.value
    while error is not None:
        shown.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    assert [each.name for each in caplog.records if each.levelno == logging.INFO] == ["gllm_storage.retry"]
    assert caught.value.attempts == 2
    assert len(shown) > 2
    assert not any("c2VjcmV0" in text for text in shown)


def test_missing_ca_bundle(tmp_path: Path) -> None:
    """A CA file that was deleted is a `StorageUnavailableError`."""
    (tmp_path / "ca.pem").write_text("")
    config = {
        "container_name": "models",
        "account_name": "account",
        "account_key": "c2VjcmV0",
        "ca_bundle": str(tmp_path / "ca.pem"),
    }
    client = AzureStorageClient({**config, "endpoint_url": "https://127.0.0.1:1/a", "max_attempts": "1"})
    os.unlink(tmp_path / "ca.pem")
    with pytest.raises(StorageUnavailableError, match="certificate"):
        client.file_exists("a")
