"""Properties of objects, from the content type to the encryption, as other clients read them back."""

from __future__ import annotations

import base64
import os
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from gllm_storage import ObjectProperties, StorageError, UnsupportedOperationError, get_storage_client
from gllm_storage.folders import RemoteFolder
from gllm_storage.s3.http.client import DirectClient
from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS, Boto3Client, GoogleClient, MicrosoftClient
from tests.servers.ceph import KMS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.rig import Rig

HEADERS = {
    "content_type": "application/x-model",
    "content_encoding": "identity",
    "content_disposition": 'attachment; filename="a.bin"',
    "content_language": "de",
    "cache_control": "max-age=60",
}
WITH_METADATA: dict[str, Any] = {**HEADERS, "metadata": {"run": "17", "note": "a b=c"}}
TAGS = {"tags": {"team": "a b", "x": "ä&=+"}}
KEEPS: dict[str, dict[str, Any]] = {
    "memory": WITH_METADATA,
    "ministack": {**WITH_METADATA, **TAGS, "storage_class": "STANDARD_IA", "kms_key": "some-key"},
    "ceph": {**WITH_METADATA, **TAGS, "acl": "public-read", "kms_key": KMS_KEY},
    "seaweedfs": {**WITH_METADATA, **TAGS, "storage_class": "STANDARD_IA"},
    "azurite": {**WITH_METADATA, "tags": {"team": "a b", "x": "1.5"}, "storage_class": "cool"},
    "gcs-fake": {**WITH_METADATA, "storage_class": "NEARLINE"},
    "fake-gcs-server": {**WITH_METADATA, "storage_class": "NEARLINE"},
}
"""The properties that each store keeps."""
LOST_IN_PARTS = {"ministack": {"tags"}, "ceph": {"tags"}, "fake-gcs-server": {"storage_class"}}
"""Those that a server loses of uploads in parts; also of those by boto3 and google-cloud-storage."""
ENGINES = {"ministack": ["auto", "boto3"], "ceph": ["auto", "boto3"]}
CASES = [(name, engine) for name in KEEPS for engine in ENGINES.get(name, [""])]
ALL = {**WITH_METADATA, **TAGS, "storage_class": "cool", "acl": "private", "encryption": "AES256", "kms_key": "k"}


class Kept:
    """A store, a client with one of its engines, and the properties that the store keeps."""

    def __init__(self, rig: Rig, engine: str) -> None:
        self.rig = rig
        self.config: dict[str, str] = {"engine": engine} if engine else {}
        self.given = KEEPS[rig.name]

    def client(self, **config: str) -> FsspecStorageClient:
        """A client; files of 6 MiB and more go in parts."""
        sizes = {"s3": SMALL_PARTS, "gcs": {"multipart_threshold": "1MiB", "part_size": "256KiB"}, "azure": SMALL_PARTS}
        return self.rig.client(**self.config, **sizes.get(self.rig.provider, {}), **config)

    def seen(self, path: str, names: Any) -> dict[str, Any]:
        """The properties of these names, as another client reads them."""
        found = READERS[type(self.rig.second).__name__](self.rig.second, self.rig.key(path))
        return {name: found.get(name) for name in names}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(filter(None, case)))
def kept(request: pytest.FixtureRequest) -> Kept:
    name, engine = request.param
    return Kept(make_rig(name, request), engine)


def by_boto3(second: Boto3Client, key: str) -> dict[str, Any]:
    place: dict[str, Any] = {"Bucket": second.bucket, "Key": key}
    head: Any = second.client.head_object(**place)
    grants: Any = second.client.get_object_acl(**place)["Grants"]
    return {
        "content_type": head["ContentType"],
        "content_encoding": head.get("ContentEncoding"),
        "content_disposition": head.get("ContentDisposition"),
        "content_language": head.get("ContentLanguage"),
        "cache_control": head.get("CacheControl"),
        "metadata": own(head["Metadata"]),
        "tags": {each["Key"]: each["Value"] for each in second.client.get_object_tagging(**place).get("TagSet", [])},
        "storage_class": head.get("StorageClass"),
        "acl": "public-read" if any("AllUsers" in each["Grantee"].get("URI", "") for each in grants) else "private",
        "kms_key": head.get("SSEKMSKeyId"),
        "encryption": head.get("ServerSideEncryption"),
    }


def by_google(second: GoogleClient, key: str) -> dict[str, Any]:
    blob: Any = second.bucket.get_blob(key)
    names = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "storage_class")
    return {**{name: getattr(blob, name) for name in names}, "metadata": own(blob.metadata)}


def by_microsoft(second: MicrosoftClient, key: str) -> dict[str, Any]:
    client = second.container.get_blob_client(key)
    found: Any = client.get_blob_properties()
    content = {name: getattr(found.content_settings, name) for name in HEADERS}
    tags = client.get_blob_tags() if found.tag_count else {}
    return {**content, "metadata": own(found.metadata), "tags": tags, "storage_class": found.blob_tier.lower()}


def by_fsspec(second: Any, key: str) -> dict[str, Any]:
    properties = second.filesystem.store[f"/{second.bucket}/{key}"].gllm_properties
    found: dict[str, Any] = properties.given()
    return found


READERS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "Boto3Client": by_boto3,
    "GoogleClient": by_google,
    "MicrosoftClient": by_microsoft,
    "MemoryClient": by_fsspec,
}


def own(metadata: Any) -> dict[str, str]:
    """The metadata without those of the library."""
    return {name.lower(): value for name, value in (metadata or {}).items() if not name.lower().startswith("gllm")}


@pytest.mark.parametrize("exclusive", [False, True], ids=["overwrite", "exclusive"])
@pytest.mark.parametrize("size", [100, 6 * MIB], ids=["small", "parts"])
def test_kept(kept: Kept, size: int, exclusive: bool) -> None:
    """All properties arrive, in one request and in parts, with and without an exclusive create."""
    lost = LOST_IN_PARTS.get(kept.rig.name, set()) if size > MIB else set()
    given = {name: value for name, value in kept.given.items() if name not in lost}
    kept.client().upload(os.urandom(size), "a", check_conflict=exclusive, properties=ObjectProperties(**given))
    assert kept.seen("a", given) == given


def test_told(kept: Kept) -> None:
    """`info` returns the properties that a HEAD request tells, and a listing returns none."""
    client = kept.client()
    client.upload(b"x", "a", **kept.given)
    info = client.info("a")
    told = {name: value for name, value in kept.given.items() if name not in {"tags", "acl", "metadata"}}
    assert {name: getattr(info, name) for name in told} == told
    assert own(info.metadata) == kept.given["metadata"]
    assert pickle.loads(pickle.dumps(info)) == info


def test_named_and_given(kept: Kept) -> None:
    """A property by name comes before the same property of the dataclass."""
    properties = ObjectProperties(content_type="text/a", cache_control="no-store")
    kept.client().upload(b"x", "a", properties=properties, content_type="text/b")
    assert kept.seen("a", ["content_type", "cache_control"]) == {"content_type": "text/b", "cache_control": "no-store"}


def test_copied(kept: Kept) -> None:
    """Copies and moves, exclusive or not, keep the properties."""
    client = kept.client()
    # A copy belongs to its maker, as by S3's own CopyObject; Google gives it the storage class of the bucket.
    lost = {"s3": {"acl"}, "gcs": {"storage_class"}}.get(kept.rig.provider, set())
    lost = lost | LOST_IN_PARTS.get(kept.rig.name, set())
    given = {name: value for name, value in kept.given.items() if name not in lost}
    client.upload(b"x", "a", **kept.given)
    client.copy_file("a", "b")
    client.copy_file("a", "c", check_conflict=True)
    client.move_file("b", "d")
    client.move_file("d", "e", check_conflict=True)
    for name in "ce":
        assert kept.seen(name, given) == given, name


def _write(client: FsspecStorageClient, name: str, path: Path) -> None:
    with client.open(name, "wb") as file:
        file.write(path.read_bytes())


LOCAL_GUESSES = {"config.json": "application/json", "page.html": "text/html", "model.tar.gz": "application/x-tar"}
WRITES: dict[str, Callable[[FsspecStorageClient, str, Path], object]] = {
    "upload_file": lambda client, name, path: client.upload_file(path, name),
    "upload": lambda client, name, path: client.upload(path.read_bytes(), name),
    "open": _write,
    "put_file": lambda client, name, path: client.filesystem.put_file(str(path), client.url(name)),
    "put": lambda client, name, path: client.filesystem.put(str(path), client.url(name)),
    "put-many": lambda client, name, path: client.filesystem.put([str(path)] * 2, [client.url(name), client.url("other")]),
    "pipe_file": lambda client, name, path: client.filesystem.pipe_file(client.url(name), path.read_bytes()),
    "pipe-many": lambda client, name, _: client.filesystem.pipe({client.url(name): b"1", client.url("other"): b"2"}),
}


@pytest.fixture(params=["ministack", "azurite", "gcs-fake"])
def guessing(request: pytest.FixtureRequest) -> Kept:
    return Kept(make_rig(request.param, request), "")


@pytest.mark.parametrize("write", WRITES)
def test_guessed(guessing: Kept, write: str, tmp_path: Path) -> None:
    """Every way to write guesses the content type from the name of the object."""
    (tmp_path / "content").write_bytes(b"{}")
    client = guessing.client()
    for name, expected in LOCAL_GUESSES.items():
        WRITES[write](client, name, tmp_path / "content")
        assert guessing.seen(name, ["content_type"]) == {"content_type": expected}


def test_guessed_from_file(guessing: Kept, tmp_path: Path) -> None:
    """If the name of the object suggests no type, that of the local file does; an unknown type is the store's default."""
    (tmp_path / "a.json").write_bytes(b"{}")
    client = guessing.client()
    client.upload_file(tmp_path / "a.json", "latest")
    assert guessing.seen("latest", ["content_type"]) == {"content_type": "application/json"}
    client.upload(b"x", "model.safetensors")
    assert guessing.seen("model.safetensors", ["content_type"])["content_type"].endswith("/octet-stream")


def test_given_to_filesystem(guessing: Kept) -> None:
    """A content type that the caller of the filesystem gives is kept."""
    client = guessing.client()
    names: dict[str, dict[str, Any]] = {
        "s3": {"ContentType": "text/q"},
        "gcs": {"content_type": "text/q"},
        "azure": {"content_settings": {"content_type": "text/q"}},
    }
    given = names[guessing.rig.provider]
    client.filesystem.pipe_file(client.url("a.json"), b"x", **given)
    assert guessing.seen("a.json", ["content_type"]) == {"content_type": "text/q"}


REFUSED = {
    "file": set(ALL),
    "memory": {"tags", "storage_class", "acl", "encryption", "kms_key"},
    "azurite": {"acl", "encryption"},
    "gcs-fake": {"tags", "encryption"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, request: pytest.FixtureRequest) -> None:
    """A property that a provider cannot keep is an error, which names it, before anything is stored."""
    rig = make_rig(name, request)
    for each in REFUSED[name]:
        with pytest.raises(UnsupportedOperationError, match=each):
            rig.client().upload(b"x", "a", **{each: ALL[each]})
    assert rig.keys() == []


def test_refused_by_fsspec(tmp_path: Path) -> None:
    """Any other fsspec filesystem refuses every property, and stores a file without properties."""
    client: Any = get_storage_client("fsspec", {"url": f"local://{tmp_path}/store"})
    with pytest.raises(UnsupportedOperationError, match="content_type"):
        client.upload(b"x", "a.json", content_type="text/plain")
    assert not (tmp_path / "store").exists()
    client.filesystem.makedirs(f"{tmp_path}/store")
    assert client.upload(b"x", "a.json").endswith("/a.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"content_type": "text/a\r\nx-evil: 1"},
        {"content_type": 5},
        {"content_type": ""},
        {"metadata": {"a": "b\n"}},
        {"metadata": {"a": 1}},
        {"metadata": {"": "b"}},
        {"metadata": ["a"]},
        {"tags": "a=b"},
    ],
    ids=str,
)
def test_wrong_value(wrong: dict[str, Any]) -> None:
    """A value that no store accepts is a ValueError for every provider."""
    client: Any = get_storage_client("memory", {"bucket_name": "models"})
    with pytest.raises(ValueError, match=next(iter(wrong))):
        client.upload(b"x", "wrong", **wrong)
    assert not client.file_exists("wrong")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ministack", {"metadata": {"a b": "c"}}),
        ("ministack", {"metadata": {"a": "ü"}}),
        ("ministack", {"content_disposition": "ü"}),
        ("azurite", {"metadata": {"a-b": "c"}}),
        ("azurite", {"metadata": {"ü": "c"}}),
        ("azurite", {"storage_class": "STANDARD_IA"}),
        ("gcs-fake", {"acl": "public"}),
    ],
    ids=str,
)
def test_wrong_for_store(name: str, wrong: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """A value that this store does not accept is a ValueError, and nothing is stored."""
    rig = make_rig(name, request)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rig.client().upload(b"x", "a", **wrong)
    assert rig.keys() == []


STORES = ("ministack", "azurite", "gcs-fake")


@pytest.mark.parametrize("size", [1, 3 * 2**20], ids=["small", "parts"])
@pytest.mark.parametrize("name", STORES)
def test_metadata_by_case(name: str, size: int, request: pytest.FixtureRequest) -> None:
    """Of names that differ by case, stores without case of names get the last; none replaces the library's own."""
    rig = make_rig(name, request)
    client = rig.client(multipart_threshold="2MiB", part_size="5MiB")
    given = {"Color": "1", "color": "2", "GLLM_WRITE_ID": "3"}
    client.upload(b"x" * size, "a", metadata=given)
    found = client.info("a").metadata or {}
    assert found["color"] == "2"
    assert any(name.replace("-", "_") == "gllm_write_id" and value != "3" for name, value in found.items())


@pytest.mark.parametrize("size", [1, 3 * 2**20], ids=["small", "parts"])
@pytest.mark.parametrize("name", STORES)
def test_outer_spaces(name: str, size: int, request: pytest.FixtureRequest) -> None:
    """A value with spaces at its ends is stored, if the store's own requests may have them."""
    rig = make_rig(name, request)
    client = rig.client(multipart_threshold="2MiB", part_size="5MiB")
    given: dict[str, Any] = {"content_type": " text/plain ", "cache_control": " no-cache ", "metadata": {"color": " red "}}
    client.upload(b"x" * size, "a", **given)
    found = client.info("a")
    assert str(found.content_type).strip() == "text/plain"
    assert str(found.cache_control).strip() == "no-cache"
    assert (found.metadata or {})["color"].strip() == "red"


def test_unknown_property() -> None:
    """A misspelt property is a TypeError with its name."""
    client: Any = get_storage_client("memory", {"bucket_name": "models"})
    with pytest.raises(TypeError, match="content_typ"):
        client.upload(b"x", "a", content_typ="text/plain")


# ------------------------------------------------------------------ customer keys

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(1, 33))).decode()


@pytest.fixture(params=["ministack", "ceph", "seaweedfs"])
def secret_rig(request: pytest.FixtureRequest) -> Rig:
    return make_rig(request.param, request)


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("size", [100, 6 * MIB], ids=["small", "parts"])
def test_customer_key(secret_rig: Rig, engine: str, size: int, tmp_path: Path) -> None:
    """SSE-C: the store has an object that only requests with the key read; all verbs and methods of the client do."""
    client = secret_rig.client(sse_customer_key=KEY, engine=engine, **SMALL_PARTS)
    content = os.urandom(size)
    client.upload(content, "a", check_conflict=size == 100)
    with pytest.raises(ClientError):
        secret_rig.second.get(secret_rig.key("a"))
    boto: Any = secret_rig.second
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(KEY)}
    assert boto.client.get_object(Bucket=boto.bucket, Key=secret_rig.key("a"), **key)["Body"].read() == content
    assert client.file_exists("a")
    assert client.info("a").size == size
    assert client.download_file("a", tmp_path / "copy").read_bytes() == content
    with client.open("a") as file:
        assert file.read() == content
    with client.open("b", "wb") as file:
        file.write(content)
    assert set(client.filesystem.cat([client.url("a"), client.url("b")]).values()) == {content}
    client.copy_file("a", "c")
    client.move_file("c", "d")
    assert client.filesystem.cat_file(client.url("d")) == content
    for broken in (secret_rig.client(engine=engine), secret_rig.client(sse_customer_key=OTHER_KEY, engine=engine)):
        with pytest.raises(StorageError) as caught:
            broken.download_file("a", tmp_path / "never")
        assert OTHER_KEY not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(UnsupportedOperationError, match="customer key"):
        client.presign("a")


def test_direct_customer_key(secret_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct engine sends requests with a customer key itself."""
    sent, exchange = [], DirectClient._exchange

    def counted(client: DirectClient, place: Any, operation: Any, request: Any) -> dict[str, Any]:
        sent.append(operation.name)
        return exchange(client, place, operation, request)

    monkeypatch.setattr(DirectClient, "_exchange", counted)
    client = secret_rig.client(sse_customer_key=KEY)
    client.upload(b"x", "a")
    assert client.info("a").size == 1
    assert client.filesystem.cat_file(client.url("a")) == b"x"
    assert sent == ["PutObject", "HeadObject", "GetObject"]


@pytest.mark.parametrize("keys", [(KEY, OTHER_KEY), (KEY, None), (None, KEY)], ids=["other", "without", "with"])
@pytest.mark.parametrize("verb", ["sync", "copy"])
def test_other_customer_key(secret_rig: Rig, keys: tuple[str | None, str | None], verb: str) -> None:
    """A copy between clients with different customer keys is encrypted with the key of the target."""
    source, target = (secret_rig.client(**({"sse_customer_key": key} if key else {})) for key in keys)
    source.upload(b"content", "m/a")
    if verb == "sync":
        source.sync_dir(RemoteFolder(source, "m"), RemoteFolder(target, "n"))
    else:
        store = source.store
        store.copy(secret_rig.key("m/a"), target.store, secret_rig.key("n/a"), store.transfer("m/a", "copy"))
    assert target.filesystem.cat_file(target.url("n/a")) == b"content"
    if keys[1] is not None:
        with pytest.raises(ClientError):
            secret_rig.second.get(secret_rig.key("n/a"))


CUSTOMER_KEY_CONFIGS: dict[str, dict[str, str]] = {
    "s3": {"bucket_name": "models"},
    "gcs": {"bucket_name": "models", "anonymous": "true"},
    "azure": {"container_name": "models", "account_name": "acme", "anonymous": "true"},
}


@pytest.mark.parametrize("provider", CUSTOMER_KEY_CONFIGS)
def test_stores_by_key(provider: str) -> None:
    """Stores with different customer keys are not one: a copy within one of them has the key of that store."""

    def store(**key: str) -> Any:
        client: Any = get_storage_client(provider, {**CUSTOMER_KEY_CONFIGS[provider], **key})
        return client.store

    for key in ({}, {"sse_customer_key": KEY}):
        assert store(**key).is_one_with(store(**key))
        assert not store(**key).is_one_with(store(sse_customer_key=OTHER_KEY))
        assert not store(sse_customer_key=OTHER_KEY).is_one_with(store(**key))


@pytest.mark.parametrize("provider", CUSTOMER_KEY_CONFIGS)
def test_key_is_hidden(provider: str) -> None:
    """A customer key stands in no text of the client, its store or its filesystem, and is pickled with the settings."""
    client: Any = get_storage_client(provider, {**CUSTOMER_KEY_CONFIGS[provider], "sse_customer_key": KEY})
    shown = [repr(each) for each in (client, client.settings, client.store, client.store.__dict__, client.filesystem)]
    assert not [text for text in shown if KEY in text]
    copy = pickle.loads(pickle.dumps(client))
    assert copy.settings.sse_customer_key == KEY
    with pytest.raises(ValueError, match="32 bytes") as caught:
        get_storage_client(provider, {**CUSTOMER_KEY_CONFIGS[provider], "sse_customer_key": KEY[:-4]})
    assert KEY[:-4] not in str(caught.value)
