"""Names that hold control characters, URLs that hold passwords, and settings by provider and side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from gllm_storage.cli.output import printable, scrubbed
from gllm_storage.cli.places import Address, LocalPath, Stream, parse
from gllm_storage.cli.settings import SOURCE, TARGET, Setting, Store, make_clients, parse_setting
from tests.cli.support import ok, run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_name_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2Jb\nc").write_bytes(b"x")

    assert ok("ls", tmp_path).lines == [r"a\x1b[2Jb\nc"]
    assert printable("é ü 模型 🙂") == "é ü 模型 🙂"


def test_a_local_name_that_is_not_utf_8_is_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with open(bytes(tmp_path) + b"/sub/\xff", "wb"):
        pass

    done = run("ls", tmp_path / "sub", env={"PYTHONUTF8": "1"})

    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 1


def test_a_password_in_a_url_is_not_shown() -> None:
    done = run("exists", "sftp://me:hunter2-hunter2@127.0.0.1:1/x", "--debug")

    assert done.code not in {0, 1, 70}
    assert "hunter2" not in done.err
    assert scrubbed("at https://me:hunter2@host/x:") == "at https://me:***@host/x:"
    assert scrubbed("bucket_name='me:hunter2@host'") == "bucket_name='me:***@host'"
    for harmless in ('{"email":"me@host"}', "the caller: me@host", "s3://b/a:b@c", "https://me@host/x"):
        assert scrubbed(harmless) == harmless


@pytest.mark.parametrize("password", ["passw0rd", "pw"])
@pytest.mark.parametrize("url", ["s3://user:{}@models/x", "gs://user:{}@models/x", "az://user:{}@models/x"])
def test_a_password_before_a_bucket_is_not_shown(url: str, password: str) -> None:
    for more in ([], ["--debug"]):
        done = run("ls", url.format(password), *more)

        assert done.code == 2
        assert not re.search(rf"\b{password}\b", done.out + done.err), done.err


def test_what_is_not_a_setting_is_not_shown() -> None:
    done = run("exists", "s3://bucket/x", "--config", "a-secret-without-its-key")

    assert done.code == 2
    assert "secret" not in done.err


def test_a_setting_for_a_provider_comes_before_one_for_all_and_both_before_the_environment() -> None:
    stores = [Store("s3://from", SOURCE), Store("s3://to", TARGET)]
    environ = {"GLLM_STORAGE_REGION_NAME": "environment", "GLLM_STORAGE_S3_MAX_ATTEMPTS": "7", "GLLM_STORAGE_PREFIX": "p"}
    given = [
        parse_setting("--target-config", "region_name=target", TARGET),
        parse_setting("--config", "s3a.read_timeout=7s"),
        parse_setting("--config", "read_timeout=8s"),
        Setting("--endpoint-url", "endpoint_url", "http://localhost:9"),
    ]

    made = make_clients(stores, given, environ)

    source, target = (made[store].settings for store in stores)  # type: ignore[attr-defined]
    assert (source.region_name, target.region_name) == ("environment", "target")
    assert {(each.read_timeout, each.max_attempts, each.endpoint_url, each.prefix) for each in (source, target)} == {
        (7.0, 7, "http://localhost:9", "")
    }


def test_a_key_that_a_store_knows_does_not_go_to_one_that_takes_any() -> None:
    stores = [Store("s3://from", SOURCE), Store("sftp://host", TARGET)]
    given = [parse_setting("--config", text) for text in ("region_name=r", "other=x", "sftp.username=me")]
    environ = {"GLLM_STORAGE_FSSPEC_PASSWORD": "hidden-password", "GLLM_STORAGE_REGION_NAME": "x"}

    made = make_clients(stores, given, environ)

    assert made[stores[0]].config == {"bucket_name": "from", "region_name": "r"}
    assert made[stores[1]].config == {
        "url": "sftp://host",
        "other": "x",
        "username": "me",
        "password": "hidden-password",
    }
    assert scrubbed("the hidden-password") == "the ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", Stream()),
        ("model.bin", LocalPath("model.bin")),
        ("./-", LocalPath("./-")),
        ("file:///a b/c#d", LocalPath("/a b/c#d")),
        ("s3://bucket", Address("s3://bucket", "")),
        ("s3://bucket/", Address("s3://bucket", "")),
        ("s3://bucket/a/b%20c", Address("s3://bucket", "a/b%20c")),
        ("GS://bucket/a/", Address("gs://bucket", "a/")),
        ("abfs://c@acc.dfs.core.windows.net/k", Address("abfs://c@acc.dfs.core.windows.net", "k")),
        ("hdfs:///a", Address("hdfs:///", "a")),
    ],
)
def test_an_argument_is_read_as(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "s3:/bucket/x", "file://relative/x", "s3://bucket/a//b", "s3://bucket/../x", "simple::s3://b/x"]
)
def test_an_impossible_argument_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)
