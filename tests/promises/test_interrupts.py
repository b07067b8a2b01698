"""Ctrl-C, kill -9 and cancelled tasks in the middle of a transfer.

After Ctrl-C and after a cancellation nothing is left and nothing happens later. After kill -9, which no program can answer,
the multipart upload stays open on the server, and a temporary file ``.gllm-*.tmp`` stays beside a download's target; what
has the name of an object or of a download is whole or what it was, all the same.
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

from gllm_storage.files.target import is_temporary
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
END_SECONDS = 60.0  # the library waits up to 10 for a server that stalls, and a busy machine is late
STOP_SECONDS = 4.0
"""How long a child waits for a server that stalls, but in the cases `AS_SHIPPED`: many times 10 seconds show no more."""
LATER_SECONDS = 1.0
STALL = 100_000  # bytes; less than we take at a time, so that the reader is sure to wait for more
MIDDLE_SECONDS = 60.0  # until a transfer is in its middle, on a busy machine

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


@dataclass(frozen=True)
class Middle:
    """A transfer, and what holds it in its middle.

    Attributes:
        action: What the child does.
        size: Bytes of the object.
        hold: Which operation the proxy holds.
        how: What the proxy does to it.
        skip: How many of these requests it lets pass.
        config: What the child's client has beside the rig's config.
        begun: Bytes of the held request, or of its answer, that have moved when the signal comes.
        may_be_there: Whether the request that makes the object was on its way, so that the object may be there: whole.
        server: On which server.
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
        """Whether the server never answers; a slow one does before the library ends its wait."""
        return isinstance(self.how, (Delay, StallBody)) and self.how.seconds > END_SECONDS


UPLOADS = {
    # So large that the kernel cannot have taken all of it when the signal comes.
    "one put": Middle("create", 32 * MIB, "PutObject", Throttle(MIB), config={"multipart_threshold": "64MiB"}, begun=MIB),
    "one put from memory": Middle("create", 15 * MIB, "PutObject", Throttle(MIB // 2), begun=MIB // 2),
    "small put": Middle("create", 100_000, "PutObject", Delay(600), may_be_there=True),
    "overwriting put": Middle("upload", 100_000, "PutObject", Delay(600), may_be_there=True),
    # Until it is answered nobody knows what there would be to abort.
    "creation of the parts": Middle("create", 11 * MIB, "CreateMultipartUpload", Delay(3), config=SMALL_PARTS),
    "parts": Middle("create", 26 * MIB, "UploadPart", Throttle(2 * MIB), skip=2, config=SMALL_PARTS, begun=MIB // 4),
    "stalled parts": Middle("create", 26 * MIB, "UploadPart", Delay(600), skip=2, config=SMALL_PARTS),
    "completion": Middle("create", 11 * MIB, "CompleteMultipartUpload", Delay(600), config=SMALL_PARTS, may_be_there=True),
    "answer to the completion": Middle(
        "create", 11 * MIB, "CompleteMultipartUpload", StallBody(20, 600), config=SMALL_PARTS, begun=20, may_be_there=True
    ),
    "creation of a stream": Middle("stream", 11 * MIB, "CreateMultipartUpload", Delay(3), config=SMALL_PARTS),
    "parts of a stream": Middle(
        "stream", 26 * MIB, "UploadPart", Throttle(2 * MIB), skip=2, config=SMALL_PARTS, begun=MIB // 4
    ),
    # While a write waits for one of two parts.
    "stalled parts of a stream": Middle(
        "stream", 26 * MIB, "UploadPart", Delay(600), skip=2, config={**SMALL_PARTS, "max_concurrency": "2"}
    ),
    "completion of a stream": Middle(
        "stream", 11 * MIB, "CompleteMultipartUpload", Delay(600), config=SMALL_PARTS, may_be_there=True
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
    """A store whose clients of ours go through a proxy that holds their requests."""

    rig: Rig
    proxy: FaultProxy
    folder: Path
    content: bytes

    @property
    def local(self) -> Path:
        return self.folder / "local" / NAME

    def prepare(self, middle: Middle) -> None:
        """Put the object or the file where the transfer finds it, and hold the transfer."""
        self.local.parent.mkdir()
        if middle.action == "download":
            self.rig.second.put(self.rig.key(NAME), self.content)
            self.local.write_bytes(BEFORE)
        else:
            self.local.write_bytes(self.content)
        wanted = Match(operation=middle.hold, path=self.rig.key(NAME))
        if middle.hold.startswith(("Resumable", "Upload")) and middle.server == "gcs-fake":
            wanted = Match(operation=middle.hold)  # the name is in the body, or in what the session knows
        self.proxy.inject(Fault(wanted, middle.how, middle.skip, times=None))
        if not middle.may_be_there:
            self.keep_from_ending(COMMITS - {middle.hold})

    def keep_from_ending(self, commits: set[str]) -> None:
        """Hold what would make the object, too: a busy machine hears of a signal so late that all else is done by then."""
        for commit in commits:
            path = None if commit.startswith("Resumable") else self.rig.key(NAME)
            self.proxy.inject(Fault(Match(operation=commit, path=path), Call(self.proxy.closing.wait), times=None))

    def wait_until_held(self, middle: Middle, child: subprocess.Popen[str] | None = None) -> None:
        """Wait until the transfer is in its middle."""
        deadline = time.monotonic() + MIDDLE_SECONDS
        while not self.is_held(middle):
            assert child is None or child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline, f"nothing was held of {self.seen()}"
            time.sleep(0.01)

    def is_held(self, middle: Middle) -> bool:
        held = [entry for entry in self.proxy.requests if entry.fault and entry.operation == middle.hold]
        if isinstance(middle.how, Delay):  # the server has done its work, and the answer is held back
            return any(entry.upstream_status for entry in held)
        return any(max(entry.body_bytes, entry.response_bytes) >= middle.begun for entry in held)

    def seen(self) -> list[tuple[str, int, int | None, str | None]]:
        return [(entry.operation, entry.body_bytes, entry.status, entry.fault) for entry in self.proxy.requests]

    def assert_nothing_left_of_upload(self, *, may_be_there: bool, may_be_open: bool = False) -> None:
        """The object is whole, where it may be, or not there; and so it stays."""
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

    def assert_nothing_left_of_download(self, *, may_leave_temporary: bool = False) -> None:
        """The local file is what it was, and so it stays."""
        for seconds in (0.0, LATER_SECONDS):
            time.sleep(seconds)
            assert self.local.read_bytes() == BEFORE
            others = [path.name for path in self.local.parent.iterdir() if path != self.local]
            assert len(others) <= int(may_leave_temporary)
            assert all(is_temporary(name) for name in others)


@contextmanager
def holding(servers: Servers, folder: Path, size: int, server: str = "ministack") -> Iterator[Held]:
    """A server behind a proxy."""
    running = servers.get(server)
    parts = urlsplit(running.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        rig = server_rig(server, running, f"{proxy.url}{parts.path}")
        held = Held(rig, proxy, folder, random.Random(size).randbytes(size))
        yield held
        assert proxy.errors == []


@contextmanager
def transfer(rig: Rig, action: str, local: Path, config: dict[str, str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A transfer in a child process."""
    job = {"provider": rig.provider, "config": rig.settings(**config), "action": action, "local": str(local), "remote": NAME}
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.scripts.transfer", json.dumps({**job, **more})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def end(child: subprocess.Popen[str], by: signal.Signals) -> None:
    """Signal a child, and see it die of that in time."""
    assert child.poll() is None, child.communicate()[1]
    child.send_signal(by)
    try:
        _, errors = child.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)  # faulthandler says where it hangs
        pytest.fail(f"{by.name} did not end it in {END_SECONDS} s:\n{child.communicate()[1]}")
    assert child.returncode == -by, errors
    assert by is signal.SIGKILL or errors.rstrip().endswith("KeyboardInterrupt"), errors


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
    """A small write that reaches the store late is decided when Ctrl-C ends the upload."""
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
    """After kill -9 during an upload there is a complete object, or no object."""
    middle = UPLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGKILL)
        held.assert_nothing_left_of_upload(may_be_there=middle.may_be_there, may_be_open=True)
        held.proxy.clear()
        held.local.write_bytes(b"again")

        held.rig.client(**middle.config).upload_file(held.local, NAME)  # what stayed open is in nobody's way

        assert held.rig.second.get(held.rig.key(NAME)) == b"again"


@pytest.mark.parametrize("case", DOWNLOADS)
def test_ctrl_c_in_download(case: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during a download leaves the previous file."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config, stop_seconds=STOP_SECONDS) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        held.assert_nothing_left_of_download()


@pytest.mark.parametrize("case", DOWNLOADS)
def test_kill_in_download(case: str, servers: Servers, tmp_path: Path) -> None:
    """After kill -9 during a download the previous file is there."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGKILL)
        held.assert_nothing_left_of_download(may_leave_temporary=True)


PROBE = ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject"]


@pytest.mark.parametrize("hold", PROBE)
def test_ctrl_c_in_probe(hold: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C while the endpoint is probed leaves nothing behind."""
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
    """A completion that reaches the store after Ctrl-C makes no object."""
    with holding(servers, tmp_path, 11 * MIB) as held:
        arrive = threading.Event()
        middle = Middle("create", 11 * MIB, "CompleteMultipartUpload", Call(arrive.wait), config=SMALL_PARTS)
        held.prepare(middle)
        with transfer(held.rig, middle.action, held.local, middle.config, stop_seconds=STOP_SECONDS) as child:
            held.wait_until_held(middle, child)
            end(child, signal.SIGINT)
        assert held.rig.open_uploads() == []

        arrive.set()
        held.wait_until_held(Middle("create", 11 * MIB, middle.hold, Delay(0)))

        held.assert_nothing_left_of_upload(may_be_there=False)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=lambda signal: signal.name)
def test_upload_to_local_ended(by: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A local store shows no part of an upload that was ended by a signal."""
    rig = make_rig("file", request)
    source = tmp_path / "source"
    source.write_bytes(random.Random(0).randbytes(8 * MIB))
    rig.second.put(rig.key("other"), b"other")

    with transfer(rig, "create", source, {}, pause=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "halfway\n"
        assert len(rig.keys()) == 2, "the upload is not in its middle"
        end(child, by)

    left = sorted(set(rig.keys()) - {"other"})
    assert len(left) <= int(by is signal.SIGKILL)
    assert all(is_temporary(key) for key in left)
    assert not rig.client().file_exists(NAME)
    assert [info.url for info in rig.client().list_files()] == [rig.client().url("other")]
    rig.client().upload_file(source, NAME, check_conflict=True)
    assert rig.second.get(rig.key(NAME)) == source.read_bytes()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=lambda signal: signal.name)
def test_download_from_local_ended(by: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A download from a local store that was ended by a signal leaves the previous file."""
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
    others = [path.name for path in target.parent.iterdir() if path != target]
    assert len(others) <= int(by is signal.SIGKILL)
    assert all(is_temporary(name) for name in others)


@pytest.mark.usefixtures("short_stops")
@pytest.mark.parametrize("case", ["one put", "creation of the parts", "parts", "gcs, chunk", "azure, blocks"])
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
    """A cancelled download task leaves the previous file."""
    middle = DOWNLOADS[case]
    with holding(servers, tmp_path, middle.size, middle.server) as held:
        held.prepare(middle)
        client = held.rig.client(**middle.config)

        cancel_in_the_middle(held, middle, lambda: client.filesystem._get_file(client.url(NAME), str(held.local)))

        held.assert_nothing_left_of_download()


@pytest.fixture
def short_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for a server that stalls."""
    for module in stop_modules():
        monkeypatch.setattr(module, "_STOP_SECONDS", STOP_SECONDS)


def cancel_in_the_middle(held: Held, middle: Middle, begin: Callable[[], Any]) -> None:
    """Cancel a task when it is held; the cancellation comes out of it, in time."""

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
    """Memory does not grow with the size of the file."""
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

    grown: dict[str, int] = json.loads(child.stdout)
    print(f"512 MiB, {server}: grew by {grown['upload']} MiB by the upload, by {grown['both']} MiB in all")  # noqa: T201 - shown by -rP
    assert (tmp_path / "target").stat().st_size == 511 * MIB
    assert 0 < grown["upload"] <= grown["both"] < 250
