"""`register_filesystems`: pandas and fsspec open URLs through this library, and nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd
import pytest
from fsspec.registry import _registry as loaded
from fsspec.registry import known_implementations

from gllm_storage import IntegrityError, ObjectExistsError, ObjectNotFoundError, register_filesystems
from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.gcs.filesystem import GCSFileSystem
from gllm_storage.s3.filesystem import S3FileSystem
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Rig

CLASSES: dict[str, Any] = {
    "s3": S3FileSystem,
    "s3a": S3FileSystem,
    "gs": GCSFileSystem,
    "gcs": GCSFileSystem,
    "az": AzureBlobFileSystem,
    "abfs": AzureBlobFileSystem,
    "abfss": AzureBlobFileSystem,
}
CHILD_SECONDS = 60


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Restore fsspec's registry after each test."""
    before, known = dict(loaded), dict(known_implementations)
    yield
    loaded.clear()
    loaded.update(before)
    known_implementations.clear()
    known_implementations.update(known)


@pytest.fixture(params=["ministack", "gcs-fake", "azurite"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return make_rig(request.param, request)


def output_of(program: str, **environment: str) -> str:
    """Return the output of a program that runs in a new Python process."""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=CHILD_SECONDS, env={**os.environ, **environment}
    )
    return ran.stdout.strip()


def test_all_protocols() -> None:
    """Without arguments, all protocols of the installed providers are registered."""
    assert register_filesystems() == list(CLASSES)
    assert {protocol: fsspec.get_filesystem_class(protocol) for protocol in CLASSES} == CLASSES


def test_named_protocols() -> None:
    """Only the named protocols are registered."""
    before = {protocol: fsspec.get_filesystem_class(protocol) for protocol in CLASSES}
    assert register_filesystems("gs", "s3") == ["gs", "s3"]
    now = {protocol: fsspec.get_filesystem_class(protocol) for protocol in CLASSES}
    assert now == {**before, "gs": GCSFileSystem, "s3": S3FileSystem}


def test_unknown_protocol() -> None:
    """An unknown protocol raises ValueError, and nothing is registered."""
    before = fsspec.get_filesystem_class("s3")
    with pytest.raises(ValueError, match=r"'ftp', only for s3, s3a, gs"):
        register_filesystems("s3", "ftp")
    assert fsspec.get_filesystem_class("s3") is before


def test_import_without_effect() -> None:
    """The import of the package and of its filesystems does not change fsspec's registry."""
    program = """
import fsspec.registry
from fsspec.registry import known_implementations, registry
before = dict(registry), {name: dict(each) for name, each in known_implementations.items()}
import gllm_storage, gllm_storage.registry, gllm_storage.s3.filesystem, gllm_storage.gcs.filesystem
import gllm_storage.azure.filesystem
gllm_storage.register_filesystems
assert before == (dict(registry), dict(known_implementations))
print(fsspec.get_filesystem_class("s3").__module__)
"""
    assert output_of(program) == "s3fs.core"


SDKS = ("boto3", "s3fs", "gcsfs", "adlfs", "aiohttp", "requests", "azure.core", "google.auth")


def test_imports() -> None:
    """Registration imports no SDK; the first use imports those of its provider, and gives our class."""
    program = f"""
import sys
import fsspec, gllm_storage
gllm_storage.register_filesystems()
print([name for name in {SDKS} if name in sys.modules])
print(fsspec.get_filesystem_class("s3").__module__)
print([name for name in ("gcsfs", "adlfs") if name in sys.modules])
"""
    assert output_of(program).splitlines() == ["[]", "gllm_storage.s3.filesystem", "[]"]


def test_used_before() -> None:
    """Registration replaces a class that fsspec has used already, and the class stays after another import of the SDK."""
    program = """
import fsspec
before = fsspec.get_filesystem_class("gs").__module__
import gllm_storage
gllm_storage.register_filesystems()
import s3fs, gcsfs, adlfs
print(before, *(fsspec.get_filesystem_class(each).__module__ for each in ("gs", "gcs", "s3", "az")))
"""
    ours = ["gllm_storage.gcs.filesystem"] * 2 + ["gllm_storage.s3.filesystem", "gllm_storage.azure.filesystem"]
    assert output_of(program).split() == ["gcsfs.core", *ours]


@pytest.fixture(scope="module")
def companion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which ``packages/gllm-storage-fsspec`` is installed."""
    folder = tmp_path_factory.mktemp("companion")
    source = shutil.copytree(Path(__file__).parents[2] / "packages" / "gllm-storage-fsspec", folder / "source")
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=CHILD_SECONDS)
    return folder / "site"


def test_companion(companion: Path) -> None:
    """With the companion distribution, each process opens URLs by our classes, and `import fsspec` imports none of them."""
    program = """
import sys
import fsspec
assert not [name for name in sys.modules if name.split(".")[0] in ("gllm_storage", "s3fs", "gcsfs", "adlfs")]
print(*(fsspec.get_filesystem_class(each).__module__ for each in ("s3", "s3a", "gs", "gcs", "az", "abfs")))
"""
    ours = ["gllm_storage.s3.filesystem"] * 2 + ["gllm_storage.gcs.filesystem"] * 2 + ["gllm_storage.azure.filesystem"] * 2
    assert output_of(program, PYTHONPATH=str(companion)).split() == ours


def test_spawned_workers(companion: Path, tmp_path: Path) -> None:
    """A spawned worker has s3fs's class after `register_filesystems` of its parent, and ours with the companion."""
    program = tmp_path / "program.py"
    program.write_text("""
import multiprocessing, fsspec

def found(protocol):
    return fsspec.get_filesystem_class(protocol).__module__

if __name__ == "__main__":
    import gllm_storage
    gllm_storage.register_filesystems()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(found("s3"), *pool.map(found, ["s3"]))
""")
    run = partial(
        subprocess.run, [sys.executable, str(program)], check=True, capture_output=True, text=True, timeout=CHILD_SECONDS
    )
    assert run().stdout.split() == ["gllm_storage.s3.filesystem", "s3fs.core"]
    with_companion = run(env={**os.environ, "PYTHONPATH": str(companion)})
    assert with_companion.stdout.split() == ["gllm_storage.s3.filesystem"] * 2


def test_missing_packages() -> None:
    """Providers whose packages are missing are left out; naming one raises ImportError with the extra."""
    program = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {"gcsfs", "adlfs"} else found(name, *rest)
sys.modules["gcsfs"] = sys.modules["adlfs"] = None
import gllm_storage
print(gllm_storage.register_filesystems())
try:
    gllm_storage.register_filesystems("s3", "gs")
except ImportError as error:
    print(error)
"""
    said = output_of(program).splitlines()
    assert said[0] == "['s3', 's3a']"
    assert "pip install '.[gcs]'" in said[1]


def test_pandas(rig: Rig) -> None:
    """Tables of pandas are written and read by URL; reading raises ObjectNotFoundError for a missing object."""
    register_filesystems()
    options = rig.client().storage_options
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})
    url = f"{rig.scheme}://{rig.base}{rig.prefix}"
    table.to_csv(f"{url}/table.csv", index=False, storage_options=options)
    table.to_parquet(f"{url}/table.parquet", storage_options=options)
    assert rig.second.get(rig.key("table.csv")) == b"epoch,loss\n1,0.5\n2,0.25\n"
    assert pd.read_csv(f"{url}/table.csv", storage_options=options).equals(table)
    assert pd.read_parquet(f"{url}/table.parquet", storage_options=options).equals(table)
    with pytest.raises(ObjectNotFoundError):
        pd.read_csv(f"{url}/missing.csv", storage_options=options)


def test_fsspec_open(rig: Rig) -> None:
    """`fsspec.open` creates exclusively through the filesystem of this library."""
    register_filesystems()
    url, options = url_of(rig, "a"), rig.client().storage_options
    with fsspec.open(url, "xb", **options) as file:
        file.write(b"first")
    with pytest.raises(ObjectExistsError), fsspec.open(url, "xb", **options) as file:
        file.write(b"second")
    with fsspec.open(url, "rb", **options) as file:
        assert file.read() == b"first"
    filesystem, path = fsspec.url_to_fs(url, **options)
    assert type(filesystem) is CLASSES[rig.scheme]
    assert filesystem.exists(path)


def test_forked_child(rig: Rig) -> None:
    """A forked child opens URLs through the filesystems of this library."""
    rig.second.put(rig.key("a"), b"content")
    program = f"""
import json, os
import fsspec, gllm_storage
gllm_storage.register_filesystems()
options = json.loads(os.environ["OPTIONS"])
url = {url_of(rig, "a")!r}
with fsspec.open(url, "rb", **options) as file:
    assert file.read() == b"content"
pid = os.fork()
if not pid:
    code = 1
    try:
        with fsspec.open(url, "rb", **options) as file:
            code = 0 if file.read() == b"content" and "gllm_storage" in type(file.fs).__module__ else 2
    finally:
        os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert output_of(program, OPTIONS=json.dumps(rig.client().storage_options)) == "0"


def test_verified_content(request: pytest.FixtureRequest) -> None:
    """The content of a URL is verified by its checksum."""
    register_filesystems("s3")
    rig = make_rig("ceph", request)
    second: Any = rig.second
    kept = {"gllm-crc64nvme": "AAAAAAAAAAA=-7"}
    second.client.put_object(Bucket=second.bucket, Key=rig.key("a"), Body=b"damaged", Metadata=kept)
    filesystem, path = fsspec.url_to_fs(url_of(rig, "a"), **rig.client().storage_options)
    with pytest.raises(IntegrityError):
        filesystem.cat_file(path)


def url_of(rig: Rig, name: str) -> str:
    return f"{rig.scheme}://{rig.base}{rig.key(name)}"
