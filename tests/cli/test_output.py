"""Control characters in names, passwords in URLs, arguments, and settings by provider and side."""

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


def test_control_characters(tmp_path: Path) -> None:
    """Control characters in names are escaped."""
    (tmp_path / "a\x1b[2Jb\nc").write_bytes(b"x")

    assert ok("ls", tmp_path).lines == [r"a\x1b[2Jb\nc"]
    assert printable("é ü 模型 🙂") == "é ü 模型 🙂"


def test_name_not_utf8(tmp_path: Path) -> None:
    """A local name that is not UTF-8 is listed."""
    (tmp_path / "sub").mkdir()
    with open(bytes(tmp_path) + b"/sub/\xff", "wb"):
        pass

    done = run("ls", tmp_path / "sub", env={"PYTHONUTF8": "1"})

    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 1


def test_password_in_url() -> None:
    """A password in a URL is replaced in errors and tracebacks."""
    done = run("exists", "sftp://me:hunter2-hunter2@127.0.0.1:1/x", "--debug")

    assert done.code not in {0, 1, 70}
    assert "hunter2" not in done.err
    assert scrubbed("at https://me:hunter2@host/x:") == "at https://me:***@host/x:"
    assert scrubbed("bucket_name='me:hunter2@host'") == "bucket_name='me:***@host'"
    for harmless in ('{"email":"me@host"}', "the caller: me@host", "s3://b/a:b@c", "https://me@host/x"):
        assert scrubbed(harmless) == harmless


@pytest.mark.parametrize("password", ["passw0rd", "pw"])
@pytest.mark.parametrize("url", ["s3://user:{}@models/x", "gs://user:{}@models/x", "az://user:{}@models/x"])
def test_password_before_bucket(url: str, password: str) -> None:
    """A password before a bucket's name is replaced, however short."""
    for more in ([], ["--debug"]):
        done = run("ls", url.format(password), *more)

        assert done.code == 2
        assert not re.search(rf"\b{password}\b", done.out + done.err), done.err


def test_malformed_setting() -> None:
    """A malformed setting is not printed: it may be a secret."""
    done = run("exists", "s3://bucket/x", "--config", "a-secret-without-its-key")

    assert done.code == 2
    assert "secret" not in done.err


def test_precedence() -> None:
    """A side comes before a provider, a provider before all, and options before the environment."""
    stores = [Store("s3://from", SOURCE), Store("s3://to", TARGET)]
    environ = {"GLLM_STORAGE_REGION_NAME": "environment", "GLLM_STORAGE_S3_MAX_ATTEMPTS": "7", "GLLM_STORAGE_PREFIX": "p"}
    given = [
        parse_setting("--target-config", "region_name=target", TARGET),
        parse_setting("--config", "s3a.read_timeout=7s"),
        parse_setting("--config", "read_timeout=8s"),
        Setting("--endpoint-url", "endpoint_url", "http://localhost:9"),
    ]

    made = make_clients(stores, given, environ)

    source, target = (made[store].settings for store in stores)  # type: ignore[attr-defined]  # each rig has a client of this library
    assert (source.region_name, target.region_name) == ("environment", "target")
    assert {(each.read_timeout, each.max_attempts, each.endpoint_url, each.prefix) for each in (source, target)} == {
        (7.0, 7, "http://localhost:9", "")
    }


def test_generic_provider() -> None:
    """The generic provider does not get keys that another store of the command knows."""
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
def test_parse(text: str, expected: object) -> None:
    """An argument names a stream, a local path, or an object in a store."""
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "s3:/bucket/x", "file://relative/x", "s3://bucket/a//b", "s3://bucket/../x", "simple::s3://b/x"]
)
def test_parse_refuses(text: str) -> None:
    """An impossible argument is a `ValueError` with a message."""
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)
