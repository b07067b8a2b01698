"""The progress bar and Ctrl-C, on a terminal and in a pipe."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from gllm_storage.testing.faults import Call, Fault, FaultProxy, Match, Throttle
from tests.cli.support import environment, on_terminal, run, started, url_of
from tests.promises.faulty import proxied
from tests.rig import MIB, SMALL_PARTS, Rig, server_rig
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

SIZE = 26 * MIB
PARTS = [part for key, value in SMALL_PARTS.items() for part in ("-c", f"{key}={value}")]
CREATED_IN_PARTS = {"ministack": ["-c", "conditional_writes=enforced"]}
"""By default an exclusive create goes in parts on Amazon only."""
STORES = {
    "ministack": ("UploadPart", "GetObject"),
    "gcs-fake": ("ResumableChunk", "ObjectsGetMedia"),
    "azurite": ("PutBlock", "GetBlob"),
}
COMMITS = {"ministack": "CompleteMultipartUpload", "gcs-fake": "ResumableFinal", "azurite": "PutBlockList"}

pytestmark = [pytest.mark.slow]


@contextmanager
def throttled(servers: Servers, store: str, rate: int = 3 * MIB) -> Iterator[tuple[Rig, FaultProxy]]:
    """A store with slow transfers, so that a test can interrupt them."""
    rig = server_rig(store, servers.get(store))
    parts = urlsplit(rig.config["endpoint_url"])
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        for operation in STORES[store]:
            proxy.inject(Fault(Match(operation=operation), Throttle(rate), times=None))
        yield proxied(rig, proxy), proxy


def moving(proxy: FaultProxy, operation: str) -> Callable[[], bool]:
    """A condition: all requests of an operation have transferred bytes.

    Then the process is not starting threads. A Ctrl-C at the end of `threading.Thread.start` makes CPython 3.11 release a
    lock that the new thread holds, so that the thread ends with a traceback.
    """
    side_by_side = 1 if operation == "ResumableChunk" else -(-SIZE // (5 * MIB))

    def all_move() -> bool:
        moved = [max(each.body_bytes, each.response_bytes) for each in proxy.requests if each.operation == operation]
        return sum(count > 100_000 for count in moved) >= side_by_side

    return all_move


def test_bar(servers: Servers, tmp_path: Path) -> None:
    """A progress bar is shown on a terminal; not in a pipe, and not with `-q`."""
    (tmp_path / "model.bin").write_bytes(bytes(SIZE))
    with throttled(servers, "azurite") as (rig, _):
        on = on_terminal("cp", *PARTS, tmp_path / "model.bin", url_of(rig, "x"), env=environment(rig))
        off = run("cp", *PARTS, tmp_path / "model.bin", url_of(rig, "x"), env=environment(rig))
        quiet = on_terminal("cp", "-q", *PARTS, tmp_path / "model.bin", url_of(rig, "y"), env=environment(rig))
    assert on.code == 0
    assert "model.bin" in on.out
    assert "26.0/26.0 MiB" in on.out
    assert (off.code, off.out, off.err) == (0, "", "")
    assert (quiet.code, quiet.out) == (0, "")


@pytest.mark.parametrize("store", STORES)
def test_interrupted_upload(store: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during an upload prints one line and leaves no object and no multipart upload."""
    (tmp_path / "model.bin").write_bytes(bytes(SIZE))
    with throttled(servers, store) as (rig, proxy):
        # On a busy machine, Ctrl-C may arrive after all parts are sent.
        path = None if store == "gcs-fake" else rig.key("x")  # the URL of the session has no key
        proxy.inject(Fault(Match(operation=COMMITS[store], path=path), Call(proxy.closing.wait), times=None))
        done = on_terminal(
            "cp",
            "-n",
            *PARTS,
            *CREATED_IN_PARTS.get(store, []),
            tmp_path / "model.bin",
            url_of(rig, "x"),
            env=environment(rig),
            when=moving(proxy, STORES[store][0]),
        )
    assert done.code == 130
    assert "Traceback" not in done.out
    assert "interrupted" in done.out
    time.sleep(1)
    assert (rig.keys(), rig.open_uploads()) == ([], [])


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("store", STORES)
def test_interrupted_download(store: str, by: signal.Signals, code: int, servers: Servers, tmp_path: Path) -> None:
    """A signal during a download prints one line and keeps the previous file."""
    (tmp_path / "model.bin").write_bytes(b"the previous good file")
    with throttled(servers, store, rate=MIB // 8) as (rig, proxy):
        rig.second.put(rig.key("x"), bytes(SIZE))
        with started("cp", *PARTS, url_of(rig, "x"), str(tmp_path / "model.bin"), env=environment(rig)) as child:
            eventually(moving(proxy, STORES[store][1]))
            child.send_signal(by)
            _, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, errors
    assert errors.count(b"\n") == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.bin", b"the previous good file")]
