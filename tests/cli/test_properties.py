"""Properties of copies on the command line, and TLS certificates that are not verified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import environment, ok, run, url_of
from tests.conftest import make_rig
from tests.servers.tls import tls_before

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Boto3Client, Rig

OPTIONS = {
    "--content-type": "text/q",
    "--cache-control": "no-store",
    "--content-disposition": "attachment",
    "--storage-class": "STANDARD_IA",
}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Rig:
    return make_rig("ministack", request)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_bytes(b"{}")
    return tmp_path / "a.json"


def test_cp(store: Rig, path: Path) -> None:
    """`cp` gives the properties to the copies; other clients and `stat` see them."""
    options = [text for pair in OPTIONS.items() for text in pair]
    options += ["--metadata", "run=17", "--metadata", "note=a=b", "--tag", "team=a b"]
    env = environment(store)
    ok("cp", path, url_of(store, "a"), *options, env=env)
    second: Boto3Client = store.second  # type: ignore[assignment]  # the rig of an S3 server
    head = second.client.head_object(Bucket=second.bucket, Key=store.key("a"))
    found = [head["ContentType"], head["CacheControl"], head["ContentDisposition"], head["StorageClass"]]
    assert found == list(OPTIONS.values())
    assert head["Metadata"].items() >= {"run": "17", "note": "a=b"}.items()
    tags = second.client.get_object_tagging(Bucket=second.bucket, Key=store.key("a"))["TagSet"]
    assert tags == [{"Key": "team", "Value": "a b"}]
    shown = json.loads(ok("stat", "--json", url_of(store, "a"), env=env).out)[0]
    assert [shown[name] for name in ("content_type", "cache_control", "storage_class")] == [
        "text/q",
        "no-store",
        "STANDARD_IA",
    ]
    assert "text/q" in ok("stat", url_of(store, "a"), env=env).out


def test_guess(store: Rig, path: Path) -> None:
    """Without an option the content type is guessed from the name."""
    ok("cp", path, url_of(store, "b.json"), env=environment(store))
    second: Boto3Client = store.second  # type: ignore[assignment]  # the rig of an S3 server
    head = second.client.head_object(Bucket=second.bucket, Key=store.key("b.json"))
    assert head["ContentType"] == "application/json"


@pytest.mark.parametrize("option", [("--metadata", "run"), ("--tag", "=x"), ("--content-type", "a\nb")], ids=str)
def test_wrong_option(store: Rig, path: Path, option: tuple[str, str]) -> None:
    """A wrong value is an error of usage, and nothing is stored."""
    assert run("cp", path, url_of(store, "a"), *option, env=environment(store)).code == 2
    assert store.keys() == []


def test_local_target(path: Path, tmp_path: Path) -> None:
    """A local path keeps no properties, which is an error of usage."""
    refused = run("cp", path, tmp_path / "copy", "--content-type", "text/q")
    assert (refused.code, "content_type" in refused.err) == (2, True)
    assert run("cp", path, f"file://{tmp_path}/copy", "--content-type", "text/q").code in {2, 8}
    assert not (tmp_path / "copy").exists()


def test_no_verify_tls(store: Rig, path: Path, tmp_path: Path) -> None:
    """`--no-verify-tls` accepts any certificate, with a warning."""
    (tmp_path / "tls").mkdir()
    with tls_before(store.config["endpoint_url"], tmp_path / "tls") as (url, _):
        env = {**environment(store), "GLLM_STORAGE_S3_ENDPOINT_URL": url, "GLLM_STORAGE_S3_MAX_ATTEMPTS": "1"}
        assert run("cp", path, url_of(store, "a"), env=env).code == 10
        done = run("cp", path, url_of(store, "a"), "--no-verify-tls", env=env)
        assert done.code == 0, done.err
        assert "not verified" in done.err
    assert store.keys() == ["a"]
