"""Fixtures: the servers, which run for the test session, and the rigs."""

from __future__ import annotations

import os

# Before the import of gcsfs: its extended class requests the type of each bucket over the network, for up to a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import gc
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.loaders
import botocore.session
import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFileSystem
from moto import mock_aws

from gllm_storage.store import retry
from tests.rig import BUCKET, TRAITS, Boto3Client, FolderClient, MemoryClient, Rig, make_bucket, new_prefix, server_rig
from tests.selection import needs_server
from tests.servers import (
    S3Server,
    azurite,
    ceph,
    ceph_tls,
    fake_gcs_server,
    gcs_fake,
    juicefs,
    ministack,
    ministack_tls,
    rclone,
    rclone_tls,
    reject,
    require,
    seaweedfs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server, ServerFactory

_SLOW = {Path(__file__).parent / each for each in ("cli", "docs", "providers/s3fs_suite")}
"""Folders with tests that each run several programs, or download one."""
_NEED_ROOT = pytest.StashKey[int]()
_SERVERS = pytest.StashKey["Servers"]()
_LARGE_SERVER = 600 * 2**20
"""Bytes of memory of a server's processes above which it is started anew. A new Ceph has 0.2 GiB."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOADER = botocore.loaders.create_loader()
_FACTORIES: dict[str, ServerFactory[Server]] = {
    "ministack": ministack,
    "ministack-tls": ministack_tls,
    "ceph": ceph,
    "ceph-tls": ceph_tls,
    "rclone": rclone,
    "rclone-tls": rclone_tls,
    "reject": reject,
    "seaweedfs": seaweedfs,
    "juicefs": juicefs,
    "azurite": azurite,
    "gcs-fake": gcs_fake,
    "fake-gcs-server": fake_gcs_server,
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the index of checksums of the user alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLLM_STORAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's cloud settings, and shorten the first wait between S3 retries."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # botocore reads its models for each client, which takes 0.15 s; the tests read them once.
    monkeypatch.setattr(botocore.session, "create_loader", lambda *_: _LOADER)
    # Shorter, and not `no_waits`: tests of cancellation and of events need waits that happen.
    monkeypatch.setattr(retry, "S3_FIRST_WAIT", 0.02)


@pytest.fixture
def events() -> Iterator[list[retry.RetryEvent]]:
    """The reports of the retry policy during a test."""
    found: list[retry.RetryEvent] = []
    unsubscribe = retry.subscribe(found.append)
    yield found
    unsubscribe()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that `pytest_collection_modifyitems` adds."""
    config.addinivalue_line("markers", "server: starts a server in a process of its own; set by tests/conftest.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that start a server, which `make test-fast` leaves out, and the tests in `_SLOW`.

    Tests that need root are left out elsewhere; under CI=true they run, and fail.
    """
    if os.geteuid() and os.environ.get("CI") != "true":
        left_out = [item for item in items if "as_root" in getattr(item, "fixturenames", ())]
        config.stash[_NEED_ROOT] = len(left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if isinstance(item, pytest.Function) and needs_server(item):
            item.add_marker(pytest.mark.server)
        if not _SLOW.isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Take the modules and the 12 000 tests out of the garbage collection, which walks all of them otherwise, in 0.3 s."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts that tests have recorded; xdist's workers cannot print them."""
    if left_out := terminalreporter.config.stash.get(_NEED_ROOT, 0):
        terminalreporter.write_line(f"left out: {left_out} tests that need root")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(autouse=True)
def _signals_work() -> None:
    """Let SIGINT and SIGHUP end the child processes of a test, as they end a user's program.

    A background job of a shell ignores SIGINT, and a program under nohup ignores SIGHUP. Child processes inherit ignored
    signals, but not handlers: after exec, a signal with a handler has its default action. So we install handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _survive)


def _survive(*_: object) -> None:
    """Handle SIGHUP without ending the test run, so that nohup still works."""


@pytest.fixture
def as_root() -> None:
    """Marks a test that needs root: to mount a disk, or to act as another user."""
    assert os.geteuid() == 0, "this test needs root, which CI has"


class Servers:
    """Servers of this test process; each server starts at its first use."""

    def __init__(self, directory: pytest.TempPathFactory) -> None:
        self._directory = directory
        self._running: dict[str, tuple[Server, ExitStack]] = {}

    def s3(self, name: str) -> S3Server:
        """A running S3 server; see `get`."""
        server = self.get(name)
        assert isinstance(server, S3Server)
        return server

    def get(self, name: str) -> Server:
        """A running server with a bucket named `BUCKET`.

        Args:
            name: One of the rig's servers.
        """
        if name not in self._running:
            with ExitStack() as stack:
                server = stack.enter_context(require(_FACTORIES[name], self._directory.mktemp(name)))
                make_bucket(server)
                self._running[name] = server, stack.pop_all()
        return self._running[name][0]

    def stop_large(self) -> None:
        """Stop the servers that use much memory; the next use starts them again.

        Most servers keep the objects of all tests in memory. Four workers with all servers once needed 17 GiB.
        """
        for name, (server, stack) in list(self._running.items()):
            if sum(map(_resident, server.pids)) > _LARGE_SERVER:
                del self._running[name]
                stack.close()

    def stop(self) -> None:
        """Stop all servers."""
        with ExitStack() as stacks:
            for _, stack in self._running.values():
                stacks.push(stack)
        self._running.clear()


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * _PAGE


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The servers of the test session."""
    running = request.config.stash[_SERVERS] = Servers(tmp_path_factory)
    yield running
    running.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop large servers between two modules: fixtures of a module may hold a server."""
    yield
    running = item.config.stash.get(_SERVERS, None)
    if running is not None and nextitem is not None and nextitem.path != item.path:
        running.stop_large()


def make_rig(name: str, request: pytest.FixtureRequest) -> Rig:
    """Build the rig of a store for the requesting test."""
    if name == "memory":
        request.addfinalizer(MemoryFileSystem.store.clear)  # else the objects of all tests stay in this process
        return Rig(
            name, "memory", {"bucket_name": BUCKET}, TRAITS[name], MemoryClient(BUCKET), new_prefix(), "memory", f"{BUCKET}/"
        )
    if name == "file":
        folder: Path = request.getfixturevalue("tmp_path") / "store"
        return Rig(
            name, "file", {"root": str(folder)}, TRAITS[name], FolderClient(folder), new_prefix(), "file", f"{folder}/"
        )
    if name == "moto":
        request.getfixturevalue("mocked_aws")
        second = Boto3Client(boto3.session.Session().client("s3", region_name="us-east-1"))
        return Rig(name, "s3", {"bucket_name": BUCKET}, TRAITS[name], second, new_prefix(), "s3", f"{BUCKET}/")
    servers: Servers = request.getfixturevalue("servers")
    return server_rig(name, servers.get(name))


@pytest.fixture
def mocked_aws() -> Iterator[None]:
    """Run moto in this process, with a bucket."""
    with mock_aws():
        try:
            boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        except ClientError as error:
            raise AssertionError("moto did not start") from error
        yield


_REPRESENTED = {"ministack-tls", "rclone-tls", "ceph", "reject"}
"""Stores that another one stands for, because CI has 25 minutes: over TLS the stores behave as they do without it, so that
Ceph over TLS stands for TLS and for Ceph; `reject` differs from rclone in exclusive create only. Tests that concern one of
these ask for it by name."""


@pytest.fixture(params=[name for name in TRAITS if name not in _REPRESENTED])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each store in turn."""
    return make_rig(request.param, request)


def _those(**wanted: bool) -> list[str]:
    found = [name for name, traits in TRAITS.items() if all(getattr(traits, key) == value for key, value in wanted.items())]
    return [name for name in found if name not in _REPRESENTED - {"reject"}]


@pytest.fixture(params=_those(creates_small=True))
def creating_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store with exclusive create, at least in one request."""
    return make_rig(request.param, request)


@pytest.fixture(params=_those(creates_large=True))
def parts_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store with exclusive create at any size."""
    return make_rig(request.param, request)


@pytest.fixture(params=_those(creates_small=False))
def careless_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store without exclusive create."""
    return make_rig(request.param, request)
