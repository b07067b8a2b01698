"""`cp`: uploads, downloads, copies between stores, standard streams, folders."""

from __future__ import annotations

import hashlib
import os
import random
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import Finished, environment, ok, run, run_python, shown_url, url_of
from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS, Rig, server_rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Servers

SMALL = b"some weights\n"


@pytest.fixture(params=["file", "ministack"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store that other processes can use."""
    return make_rig(request.param, request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with a file, outside of any store."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.bin").write_bytes(SMALL)
    return here


def large(size: int = 11 * MIB) -> bytes:
    return random.Random(size).randbytes(size)


def keys_here(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_silent(done: Finished) -> None:
    assert (done.code, done.out, done.err) == (0, "", "")


def test_round_trip(store: Rig, folder: Path) -> None:
    """An upload and a download print nothing."""
    env = environment(store)

    assert_silent(run("cp", folder / "model.bin", url_of(store, "v3/model.bin"), env=env))
    assert store.second.get(store.key("v3/model.bin")) == SMALL
    assert_silent(run("cp", url_of(store, "v3/model.bin"), folder / "copy.bin", env=env))

    assert keys_here(folder) == ["copy.bin", "model.bin"]
    assert (folder / "copy.bin").read_bytes() == SMALL


def test_verbose(store: Rig, folder: Path) -> None:
    """`-v` prints the URL or path of each copy."""
    up = ok("cp", "-v", folder / "model.bin", url_of(store, "x"), env=environment(store))
    down = ok("cp", "-v", url_of(store, "x"), folder / "down", env=environment(store))

    assert up.lines == [shown_url(store, "x")]
    assert down.lines == [str(folder / "down")]


def test_parts(servers: Servers, folder: Path) -> None:
    """A file that is sent in parts arrives complete."""
    rig = server_rig("ministack", servers.s3("ministack"))
    (folder / "large").write_bytes(large())
    parts = [part for key, value in SMALL_PARTS.items() for part in ("-c", f"{key}={value}")]

    ok("cp", folder / "large", url_of(rig, "large"), *parts, env=environment(rig))
    ok("cp", url_of(rig, "large"), folder / "back", *parts, env=environment(rig))

    assert (folder / "back").read_bytes() == large()
    assert "-" in (rig.client().info("large").etag or "")


def test_into_slash(store: Rig, folder: Path) -> None:
    """A target that ends with `/` is a folder, and gets the file under its name."""
    env = environment(store)

    ok("cp", folder / "model.bin", url_of(store, "v3/"), env=env)
    ok("cp", url_of(store, "v3/model.bin"), f"{folder}/new/", env=env)

    assert store.keys() == ["v3/model.bin"]
    assert (folder / "new" / "model.bin").read_bytes() == SMALL


def test_into_local_folder(store: Rig, folder: Path) -> None:
    """An existing local folder gets the file under its name."""
    store.second.put(store.key("v3/other.bin"), SMALL)

    ok("cp", url_of(store, "v3/other.bin"), ".", env=environment(store), cwd=folder)

    assert (folder / "other.bin").read_bytes() == SMALL


def test_into_bucket(servers: Servers, folder: Path) -> None:
    """A bucket gets the file under its name."""
    rig = server_rig("ministack", servers.s3("ministack"))
    name = f"{rig.prefix}.bin"
    (folder / name).write_bytes(SMALL)

    ok("cp", folder / name, f"s3://{rig.base.rstrip('/')}", env=environment(rig))

    assert rig.second.get(name) == SMALL


def test_several(store: Rig, folder: Path) -> None:
    """Several sources go into a target folder."""
    (folder / "other.bin").write_bytes(b"other")

    ok("cp", folder / "model.bin", folder / "other.bin", url_of(store, "v3/"), env=environment(store))

    assert store.keys() == ["v3/model.bin", "v3/other.bin"]


def test_several_need_folder(store: Rig, folder: Path) -> None:
    """Several sources need a target folder."""
    done = run("cp", folder / "model.bin", folder / "model.bin", url_of(store, "v3"), env=environment(store))

    assert done.code == 2
    assert "ends with '/'" in done.err
    assert store.keys() == []


def test_local_to_local(folder: Path) -> None:
    """Source and target may both be local, as paths or as URLs."""
    assert_silent(run("cp", "model.bin", "copy.bin", cwd=folder))
    assert_silent(run("cp", f"file://{folder}/model.bin", f"file://{folder}/sub/", cwd=folder))

    assert keys_here(folder) == ["copy.bin", "model.bin", "sub/model.bin"]


def test_store_to_store(servers: Servers, folder: Path) -> None:
    """An object goes from one store to another; the temporary file is removed."""
    source, target = (server_rig(name, servers.s3(name)) for name in ("rclone", "ministack"))
    source.second.put(source.key("a/model.bin"), SMALL)
    sides = [
        argument
        for option, rig in (("--source-config", source), ("--target-config", target))
        for key, value in rig.config.items()
        if key != "bucket_name"
        for argument in (option, f"{key}={value}")
    ]

    done = ok("cp", "-v", url_of(source, "a/model.bin"), url_of(target, "b/"), *sides, env={"TMPDIR": str(folder)})

    assert done.lines == [url_of(target, "b/model.bin")]
    assert target.second.get(target.key("b/model.bin")) == SMALL
    assert keys_here(folder) == ["model.bin"], "the temporary file was not removed"


def test_memory(folder: Path) -> None:
    """`memory://` keeps objects within one process."""
    code = """
assert run(["cp", sys.argv[1], "memory://bucket/a/model.bin"]) == 0
assert run(["cp", "memory://bucket/a/model.bin", "memory://bucket/b/"]) == 0
assert run(["cp", "-n", sys.argv[1], "memory://bucket/b/model.bin"]) == 4
assert run(["exists", "memory://bucket/b/model.bin"]) == 0
sys.exit(run(["ls", "-r", "memory://bucket"]))
"""
    done = run_python(code, folder / "model.bin")

    assert (done.code, done.lines) == (0, ["a/model.bin", "b/model.bin"])


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
def test_stdin_stdout(store: Rig, size: int, tmp_path: Path) -> None:
    """`-` uploads standard input, and downloads to standard output."""
    content = large(size)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {**environment(store), "TMPDIR": str(temporary)}

    assert_silent(run("cp", "-", url_of(store, "x"), env=env, stdin=content))
    ok("cp", url_of(store, "x"), tmp_path / "down", env=env)
    code = "import hashlib\nassert run(['cp', sys.argv[1], '-']) == 0"
    done = run_python(code, url_of(store, "x"), env=env)

    assert store.second.get(store.key("x")) == content
    assert (tmp_path / "down").read_bytes() == content
    assert (done.code, done.out) == (0, content.decode(errors="replace"))
    assert keys_here(temporary) == []


def test_stdin_to_local(folder: Path) -> None:
    """Standard input goes to a local file and to standard output."""
    ok("cp", "-", folder / "new", stdin=b"abc")

    assert (folder / "new").read_bytes() == b"abc"
    assert run("cp", "-", "-", stdin=b"abc").out == "abc"
    assert run("cp", folder / "new", "-").out == "abc"


def test_stdin_needs_name(folder: Path) -> None:
    """Standard input has no name, so a folder cannot be its target."""
    done = run("cp", "-", f"{folder}/", stdin=b"abc")

    assert (done.code, done.out) == (2, "")
    assert "standard input has no name" in done.err


@pytest.mark.parametrize("source", ["file", "stdin", "object"])
def test_no_clobber(source: str, store: Rig, folder: Path) -> None:
    """`--no-clobber` creates the object, and fails if it exists."""
    store.second.put(store.key("source"), SMALL)
    argument = {"file": str(folder / "model.bin"), "stdin": "-", "object": url_of(store, "source")}[source]
    env = environment(store)

    assert_silent(run("cp", "--no-clobber", argument, url_of(store, "new"), env=env, stdin=SMALL))
    store.second.put(store.key("new"), b"before")
    done = run("cp", "-n", argument, url_of(store, "new"), env=env, stdin=SMALL)

    assert done.code == 4
    assert f"{shown_url(store, 'new')} exists and was not changed" in done.err
    assert "--no-clobber" in done.err
    assert "check_conflict" not in done.err
    assert store.second.get(store.key("new")) == b"before"


def test_no_clobber_local(store: Rig, folder: Path) -> None:
    """`--no-clobber` also creates local files exclusively."""
    store.second.put(store.key("x"), b"from the store")
    env = environment(store)

    assert_silent(run("cp", "-n", url_of(store, "x"), folder / "new" / "x", env=env))
    done = run("cp", "-n", url_of(store, "x"), folder / "model.bin", env=env)
    local = run("cp", "-n", folder / "new" / "x", folder / "model.bin")

    assert (done.code, local.code) == (4, 4)
    assert (folder / "model.bin").read_bytes() == SMALL
    assert (folder / "new" / "x").read_bytes() == b"from the store"
    assert keys_here(folder) == ["model.bin", "new/x"]


@pytest.mark.parametrize("store", ["ministack"], indirect=True)
def test_no_clobber_late(store: Rig, folder: Path) -> None:
    """A local file that appears during the download is not overwritten."""
    store.second.put(store.key("x"), b"from the store")
    code = """
from gllm_storage.fsspec_client import FsspecStorageClient as Client
download = Client.download_with_progress
def slow(self, remote, local, callback):
    download(self, remote, local, callback)
    open(sys.argv[2], "x").write("theirs")
Client.download_with_progress = slow
sys.exit(run(["cp", "-n", sys.argv[1], sys.argv[2]]))
"""
    done = run_python(code, url_of(store, "x"), folder / "new", env=environment(store))

    assert done.code == 4
    assert (folder / "new").read_bytes() == b"theirs"
    assert keys_here(folder) == ["model.bin", "new"]


def test_no_clobber_race(servers: Servers, folder: Path) -> None:
    """Of several processes that create one object, one succeeds."""
    rig = server_rig("ministack", servers.s3("ministack"))
    code = """
import os, threading
from gllm_storage.cli import transfers
transfers._refuse_early = lambda target: None
children = []
for number in range(4):
    open(f"{sys.argv[1]}/{number}", "w").write(str(number))
    child = os.fork()
    if not child:
        os._exit(run(["cp", "-n", f"{sys.argv[1]}/{number}", sys.argv[2]]))
    children.append(child)
print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
    done = run_python(code, folder, url_of(rig, "x"), env=environment(rig))

    assert done.out == "0 4 4 4\n"


def tree(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


NAMES = ["a.bin", "sub/b.bin", "sub/deep/c d#é.bin"]


def test_recursive(store: Rig, tmp_path: Path) -> None:
    """`-r` copies a folder with all names and contents."""
    source = tmp_path / "v3"
    tree(source, NAMES)
    env = environment(store)

    ok("cp", "-r", source, url_of(store, "copy"), env=env)
    done = ok("cp", "-rv", url_of(store, "copy"), tmp_path / "back", env=env)

    assert store.keys() == [f"copy/{name}" for name in NAMES]
    assert keys_here(tmp_path / "back") == NAMES
    assert done.lines == [str(tmp_path / "back" / name) for name in NAMES]
    assert all((tmp_path / "back" / name).read_bytes() == name.encode() for name in NAMES)


def test_recursive_names(store: Rig, tmp_path: Path) -> None:
    """`dir` copies the folder under its name, `dir/` copies its content."""
    source = tmp_path / "v3"
    tree(source, ["a.bin"])
    env = environment(store)
    (tmp_path / "there").mkdir()

    ok("cp", "-r", source, url_of(store, "named/"), env=env)
    ok("cp", "-r", f"{source}/", url_of(store, "contents/"), env=env)
    ok("cp", "-r", url_of(store, "named"), tmp_path / "there", env=env)
    ok("cp", "-r", url_of(store, "contents/"), tmp_path / "there", env=env)
    ok("cp", "-r", url_of(store, "named"), url_of(store, "across/"), env=env)

    assert store.keys() == ["across/named/v3/a.bin", "contents/a.bin", "named/v3/a.bin"]
    assert keys_here(tmp_path / "there") == ["a.bin", "named/v3/a.bin"]


def test_name_prefix(store: Rig, tmp_path: Path) -> None:
    """`v3` is the folder `v3/`, not a prefix of `v30/` or `v3x`."""
    for name in ("v3/a", "v30/a", "v3x"):
        store.second.put(store.key(name), SMALL)

    ok("cp", "-r", url_of(store, "v3"), tmp_path / "back", env=environment(store))

    assert keys_here(tmp_path / "back") == ["a"]


def test_recursive_file(store: Rig, folder: Path) -> None:
    """`-r` also copies a single file or object."""
    store.second.put(store.key("x"), SMALL)

    ok("cp", "-r", url_of(store, "x"), folder / "x", env=environment(store))
    ok("cp", "-r", folder / "x", url_of(store, "y"), env=environment(store))

    assert store.second.get(store.key("y")) == SMALL


def test_folder_needs_recursive(store: Rig, folder: Path) -> None:
    """A folder as source is a usage error without `-r`."""
    up = run("cp", folder, url_of(store, "x"), env=environment(store))
    down = run("cp", url_of(store, "x/"), folder, env=environment(store))

    assert (up.code, down.code) == (2, 2)
    assert "--recursive" in up.err
    assert "--recursive" in down.err


def test_recursive_missing(store: Rig, folder: Path) -> None:
    """A missing folder is not found."""
    for source in (url_of(store, "nothing/"), url_of(store, "nothing"), str(folder / "nothing")):
        assert run("cp", "-r", source, url_of(store, "x"), env=environment(store)).code == 3
    assert store.keys() == []


def test_one_failure(store: Rig, tmp_path: Path) -> None:
    """A file that fails is reported, and the others are copied."""
    source = tmp_path / "v3"
    tree(source, ["a", "b", "c"])
    store.second.put(store.key("v3/b"), b"before")

    done = run("cp", "-rn", source, url_of(store), env=environment(store))

    assert done.code == 4
    assert done.err.count("\n") == 1
    assert shown_url(store, "v3/b") in done.err
    assert store.keys() == ["v3/a", "v3/b", "v3/c"]
    assert store.second.get(store.key("v3/b")) == b"before"


def test_mixed_failures(store: Rig, tmp_path: Path) -> None:
    """Failures of different kinds have one exit code of their own."""
    source = tmp_path / "v3"
    tree(source, ["a", "b"])
    (source / "broken").symlink_to("nowhere")
    store.second.put(store.key("v3/b"), b"before")

    done = run("cp", "-rn", source, url_of(store), env=environment(store))

    assert (done.code, done.err.count("\n")) == (10, 2)
    assert store.keys() == ["v3/a", "v3/b"]


def test_links(store: Rig, tmp_path: Path) -> None:
    """Links are followed, but not links to a parent folder."""
    source = tmp_path / "cache"
    tree(tmp_path, ["blobs/1234", "cache/a"])
    (source / "model.bin").symlink_to("../blobs/1234")
    (source / "folder").symlink_to("../blobs")
    (source / "circle").symlink_to(".")

    done = run("cp", "-r", source, url_of(store, "x"), env=environment(store))

    assert done.code == 0
    assert "circle" in done.err
    assert store.keys() == ["x/a", "x/folder/1234", "x/model.bin"]


def test_into_itself(store: Rig, folder: Path) -> None:
    """A folder is not copied into itself."""
    store.second.put(store.key("a/x"), SMALL)

    local = run("cp", "-r", folder, folder / "sub")
    stored = run("cp", "-r", url_of(store, "a"), url_of(store, "a/b/"), env=environment(store))

    assert (local.code, stored.code) == (2, 2)
    assert keys_here(folder) == ["model.bin"]
    assert store.keys() == ["a/x"]


def test_onto_itself(store: Rig) -> None:
    """An object is not copied onto itself."""
    store.second.put(store.key("x"), SMALL)

    done = run("cp", url_of(store, "x"), url_of(store, "x"), env=environment(store))

    assert done.code == 2
    assert "the same" in done.err


def test_escaping_keys(servers: Servers, tmp_path: Path) -> None:
    """Keys that lead out of the target folder are refused."""
    rig = server_rig("ministack", servers.s3("ministack"))
    evil = [f"{rig.prefix}/x/../../escaped", f"{rig.prefix}/x//abs", f"{rig.prefix}/x/./dot"]
    for key in [*evil, f"{rig.prefix}/x/good"]:
        rig.second.put(key, b"from another client")
    target = tmp_path / "deep" / "target"

    done = run("cp", "-r", url_of(rig, "x"), target, env=environment(rig))

    assert done.code == 2
    assert done.err.count("\n") == len([key for key in evil if key in rig.second.all_keys()]) > 0
    assert keys_here(tmp_path) == ["deep/target/good"]


def test_folder_marker(servers: Servers, tmp_path: Path) -> None:
    """The empty object that marks a folder is skipped."""
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x/"), b"")
    rig.second.put(rig.key("x/a"), SMALL)

    ok("cp", "-r", url_of(rig, "x"), tmp_path / "x", env=environment(rig))

    assert keys_here(tmp_path / "x") == ["a"]


def test_one_slash(folder: Path) -> None:
    """A URL with one slash is a usage error, not a local path."""
    done = run("cp", "model.bin", "s3:/bucket/model.bin", cwd=folder)

    assert done.code == 2
    assert "s3://" in done.err
    assert os.listdir(folder) == ["model.bin"]


def test_failed_download(store: Rig, folder: Path) -> None:
    """A failed download leaves the local file unchanged."""
    done = run("cp", url_of(store, "nothing"), folder / "model.bin", env=environment(store))

    assert done.code == 3
    assert hashlib.sha256((folder / "model.bin").read_bytes()).digest() == hashlib.sha256(SMALL).digest()
    assert os.listdir(folder) == ["model.bin"]


# Root can read every file. Without root's permissions, Python's modules may be unreadable, so they are imported before.
AS_NOBODY = """
import os, tempfile
with tempfile.TemporaryDirectory() as warm:
    assert run(["cp", "-", f"{warm}/a"]) == run(["cp", f"{warm}/a", "memory://warm/a"]) == 0
    assert run(["cp", "-n", "memory://warm/a", f"{warm}/b"]) == 0
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """A folder for all users. The folders of pytest are readable only for its user."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: S103 - as the docstring says
        yield Path(name)


def test_locked_folder(open_tmp_path: Path) -> None:
    """An unreadable folder is reported, and the others are copied."""
    source = open_tmp_path / "v3"
    tree(source, ["a", "locked/b", "z/c"])
    (source / "locked").chmod(0)

    done = run_as_nobody("cp", "-rv", f"{source}/", open_tmp_path / "copy")

    (source / "locked").chmod(0o700)
    assert done.code == 5
    assert done.err == f"gllm-storage: {source}/locked: Permission denied\n"
    assert done.lines == [f"{open_tmp_path}/copy/a", f"{open_tmp_path}/copy/z/c"]


def run_as_nobody(*arguments: str | Path) -> Finished:
    return run_python(AS_NOBODY, *arguments)


@pytest.mark.parametrize("target", ["copy", "memory://bucket/x"])
def test_unreadable_file(target: str, open_tmp_path: Path) -> None:
    """An unreadable local file is access denied, named once."""
    (open_tmp_path / "private").write_bytes(SMALL)
    (open_tmp_path / "private").chmod(0)
    to = target if "://" in target else str(open_tmp_path / target)

    done = run_as_nobody("cp", open_tmp_path / "private", to)

    assert (done.code, done.err.count("\n")) == (5, 1)
    assert done.err.count("Permission denied") == done.err.count("private") == 1
    assert "Errno" not in done.err


def test_unwritable_folder(open_tmp_path: Path) -> None:
    """A local folder without write permission is access denied."""
    (open_tmp_path / "file").write_bytes(SMALL)
    (open_tmp_path / "file").chmod(0o644)
    (open_tmp_path / "folder").mkdir()
    (open_tmp_path / "folder").chmod(0o555)
    code = AS_NOBODY.replace(
        "sys.exit(run(sys.argv[1:]))",
        """
file, target = sys.argv[1:]
assert run(["cp", file, "memory://b/x"]) == 0
print(*(run(["cp", *arguments, target]) for arguments in ([file], ["memory://b/x"], ["-n", "memory://b/x"])))
""",
    )

    done = run_python(code, open_tmp_path / "file", open_tmp_path / "folder" / "x")

    assert done.out == "5 5 5\n"
    assert done.err.count("Permission denied") == 3
    assert os.listdir(open_tmp_path / "folder") == []


@pytest.mark.parametrize("missing", ["nothing", "nothing/", "memory://bucket/nothing", "memory://bucket/nothing/"])
def test_missing_source(missing: str, tmp_path: Path) -> None:
    """A missing source is reported, and the others are copied."""
    tree(tmp_path, ["first/a", "last/b"])

    done = run("cp", "-rv", "first", missing, "last", "there/", cwd=tmp_path)

    assert (done.code, done.err.count("\n")) == (3, 1)
    assert missing.rstrip("/") in done.err
    assert keys_here(tmp_path / "there") == ["first/a", "last/b"]


def test_folder_among_files(folder: Path) -> None:
    """A folder without `-r` is reported, and the files are copied."""
    tree(folder, ["sub/a", "other"])

    done = run("cp", "model.bin", "sub", "other", "there/", cwd=folder)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--recursive" in done.err
    assert keys_here(folder / "there") == ["model.bin", "other"]


def test_same_file(folder: Path) -> None:
    """Other spellings of a path, and links to it, are the same file."""
    (folder / "link").symlink_to("model.bin")
    (folder / "here").symlink_to(".")

    for target in ("model.bin", "./model.bin", f"file://{folder}/model.bin", f"{folder}/../here/model.bin", ".", "link"):
        for source in ("model.bin", "here/model.bin"):
            done = run("cp", source, target, cwd=folder)
            assert (done.code, done.err.count("\n")) == (2, 1), target
            assert "the same" in done.err
    assert (folder / "model.bin").read_bytes() == SMALL
    assert (folder / "link").is_symlink()


@pytest.mark.parametrize("slip", ["s3:bucket/x", "S3:bucket/x", "gs:bucket/x", "az:c/x", "file:x", "memory:x"])
def test_no_slashes(slip: str, folder: Path) -> None:
    """A URL without slashes is a usage error, not a local path."""
    done = run("cp", "model.bin", slip, cwd=folder)

    assert done.code == 2
    assert "two slashes" in done.err
    assert keys_here(folder) == ["model.bin"]
    ok("cp", "model.bin", f"./{slip}", cwd=folder)
    ok("cp", "model.bin", "notes:today", cwd=folder)


def test_name_not_utf8(servers: Servers, folder: Path) -> None:
    """A local name that is not UTF-8 is refused as a key; a target with a name works."""
    rig = server_rig("ministack", servers.s3("ministack"))
    env = {**environment(rig), "PYTHONUTF8": "1"}
    odd = os.fsdecode(b"odd\xff")
    (folder / "model.bin").rename(folder / odd)

    refused = [
        run(*arguments, env=env, cwd=folder)
        for arguments in (
            ("cp", odd, url_of(rig)),
            ("cp", "-r", ".", url_of(rig)),
            ("cp", "-r", f"{folder}/", url_of(rig, "folder")),
            ("cp", odd, f"{odd}-copy"),
            ("cat", odd),
            ("rm", odd),
            ("stat", odd),
        )
    ]

    for done in refused:
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
        assert re.search(r"local name '.*odd\\\\?udcff.*' is not UTF-8.*cp FILE s3://bucket/NAME", done.err), done.err
        assert "file:///" not in done.err
    assert rig.keys() == []
    ok("cp", odd, url_of(rig, "name"), env=env, cwd=folder)
    assert rig.second.get(rig.key("name")) == SMALL
    ok("cp", url_of(rig, "name"), f"{odd}-down", env=env, cwd=folder)
    assert sorted(os.listdir(bytes(folder))) == [b"odd\xff", b"odd\xff-down"]


def test_no_clobber_dry_run(store: Rig, folder: Path) -> None:
    """`-r -n --dry-run` reports the files that exist, as the command itself does, and lists the others."""
    env = environment(store)
    source = folder.parent / "two"
    (source / "sub").mkdir(parents=True)
    (source / "old").write_bytes(b"1")
    (source / "sub" / "new").write_bytes(b"2")
    store.second.put(store.key("there/old"), b"0")
    (folder / "there").mkdir()
    (folder / "there" / "old").symlink_to("missing")
    for target in (url_of(store, "there/"), f"{folder}/there/"):
        dry = run("cp", "-r", "-n", "--dry-run", f"{source}/", target, env=env)
        assert (dry.code, dry.out.count("\n"), dry.out[-14:]) == (4, 1, "there/sub/new\n")
        assert "old" in dry.err
        done = run("cp", "-r", "-n", "-v", f"{source}/", target, env=env)
        assert (done.code, done.out) == (4, dry.out)
