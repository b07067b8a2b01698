"""Keys that no remote path can name: other clients make them, and an `ExactKey` reads and deletes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from gllm_storage import ExactKey, ObjectNotFoundError, get_storage_client
from tests.conftest import make_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Rig

CONTENT = b"some weights"
ODD = ["x//y", "/x", "x/", "x//", "./x", "x/./y", "x/../y", "x/.."]
STORES = ["ceph", "ministack", "gcs-fake", "azurite"]
ENGINES: list[tuple[str, dict[str, str]]] = [(name, {}) for name in STORES] + [("ceph", {"engine": "boto3"})]


@pytest.fixture(params=ENGINES, ids=lambda param: "-".join([param[0], *param[1].values()]))
def rig(request: pytest.FixtureRequest) -> Rig:
    """A store, with each engine of S3."""
    name, changes = request.param
    made = make_rig(name, request)
    return dataclasses.replace(made, config={**made.config, **changes})


@pytest.mark.parametrize("odd", ODD)
def test_exact_key(odd: str, rig: Rig, tmp_path: Path) -> None:
    """An exact key is uploaded, listed, read and deleted as it is, and its neighbours stay."""
    client = rig.client()
    neighbours = {"x", "x/y", "y"} - {odd}
    key = ExactKey(rig.key(odd))
    if rig.provider == "azure" and {".", ".."} & set(odd.split("/")):
        with pytest.raises(ValueError, match="resolves"):
            client.delete_file(key)
        return
    for each in neighbours:
        rig.second.put(rig.key(each), each.encode())
    client.upload_file(local_file(tmp_path), key)

    assert rig.second.get(key) == CONTENT
    assert client.file_exists(key)
    assert client.info(key).size == len(CONTENT)
    assert client.download_file(key, tmp_path / "copy").read_bytes() == CONTENT
    assert key in set(client.store.list_keys(f"{rig.prefix}/"))
    assert client.delete_file(key)
    assert not client.file_exists(key)
    with pytest.raises(ObjectNotFoundError):
        client.download_file(key, tmp_path / "copy")
    for each in neighbours:
        assert rig.second.get(rig.key(each)) == each.encode()


@pytest.mark.parametrize("provider", ["memory", "file"])
@pytest.mark.parametrize("verb", ["info", "delete_file", "file_exists"])
def test_store_of_files(provider: str, verb: str, tmp_path: Path) -> None:
    """A store whose names are paths refuses an exact key, which could lead out of it."""
    config = {"root": str(tmp_path)} if provider == "file" else {"bucket_name": "models"}
    with pytest.raises(ValueError, match="ExactKey"):
        getattr(get_storage_client(provider, config), verb)(ExactKey("../x"))


@pytest.mark.parametrize("key", ["", "x" * 1025])
def test_impossible_key(key: str) -> None:
    """An exact key that no store can have is refused."""
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        get_storage_client("s3", {"bucket_name": "models"}).info(ExactKey(key))


def local_file(folder: Path) -> Path:
    path = folder / "weights"
    path.write_bytes(CONTENT)
    return path
