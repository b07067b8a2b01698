"""`sync`, and the filters, plans and progress of the commands for folders."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gllm_storage.folders import Plan
from gllm_storage.testing.faults import Answer, Fault, FaultProxy, Match
from gllm_storage.versions import publish
from tests.cli.support import environment, ok, on_terminal, run, run_python, shown_url, url_of
from tests.conftest import make_rig
from tests.rig import Rig, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

NAMES = ["a.bin", "sub/b.bin", "sub/deep/c d#é.txt"]
SIZE = len("".join(NAMES).encode())


@pytest.fixture(params=["file", "ministack", "azurite", "gcs-fake"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that other processes can use."""
    return make_rig(request.param, request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with files."""
    tree(tmp_path / "v3", NAMES)
    return tmp_path / "v3"


def tree(folder: Path, names: list[str]) -> None:
    """Write files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def files_in(folder: Path) -> list[str]:
    """The relative names of all files, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sync(store: Rig, folder: Path, tmp_path: Path) -> None:
    """Only files that differ are transferred, up and down; with `--delete` others are deleted."""
    env, url = environment(store), url_of(store, "copy")

    assert sorted(ok("sync", "-v", folder, url, env=env).lines) == sorted(shown_url(store, f"copy/{each}") for each in NAMES)
    assert ok("sync", "-v", f"{folder}/", f"{url}/", env=env).lines == []
    (folder / "a.bin").write_bytes(b"A.bin")
    (folder / "sub" / "b.bin").unlink()
    assert ok("sync", "-v", folder, url, env=env).lines == [shown_url(store, "copy/a.bin")]
    assert ok("sync", "-v", folder, url, "--delete", env=env).lines == [f"delete {shown_url(store, 'copy/sub/b.bin')}"]
    ok("sync", url, tmp_path / "back", env=env)

    assert store.keys() == ["copy/a.bin", f"copy/{NAMES[2]}"]
    assert files_in(tmp_path / "back") == ["a.bin", NAMES[2]]
    assert (tmp_path / "back" / "a.bin").read_bytes() == b"A.bin"


def test_plan(store: Rig, folder: Path) -> None:
    """`--dry-run` and `--plan` change nothing, and `--apply` runs the plan."""
    env, url, file = environment(store), url_of(store, "copy"), folder.parent / "plan.jsonl"
    store.second.put(store.key("copy/old"), b"old")

    shown = ok("sync", "--dry-run", "--delete", folder, url, env=env).lines
    (counts,) = ok("sync", "--plan", file, "--delete", folder, url, env=env).lines

    assert shown == [*(shown_url(store, f"copy/{each}") for each in NAMES), f"delete {shown_url(store, 'copy/old')}"]
    assert counts.startswith(f"3 files to transfer ({SIZE} bytes), 1 to delete, 0 equal")
    assert store.keys() == ["copy/old"]
    assert all(value not in file.read_text() for name, value in env.items() if name.endswith("_KEY") and value != "test")
    ok("sync", "--apply", file, env=env)
    assert store.keys() == [f"copy/{each}" for each in NAMES]
    assert run("sync", "--apply", file, folder, url, env=env).code == 2


def test_hidden_user(tmp_path: Path) -> None:
    """A plan does not contain the user of a URL: `--apply` says so, and tries no user `***`."""
    Plan("", "sftp://***@127.0.0.1:1/x/", ("", "fsspec sftp://***@127.0.0.1:1")).save(tmp_path / "plan.jsonl")
    done = run("sync", "--apply", tmp_path / "plan.jsonl")
    assert done.code == 2
    assert "hides the user of the URL" in done.err
    assert "sync --apply FILE TARGET" in done.err


HOSTED = """
import fsspec
from fsspec.implementations.memory import MemoryFileSystem

class Hosted(MemoryFileSystem):
    protocol, store, pseudo_dirs = "hosted", {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(f"/{path.rpartition('@')[2].removeprefix('hosted://')}")

fsspec.register_implementation("hosted", Hosted)
folder, file = sys.argv[1:]
url = "hosted://joe:secret-1@host-1/dir"
assert not run(["sync", folder, url, "--plan", file])
assert "joe" not in open(file).read() and "secret-1" not in open(file).read()
codes = [
    run(["sync", "--apply", file]),
    run(["sync", "--apply", file, folder]),
    run(["sync", "--apply", file, folder, "hosted://joe:secret-1@host-2/dir"]),
    run(["sync", "--apply", file, folder + "/sub", url]),
    run(["sync", "--apply", file, "-", url]),
]
assert codes == [2] * len(codes), codes
assert not Hosted.store
assert not run(["sync", "--apply", file, folder, url])
print(sorted(Hosted.store))
"""


def test_named_again(tmp_path: Path, folder: Path) -> None:
    """A plan that hides a user runs with the folders, named again; other folders are refused."""
    done = run_python(HOSTED, folder, tmp_path / "plan.jsonl")
    assert done.code == 0, done
    assert done.lines[-1] == str([f"/host-1/dir/{name}" for name in NAMES])
    assert "secret-1" not in done.err


def test_refused(tmp_path: Path, folder: Path) -> None:
    """Deletions because of an empty source, or too many, are refused before anything changes."""
    (tmp_path / "empty").mkdir()
    tree(tmp_path / "target", ["x", "y"])

    empty = run("sync", "--delete", tmp_path / "empty", tmp_path / "target")
    many = run("sync", "--delete", "--max-delete", "1", folder, tmp_path / "target")

    assert [(each.code, each.err.count("\n")) for each in (empty, many)] == [(10, 1), (10, 1)]
    assert "rm -r" in empty.err
    assert files_in(tmp_path / "target") == ["x", "y"]
    assert run("sync", folder).code == run("sync", folder, "-").code == 2
    assert run("sync", tmp_path / "missing", tmp_path / "target").code == 3
    file, a_url = run("sync", folder / NAMES[0], "memory://b/x"), run("fetch", "memory://b/m", "v1", "s3://b/x")
    assert (file.code, a_url.code) == (2, 2)
    assert "a folder is needed" in file.err
    assert "a path of this machine is needed" in a_url.err
    assert run("publish", folder / NAMES[0], "memory://b/m", "v1").code == 2


def test_size_only(folder: Path, tmp_path: Path) -> None:
    """`--size-only` compares sizes, and `--checksum` and the default the content, too."""
    ok("sync", folder, tmp_path / "copy")
    (folder / "a.bin").write_bytes(b"A.bin")
    (folder / "sub" / "b.bin").write_bytes(b"longer content")
    larger, other = (str(tmp_path / "copy" / each) for each in ("sub/b.bin", "a.bin"))
    assert ok("sync", "--dry-run", "--size-only", folder, tmp_path / "copy").lines == [larger]
    for options in ([], ["--checksum"]):
        assert ok("sync", "--dry-run", *options, folder, tmp_path / "copy").lines == [other, larger]


@pytest.mark.parametrize(
    ("links", "taken"),
    [("follow", ["dir/b.bin", "dir/deep/c d#é.txt", "link"]), ("files", ["link"]), ("skip", []), ("refuse", None)],
)
def test_links(folder: Path, tmp_path: Path, links: str, taken: list[str] | None) -> None:
    """`--links` says which symbolic links of a local source are followed."""
    (folder / "link").symlink_to("a.bin")
    (folder / "dir").symlink_to("sub")
    done = run("sync", "--links", links, folder, tmp_path / "copy")
    assert (done.code == 0) == (taken is not None), done
    assert files_in(tmp_path / "copy") == ([] if taken is None else sorted([*NAMES, *taken]))
    assert ("symbolic link" in done.err) == (taken is None)


FILTERS = [
    (("--include", "*.bin"), NAMES[:2]),
    (("--exclude", "/sub/"), NAMES[:1]),
    (("--filter", "- b.bin", "--filter", "+ *.bin", "--filter", "- *"), NAMES[:1]),
    (("--filter-from", "rules"), NAMES[2:]),
    (("--files-from", "-"), NAMES[:1]),
]


@pytest.mark.parametrize(("options", "taken"), FILTERS, ids=lambda each: each[0].strip("-") if each[0][:1] == "-" else "")
@pytest.mark.parametrize("command", ["sync", "cp", "mv", "rm"])
def test_filters(command: str, options: tuple[str, ...], taken: list[str], folder: Path, tmp_path: Path) -> None:
    """All commands for folders take rclone's filters."""
    (tmp_path / "rules").write_text("# a comment\n\n- *.bin\n")
    recursive = [] if command == "sync" else ["-r"]
    target = [] if command == "rm" else [tmp_path / "copy"]

    ok(command, *recursive, *options, f"{folder}/", *target, stdin=b"a.bin\n", cwd=tmp_path)

    left = sorted(set(NAMES) - set(taken)) if command in {"mv", "rm"} else NAMES
    assert files_in(folder) == left
    assert command == "rm" or files_in(tmp_path / "copy") == taken


@pytest.mark.parametrize("command", ["cp", "mv", "rm"])
def test_dry_run(command: str, store: Rig, folder: Path, tmp_path: Path) -> None:
    """`--dry-run` prints what would be written or deleted, and changes nothing."""
    env = environment(store)
    ok("cp", "-r", folder, url_of(store, "x"), env=env)
    target = [] if command == "rm" else [tmp_path / "copy"]

    done = ok(command, "-r", "--dry-run", url_of(store, "x"), *target, env=env)

    shown = (
        [url_of(store, f"x/{each}") for each in NAMES] if command == "rm" else [f"{tmp_path}/copy/{each}" for each in NAMES]
    )
    assert done.lines == shown
    assert store.keys() == [f"x/{each}" for each in NAMES]
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("command", ["cp", "mv", "sync"])
def test_object_as_folder(command: str, request: pytest.FixtureRequest, folder: Path) -> None:
    """A target folder with the name of an object is refused, with the advice; ``--force`` permits it."""
    rig = make_rig("gcs-fake", request)
    env, url = environment(rig), url_of(rig, "v3")
    rig.client().upload(b"object", "v3")
    call = (command, *(() if command == "sync" else ("-r",)), folder, url)
    refused = run(*call, env=env)
    assert (refused.code, refused.out) == (10, "")
    assert "is an object; nothing was changed" in refused.err
    assert "--force" in refused.err
    assert files_in(folder) == NAMES
    ok(*call, "--force", env=env)
    assert rig.client().file_exists("v3/a.bin")


def test_filters_need_folder(folder: Path) -> None:
    """Filters without `-r` are a usage error."""
    done = run("cp", "--exclude", "*", folder / "a.bin", folder / "copy")
    assert (done.code, "--recursive" in done.err) == (2, True)
    assert not (folder / "copy").exists()


def test_no_clobber(store: Rig, folder: Path, tmp_path: Path) -> None:
    """`cp -rn` overwrites nothing, up, down and within a store; the other files are copied."""
    env = environment(store)
    ok("cp", "-r", folder, url_of(store, "x"), env=env)
    tree(tmp_path / "down", ["sub/b.bin"])
    (tmp_path / "down" / "sub" / "b.bin").write_bytes(b"mine")
    store.second.put(store.key("y/sub/b.bin"), b"mine")

    across = run("cp", "-rn", f"{url_of(store, 'x')}/", f"{url_of(store, 'y')}/", env=env)
    into = run("cp", "-rn", f"{url_of(store, 'x')}/", tmp_path / "down", env=env)

    assert (across.code, into.code) == (4, 4), (across, into)
    assert across.err.count("\n") == into.err.count("\n") == 1
    assert store.second.get(store.key("y/sub/b.bin")) == b"mine"
    assert (tmp_path / "down" / "sub" / "b.bin").read_bytes() == b"mine"
    assert store.keys() == [*(f"x/{each}" for each in NAMES), *(f"y/{each}" for each in NAMES)]
    assert files_in(tmp_path / "down") == NAMES


def test_requests(servers: Servers, tmp_path: Path) -> None:
    """A folder costs one request for each small file, up and down, and a second `sync` listings only."""
    server = servers.s3("ministack")
    rig = server_rig("ministack", server)
    tree(tmp_path / "many", [f"{number:03}" for number in range(60)])
    counts = []
    with FaultProxy(server.endpoint_url) as proxy:
        env = {**environment(rig), "GLLM_STORAGE_S3_ENDPOINT_URL": proxy.url}
        url = url_of(rig, "x")
        commands = (
            ("cp", "-r", f"{tmp_path}/many", url),
            ("cp", "-r", url, f"{tmp_path}/back"),
            ("sync", f"{tmp_path}/many", url),
            ("sync", f"{tmp_path}/many", url),
        )
        for command in commands:
            before = Counter(each.operation for each in proxy.requests)
            ok(*command, env=env)
            counts.append(dict(Counter(each.operation for each in proxy.requests) - before))

    up, down, _, again = counts
    assert up == {"HeadObject": 1, "HeadBucket": 1, "PutObject": 60}  # there is no object x
    assert (down["GetObject"], down["ListObjectsV2"]) == (60, 2)
    assert again == {"ListObjectsV2": 1}


def test_one_denied(servers: Servers, folder: Path) -> None:
    """`sync` stops at the first failure, `--on-error collect` goes on; both report each failure once."""
    server = servers.s3("ministack")
    rig = server_rig("ministack", server)
    with FaultProxy(server.endpoint_url) as proxy:
        env = {**environment(rig), "GLLM_STORAGE_S3_ENDPOINT_URL": proxy.url}
        denied = Answer(403, "AccessDenied")
        proxy.inject(Fault(Match(operation="PutObject", key=rig.key("x/sub/b.bin")), denied, times=None))
        store = rig.second
        store.put(rig.key("x/old"), b"old")
        done = run("sync", "--delete", "--on-error", "collect", folder, url_of(rig, "x"), env=env)

    assert (done.code, done.err.count("\n")) == (5, 1), done
    assert "x/sub/b.bin" in done.err
    assert rig.keys() == ["x/a.bin", "x/old", f"x/{NAMES[2]}"]


def test_bucket_missing(servers: Servers, folder: Path) -> None:
    """A failure that all files share is reported once."""
    rig = server_rig("ministack", servers.s3("ministack"))
    done = run("cp", "-r", folder, "s3://no-such-bucket/x", env=environment(rig))
    assert (done.code, done.err.count("\n")) == (6, 1), done


def test_published(store: Rig, folder: Path) -> None:
    """`rm -r` and `mv -r` leave published versions alone, unless they are forced."""
    env = environment(store)
    publish(store.client(), folder, "m", version="v1")
    before = store.keys()

    for command in (("rm", "-r", url_of(store, "m")), ("mv", "-r", url_of(store, "m"), str(folder.parent / "moved"))):
        done = run(*command, env=env)
        assert (done.code, done.err.count("\n")) == (10, 1), done
        assert "published versions" in done.err
        assert "--force" in done.err
    assert store.keys() == before
    ok("rm", "-rf", url_of(store, "m"), env=env)
    assert store.keys() == []


def test_bar(folder: Path, tmp_path: Path) -> None:
    """The progress bar counts files and bytes."""
    done = on_terminal("cp", "-r", folder, tmp_path / "copy")
    assert "3 of 3 files" in done.out
    assert f"{SIZE}/{SIZE} bytes" in done.out
    assert os.path.exists(tmp_path / "copy" / "a.bin")
