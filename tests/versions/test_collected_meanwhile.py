"""Readers whose version is deleted, and its files collected, while they read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable  # noqa: TC003 - in a variable of the module
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import LocalStorageClient
from gllm_storage.errors import ObjectNotFoundError
from gllm_storage.versions.collector import collect_garbage
from gllm_storage.versions.comparison import diff
from gllm_storage.versions.copying import copy_version
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, new_client, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

READERS: dict[str, Callable[[FsspecStorageClient, Path], Any]] = {
    "fetch": lambda client, local: fetch(client, MODEL, "v3", local),
    "verify": lambda client, _: verify(client, MODEL, "v3"),
    "diff": lambda client, _: list(diff(client, MODEL, "v3", "v3")),
    "copy": lambda client, _: copy_version(client, MODEL, "v3", client, "models/other"),
}


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    return new_client() if request.param == "memory" else LocalStorageClient({"root": str(tmp_path / "store")})


@pytest.fixture(params=[False, True], ids=["deleted", "published-again"])
def again(
    request: pytest.FixtureRequest, client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Before the list of files of v3 is read, the version is deleted and collected, and perhaps published again."""
    publish(client, write_folder(tmp_path / "out", {"a": b"1", "b": b"2"}), MODEL, version="v3")
    real = client.store.fetch

    def collect_first(key: str, *args: Any) -> Any:
        if "/trees/" in key:
            monkeypatch.setattr(client.store, "fetch", real)
            delete_version(client, MODEL, "v3")
            collect_garbage(client, MODEL, grace=dt.timedelta())
            if request.param:
                publish(client, tmp_path / "out", MODEL, version="v3")
        return real(key, *args)

    monkeypatch.setattr(client.store, "fetch", collect_first)
    return bool(request.param)


@pytest.mark.parametrize("reader", READERS)
def test_collected_meanwhile(client: FsspecStorageClient, again: bool, tmp_path: Path, reader: str) -> None:
    """The reader is told so, and not that the version is damaged; `fetch` goes on with equal files in another directory."""
    if again and reader == "fetch":
        assert READERS[reader](client, tmp_path / "local").url.endswith("-1/")
        return
    with pytest.raises(ObjectNotFoundError, match="replaced meanwhile" if again else "'v3' that was deleted"):
        READERS[reader](client, tmp_path / "local")
