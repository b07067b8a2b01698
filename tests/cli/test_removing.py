"""`rm --recursive`: all that is below a URL, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import environment, ok, run, run_python, url_of
from tests.conftest import make_rig
from tests.rig import BUCKET, Rig, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

CONTENT = b"some weights\n"
BELOW = ["x/a", "x/sub/b", "x/sub/deep/c é"]
BESIDE = ["w", "xy/a", "x-a", "y/x/a"]


@pytest.fixture(params=["file", "ministack", "azurite", "gcs-fake"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that another process can reach, with objects below and beside a folder."""
    rig = make_rig(request.param, request)
    for name in [*BELOW, *BESIDE]:
        rig.second.put(rig.key(name), CONTENT)
    return rig


@pytest.mark.parametrize("name", ["x", "x/"])
def test_a_folder_goes_with_all_that_is_in_it_and_what_is_beside_stays(name: str, store: Rig) -> None:
    done = ok("rm", "-rv", url_of(store, name), env=environment(store))

    assert done.lines == [url_of(store, each) for each in BELOW]
    assert store.keys() == sorted(BESIDE)


def test_several_folders_go_at_once(store: Rig) -> None:
    assert ok("rm", "--recursive", url_of(store, "x/sub"), url_of(store, "xy"), env=environment(store)).out == ""
    assert store.keys() == ["w", "x-a", "x/a", "y/x/a"]


def test_nothing_is_not_found_unless_that_is_fine(store: Rig) -> None:
    env = environment(store)
    for name in ("nothing", "nothing/", "xz"):
        done = run("rm", "-r", url_of(store, name), env=env)
        assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
        assert url_of(store, name) in done.err
        assert ok("rm", "-rf", url_of(store, name), env=env).out == ""
    assert store.keys() == sorted([*BELOW, *BESIDE])


def test_one_folder_that_is_missing_does_not_keep_the_others(store: Rig) -> None:
    done = run("rm", "-r", url_of(store, "nothing"), url_of(store, "x"), env=environment(store))

    assert (done.code, done.err.count("\n")) == (3, 1)
    assert store.keys() == sorted(BESIDE)


def test_the_object_of_that_very_name_goes_too_but_not_with_a_slash(servers: Servers) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    for name in ("x", "x/a", "y"):
        rig.second.put(rig.key(name), CONTENT)

    ok("rm", "-r", url_of(rig, "x/"), env=environment(rig))
    assert rig.keys() == ["x", "y"]
    ok("rm", "-r", url_of(rig, "x"), env=environment(rig))
    assert rig.keys() == ["y"]


def test_more_objects_go_than_a_store_lists_at_once(servers: Servers) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    for number in range(1005):
        rig.second.put(rig.key(f"x/{number:04}"), b"")

    ok("rm", "-r", url_of(rig, "x"), env=environment(rig))

    assert rig.keys() == []


def test_names_that_no_path_can_have_are_told_and_stay(servers: Servers) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("kept"), CONTENT)
    for name in ("x/../kept", "x//double", "x/good"):
        rig.second.put(f"{rig.prefix}/{name}", CONTENT)
    odd = [key for key in rig.second.all_keys() if key.startswith(f"{rig.prefix}/x/") and not key.endswith("/good")]
    assert odd != []

    done = run("rm", "-rf", url_of(rig, "x"), env=environment(rig))

    assert (done.code, done.err.count("\n")) == (2, len(odd))
    left = [key for key in rig.second.all_keys() if key.startswith(f"{rig.prefix}/")]
    assert sorted(left) == sorted([*odd, f"{rig.prefix}/kept"])


@pytest.mark.parametrize(
    "url",
    [f"s3://{BUCKET}", "s3://other", "file:///", "/", "//", "memory://", "sftp://host/", "az://container", "gs://bucket"],
)
def test_a_whole_bucket_or_file_system_is_refused(url: str, servers: Servers, tmp_path: Path) -> None:
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x"), CONTENT)
    (tmp_path / "a").write_bytes(CONTENT)

    # The folder that comes first shows that nothing at all was done.
    done = run("rm", "-rf", tmp_path, url, env={**environment(rig), "GLLM_STORAGE_AZURE_ACCOUNT_NAME": "acc1"})

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert url in done.err
    assert rig.keys() == ["x"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_whole_bucket_goes_if_its_url_ends_with_a_slash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    code = """
for name in ("a", "b/c"):
    assert run(["cp", sys.argv[1], f"memory://bucket/{name}"]) == 0
assert run(["rm", "-r", "memory://bucket"]) == 2
assert run(["rm", "-rv", "memory://bucket/"]) == 0
sys.exit(run(["ls", "-r", "memory://bucket"]))
"""
    done = run_python(code, tmp_path / "file")

    assert (done.code, done.lines) == (0, ["memory://bucket/a", "memory://bucket/b/c"])
    assert "'memory://bucket/'" in done.err


def test_local_folders_stay_and_links_lead_nowhere(tmp_path: Path) -> None:
    for name in ("folder/sub/a", "elsewhere/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)
    (tmp_path / "folder" / "inner").symlink_to("../elsewhere")
    (tmp_path / "outer").symlink_to("elsewhere")

    ok("rm", "-r", tmp_path / "folder")
    links = [run("rm", "-rf", f"{tmp_path}/outer{end}") for end in ("", "/")]

    assert (tmp_path / "folder" / "sub").is_dir()
    assert not (tmp_path / "folder" / "sub" / "a").exists()
    assert [each.code for each in links] == [2, 2]
    assert all(str(tmp_path / "elsewhere") in each.err for each in links)
    assert (tmp_path / "elsewhere" / "b").read_bytes() == CONTENT


def test_a_folder_is_not_deleted_without_recursive(store: Rig) -> None:
    done = run("rm", url_of(store, "x/"), env=environment(store))

    assert done.code == 2
    assert url_of(store, "x/").removeprefix("file://") in done.err
    assert store.keys() == sorted([*BELOW, *BESIDE])
