"""Ctrl-C, kill -9 and cancelled tasks in the middle of a transfer.

After Ctrl-C and after a cancellation, the library leaves nothing behind and sends no further write. A process cannot handle
kill -9: the multipart upload stays open on the server, and a temporary file ``.gllm-*.tmp`` stays beside the target of a
download. The object and the target file are still either complete or unchanged.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from gllm_storage.testing.faults import Action, Call, Delay, Fault, FaultProxy, Match, StallBody, Throttle
from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS, Rig, server_rig
from tests.scripts.transfer import stop_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

NAME = "model.bin"
BEFORE = b"the previous good file"
END_SECONDS = 60.0  # the library waits up to 10 for a stalled server; the rest is for a busy machine
STOP_SECONDS = 4.0
"""How long a child waits for a stalled server. Only the cases in `AS_SHIPPED` keep the default of 10 seconds."""
LATER_SECONDS = 2.0
STALL = 100_000  # bytes; less than one read of the library, so that the reader waits for more
MIDDLE_SECONDS = 60.0  # time limit, on a busy machine, until a transfer is in its middle

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


PARTS = {**SMALL_PARTS, "conditional_writes": "enforced"}
"""Configuration with which exclusive creates on MiniStack are multipart uploads. By default only those on Amazon are."""


@dataclass(frozen=True)
class Middle:
    """A transfer, and the fault that holds it in its middle.

    Attributes:
        action: The action of the child process.
        size: Size of the object, in bytes.
        hold: The operation that the proxy holds.
        how: The fault that the proxy injects into this operation.
        skip: Number of requests of this operation that pass before the fault.
        config: Configuration of the child's client, in addition to the rig's.
        begun: Bytes of the held request or its answer that have been transferred when the signal is sent.
        may_be_there: Whether the committing request was in flight, so that the complete object may exist.
        server: Name of the server in the rig.
    """

    action: str
    size: int
    hold: str
    how: Action
    skip: int = 0
    config: dict[str, str] = field(default_factory=dict)
    begun: int = 0
    may_be_there: bool = False
    server: str = "ministack"

    @property
    def stalls(self) -> bool:
        """Whether the server never answers; a slow server answers before the library stops waiting."""
        return isinstance(self.how, (Delay, StallBody)) and self.how.seconds > END_SECONDS


UPLOADS = {
    # Larger than the kernel's socket buffers, so the request is not complete when the signal is sent.
    "one put": Middle("create", 32 * MIB, "PutObject", Throttle(MIB), config={"multipart_threshold": "64MiB"}, begun=MIB),
    "one put from memory": Middle("create", 15 * MIB, "PutObject", Throttle(MIB // 2), begun=MIB // 2),
    # Without trust in the completion, an exclusive create is one PutObject above the threshold, too.
    "one put above the threshold": Middle("create", 32 * MIB, "PutObject", Throttle(MIB), config=SMALL_PARTS, begun=MIB),
    "stalled put above the threshold": Middle(
        "create", 11 * MIB, "PutObject", Delay(600), config=SMALL_PARTS, may_be_there=True
    ),
    "one put of a stream": Middle("stream", 32 * MIB, "PutObject", Throttle(MIB), config=SMALL_PARTS, begun=MIB),
    "small put": Middle("create", 100_000, "PutObject", Delay(600), may_be_there=True),
    "overwriting put": Middle("upload", 100_000, "PutObject", Delay(600), may_be_there=True),
    # Before the answer, the upload id is unknown, so the upload cannot be aborted.
    "creation of the parts": Middle("create", 11 * MIB, "CreateMultipartUpload", Delay(3), config=PARTS),
    "parts": Middle("create", 26 * MIB, "UploadPart", Throttle(2 * MIB), skip=2, config=PARTS, begun=MIB // 4),
    "stalled parts": Middle("create", 26 * MIB, "UploadPart", Delay(600), skip=2, config=PARTS),
    "completion": Middle("create", 11 * MIB, "CompleteMultipartUpload", Delay(600), config=PARTS, may_be_there=True),
    "answer to the completion": Middle(
        "create", 11 * MIB, "CompleteMultipartUpload", StallBody(20, 600), config=PARTS, begun=20, may_be_there=True
    ),
    "creation of a stream": Middle("stream", 11 * MIB, "CreateMultipartUpload", Delay(3), config=PARTS),
    "parts of a stream": Middle("stream", 26 * MIB, "UploadPart", Throttle(2 * MIB), skip=2, config=PARTS, begun=MIB // 4),
    # The signal is sent while a write waits for one of two parts.
    "stalled parts of a stream": Middle(
        "stream", 26 * MIB, "UploadPart", Delay(600), skip=2, config={**PARTS, "max_concurrency": "2"}
    ),
    "completion of a stream": Middle(
        "stream", 11 * MIB, "CompleteMultipartUpload", Delay(600), config=PARTS, may_be_there=True
    ),
}
UPLOADS |= {
    "gcs, small": Middle("create", 100_000, "UploadMultipart", Delay(600), may_be_there=True, server="gcs-fake"),
    "gcs, one request": Middle(
        "create",
        32 * MIB,
        "UploadMultipart",
        Throttle(MIB),
        config={"multipart_threshold": "64MiB"},
        begun=MIB,
        server="gcs-fake",
    ),
    "gcs, start": Middle("create", 11 * MIB, "ResumableStart", Delay(3), config=SMALL_PARTS, server="gcs-fake"),
    "gcs, chunk": Middle(
        "create", 26 * MIB, "ResumableChunk", Throttle(MIB), skip=1, config=SMALL_PARTS, begun=MIB // 4, server="gcs-fake"
    ),
    "gcs, stalled chunk": Middle(
        "create", 26 * MIB, "ResumableChunk", Delay(600), skip=1, config=SMALL_PARTS, server="gcs-fake"
    ),
    "gcs, last chunk": Middle(
        "create", 11 * MIB, "ResumableFinal", Delay(600), config=SMALL_PARTS, may_be_there=True, server="gcs-fake"
    ),
    "azure, small": Middle("create", 100_000, "PutBlob", Delay(600), may_be_there=True, server="azurite"),
    "azure, one request": Middle(
        "create",
        32 * MIB,
        "PutBlob",
        Throttle(MIB),
        config={"multipart_threshold": "64MiB"},
        begun=MIB,
        server="azurite",
    ),
    "azure, blocks": Middle(
        "create", 26 * MIB, "PutBlock", Throttle(MIB), skip=2, config=SMALL_PARTS, begun=MIB // 4, server="azurite"
    ),
    "azure, stalled blocks": Middle(
        "create", 26 * MIB, "PutBlock", Delay(600), skip=2, config=SMALL_PARTS, server="azurite"
    ),
    "azure, commit": Middle(
        "create", 11 * MIB, "PutBlockList", Delay(600), config=SMALL_PARTS, may_be_there=True, server="azurite"
    ),
}
AS_SHIPPED = {"stalled parts", "small put"}
DOWNLOADS = {
    "head": Middle("download", MIB, "HeadObject", Delay(600)),
    "whole": Middle("download", 4 * MIB, "GetObject", Throttle(MIB // 8), begun=MIB // 8),
    "whole, stalled": Middle("download", 4 * MIB, "GetObject", StallBody(STALL, 600), begun=STALL),
    "ranges": Middle("download", 26 * MIB, "GetObject", Throttle(MIB // 8), skip=2, config=SMALL_PARTS, begun=MIB // 8),
    "stalled ranges": Middle(
        "download", 26 * MIB, "GetObject", StallBody(STALL, 600), skip=2, config=SMALL_PARTS, begun=STALL
    ),
    "gcs, stalled": Middle("download", 4 * MIB, "ObjectsGetMedia", StallBody(STALL, 600), begun=STALL, server="gcs-fake"),
    "gcs, ranges": Middle(
        "download",
        26 * MIB,
        "ObjectsGetMedia",
        Throttle(MIB // 8),
        skip=2,
        config=SMALL_PARTS,
        begun=MIB // 8,
        server="gcs-fake",
    ),
    "azure, stalled": Middle("download", 4 * MIB, "GetBlob", StallBody(STALL, 600), begun=STALL, server="azurite"),
    "azure, ranges": Middle(
        "download", 26 * MIB, "GetBlob", Throttle(MIB // 8), skip=2, config=SMALL_PARTS, begun=MIB // 8, server="azurite"
    ),
}


COMMITS = {"PutObject", "CompleteMultipartUpload", "ResumableFinal", "PutBlockList"}


@dataclass(frozen=True)
class Held:
    """A store, and a proxy that holds the requests of the library's clients."""

    rig: Rig
    proxy: FaultProxy
    folder: Path
    content: bytes

    @property
    def local(self) -> Path:
        return self.folder / "local" / NAME

    def prepare(self, middle: Middle) -> None:
        """Create the source of the transfer, and inject the fault that holds it."""
        self.local.parent.mkdir()
        if middle.action == "download":
            self.rig.second.put(self.rig.key(NAME), self.content)
            self.local.write_bytes(BEFORE)
        else:
            self.local.write_bytes(self.content)
        wanted = Match(operation=middle.hold, path=self.rig.key(NAME))
        if middle.hold.startswith(("Resumable", "Upload")) and middle.server == "gcs-fake":
            wanted = Match(operation=middle.hold)  # the path lacks the name: it is in the body, or known to the session
        self.proxy.inject(Fault(wanted, middle.how, middle.skip, times=None))
        if not middle.may_be_there:
            self.keep_from_ending(COMMITS - {middle.hold})

    def keep_from_ending(self, commits: set[str]) -> None:
        """Hold the committing requests, too: a busy machine handles a signal so late that the transfer would be complete."""
        for commit in commits:
            path = None if commit.startswith("Resumable") else self.rig.key(NAME)
            self.proxy.inject(Fault(Match(operation=commit, path=path), Call(self.proxy.closing.wait), times=None))

    def wait_until_held(self, middle: Middle, child: subprocess.Popen[str] | None = None) -> None:
        """Wait until the proxy holds the transfer in its middle."""
        deadline = time.monotonic() + MIDDLE_SECONDS
        while not self.is_held(middle):
            assert child is None or child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline, f"nothing was held of {self.seen()}"
            time.sleep(0.01)

    def is_held(self, middle: Middle) -> bool:
        held = [entry for entry in self.proxy.requests if entry.fault and entry.operation == middle.hold]
        if isinstance(middle.how, Delay):  # the server has executed the request, and the proxy holds the answer
            return any(entry.upstream_status for entry in held)
        return any(max(entry.body_bytes, entry.response_bytes) >= middle.begun for entry in held)

    def seen(self) -> list[tuple[str, int, int | None, str | None]]:
        return [(entry.operation, entry.body_bytes, entry.status, entry.fault) for entry in self.proxy.requests]

    def assert_nothing_left_of_upload(self, *, may_be_there: bool, may_be_open: bool = False) -> None:
        """Assert that the object is absent, or complete if `may_be_there`, and that this does not change later."""
        first = self.stored(may_be_there=may_be_there)
        assert may_be_open or self.rig.open_uploads() == []
        time.sleep(LATER_SECONDS)
        assert self.stored(may_be_there=may_be_there) == first
        assert may_be_open or self.rig.open_uploads() == []

    def stored(self, *, may_be_there: bool) -> list[str]:
        keys = self.rig.keys()
        assert keys in ([[], [NAME]] if may_be_there else [[]])
        assert all(self.rig.second.get(self.rig.key(key)) == self.content for key in keys)
        return keys

    def assert_nothing_left_of_download(self) -> None:
        """Assert that the local file is unchanged, and that it does not change later."""
        for seconds in (0.0, LATER_SECONDS):
            time.sleep(seconds)
            assert self.local.read_bytes() == BEFORE
            assert list(self.local.parent.iterdir()) == [self.local]


@contextmanager
def holding(servers: Servers, folder: Path, size: int, server: str = "ministack") -> Iterator[Held]:
    """Start a proxy before a server."""
    running = servers.get(server)
    parts = urlsplit(running.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        rig = server_rig(server, running, f"{proxy.url}{parts.path}")
        held = Held(rig, proxy, folder, random.Random(size).randbytes(size))
        yield held
        assert proxy.errors == []


@contextmanager
def transfer(rig: Rig, action: str, local: Path, config: dict[str, str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a transfer in a child process."""
    job = {"provider": rig.provider, "config": rig.settings(**config), "action": action, "local": str(local), "remote": NAME}
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.scripts.transfer", json.dumps({**job, **more})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def end(child: subprocess.Popen[str], by: signal.Signals) -> None:
    """Send a signal to a child, and assert that the child ends because of it within the time limit."""
    assert child.poll() is None, child.communicate()[1]
    child.send_signal(by)
    try:
        _, errors = child.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)  # faulthandler prints the stacks of the hanging child
        pytest.fail(f"{by.name} did not end it in {END_SECONDS} s:\n{child.communicate()[1]}")
    assert child.returncode == -by, errors
    assert by is not signal.SIGINT or errors.rstrip().endswith("KeyboardInterrupt"), errors


@pytest.mark.parametrize("case", UPLOADS)
def test_ctrl_c_in_upload(case: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during an upload leaves nothing behind."""
    middle = UPLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        hurry = {"stop_seconds": STOP_SECONDS} if middle.stalls and case not in AS_SHIPPED else {}
        with transfer(held.rig, middle.action, held.local, middle.config, **hurry) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        held.assert_nothing_left_of_upload(may_be_there=middle.may_be_there)


@pytest.mark.parametrize(
    ("server", "operation"), [("ministack", "PutObject"), ("gcs-fake", "UploadMultipart"), ("azurite", "PutBlob")]
)
def test_ctrl_c_before_late_write(server: str, operation: str, servers: Servers, tmp_path: Path) -> None:
    """When Ctrl-C ends an upload, a delayed small write has either succeeded or will never be executed."""
    late = Middle("create", 100_000, operation, Call(lambda: time.sleep(LATER_SECONDS)), server=server)
    with holding(servers, tmp_path, late.size, server) as held:
        held.prepare(late)
        with transfer(held.rig, late.action, held.local, late.config) as child:
            deadline = time.monotonic() + MIDDLE_SECONDS
            while not any(entry.fault and entry.operation == operation for entry in held.proxy.requests):
                assert time.monotonic() < deadline, held.seen()
                time.sleep(0.01)
            end(child, signal.SIGINT)
        held.assert_nothing_left_of_upload(may_be_there=True)


@pytest.mark.parametrize("case", UPLOADS)
def test_kill_in_upload(case: str, servers: Servers, tmp_path: Path) -> None:
    """After kill -9 during an upload, the object is complete or absent."""
    middle = UPLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGKILL)
        held.assert_nothing_left_of_upload(may_be_there=middle.may_be_there, may_be_open=True)
        held.proxy.clear()
        held.local.write_bytes(b"again")

        held.rig.client(**middle.config).upload_file(held.local, NAME)  # an open upload blocks no other upload

        assert held.rig.second.get(held.rig.key(NAME)) == b"again"


@pytest.mark.parametrize("case", DOWNLOADS)
def test_ctrl_c_in_download(case: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during a download leaves the previous file unchanged."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config, stop_seconds=STOP_SECONDS) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        held.assert_nothing_left_of_download()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
@pytest.mark.parametrize("case", DOWNLOADS)
def test_kill_in_download(case: str, by: signal.Signals, servers: Servers, tmp_path: Path) -> None:
    """After kill or kill -9 during a download, the previous file is unchanged, and nothing is beside it."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config) as child:
            held.wait_until_held(middle, child)
            end(child, by)
        held.assert_nothing_left_of_download()


PROBE = ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject"]


@pytest.mark.parametrize("hold", PROBE)
def test_ctrl_c_in_probe(hold: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during the probe of the endpoint leaves nothing behind."""
    with holding(servers, tmp_path, 1000) as held:
        middle = Middle("create", 1000, hold, Delay(3))
        held.prepare(middle)
        held.proxy.inject(Fault(Match(operation=hold, path=".gllm-probe-"), middle.how))
        held.keep_from_ending({"PutObject"})
        with transfer(held.rig, middle.action, held.local, middle.config) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        held.assert_nothing_left_of_upload(may_be_there=False)


def test_completion_after_ctrl_c(servers: Servers, tmp_path: Path) -> None:
    """A CompleteMultipartUpload that reaches the store after Ctrl-C creates no object."""
    with holding(servers, tmp_path, 11 * MIB) as held:
        arrive = threading.Event()
        middle = Middle("create", 11 * MIB, "CompleteMultipartUpload", Call(arrive.wait), config=PARTS)
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config, stop_seconds=STOP_SECONDS) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        assert held.rig.open_uploads() == []

        arrive.set()
        held.wait_until_held(Middle("create", 11 * MIB, middle.hold, Delay(0)))

        held.assert_nothing_left_of_upload(may_be_there=False)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda signal: signal.name)
def test_upload_to_local_ended(by: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """After a signal during an upload to a local store, no partial object is visible."""
    rig = make_rig("file", request)
    source = tmp_path / "source"
    source.write_bytes(random.Random(0).randbytes(8 * MIB))
    rig.second.put(rig.key("other"), b"other")

    with transfer(rig, "create", source, {}, pause=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "halfway\n"
        end(child, by)

    assert rig.keys() == ["other"]
    assert not rig.client().file_exists(NAME)
    assert [info.url for info in rig.client().list_files()] == [rig.client().url("other")]
    rig.client().upload_file(source, NAME, check_conflict=True)
    assert rig.second.get(rig.key(NAME)) == source.read_bytes()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda signal: signal.name)
def test_download_from_local_ended(by: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A signal during a download from a local store leaves the previous file unchanged."""
    rig = make_rig("file", request)
    rig.second.put(rig.key(NAME), random.Random(0).randbytes(8 * MIB))
    target = tmp_path / "local" / NAME
    target.parent.mkdir()
    target.write_bytes(BEFORE)

    with transfer(rig, "download", target, {}, pause=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "halfway\n"
        end(child, by)

    assert target.read_bytes() == BEFORE
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("short_stops")
@pytest.mark.parametrize(
    "case", ["one put", "one put above the threshold", "creation of the parts", "parts", "gcs, chunk", "azure, blocks"]
)
def test_cancelled_upload(case: str, servers: Servers, tmp_path: Path) -> None:
    """A cancelled upload task leaves nothing behind."""
    middle = UPLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        client = held.rig.client(**middle.config)
        mode = "create" if middle.action == "create" else "overwrite"

        cancel_in_the_middle(held, middle, lambda: client.filesystem._put_file(str(held.local), client.url(NAME), mode=mode))

        held.assert_nothing_left_of_upload(may_be_there=middle.may_be_there)


@pytest.mark.usefixtures("short_stops")
@pytest.mark.parametrize("case", ["parts", "gcs, chunk", "azure, blocks"])
def test_cancelled_pipe(case: str, servers: Servers, tmp_path: Path) -> None:
    """A cancelled pipe task leaves nothing behind."""
    middle = UPLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        client = held.rig.client(**middle.config)

        cancel_in_the_middle(held, middle, lambda: client.filesystem._pipe_file(client.url(NAME), held.content))

        held.assert_nothing_left_of_upload(may_be_there=False)


@pytest.mark.usefixtures("short_stops")
@pytest.mark.parametrize("case", ["whole", "ranges", "gcs, ranges", "azure, ranges"])
def test_cancelled_download(case: str, servers: Servers, tmp_path: Path) -> None:
    """A cancelled download task leaves the previous file unchanged."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        client = held.rig.client(**middle.config)

        cancel_in_the_middle(held, middle, lambda: client.filesystem._get_file(client.url(NAME), str(held.local)))

        held.assert_nothing_left_of_download()


@pytest.fixture
def short_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for a stalled server."""
    for module in stop_modules():
        monkeypatch.setattr(module, "_STOP_SECONDS", STOP_SECONDS)


def cancel_in_the_middle(held: Held, middle: Middle, begin: Callable[[], Any]) -> None:
    """Cancel a held task, and assert that it raises CancelledError within the time limit."""

    async def run() -> float:
        task = asyncio.ensure_future(begin())
        await asyncio.to_thread(held.wait_until_held, middle)
        cancelled_at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - cancelled_at

    assert asyncio.run(run()) < END_SECONDS


@pytest.mark.parametrize("server", ["rclone", "azurite", "gcs-fake"])
def test_bounded_memory(server: str, servers: Servers, tmp_path: Path) -> None:
    """Memory use does not grow with the size of the file."""
    rig = server_rig(server, servers.get(server))
    large, small = tmp_path / "large", tmp_path / "small"
    small.write_bytes(bytes(MIB))
    with large.open("wb") as file:
        file.truncate(511 * MIB)
    job = {
        "provider": rig.provider,
        "config": rig.settings(),
        "small": str(small),
        "large": str(large),
        "target": str(tmp_path / "target"),
    }

    child = subprocess.run(
        [sys.executable, "-m", "tests.scripts.memory_use", json.dumps(job)], check=True, stdout=subprocess.PIPE, text=True
    )

    grown: dict[str, float] = json.loads(child.stdout)
    print(f"512 MiB, {server}: grew by {grown['upload']:.1f} MiB by the upload, by {grown['both']:.1f} MiB in all")
    assert (tmp_path / "target").stat().st_size == 511 * MIB
    assert 0 < grown["upload"] <= grown["both"] < 250


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "mode"), [("rclone", "upload"), ("rclone", "write"), ("gcs-fake", "upload"), ("azurite", "upload")]
)
def test_memory_of_many(server: str, mode: str, servers: Servers, tmp_path: Path) -> None:
    """Many transfers at the same time draw on one budget, on each provider."""
    rig = server_rig(server, servers.get(server))
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(16 * MIB)
    job = {"provider": rig.provider, "config": rig.settings(), "mode": mode, "source": str(source), "times": 24}

    child = subprocess.run(
        [sys.executable, "-m", "tests.scripts.memory_many", json.dumps({**job, "folder": str(tmp_path)})],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    grown: float = json.loads(child.stdout)["grown"]
    print(f"24 x 16 MiB, {mode}, {server}: grew by {grown:.1f} MiB")
    stored = rig.keys()
    assert len(stored) == 25
    for key in stored:  # the servers keep objects in memory
        rig.second.delete(rig.key(key))
    assert 0 < grown < 250
