"""Exclusive creates on endpoints that are not Amazon's: one PutObject, its resend, and the digests of all writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fsspec.callbacks import Callback

from gllm_storage import NonAtomicWriteWarning, ObjectExistsError, StorageError, StorageUnavailableError
from gllm_storage.testing.faults import Answer, DropResponse, ResetRequest
from tests.conftest import make_rig
from tests.promises.faulty import NAME, Faulty, behind_proxy, content_of, no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

ENGINES = ["auto", "boto3"]
KIB = 2**10
SIZE = 2000 * KIB
CONTENT = content_of(SIZE)
CONFIG = {
    "conditional_writes": "auto",
    "multipart_threshold": "64KiB",
    "part_size": "5MiB",
    "memory_limit": "5MiB",  # a quarter of it is less than the content, which is read while it is sent
}


@pytest.fixture
def faulty(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    no_waits(monkeypatch)
    with behind_proxy("ministack", servers) as each:
        client = each.client(**CONFIG)
        client.filesystem.pipe_file(client.url("probed"), b"x", mode="create")  # the probe has been sent
        each.rig.second.delete(each.rig.key("probed"))
        yield each


def source(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "source"
    path.write_bytes(content)
    return path


def puts(faulty: Faulty) -> list[int]:
    """The bytes of each PutObject of the object."""
    return [entry.body_bytes for entry in faulty.sent("PutObject") if entry.path.endswith(NAME)]


@pytest.mark.parametrize("engine", ENGINES)
def test_one_put(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """A file above the multipart threshold goes in one PutObject with the condition, also through a URL or as bytes."""
    client = faulty.client(**CONFIG, engine=engine)
    filesystem = client.filesystem
    url = client.url(NAME)
    client.upload_file(source(tmp_path), NAME, check_conflict=True)
    filesystem.put_file(str(source(tmp_path)), f"{url}-1", mode="create")
    filesystem.pipe_file(f"{url}-2", CONTENT, mode="create")
    with client.open(f"{NAME}-3", "xb") as file:
        for start in range(0, SIZE, 300_000):
            file.write(CONTENT[start : start + 300_000])
    sent = [entry for entry in faulty.sent("PutObject") if NAME in entry.path]
    assert [entry.headers["if-none-match"] for entry in sent] == ["*"] * 4
    assert [entry.body_bytes for entry in sent] == [SIZE] * 4
    assert {faulty.get(f"{NAME}{end}") for end in ("", "-1", "-2", "-3")} == {CONTENT}
    with pytest.raises(ObjectExistsError):
        client.upload_file(source(tmp_path), NAME, check_conflict=True)


def test_above_limit(faulty: Faulty, tmp_path: Path) -> None:
    """Above the limit the completion carries the condition, and a warning says that it can race."""
    client = faulty.client(**CONFIG, exclusive_put_limit="1MiB")
    with pytest.warns(NonAtomicWriteWarning, match="larger than 1 MiB"):
        client.upload_file(source(tmp_path), NAME, check_conflict=True)
    *_, completion = faulty.sent("CompleteMultipartUpload")
    assert completion.headers["if-none-match"] == "*"
    with pytest.raises(ObjectExistsError), pytest.warns(NonAtomicWriteWarning):
        client.upload_file(source(tmp_path), NAME, check_conflict=True)
    faulty.assert_holds(CONTENT)


def test_stream_above_limit(faulty: Faulty) -> None:
    """A stream that exceeds the limit goes on in parts, with the same warning and condition."""
    content = content_of(6000 * KIB)
    client = faulty.client(**CONFIG, exclusive_put_limit="5500KiB")
    file = client.open(NAME, "xb")
    with pytest.warns(NonAtomicWriteWarning, match="perhaps not atomically"):
        file.writelines(content[start : start + 300_000] for start in range(0, len(content), 300_000))
    file.close()
    *_, completion = faulty.sent("CompleteMultipartUpload")
    assert completion.headers["if-none-match"] == "*"
    faulty.assert_holds(content)


@pytest.mark.parametrize("engine", ENGINES)
def test_failing_put(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """A large PutObject that the store refuses for now is sent twice, and the error counts both."""
    faulty.inject("PutObject", Answer(503, "SlowDown"), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        faulty.client(**CONFIG, engine=engine).upload_file(source(tmp_path), NAME, check_conflict=True)
    assert len(puts(faulty)) == 2
    assert caught.value.attempts == 2
    faulty.assert_holds(None)


@pytest.mark.parametrize("engine", ENGINES)
def test_lost_answer(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """If only the answer was lost, nothing is sent again."""
    faulty.inject("PutObject", DropResponse())
    faulty.client(**CONFIG, engine=engine).upload_file(source(tmp_path), NAME, check_conflict=True)
    assert puts(faulty) == [SIZE]
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("engine", ENGINES)
def test_broken_put(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """A large PutObject whose connection breaks is sent again from its first byte; progress counts each byte once."""
    callback = Callback()
    faulty.inject("PutObject", ResetRequest(after=1000 * KIB))
    client = faulty.client(**CONFIG, engine=engine)
    client.filesystem.put_file(str(source(tmp_path)), client.url(NAME), mode="create", callback=callback)
    assert len(puts(faulty)) == 2
    assert (callback.size, callback.value) == (SIZE, SIZE)
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("engine", ENGINES)
def test_progress(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """The progress of one PutObject is reported while it is sent."""
    steps: list[int] = []

    class Steps(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            steps.append(inc)

    client = faulty.client(**CONFIG, engine=engine)
    client.filesystem.put_file(str(source(tmp_path)), client.url(NAME), mode="create", callback=Steps())
    assert sum(steps) == SIZE
    assert len(steps) > 3
    assert max(steps) <= 2**20


@pytest.mark.parametrize("engine", ENGINES)
def test_patience(faulty: Faulty, engine: str) -> None:
    """The time for the answer grows with the size, and the request is sent once."""
    connection: Any = faulty.client(**CONFIG, engine=engine, read_timeout="7s").store
    timeouts = [connection.connection.patient_client(size).meta.config.read_timeout for size in (1, 2**30, 5 * 2**30)]
    assert timeouts[0] == 7 + 4
    assert timeouts[1] >= 7 + 64
    assert timeouts[2] >= 7 + 320


def test_folder_name(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Where only a folder has the name, SeaweedFS answers 412: an error of its own, and not that the object exists."""
    rig = make_rig("seaweedfs", request)
    rig.second.put(rig.key("model/part"), b"x")
    client = rig.client()
    for create in (
        lambda: client.upload_file(source(tmp_path), "model", check_conflict=True),
        lambda: client.filesystem.pipe_file(client.url("model"), b"x", mode="create"),
    ):
        with pytest.raises(StorageError, match=r"no object of that name.*folder") as caught:
            create()
        assert not isinstance(caught.value, FileExistsError)
    assert not client.file_exists("model")
    assert rig.files() == ["model/part"]


@pytest.mark.parametrize("engine", ENGINES)
def test_digests(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """Every write carries a digest of its body, without which buckets with Object Lock refuse it."""
    client = faulty.client(**{**CONFIG, "engine": engine})
    filesystem, url = client.filesystem, client.url("d")
    filesystem.touch(f"{url}/touched")
    filesystem.touch(f"{url}/marker/")
    filesystem.pipe({f"{url}/{number}": b"" for number in range(3)})
    filesystem.pipe_file(f"{url}/one", b"")
    filesystem.put([str(source(tmp_path))] * 2, [f"{url}/put-1", f"{url}/put-2"])
    with filesystem.open(f"{url}/written", "wb") as file:
        file.write(b"x" * 6 * 2**20)
    with filesystem.open(f"{url}/written", "ab") as file:
        file.write(b"y")
    client.upload_file(source(tmp_path), "d/created", check_conflict=True)
    filesystem.call_s3("put_object", Bucket="models", Key=faulty.rig.key("d/upstream"), Body=b"x")
    filesystem.rm([f"{url}/{number}" for number in range(3)])
    bodies = [entry for entry in faulty.proxy.requests if entry.operation in {"PutObject", "UploadPart", "DeleteObjects"}]
    assert len(bodies) >= 14
    without = [
        f"{entry.operation} {entry.path}"
        for entry in bodies
        if "content-md5" not in entry.headers and not any(name.startswith("x-amz-checksum-c") for name in entry.headers)
    ]
    assert without == []


def refusal(message: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>InvalidRequest</Code><Message>{message}</Message></Error>"
    return Answer(400, body=body.encode())


@pytest.mark.parametrize("engine", ENGINES)
def test_demanded_md5(faulty: Faulty, tmp_path: Path, engine: str) -> None:
    """A store that demands Content-MD5, as in a bucket with Object Lock, gets it, and from then on in each request."""
    client = faulty.client(**CONFIG, engine=engine)
    message = "Content-MD5 HTTP header is required for Put Object requests with Object Lock parameters"
    faulty.inject("PutObject", refusal(message))
    client.upload_file(source(tmp_path, b"first"), NAME)
    client.upload_file(source(tmp_path, b"second"), f"{NAME}-2")
    sent = [entry for entry in faulty.sent("PutObject") if NAME in entry.path]
    assert ["content-md5" in entry.headers for entry in sent] == [False, True, True]
    assert (faulty.get(), faulty.get(f"{NAME}-2")) == (b"first", b"second")
