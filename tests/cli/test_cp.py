"""`cp`: up, down, across, through pipes, whole folders."""

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
    """A store that another process can reach."""
    return make_rig(request.param, request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder here, with a file in it, that is not in any store."""
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


def test_a_file_goes_up_and_comes_down_without_a_word(store: Rig, folder: Path) -> None:
    env = environment(store)

    assert_silent(run("cp", folder / "model.bin", url_of(store, "v3/model.bin"), env=env))
    assert store.second.get(store.key("v3/model.bin")) == SMALL
    assert_silent(run("cp", url_of(store, "v3/model.bin"), folder / "copy.bin", env=env))

    assert keys_here(folder) == ["copy.bin", "model.bin"]
    assert (folder / "copy.bin").read_bytes() == SMALL


def test_verbose_prints_the_url_or_path_of_the_copy(store: Rig, folder: Path) -> None:
    up = ok("cp", "-v", folder / "model.bin", url_of(store, "x"), env=environment(store))
    down = ok("cp", "-v", url_of(store, "x"), folder / "down", env=environment(store))

    assert up.lines == [shown_url(store, "x")]
    assert down.lines == [str(folder / "down")]


def test_a_file_that_goes_in_parts_arrives_whole(servers: Servers, folder: Path) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    (folder / "large").write_bytes(large())
    parts = [part for key, value in SMALL_PARTS.items() for part in ("-c", f"{key}={value}")]

    ok("cp", folder / "large", url_of(rig, "large"), *parts, env=environment(rig))
    ok("cp", url_of(rig, "large"), folder / "back", *parts, env=environment(rig))

    assert (folder / "back").read_bytes() == large()
    assert "-" in (rig.client().info("large").etag or "")


def test_a_target_that_ends_with_a_slash_gets_the_file_into_it(store: Rig, folder: Path) -> None:
    env = environment(store)

    ok("cp", folder / "model.bin", url_of(store, "v3/"), env=env)
    ok("cp", url_of(store, "v3/model.bin"), f"{folder}/new/", env=env)

    assert store.keys() == ["v3/model.bin"]
    assert (folder / "new" / "model.bin").read_bytes() == SMALL


def test_a_local_folder_gets_the_file_into_it(store: Rig, folder: Path) -> None:
    store.second.put(store.key("v3/other.bin"), SMALL)

    ok("cp", url_of(store, "v3/other.bin"), ".", env=environment(store), cwd=folder)

    assert (folder / "other.bin").read_bytes() == SMALL


def test_a_bucket_gets_the_file_into_it(servers: Servers, folder: Path) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    name = f"{rig.prefix}.bin"
    (folder / name).write_bytes(SMALL)

    ok("cp", folder / name, f"s3://{rig.base.rstrip('/')}", env=environment(rig))

    assert rig.second.get(name) == SMALL


def test_several_files_go_into_a_folder(store: Rig, folder: Path) -> None:
    (folder / "other.bin").write_bytes(b"other")

    ok("cp", folder / "model.bin", folder / "other.bin", url_of(store, "v3/"), env=environment(store))

    assert store.keys() == ["v3/model.bin", "v3/other.bin"]


def test_several_files_need_a_folder(store: Rig, folder: Path) -> None:
    done = run("cp", folder / "model.bin", folder / "model.bin", url_of(store, "v3"), env=environment(store))

    assert done.code == 2
    assert "ends with '/'" in done.err
    assert store.keys() == []


def test_a_local_file_is_copied_to_a_local_file(folder: Path) -> None:
    assert_silent(run("cp", "model.bin", "copy.bin", cwd=folder))
    assert_silent(run("cp", f"file://{folder}/model.bin", f"file://{folder}/sub/", cwd=folder))

    assert keys_here(folder) == ["copy.bin", "model.bin", "sub/model.bin"]


def test_an_object_goes_from_store_to_store(servers: Servers, folder: Path) -> None:
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
    assert keys_here(folder) == ["model.bin"], "the temporary file is still there"


def test_memory_is_a_store_within_one_process(folder: Path) -> None:
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
def test_standard_input_becomes_an_object_and_an_object_standard_output(store: Rig, size: int, tmp_path: Path) -> None:
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


def test_standard_input_goes_to_a_local_file_and_to_standard_output(folder: Path) -> None:
    ok("cp", "-", folder / "new", stdin=b"abc")

    assert (folder / "new").read_bytes() == b"abc"
    assert run("cp", "-", "-", stdin=b"abc").out == "abc"
    assert run("cp", folder / "new", "-").out == "abc"


def test_standard_input_needs_a_name(folder: Path) -> None:
    done = run("cp", "-", f"{folder}/", stdin=b"abc")

    assert (done.code, done.out) == (2, "")
    assert "standard input has no name" in done.err


@pytest.mark.parametrize("source", ["file", "stdin", "object"])
def test_no_clobber_creates_and_never_overwrites(source: str, store: Rig, folder: Path) -> None:
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


def test_no_clobber_holds_for_a_local_target(store: Rig, folder: Path) -> None:
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
def test_no_clobber_of_a_local_target_is_decided_at_the_end(store: Rig, folder: Path) -> None:
    """Somebody makes the file while the object is fetched: theirs stays."""
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


def test_of_many_processes_that_create_one_object_one_wins(servers: Servers, folder: Path) -> None:
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


def test_a_folder_goes_up_and_comes_down(store: Rig, tmp_path: Path) -> None:
    source = tmp_path / "v3"
    tree(source, NAMES)
    env = environment(store)

    ok("cp", "-r", source, url_of(store, "copy"), env=env)
    done = ok("cp", "-rv", url_of(store, "copy"), tmp_path / "back", env=env)

    assert store.keys() == [f"copy/{name}" for name in NAMES]
    assert keys_here(tmp_path / "back") == NAMES
    assert done.lines == [str(tmp_path / "back" / name) for name in NAMES]
    assert all((tmp_path / "back" / name).read_bytes() == name.encode() for name in NAMES)


def test_a_folder_goes_into_a_folder_by_its_name_and_its_contents_without(store: Rig, tmp_path: Path) -> None:
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


def test_a_prefix_of_a_name_is_no_folder(store: Rig, tmp_path: Path) -> None:
    for name in ("v3/a", "v30/a", "v3x"):
        store.second.put(store.key(name), SMALL)

    ok("cp", "-r", url_of(store, "v3"), tmp_path / "back", env=environment(store))

    assert keys_here(tmp_path / "back") == ["a"]


def test_recursive_copies_a_single_object_too(store: Rig, folder: Path) -> None:
    store.second.put(store.key("x"), SMALL)

    ok("cp", "-r", url_of(store, "x"), folder / "x", env=environment(store))
    ok("cp", "-r", folder / "x", url_of(store, "y"), env=environment(store))

    assert store.second.get(store.key("y")) == SMALL


def test_a_folder_needs_recursive(store: Rig, folder: Path) -> None:
    up = run("cp", folder, url_of(store, "x"), env=environment(store))
    down = run("cp", url_of(store, "x/"), folder, env=environment(store))

    assert (up.code, down.code) == (2, 2)
    assert "--recursive" in up.err
    assert "--recursive" in down.err


def test_a_folder_that_is_not_there_is_not_found(store: Rig, folder: Path) -> None:
    for source in (url_of(store, "nothing/"), url_of(store, "nothing"), str(folder / "nothing")):
        assert run("cp", "-r", source, url_of(store, "x"), env=environment(store)).code == 3
    assert store.keys() == []


def test_one_file_that_fails_is_told_and_the_others_are_copied(store: Rig, tmp_path: Path) -> None:
    source = tmp_path / "v3"
    tree(source, ["a", "b", "c"])
    store.second.put(store.key("v3/b"), b"before")

    done = run("cp", "-rn", source, url_of(store), env=environment(store))

    assert done.code == 4
    assert done.err.count("\n") == 1
    assert shown_url(store, "v3/b") in done.err
    assert store.keys() == ["v3/a", "v3/b", "v3/c"]
    assert store.second.get(store.key("v3/b")) == b"before"


def test_failures_of_several_kinds_have_a_code_of_their_own(store: Rig, tmp_path: Path) -> None:
    source = tmp_path / "v3"
    tree(source, ["a", "b"])
    (source / "broken").symlink_to("nowhere")
    store.second.put(store.key("v3/b"), b"before")

    done = run("cp", "-rn", source, url_of(store), env=environment(store))

    assert (done.code, done.err.count("\n")) == (10, 2)
    assert store.keys() == ["v3/a", "v3/b"]


def test_links_are_followed_but_not_in_circles(store: Rig, tmp_path: Path) -> None:
    source = tmp_path / "cache"
    tree(tmp_path, ["blobs/1234", "cache/a"])
    (source / "model.bin").symlink_to("../blobs/1234")
    (source / "folder").symlink_to("../blobs")
    (source / "circle").symlink_to(".")

    done = run("cp", "-r", source, url_of(store, "x"), env=environment(store))

    assert done.code == 0
    assert "circle" in done.err
    assert store.keys() == ["x/a", "x/folder/1234", "x/model.bin"]


def test_a_folder_is_not_copied_into_itself(store: Rig, folder: Path) -> None:
    store.second.put(store.key("a/x"), SMALL)

    local = run("cp", "-r", folder, folder / "sub")
    stored = run("cp", "-r", url_of(store, "a"), url_of(store, "a/b/"), env=environment(store))

    assert (local.code, stored.code) == (2, 2)
    assert keys_here(folder) == ["model.bin"]
    assert store.keys() == ["a/x"]


def test_a_file_is_not_copied_onto_itself(store: Rig) -> None:
    store.second.put(store.key("x"), SMALL)

    done = run("cp", url_of(store, "x"), url_of(store, "x"), env=environment(store))

    assert done.code == 2
    assert "the same" in done.err


def test_keys_that_would_leave_the_target_folder_are_refused(servers: Servers, tmp_path: Path) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    evil = [f"{rig.prefix}/x/../../escaped", f"{rig.prefix}/x//abs", f"{rig.prefix}/x/./dot"]
    for key in [*evil, f"{rig.prefix}/x/good"]:
        rig.second.put(key, b"from another client")
    target = tmp_path / "deep" / "target"

    done = run("cp", "-r", url_of(rig, "x"), target, env=environment(rig))

    assert done.code == 2
    assert done.err.count("\n") == len([key for key in evil if key in rig.second.all_keys()]) > 0
    assert keys_here(tmp_path) == ["deep/target/good"]


def test_the_mark_of_a_folder_is_left_out(servers: Servers, tmp_path: Path) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x/"), b"")
    rig.second.put(rig.key("x/a"), SMALL)

    ok("cp", "-r", url_of(rig, "x"), tmp_path / "x", env=environment(rig))

    assert keys_here(tmp_path / "x") == ["a"]


def test_a_url_with_one_slash_does_not_become_a_local_folder(folder: Path) -> None:
    done = run("cp", "model.bin", "s3:/bucket/model.bin", cwd=folder)

    assert done.code == 2
    assert "s3://" in done.err
    assert os.listdir(folder) == ["model.bin"]


def test_a_failed_download_leaves_the_previous_file(store: Rig, folder: Path) -> None:
    done = run("cp", url_of(store, "nothing"), folder / "model.bin", env=environment(store))

    assert done.code == 3
    assert hashlib.sha256((folder / "model.bin").read_bytes()).digest() == hashlib.sha256(SMALL).digest()
    assert os.listdir(folder) == ["model.bin"]


# Root may read everything, and nobody perhaps not Python's modules: what is needed is imported before.
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
    """A folder that everybody may use; those of pytest are for its user alone."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: S103 - as the docstring says
        yield Path(name)


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_copied(open_tmp_path: Path) -> None:
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
def test_a_local_file_that_may_not_be_read_is_access_denied_and_said_once(target: str, open_tmp_path: Path) -> None:
    (open_tmp_path / "private").write_bytes(SMALL)
    (open_tmp_path / "private").chmod(0)
    to = target if "://" in target else str(open_tmp_path / target)

    done = run_as_nobody("cp", open_tmp_path / "private", to)

    assert (done.code, done.err.count("\n")) == (5, 1)
    assert done.err.count("Permission denied") == done.err.count("private") == 1
    assert "Errno" not in done.err


def test_a_local_folder_that_may_not_be_written_to_is_access_denied(open_tmp_path: Path) -> None:
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
def test_a_source_that_is_missing_is_told_and_the_others_are_copied(missing: str, tmp_path: Path) -> None:
    tree(tmp_path, ["first/a", "last/b"])

    done = run("cp", "-rv", "first", missing, "last", "there/", cwd=tmp_path)

    assert (done.code, done.err.count("\n")) == (3, 1)
    assert missing.rstrip("/") in done.err
    assert keys_here(tmp_path / "there") == ["first/a", "last/b"]


def test_a_folder_among_files_is_told_and_the_others_are_copied(folder: Path) -> None:
    tree(folder, ["sub/a", "other"])

    done = run("cp", "model.bin", "sub", "other", "there/", cwd=folder)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--recursive" in done.err
    assert keys_here(folder / "there") == ["model.bin", "other"]


def test_a_local_file_in_another_spelling_is_the_same(folder: Path) -> None:
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
def test_a_url_without_slashes_does_not_become_a_local_file(slip: str, folder: Path) -> None:
    done = run("cp", "model.bin", slip, cwd=folder)

    assert done.code == 2
    assert "two slashes" in done.err
    assert keys_here(folder) == ["model.bin"]
    ok("cp", "model.bin", f"./{slip}", cwd=folder)
    ok("cp", "model.bin", "notes:today", cwd=folder)


def test_a_local_name_that_is_not_utf_8_gets_another_by_naming_the_target(servers: Servers, folder: Path) -> None:
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
