"""`fetch` with a cache: downloaded once for all processes of a machine, verified, and never damaged by its readers."""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import glob
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.callbacks import Callback

from gllm_storage import LocalStorageClient, versions
from gllm_storage.errors import IntegrityError, ObjectNotFoundError, StorageError, UnsupportedOperationError
from gllm_storage.files import partial
from gllm_storage.local import mounts
from gllm_storage.versions import cache as cache_module
from gllm_storage.versions.cache import list_cache, prune_cache
from gllm_storage.versions.catalog import resolved
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.fetching import _Fetch, fetch
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.verification import verify
from tests.scripts import fetchers
from tests.scripts.fetchers import CONNECTIONS, MODEL, PART, Fetch
from tests.scripts.racers import use_barrier
from tests.versions.support import store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.versions.catalog import Version

LARGE = random.Random(14).randbytes(12 * PART + 1000)
FILES = {"config.json": b"{}", "weights/1.bin": LARGE, "weights/2.bin": b"\x02" * 5000, "empty": b"", "twin": b"{}"}
PROCESSES = 8


@pytest.fixture
def client(tmp_path: Path) -> LocalStorageClient:
    return fetchers.client_of(str(tmp_path / "store"))


@pytest.fixture
def version(client: LocalStorageClient, tmp_path: Path) -> Version:
    return publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v3")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def content(folder: str | Path | None) -> dict[str, bytes]:
    assert folder is not None
    found: dict[str, bytes] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def cached_file(cache: Path, version: Version, path: str) -> Path:
    lines = (cache / "versions" / version.digest[7:] / "tree.jsonl").read_text().splitlines()
    (line,) = [each for each in lines if f'"{path}"' in each]
    sha256 = line.split('"sha256":"')[1][:64]
    return cache / "files" / sha256[:2] / sha256


def unreachable(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each request of the store fail."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a request was sent")

    for name in ("read", "read_many", "open_reader", "info", "list", "list_folder", "first", "fetch", "exists"):
        monkeypatch.setattr(client.store, name, fail)


def keys_read(client: LocalStorageClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the objects that are opened from now on."""
    keys: list[str] = []
    store: Any = client.store
    opened, open_reader = store._read_unchanged, store.open_reader

    def watch(key: str, *args: Any) -> None:
        keys.append(key)
        opened(key, *args)

    def watch_reader(key: str, *args: Any) -> Any:
        keys.append(key)
        return open_reader(key, *args)

    monkeypatch.setattr(store, "_read_unchanged", watch)
    monkeypatch.setattr(store, "open_reader", watch_reader)
    return keys


def run_processes(fetches: list[Fetch]) -> list[int | None]:
    """Run each fetch in a process, all at the same moment; returns the exit codes."""
    start = multiprocessing.get_context("fork")
    use_barrier(start.Barrier(len(fetches)))
    processes = [start.Process(target=fetchers.fetch, args=[each]) for each in fetches]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    return [each.exitcode for each in processes]


def downloaded(log: Path) -> int:
    return sum(int(line.split()[0]) for line in log.read_text().splitlines())


@pytest.mark.parametrize("targets", [True, False], ids=["directories", "cache alone"])
def test_downloaded_once(version: Version, cache: Path, tmp_path: Path, targets: bool) -> None:
    """8 processes of one machine download each content once."""
    log, root = tmp_path / "log", str(tmp_path / "store")
    fetches = [
        Fetch(root, "v3", str(cache), str(tmp_path / f"local{number}") if targets else None, str(log))
        for number in range(PROCESSES)
    ]
    assert run_processes(fetches) == [0] * PROCESSES
    assert downloaded(log) == version.size - len(FILES["twin"])
    folders = [each.target for each in fetches] if targets else [fetch_path(root, cache)]
    assert all(content(each) == FILES for each in folders)


def fetch_path(root: str, cache: Path) -> str | None:
    return fetch(fetchers.client_of(root), MODEL, "v3", cache=cache).path


def test_killed_downloader(version: Version, cache: Path, tmp_path: Path) -> None:
    """Of 8 processes some are killed while they download: the others go on with their bytes, and have the version."""
    log, root = tmp_path / "log", str(tmp_path / "store")
    fetches = [
        Fetch(root, "v3", str(cache), str(tmp_path / f"local{number}"), str(log), PART * (number < 3), number >= 3)
        for number in range(PROCESSES)
    ]
    codes = run_processes(fetches)
    killed = codes.count(-signal.SIGKILL)
    assert killed >= 1
    assert (codes.count(0), set(codes[3:])) == (PROCESSES - killed, {0})
    assert all(content(each.target) == FILES for each, code in zip(fetches, codes, strict=True) if code == 0)
    assert downloaded(log) <= version.size + killed * CONNECTIONS * PART
    assert not list((cache / "versions" / version.digest[7:] / "incoming").iterdir())


def test_killed_before_its_name(client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path) -> None:
    """A file that was verified, and whose process was killed before it had its name, is not downloaded again."""
    fetch(client, MODEL, "v3", cache=cache)
    for name in ("weights/1.bin", "weights/2.bin"):
        path = cached_file(cache, version, name)
        path.rename(cache / "versions" / version.digest[7:] / "incoming" / path.name)
    log = tmp_path / "log"
    log.touch()
    assert run_processes([Fetch(str(tmp_path / "store"), "v3", str(cache), str(tmp_path / "local"), str(log))]) == [0]
    assert content(tmp_path / "local") == FILES
    assert downloaded(log) == 0


@pytest.mark.parametrize("with_cache", [True, False])
def test_every_kill(version: Version, cache: Path, tmp_path: Path, with_cache: bool) -> None:
    """A fetch that is killed again and again goes on with the bytes on the disk."""
    log, root, target = tmp_path / "log", str(tmp_path / "store"), str(tmp_path / "local")
    each = Fetch(root, "v3", str(cache) if with_cache else None, target, str(log), 4 * PART)
    codes: list[int | None] = []
    while not codes or codes[-1] != 0:
        codes += run_processes([each])
        assert len(codes) < 8
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) >= 3
    assert content(target) == FILES
    assert downloaded(log) <= version.size + (len(codes) - 1) * CONNECTIONS * PART


def test_path_in_cache(client: LocalStorageClient, version: Version, cache: Path) -> None:
    """Without a destination the result has a directory to read from, which is the same one the next time."""
    found = fetch(client, MODEL, "v3", cache=cache)
    assert found == version
    assert content(found.path) == FILES
    assert verify(client, MODEL, "v3", found.path) == version
    assert fetch(client, MODEL, "v3", cache=cache).path == found.path
    with pytest.raises(ValueError, match="local_dir or cache"):
        fetch(client, MODEL, "v3")


def test_some_files(client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path) -> None:
    """Patterns choose files, which are in a directory of their own; others are not downloaded."""
    assert version.files == 5
    one = fetch(client, MODEL, "v3", cache=cache, include="*.json")
    assert content(one.path) == {"config.json": b"{}"}
    assert sum(len(names) for _, _, names in os.walk(cache / "files")) == 1
    fetch(client, MODEL, "v3", tmp_path / "local", cache=cache, include=["weights/*"])
    assert set(content(tmp_path / "local")) == {"weights/1.bin", "weights/2.bin"}
    assert content(fetch(client, MODEL, "v3", cache=cache).path) == FILES
    assert content(one.path) == {"config.json": b"{}"}


@pytest.mark.usefixtures("version")
def test_shared_files(client: LocalStorageClient, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second version takes the files that it shares with the first one from the cache, also from another model."""
    fetch(client, MODEL, "v3", cache=cache)
    publish(client, write_folder(tmp_path / "new", {**FILES, "config.json": b"[]"}), "other", version="v1")
    asked = keys_read(client, monkeypatch)
    assert content(fetch(client, "other", "v1", cache=cache).path) == {**FILES, "config.json": b"[]"}
    assert [each.rpartition("-0/")[2] for each in asked if "/data/" in each] == ["config.json"]


def test_offline(
    client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is named by its digest needs no request if the cache has its files."""
    fetch(client, MODEL, "v3", cache=cache)
    unreachable(client, monkeypatch)
    assert fetch(client, MODEL, version.digest, tmp_path / "local", cache=cache) == version
    assert content(tmp_path / "local") == content(fetch(client, MODEL, version.digest, cache=cache).path) == FILES
    with pytest.raises(AssertionError, match="a request was sent"):
        fetch(client, MODEL, "v3", cache=cache)
    cached_file(cache, version, "weights/2.bin").unlink()
    with pytest.raises(AssertionError, match="a request was sent"):
        fetch(client, MODEL, version.digest, cache=cache)


def test_offline_of_another_model(client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path) -> None:
    """A digest that was fetched from one model is looked for in the store if another model is named."""
    fetch(client, MODEL, version.digest, cache=cache)
    with pytest.raises(ObjectNotFoundError):
        fetch(client, "other", version.digest, cache=cache)
    publish(client, tmp_path / "out", "other", version="v1", metadata={"step": 1})
    found = fetch(client, "other", version.digest, cache=cache)
    assert (found.name, found.metadata) == ("v1", {"step": 1})
    assert len(list_cache(cache)[0].names) == 2


def test_deleted_version(client: LocalStorageClient, version: Version, cache: Path) -> None:
    """A version that was deleted, of which the cache has some files only, is not found."""
    fetch(client, MODEL, version.digest, cache=cache, include="config.json")
    delete_version(client, MODEL, "v3")
    versions.collect_garbage(client, MODEL, grace=dt.timedelta())
    assert content(fetch(client, MODEL, version.digest, cache=cache, include="config.json").path) == {"config.json": b"{}"}
    with pytest.raises(ObjectNotFoundError, match="no version with digest"):
        fetch(client, MODEL, version.digest, cache=cache)


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    os.chmod(path, 0o644)
    if kind == "missing":
        path.unlink()
    elif kind == "changed":
        path.write_bytes(b"\x09" + data[1:])
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    else:
        path.rename(path.with_suffix(".moved"))
        path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize("name", ["weights/1.bin", "weights/2.bin"])
@pytest.mark.parametrize("kind", ["missing", "changed", "truncated", "link"])
def test_damaged_entry(  # noqa: PLR0917 - fixtures
    client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path, kind: str, name: str
) -> None:
    """A damaged file of the cache is found and replaced, also in its directory to read from."""
    path = fetch(client, MODEL, "v3", cache=cache).path
    damage(cached_file(cache, version, name), kind)
    fetch(client, MODEL, "v3", tmp_path / "local", cache=cache)
    assert content(tmp_path / "local") == FILES
    assert fetch(client, MODEL, "v3", cache=cache).path == path
    assert content(path) == FILES
    assert verify(client, MODEL, "v3", path) == version


@pytest.mark.parametrize("kind", ["tree list", "manifest", "directory", "added file"])
def test_damaged_cache(client: LocalStorageClient, version: Version, cache: Path, kind: str) -> None:
    """The other files of a cache are compared as well, and made anew."""
    path = fetch(client, MODEL, "v3", cache=cache).path
    assert path is not None
    folder = cache / "versions" / version.digest[7:]
    if kind == "tree list":
        (folder / "tree.jsonl").write_bytes(b"{}")
    elif kind == "manifest":
        (manifest,) = folder.glob("*.json")
        manifest.write_bytes(manifest.read_bytes()[:-5])
    elif kind == "directory":
        os.unlink(os.path.join(path, "config.json"))
    else:
        write_folder(cache, {os.path.join(path, "new", "file"): b"x"})
    assert fetch(client, MODEL, version.digest, cache=cache) == version
    assert content(path) == FILES
    assert list_cache(cache)[0].files == 4


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("place", ["", ".new", "weights"])
@pytest.mark.parametrize("kind", ["link", "file", "link to itself"])
def test_replaced_folder(client: LocalStorageClient, cache: Path, tmp_path: Path, place: str, kind: str) -> None:
    """A link or a file in place of a folder in the cache is replaced; no file that a link leads to is removed."""
    path = str(fetch(client, MODEL, "v3", cache=cache).path)
    other = write_folder(tmp_path / "other", {"mine": b"precious"})
    replaced = Path(path + place if place.startswith(".") else os.path.join(path, place))
    if place == ".new":
        shutil.rmtree(path)
    else:
        shutil.rmtree(replaced)
    if kind == "file":
        replaced.write_bytes(b"x")
    else:
        replaced.symlink_to(other if kind == "link" else replaced.name)
    assert fetch(client, MODEL, "v3", cache=cache).path == path
    assert content(path) == FILES
    assert not os.path.islink(path)
    assert content(other) == {"mine": b"precious"}


def test_damaged_object(client: LocalStorageClient, version: Version, cache: Path) -> None:
    """What the store has in place of a file does not come into the cache, and an object of another size is not read."""
    model = model_of(client, MODEL)
    for name, data in (
        ("weights/1.bin", LARGE[:-1] + b"x"),
        ("weights/2.bin", b"\x03" * 5000),
        ("weights/1.bin", LARGE[1:]),
    ):
        store_bytes(client.store, f"{model.data(version.digest[7:] + '-0')}{name}", data)
        with pytest.raises(IntegrityError, match=name):
            fetch(client, MODEL, "v3", cache=cache, include=name)
        assert not content(cache / "files")


def without_privileges(function: str, *args: object) -> list[str]:
    """Call a function of this module in a process that may write only to files that have the permission, unlike root.

    Returns:
        The words that it prints.
    """
    program = f"import sys; from tests.versions import test_cache; test_cache.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, args)]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def fetch_and_write(root: str, cache: str, target: str) -> None:
    """Fetch a version, also within the cache, and write to one of its files, as a program that does not know about it."""
    client = fetchers.client_of(root)
    fetch(client, MODEL, "v3", cache=cache)
    fetch(client, MODEL, "v3", target, cache=cache)
    path = os.path.join(target, "weights", "2.bin")
    print(os.stat(path).st_nlink)  # read by the test
    try:
        with open(path, "r+b") as file:
            file.write(b"\x09" * 10)
    except PermissionError:
        print("refused")


@pytest.mark.parametrize("user", ["root", "user"])
def test_writer(client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path, user: str) -> None:
    """A program that writes to a fetched file does not damage the cache: it may not, or has a file of its own."""
    arguments = tmp_path / "store", cache, tmp_path / "local"
    if user == "user":
        shares_blocks = cache_module._reflink(str(tmp_path / "out" / "config.json"), str(tmp_path / "shared"))
        assert without_privileges("fetch_and_write", *arguments) == (["1"] if shares_blocks else ["3", "refused"])
    else:
        fetch_and_write(*map(str, arguments))
    assert cached_file(cache, version, "weights/2.bin").read_bytes() == FILES["weights/2.bin"]
    assert verify(client, MODEL, "v3", fetch(client, MODEL, version.digest, cache=cache).path) == version
    fetch(client, MODEL, "v3", tmp_path / "other", cache=cache)
    assert content(tmp_path / "other") == FILES


@pytest.mark.usefixtures("version")
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="Linux only")  # noqa: S108 - another filesystem
def test_cache_on_another_disk(client: LocalStorageClient, tmp_path: Path) -> None:
    """A cache on another filesystem than the destination gives copies."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as cache:
        assert without_privileges("fetch_and_write", tmp_path / "store", cache, tmp_path / "local") == ["1"]
        fetch(client, MODEL, "v3", tmp_path / "other", cache=cache)
        assert content(tmp_path / "other") == FILES


def fetch_from_read_only(root: str, cache: str, target: str) -> None:
    """Fetch from a cache to which this process may not write, which has some of the files."""
    client = fetchers.client_of(root)
    fetch(client, MODEL, "v3", target, cache=cache)
    assert content(target) == FILES
    path = fetch(client, MODEL, "v3", cache=cache, include="weights/*").path
    assert set(content(path)) == {"weights/1.bin", "weights/2.bin"}
    with pytest.raises(StorageError, match=r"may not write to the cache .* Name another cache"):
        fetch(client, MODEL, "v3", cache=cache)
    with pytest.raises(StorageError, match="which does not have a directory with these files"):
        fetch(client, MODEL, "v3", cache=cache, include="/weights/1.bin")
    with pytest.raises(PermissionError):
        prune_cache(cache)


@pytest.mark.usefixtures("version")
def test_read_only_cache(client: LocalStorageClient, cache: Path, tmp_path: Path) -> None:
    """A cache that cannot be written gives the files that it has; the others come from the store."""
    fetch(client, MODEL, "v3", cache=cache, include="weights/*")
    before = content(cache)
    folders = [each for each in (cache, *cache.rglob("*")) if each.is_dir()]
    for each in folders:
        each.chmod(0o500)
    for each in (cache / "lock", *cache.glob("versions/*/*")):
        each.chmod(0o500 if each.is_dir() else 0o400)
    without_privileges("fetch_from_read_only", tmp_path / "store", cache, tmp_path / "local")
    assert content(cache) == before
    for each in folders:
        each.chmod(0o700)


def test_no_place_for_a_cache(client: LocalStorageClient, tmp_path: Path) -> None:
    """A cache that cannot be made is an error, not a fetch without a cache."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write local file '.*file/cache'"):
        fetch(client, MODEL, "v3", cache=tmp_path / "file" / "cache")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 320 MiB that can share blocks between files."""
    if shutil.which("mkfs.xfs") is None and os.environ.get("CI") != "true":
        pytest.skip("mkfs.xfs is not installed; tests/install-servers installs it")
    image, folder = tmp_path_factory.mktemp("image") / "image", tmp_path_factory.mktemp("disk")
    with image.open("xb") as file:
        file.truncate(320 * 2**20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("version")
def test_shared_blocks(client: LocalStorageClient, tmp_path: Path, disk: Path) -> None:
    """On a disk that can share blocks, each fetched file is one of its own, takes no room, and may be written."""
    cache = disk / "cache"
    fetch(client, MODEL, "v3", cache=cache)
    os.sync()
    before = shutil.disk_usage(disk).used
    for number in range(4):
        fetch(client, MODEL, "v3", disk / f"local{number}", cache=cache)
    os.sync()
    assert shutil.disk_usage(disk).used - before < len(LARGE)
    assert without_privileges("fetch_and_write", tmp_path / "store", cache, disk / "local") == ["1"]
    assert content(fetch(client, MODEL, "v3", cache=cache).path) == content(disk / "local0") == FILES


@pytest.mark.parametrize("full", ["cache", "destination"])
def test_full_disk(client: LocalStorageClient, version: Version, tmp_path: Path, disk: Path, full: str) -> None:
    """A full disk is an error that names the file; nothing appears, and the same call completes when there is room."""
    cache, target = disk / f"cache-{full}", disk / f"local-{full}"
    if full == "cache":
        target = tmp_path / "local"
    else:
        cache = tmp_path / "cache"
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free - len(LARGE) // 2)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        fetch(client, MODEL, "v3", target, cache=cache)
    assert not target.exists()
    (disk / "filler").unlink()
    assert fetch(client, MODEL, "v3", target, cache=cache) == version
    assert content(target) == FILES


def test_half_of_the_room(
    client: LocalStorageClient, version: Version, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for which a full disk gave a part of the room, as ext4 does, gives it back."""

    def allocate(fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(partial, "allocate", allocate)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        fetch(client, MODEL, version.name, cache=cache, include="weights/1.bin")
    (found,) = list_cache(cache)
    assert (found.files, found.size) == (0, 0)


def names(found: list[versions.CachedVersion]) -> list[str]:
    return [each.names[0].rpartition(" ")[2] for each in found]


@pytest.fixture
def three(client: LocalStorageClient, cache: Path, tmp_path: Path) -> list[Version]:
    """Three versions in the cache, used one, two and three days ago, which share a file of 40 kB."""
    found = []
    for day in (1, 2, 3):
        files = {"shared": b"\x01" * 40_000, "own": bytes([day]) * 10_000}
        found.append(publish(client, write_folder(tmp_path / f"day{day}", files), MODEL, version=f"v{day}"))
        fetch(client, MODEL, f"v{day}", cache=cache)
        then = time.time() - day * 86_400
        os.utime(cache / "versions" / found[-1].digest[7:] / "used", (then, then))
    return found


@pytest.mark.usefixtures("three")
def test_list(client: LocalStorageClient, cache: Path) -> None:
    """The versions in a cache, with their names, sizes and times, the last one first."""
    first = list_cache(cache)[0]
    assert names(list_cache(cache)) == ["v1", "v2", "v3"]
    assert first.names == (f"{client.url(MODEL)} v1",)
    assert (first.files, first.size) == (2, 50_000)
    assert abs(first.used - dt.datetime.now(tz=dt.UTC) + dt.timedelta(days=1)) < dt.timedelta(minutes=1)
    assert content(first.path) == {"shared": b"\x01" * 40_000, "own": b"\x01" * 10_000}
    for other in (cache / "files", cache / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no cache"):
            list_cache(other)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({}, []),
        ({"older_than": dt.timedelta(days=2.5)}, ["v3"]),
        ({"older_than": dt.timedelta(hours=1)}, ["v3", "v2", "v1"]),
        ({"max_size": 70_000}, []),
        ({"max_size": 69_999}, ["v3"]),
        ({"max_size": 50_000}, ["v3", "v2"]),
        ({"max_size": 0}, ["v3", "v2", "v1"]),
        ({"max_size": 60_000, "older_than": dt.timedelta(days=1.5)}, ["v3", "v2"]),
    ],
)
def test_prune(client: LocalStorageClient, cache: Path, options: dict[str, Any], removed: list[str]) -> None:
    """Versions are removed by their last use and by size, and with them the files that no other version needs."""
    (cache / "files" / "notes").mkdir()
    (cache / "files" / "notes" / "mine").write_bytes(b"")
    before = content(cache)
    assert names(prune_cache(cache, **options, dry_run=True)) == removed
    assert content(cache) == before
    assert names(prune_cache(cache, **options)) == removed
    left = [each for each in ("v1", "v2", "v3") if each not in removed]
    assert names(list_cache(cache)) == left
    assert len(content(cache / "files")) == (len(left) + 1 if left else 0) + 1
    for name in ("v1", "v2", "v3"):
        assert content(fetch(client, MODEL, name, cache=cache).path)["shared"] == b"\x01" * 40_000


def test_prune_beside_fetch(client: LocalStorageClient, three: list[Version], cache: Path, tmp_path: Path) -> None:
    """What a running fetch holds stays, in another process, and also if it is the oldest."""
    log, start = tmp_path / "log", multiprocessing.get_context("fork")
    use_barrier(start.Barrier(1))
    cached_file(cache, three[2], "own").unlink()
    each = Fetch(str(tmp_path / "store"), "v3", str(cache), None, str(log), stopped_after=10_000)
    process = start.Process(target=fetchers.fetch, args=[each])
    process.start()
    os.waitid(os.P_PID, process.pid or 0, os.WSTOPPED | os.WNOWAIT)
    assert names(prune_cache(cache, max_size=0)) == ["v2", "v1"]
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0
    assert content(list_cache(cache)[0].path) == {"shared": b"\x01" * 40_000, "own": b"\x03" * 10_000}
    assert downloaded(log) == 10_000
    assert names(prune_cache(cache, max_size=0)) == ["v3"]
    assert fetch(client, MODEL, "v3", cache=cache) == three[2]


def test_killed_prune(client: LocalStorageClient, cache: Path, tmp_path: Path) -> None:
    """After a kill of `prune_cache` before any of its changes, the cache is listed, used, and pruned as before."""
    files = {"config": b"{}", "weights": b"\x01" * 100}
    publish(client, write_folder(tmp_path / "out", files), MODEL, version="v1")
    fetch(client, MODEL, "v1", cache=cache)
    for steps in range(32):
        folder = shutil.copytree(cache, tmp_path / f"cache{steps}")
        child = os.fork()
        if not child:
            kill_before_change(steps)
            prune_cache(folder, max_size=0)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert len(list_cache(folder)) == (steps == 0)
        assert content(fetch(client, MODEL, "v1", cache=folder).path) == files
        prune_cache(folder, max_size=0)
        assert not content(folder / "versions")
        assert not content(folder / "files")
        if not status:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert steps >= 10


def kill_before_change(steps: int) -> None:
    """Let this process be killed before it renames or removes a file or folder for the n-th time."""
    left = steps

    def watch(act: Any) -> Any:
        def call(*args: Any, **options: Any) -> None:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            act(*args, **options)

        return call

    for name in ("unlink", "rmdir", "rename"):
        setattr(os, name, watch(getattr(os, name)))


@pytest.mark.parametrize("when", ["before the first", "between", "after its files"])
def test_list_beside_prune(three: list[Version], cache: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A version that `prune_cache` removes while the cache is listed is left out."""
    function = {"before the first": "_digests", "between": "_manifest_in", "after its files": "_contents"}[when]
    original: Any = getattr(cache_module, function)

    def prune_meanwhile(*args: Any) -> Any:
        found = original(*args)
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, function, original)
            prune_cache(cache, older_than=dt.timedelta(days=1.5))
        return found

    monkeypatch.setattr(cache_module, function, prune_meanwhile)
    assert {each.digest for each in list_cache(cache)} <= {three[0].digest, three[1].digest, three[2].digest}
    assert names(list_cache(cache)) == ["v1"]


@pytest.mark.parametrize("leaves_files", [True, False])
def test_incoming_is_counted(client: LocalStorageClient, three: list[Version], cache: Path, leaves_files: bool) -> None:
    """The bytes that an interrupted fetch has left count, and are removed first."""
    incoming = cache / "versions" / three[0].digest[7:] / "incoming"
    (incoming / ("0" * 64)).write_bytes(b"\x01" * 2**20)
    if not leaves_files:
        for name in ("own", "shared"):
            for each in three:
                cached_file(cache, each, name).unlink(missing_ok=True)
    files = 70_000 if leaves_files else 0
    assert list_cache(cache)[0].size == (50_000 if leaves_files else 0) + 2**20
    assert prune_cache(cache, max_size=files + 2**20) == []
    assert names(prune_cache(cache, max_size=files + 2**20 - 1, dry_run=True)) == ([] if leaves_files else ["v1"])
    assert incoming.exists()
    assert names(prune_cache(cache, max_size=files + 2**20 - 1)) == ([] if leaves_files else ["v1"])
    assert not incoming.exists()
    assert not list(cache.glob("versions/*.pruned"))
    assert sum(each.size for each in list_cache(cache)) == (150_000 if leaves_files else 0)
    cached_file(cache, three[1], "shared").unlink(missing_ok=True)
    assert content(fetch(client, MODEL, "v1", cache=cache).path) == {"shared": b"\x01" * 40_000, "own": b"\x01" * 10_000}


def test_held_incoming_stays(client: LocalStorageClient, three: list[Version], cache: Path) -> None:
    """The bytes that a running fetch downloads at this moment count, and stay."""
    opened = cache_module.Cache(cache, client.store.details(MODEL, "fetch"))
    model = model_of(client, MODEL)
    (cache / "versions" / three[2].digest[7:] / "incoming" / ("0" * 64)).write_bytes(b"\x01" * 2**20)
    with opened.lease(model, resolved(model, "v3", "fetch"), "fetch"):
        assert names(prune_cache(cache, max_size=2**20 + 50_000)) == ["v2", "v1"]
    assert list_cache(cache)[0].size == 50_000 + 2**20
    assert names(prune_cache(cache, max_size=2**20 + 49_999)) == []
    assert names(prune_cache(cache, max_size=0)) == ["v3"]


def fetch_over_links(root: str, cache: str, target: str) -> None:
    """Leave an interrupted fetch with files of the cache, damage one, and fetch again without the cache."""
    client = fetchers.client_of(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Fetch, "_put_into_place", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(client, MODEL, "v3", target, cache=cache)
    (folder,) = glob.glob(os.path.join(os.path.dirname(target), ".*.gllm-fetch"))
    path = os.path.join(folder, "weights", "1.bin")
    damage(Path(path), "changed")
    os.chmod(path, 0o444)
    before = content(os.path.join(cache, "files"))
    fetch(client, MODEL, "v3", target)
    assert content(target) == FILES
    assert content(os.path.join(cache, "files")) == before


def raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("user", ["root", "user"])
def test_links_of_an_interrupted_fetch(client: LocalStorageClient, cache: Path, tmp_path: Path, user: str) -> None:
    """A fetch that goes on replaces the hard links into a cache, and does not write to the files of the cache."""
    arguments = tmp_path / "store", cache, tmp_path / "local"
    if user == "user":
        without_privileges("fetch_over_links", *arguments)
    else:
        fetch(client, MODEL, "v3", cache=cache)
        fetch_over_links(*map(str, arguments))


def fetch_after_kills(root: str, cache: str) -> None:
    """Fetch after kills of a process between the verification of a file and its name, and a damage of that file."""
    client = fetchers.client_of(root)
    for kind in ("changed", "truncated", "link"):
        shutil.rmtree(cache, ignore_errors=True)
        fetch(client, MODEL, "v3", cache=cache, include="weights/1.bin")
        (path,), (version,) = Path(cache).glob("files/*/*"), Path(cache).glob("versions/*")
        path = path.rename(version / "incoming" / path.name)
        damage(path, kind)
        os.chmod(path, 0o444)
        assert content(fetch(client, MODEL, "v3", cache=cache).path) == FILES


@pytest.mark.usefixtures("version")
def test_read_only_incoming(cache: Path, tmp_path: Path) -> None:
    """A read-only file that a killed process left, and that is damaged, is downloaded again."""
    without_privileges("fetch_after_kills", tmp_path / "store", cache)


def test_file_added_while_pruning(three: list[Version], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a running fetch adds while `prune_cache` looks for what is needed stays."""
    path = cached_file(cache, three[0], "own")
    path.rename(cache / "away")
    listdir = os.listdir

    def late(folder: str) -> list[str]:
        if folder == str(cache / "files"):
            (cache / "away").rename(path)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", late)
    monkeypatch.setattr(cache_module, "_removable", lambda *_: ([], []))
    prune_cache(cache)
    assert path.exists()


@pytest.mark.usefixtures("three")
def test_prune_on_a_shared_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that machines share, the fetches of other machines may not be noticed: refused, unless told."""
    monkeypatch.setattr(cache_module, "caches_names", lambda _: True)
    with pytest.raises(UnsupportedOperationError, match=r"machines may share its disk.*Pass one_machine=True"):
        prune_cache(cache, max_size=0)
    assert len(prune_cache(cache, max_size=0, one_machine=True)) == 3


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the name of this machine, on a disk that machines share, and whose locks exclude none of them."""
    name = tmp_path / "machine"
    name.write_text("a")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(mounts, "caches_names", lambda _: True)
    monkeypatch.setattr(mounts, "_BOOT_ID", str(name))
    return name


@pytest.mark.parametrize("moment", ["download", "directory"])
@pytest.mark.parametrize("target", [None, "local"])
def test_two_machines(
    client: LocalStorageClient,
    version: Version,
    cache: Path,
    *,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    target: str | None,
    moment: str,
) -> None:
    """Where locks do not exclude another machine, both fetch the version, and neither writes to the files of the other."""
    others: list[Version] = []

    def fetch_elsewhere() -> None:
        if not others:
            others.append(version)
            machine.write_text("b")
            others.append(fetch(client, MODEL, "v3", tmp_path / "b" if target else None, cache=cache))
            machine.write_text("a")

    class _Callback(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            if inc and moment == "download":
                fetch_elsewhere()

    def rename(source: str, path: str, rename: Any = os.rename) -> None:
        if moment == "directory":
            fetch_elsewhere()
        rename(source, path)

    monkeypatch.setattr(os, "rename", rename)
    mine = fetch(client, MODEL, "v3", tmp_path / "a" if target else None, cache=cache, callback=_Callback())
    for each in (mine, others[1]):
        assert content(each.path) == FILES
    assert {each.read_bytes() for each in cache.glob("files/*/*")} == set(FILES.values())
    assert not [each for each in glob.glob(f"{cache}/versions/*/**", recursive=True) if each.endswith(".new")]
    assert [(each.files, each.size) for each in list_cache(cache)] == [(4, len(LARGE) + 5002)]


@pytest.mark.parametrize(
    "limits",
    [
        {"older_than": dt.timedelta(-1)},
        {"older_than": 30},
        {"older_than": "30d"},
        {"max_size": -1},
        {"max_size": "1GiB"},
        {"max_size": 1.5},
    ],
)
@pytest.mark.usefixtures("version")
def test_wrong_limits(client: LocalStorageClient, cache: Path, limits: dict[str, Any]) -> None:
    """A negative limit, or one of another type, is refused: it would remove everything."""
    fetch(client, MODEL, "v3", cache=cache)
    with pytest.raises(ValueError, match=next(iter(limits))):
        prune_cache(cache, **limits)
    assert len(list_cache(cache)) == 1


@pytest.mark.usefixtures("version")
def test_longest_age(client: LocalStorageClient, cache: Path) -> None:
    """A time before the year 1 is before all uses."""
    fetch(client, MODEL, "v3", cache=cache)
    assert prune_cache(cache, older_than=dt.timedelta.max) == []


@pytest.mark.usefixtures("version")
def test_stray_files(client: LocalStorageClient, cache: Path) -> None:
    """Files that other programs leave in a cache stay, and do not stop the pruning."""
    fetch(client, MODEL, "v3", cache=cache)
    strays = [cache / each / ".DS_Store" for each in ("", "files", "files/5f", "versions")]
    strays.append(cache / "versions" / "._x.pruned")
    for each in strays:
        each.parent.mkdir(exist_ok=True)
        each.write_bytes(b"x")
    assert len(prune_cache(cache, max_size=0)) == 1
    assert [each for each in cache.rglob("*") if each.is_file() and each.name not in {"lock", "CACHEDIR.TAG"}] == strays
    assert list_cache(cache) == []


@pytest.mark.parametrize("place", ["local", "local/cache", "local/a/b", "link/cache"])
@pytest.mark.usefixtures("version")
def test_cache_in_destination(client: LocalStorageClient, tmp_path: Path, place: str) -> None:
    """A cache at the destination, or in it, would make the destination exist: it is refused before anything is made."""
    (tmp_path / "link").symlink_to("local")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="beside"):
        fetch(client, MODEL, "v3", tmp_path / "local", cache=tmp_path / place)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("version")
def test_destination_in_cache(client: LocalStorageClient, cache: Path) -> None:
    """A destination in the cache is a place like others."""
    assert content(fetch(client, MODEL, "v3", cache / "local", cache=cache).path) == FILES


def test_empty_name(client: LocalStorageClient) -> None:
    """An empty name, as of a variable that is not set, is not the current directory."""
    for call in (list_cache, prune_cache, lambda cache: fetch(client, MODEL, "v3", cache=cache)):
        with pytest.raises(ValueError, match="cache is empty"):
            call("")


def test_two_machines_one_target(client: LocalStorageClient, version: Version, machine: Path, tmp_path: Path) -> None:
    """Of two machines that fetch to one directory without locks, one is told that the directory exists."""

    class _Callback(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            if inc and machine.read_text() == "a":
                machine.write_text("b")
                fetch(client, MODEL, version.name, tmp_path / "local")

    with pytest.raises(FileExistsError, match="The directory exists"):
        fetch(client, MODEL, "v3", tmp_path / "local", callback=_Callback())
    assert content(tmp_path / "local") == FILES


def test_left_by_a_machine(client: LocalStorageClient, version: Version, cache: Path, machine: Path) -> None:
    """What interrupted fetches of two machines left counts, and is pruned."""

    class _Callback(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            if inc > 0 and sum(each.stat().st_size for each in cache.glob("versions/*/incoming*/*")) > PART:
                raise RuntimeError("enough")

    for name in ("a", "b"):
        machine.write_text(name)
        with pytest.raises(RuntimeError, match="enough"):
            fetch(client, MODEL, version.name, cache=cache, callback=_Callback())
    folders = list(cache.glob("versions/*/incoming*"))
    assert len(folders) == 2
    (found,) = list_cache(cache)
    assert found.size >= sum(each.stat().st_size for folder in folders for each in folder.iterdir()) > 2 * PART
    assert prune_cache(cache, max_size=0, one_machine=True) == [found]
    assert not os.listdir(cache / "versions")


def test_filesystem_without_locks(client: LocalStorageClient, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that has no locks, as NFS without its lock service, is an error that says so."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    publish(client, write_folder(cache.parent / "out", FILES), MODEL, version="v3")
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOLCK)):
        fetch(client, MODEL, "v3", cache=cache)


def test_progress(client: LocalStorageClient, version: Version, cache: Path, tmp_path: Path) -> None:
    """A callback receives all bytes once, whether they are downloaded or found."""
    for number in range(2):
        callback = Callback()
        fetch(client, MODEL, "v3", tmp_path / str(number), cache=cache, callback=callback)
        assert callback.value == callback.size == version.size
