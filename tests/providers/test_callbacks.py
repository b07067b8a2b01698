"""A progress callback that raises: its own exception leaves each verb, whatever its class, and nothing is sent again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.callbacks import Callback

from gllm_storage import versions
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.store.retry import RetryEvent

SIZES = {"small": 1000, "large": 6 * 2**20}
VERBS = ["upload", "exclusive upload", "upload of bytes", "download", "put_file", "get_file", "publish", "fetch"]
PARTS = {"part_size": "5MiB", "multipart_threshold": "5MiB"}
STORES: dict[str, tuple[str, dict[str, str]]] = {
    "memory": ("memory", {}),
    "file": ("file", {}),
    "s3": ("ministack", PARTS),
    "s3-one-request": ("ministack", {}),
    "s3-boto3": ("ministack", {**PARTS, "engine": "boto3"}),
    "s3-boto3-one-request": ("ministack", {"engine": "boto3"}),
    "gcs": ("gcs-fake", {"part_size": "5MiB"}),
    "azure": ("azurite", {"part_size": "5MiB"}),
}
ERRORS = [OSError, ConnectionResetError, InterruptedError, ValueError, RuntimeError]


@pytest.fixture(params=STORES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    """A client of a store that has both objects, and a version of a model."""
    server, config = STORES[request.param]
    made = make_rig(server, request).client(**config)
    (tmp_path / "out").mkdir()
    for name, size in SIZES.items():
        (tmp_path / "out" / name).write_bytes(os.urandom(size))
        made.upload_file(tmp_path / "out" / name, f"there-{name}")
    versions.publish(made, tmp_path / "out", "model", version="v1")
    return made


def test_own_exception(client: FsspecStorageClient, tmp_path: Path, events: list[RetryEvent]) -> None:
    """The exception of the callback comes out of each verb as it is, with small and large objects."""
    names = iter(range(1000))
    wrong: list[str] = []
    for name in SIZES:
        for verb in VERBS:
            for kind in ERRORS if name == "small" else ERRORS[:1]:
                error = kind("the screen is gone")
                try:
                    call(client, verb, name, tmp_path, f"{next(names)}", raising(error))
                except Exception as found:  # noqa: BLE001 - the test compares it
                    if found is not error:
                        wrong.append(f"{verb} of {name}, {kind.__name__}: {type(found).__name__}: {found}")
                else:
                    wrong.append(f"{verb} of {name}, {kind.__name__}: no exception")
    assert wrong == []
    assert events == []


def raising(error: Exception) -> Callable[[int], None]:
    """A callback that raises an exception."""

    def callback(_: int) -> None:
        raise error

    return callback


def call(  # noqa: PLR0917 - one call of each verb
    client: Any, verb: str, name: str, folder: Path, target: str, callback: Callable[[int], None]
) -> object:
    """Call a verb."""
    ours = Callback(hooks={"raise": lambda size, value, **_: callback(size) if value else None})
    source, url = folder / "out" / name, client.url(target)
    calls: dict[str, Callable[[], object]] = {
        "upload": lambda: client.upload_with_progress(source, target, callback),
        "exclusive upload": lambda: client.upload_with_progress(source, target, callback, check_conflict=True),
        "upload of bytes": lambda: client.upload(source.read_bytes(), target, callback=callback),
        "download": lambda: client.download_with_progress(f"there-{name}", folder / target, callback),
        "put_file": lambda: client.filesystem.put_file(str(source), url, callback=ours),
        "get_file": lambda: client.filesystem.get_file(client.url(f"there-{name}"), str(folder / target), callback=ours),
        "publish": lambda: versions.publish(client, folder / "out", "model", version=target, callback=callback),
        "fetch": lambda: versions.fetch(client, "model", "v1", folder / target, include=f"/{name}", callback=callback),
    }
    return calls[verb]()
