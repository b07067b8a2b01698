"""`ls`, `stat`, `cat`, `rm`, `exists` and `providers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import FaultProxy
from tests.cli.support import PRELUDE, PROGRAM, environment, ok, run, run_anew, run_python, url_of
from tests.conftest import make_rig
from tests.promises.clouds.faulty import proxied
from tests.rig import BUCKET, MIB, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers
    from tests.rig import Rig

CONTENT = b"some weights\n"


@pytest.fixture(params=["file", "ministack", "azurite", "gcs-fake"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that another process can reach, with a few objects."""
    rig = make_rig(request.param, request)
    for name in ("a.bin", "sub/b.bin", "sub/deep/c.bin", "sub-x", "z é.bin"):
        rig.second.put(rig.key(name), CONTENT)
    return rig


def test_ls_shows_a_level_and_recursive_all(store: Rig) -> None:
    env = environment(store)

    assert ok("ls", url_of(store), env=env).lines == ["a.bin", "sub-x", "sub/", "z é.bin"]
    assert ok("ls", url_of(store).rstrip("/"), env=env).lines == ["a.bin", "sub-x", "sub/", "z é.bin"]
    assert ok("ls", url_of(store, "sub"), env=env).lines == ["b.bin", "deep/"]
    assert ok("ls", "-r", url_of(store, "sub/"), env=env).lines == ["b.bin", "deep/c.bin"]
    assert ok("ls", url_of(store, "a.bin"), env=env).lines == ["a.bin"]


def test_ls_asks_for_one_level_and_not_for_all_that_is_below(servers: Servers) -> None:
    running = servers.s3("ministack")
    with FaultProxy(running.endpoint_url) as proxy:
        rig = proxied(server_rig("ministack", running), proxy)
        for number in range(12):
            rig.second.put(rig.key(f"sub/{number}"), CONTENT)

        assert ok("ls", url_of(rig), env=environment(rig)).lines == ["sub/"]

        (listing,) = [entry for entry in proxy.requests if entry.operation == "ListObjectsV2"]
        assert "delimiter=%2F" in listing.query


def test_ls_of_a_local_folder_does_not_look_into_those_within(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "a").write_bytes(CONTENT)
    assert ok("ls", tmp_path).lines == ["a", "closed/", "loop/"]
    assert "proc/" in ok("ls", "/").lines


def test_ls_shows_size_and_time_and_json(store: Rig) -> None:
    env = environment(store)

    line = ok("ls", "-l", url_of(store, "a.bin"), env=env).lines[0].split()
    found = json.loads(ok("ls", "--json", url_of(store), env=env).out)

    assert (line[0], line[1][:2], line[2]) == (str(len(CONTENT)), "20", "a.bin")
    assert [(each["name"], each["type"], each.get("size")) for each in found] == [
        ("a.bin", "object", len(CONTENT)),
        ("sub-x", "object", len(CONTENT)),
        ("sub/", "folder", None),
        ("z é.bin", "object", len(CONTENT)),
    ]
    assert found[0]["url"] == url_of(store, "a.bin")


def test_ls_of_nothing_is_not_found(store: Rig) -> None:
    done = run("ls", url_of(store, "nothing"), env=environment(store))

    assert (done.code, done.out) == (3, "")
    assert done.err.count("\n") == 1


def test_stat_tells_what_the_store_knows(store: Rig) -> None:
    env = environment(store)

    shown = ok("stat", url_of(store, "a.bin"), url_of(store, "sub-x"), env=env).out
    (found,) = json.loads(ok("stat", "--json", url_of(store, "a.bin"), env=env).out)
    missing = run("stat", url_of(store, "nothing"), url_of(store, "a.bin"), env=env)

    assert shown.count(f"{len(CONTENT)} (13 B)") == 2
    assert (found["url"], found["size"]) == (url_of(store, "a.bin"), len(CONTENT))
    assert missing.code == 3
    assert f"{len(CONTENT)} (13 B)" in missing.out


def test_cat_writes_objects_to_standard_output(store: Rig) -> None:
    done = ok("cat", url_of(store, "a.bin"), url_of(store, "z é.bin"), env=environment(store))
    missing = run("cat", url_of(store, "nothing"), url_of(store, "a.bin"), env=environment(store))

    assert done.out == CONTENT.decode() * 2
    assert (missing.code, missing.out) == (3, CONTENT.decode())


def test_cat_of_a_large_object_is_verified(store: Rig, tmp_path: Path) -> None:
    content = bytes(range(256)) * (40 * MIB // 1024)
    (tmp_path / "large").write_bytes(content)
    ok("cp", tmp_path / "large", url_of(store, "large"), env=environment(store))

    done = subprocess.run(
        [*PROGRAM, "cat", url_of(store, "large")], check=True, capture_output=True, env=environment_of_process(store)
    )

    assert done.stdout == content


def environment_of_process(rig: Rig) -> dict[str, str]:
    return {**os.environ, **environment(rig)}


def test_cat_of_content_that_is_not_what_was_stored_says_so(servers: Servers) -> None:
    rig = server_rig("ceph", servers.s3("ceph"))
    kept = {"gllm-crc64nvme": "AAAAAAAAAAA=-3"}
    rig.second.client.put_object(Bucket=BUCKET, Key=rig.key("bad"), Body=b"bad", Metadata=kept)  # type: ignore[attr-defined]

    done = run("cat", url_of(rig, "bad"), env=environment(rig))

    assert (done.code, done.out) == (7, "bad")
    assert "does not match the stored object" in done.err


def test_a_reader_that_goes_away_is_no_error(store: Rig) -> None:
    piped = f"{' '.join(PROGRAM)} ls -r {url_of(store)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", piped], check=False, capture_output=True, text=True, env=environment_of_process(store)
    )

    assert done.returncode in {0, 141}
    assert (done.stdout, done.stderr) == ("a.bin\n", "")


def test_rm_deletes_and_says_what_was_not_there(store: Rig) -> None:
    env = environment(store)

    assert ok("rm", url_of(store, "a.bin"), "-v", url_of(store, "sub-x"), env=env).lines == [
        url_of(store, "a.bin"),
        url_of(store, "sub-x"),
    ]
    assert run("rm", url_of(store, "a.bin"), url_of(store, "sub/b.bin"), env=env).code == 3
    assert ok("rm", "-f", url_of(store, "a.bin"), env=env).out == ""
    assert store.keys() == ["sub/deep/c.bin", "z é.bin"]


def test_exists_is_an_exit_code_and_no_word(store: Rig) -> None:
    codes = [run("exists", url_of(store, name), env=environment(store)) for name in ("a.bin", "sub/x", "nothing")]

    assert [(each.code, each.out, each.err) for each in codes] == [(0, "", ""), (1, "", ""), (1, "", "")]


def test_providers_are_listed_with_what_they_need() -> None:
    found = {each["name"]: each for each in json.loads(ok("providers", "--json").out)}

    assert {"s3", "gcs", "azure", "file", "memory", "fsspec"} <= set(found)
    assert all(each["installed"] for each in found.values())
    assert "gs" in found["gcs"]["aliases"]
    assert "azure (abfs, abfss, az)" in ok("providers").out


def test_a_provider_whose_extra_is_missing_says_how_to_install_it() -> None:
    code = """
import importlib.util, gllm_storage.settings
found = importlib.util.find_spec
gllm_storage.settings.find_spec = lambda name, *rest: None if name == "gcsfs" else found(name, *rest)
assert run(["providers"]) == 0
sys.exit(run(["ls", "gs://models/"]))
"""
    done = run_python(code)

    assert done.code == 11
    assert done.out.count("pip install 'gllm-storage[gcs]'") == 1
    assert "pip install 'gllm-storage[gcs]'" in done.err


def test_help_loads_no_sdk() -> None:
    code = (
        "run(['--help']); run(['cp', '--help']); run(['providers'])\n"
        "print([name for name in ('boto3', 's3fs', 'gcsfs', 'adlfs', 'azure.core', 'fsspec') if name in sys.modules])"
    )
    done = run_anew([sys.executable, "-c", PRELUDE + code])

    assert done.lines[-1] in {"[]", "['fsspec']"}


def test_local_paths_are_stores_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")

    assert ok("ls", tmp_path).lines == ["a"]
    assert ok("cat", tmp_path / "a").out == "x"
    assert run("exists", tmp_path / "b").code == 1
