"""Folders of URLs with a user: plans hide the user, and can be run all the same."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from gllm_storage import storage_client_from_url
from gllm_storage.folders import Plan, RemoteFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


class HostFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """A filesystem in memory whose URLs have a host, and may have a user."""

    protocol = "hosted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(f"/{path.rpartition('@')[2].removeprefix('hosted://')}"))


@pytest.fixture(autouse=True)
def hosted() -> Iterator[None]:
    """The protocol of the filesystem."""
    fsspec.register_implementation("hosted", HostFileSystem)
    yield
    _registry.pop("hosted")


def client_of(url: str) -> FsspecStorageClient:
    """A client of a URL."""
    made: Any = storage_client_from_url(url)
    found: FsspecStorageClient = made
    return found


USERS = ["", "joe@", "joe:secret-1@", f"{'t' * 40}@"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", ["at once", "saved", "folder", "check", "up", "within", "delete"])
def test_plan(local: Path, tmp_path: Path, user: str, kind: str) -> None:
    """A plan runs, also a saved one, whether the URL of the folder has a user or not; it does not contain the user."""
    client = client_of(f"hosted://{user}host-{uuid.uuid4().hex[:12]}/dir")
    client.upload_dir(local, "v1")
    copy = tmp_path / "copy"
    if kind == "up":
        plan = client.sync_dir(local, client.url("v2"), dry_run=True).plan
    elif kind == "within":
        plan = client.sync_dir(client.url("v1"), client.url("v2"), dry_run=True).plan
    elif kind == "folder":
        plan = client.sync_dir(RemoteFolder(client, "v1"), copy, dry_run=True).plan
    elif kind == "check":
        plan = client.check_dir(client.url("v1"), copy)
    elif kind == "delete":
        plan = client.delete_dir("v1", dry_run=True).plan
    else:
        plan = client.sync_dir(client.url("v1"), copy, dry_run=True).plan
    if kind == "saved":
        plan.save(tmp_path / "plan")
        assert not user or user not in (tmp_path / "plan").read_text()
        plan = Plan.load(tmp_path / "plan")
    result = client.apply_plan(plan)
    assert (result.deleted if kind == "delete" else result.transferred) == 3


@pytest.mark.parametrize("user", USERS[1:])
def test_other_client(local: Path, user: str) -> None:
    """A client of another store cannot tell the user: the error says so, and no user ``***`` is tried."""
    host = f"host-{uuid.uuid4().hex[:12]}"
    plan = client_of(f"hosted://{user}{host}/dir").sync_dir(local, f"hosted://{user}{host}/dir/v1", dry_run=True).plan
    for url in (f"memory://{host}", f"hosted://{user}{host}/other"):
        with pytest.raises(ValueError, match=r"\*\*\*.* hides the user"):
            client_of(url).apply_plan(plan)
