"""Configs: the values that each parser accepts and refuses, and the messages of errors."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gllm_storage import get_storage_client, storage_client_from_url
from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.gcs.filesystem import GCSFileSystem
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.settings import any_text, choice, count, describe, duration, flag, parse_config, setting, size, text

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2-very-secret"


@dataclass(frozen=True)
class Settings:
    """Settings of a provider that does not exist."""

    account: str = setting(text)
    container: str = setting(text)
    api_key: str | None = setting(text, default=None, secret=True)
    pin: int | None = setting(count, default=None, secret=True)
    retries: int = setting(count, default=3)
    buffer: int = setting(size, default=1024)
    verbose: bool = setting(flag, default=False)


COMPLETE = {"account": "a", "container": "c"}

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    (text, "x", "x"),
    (text, " x ", " x "),
    (any_text, "", ""),
    (flag, "true", True),
    (flag, " TRUE ", True),
    (flag, "yes", True),
    (flag, "on", True),
    (flag, "1", True),
    (flag, "False", False),
    (flag, "no", False),
    (flag, "off", False),
    (flag, "0", False),
    (count, "1", 1),
    (count, " 12 ", 12),
    (count, "007", 7),
    (size, "8388608", 8388608),
    (size, "8MiB", 8 * 2**20),
    (size, "8 mib", 8 * 2**20),
    (size, "5GB", 5 * 10**9),
    (size, "1.5KiB", 1536),
    (size, "2TiB", 2**41),
    (size, "7B", 7),
    (size, "9007199254740993", 2**53 + 1),
    (duration, "30", 30.0),
    (duration, "30s", 30.0),
    (duration, "500ms", 0.5),
    (duration, "2m", 120.0),
    (duration, "1h", 3600.0),
    (duration, "0.5 S", 0.5),
    (choice("auto", "path"), " AUTO ", "auto"),
]

REFUSED: list[tuple[Callable[[str], Any], str]] = [
    (text, ""),
    (text, " \t\n"),
    (flag, ""),
    (flag, "2"),
    (flag, "maybe"),
    (flag, "truee"),
    (count, ""),
    (count, "0"),
    (count, "-1"),
    (count, "+1"),
    (count, "1.5"),
    (count, "1e3"),
    (count, "1_000"),
    (count, "ten"),
    (count, "\uff19"),
    (size, ""),
    (size, "0"),
    (size, "0MiB"),
    (size, "0.4"),
    (size, "-1MiB"),
    (size, "MiB"),
    (size, "8 Mi B"),
    (size, "8XB"),
    (size, "8Mbit"),
    (size, "1e6"),
    (size, "1,5GB"),
    (size, "nan"),
    (size, "inf"),
    (size, "9" * 5000),
    (duration, ""),
    (duration, "0"),
    (duration, "0ms"),
    (duration, "-1s"),
    (duration, "s"),
    (duration, "1d"),
    (duration, "1 s s"),
    (duration, "nan"),
    (duration, "inf"),
    (duration, "9" * 400),
    (choice("auto", "path"), ""),
    (choice("auto", "path"), "virtual"),
]


def name_of(value: object) -> str:
    """Return a short parameter id."""
    return getattr(value, "__name__", repr(value))[:20]


@pytest.mark.parametrize(("parse", "value", "meant"), ACCEPTED, ids=name_of)
def test_accepted_value(parse: Callable[[str], Any], value: str, meant: object) -> None:
    """A parser accepts the usual spellings of a value."""
    assert parse(value) == meant
    assert type(parse(value)) is type(meant)


@pytest.mark.parametrize(("parse", "value"), REFUSED, ids=name_of)
def test_refused_value(parse: Callable[[str], Any], value: str) -> None:
    """A parser refuses any other text with ValueError."""
    with pytest.raises(ValueError, match="must"):
        parse(value)


numbers = st.builds(
    "{}{}{}{}".format,
    st.one_of(st.text("0123456789", max_size=30), st.just("9" * 400)),
    st.sampled_from(["", ".", ".5", ".0"]),
    st.sampled_from(["", " ", "\t"]),
    st.sampled_from(["", "B", "KB", "MiB", "TiB", "ms", "s", "m", "h", "x"]),
)


@given(st.one_of(st.text(max_size=12), numbers))
@example("9" * 400)
@example("9" * 5000)
@example("9" * 400 + ".5")
@settings(max_examples=60, deadline=None)
def test_any_number(value: str) -> None:
    """Any text is a positive finite number, or raises ValueError."""
    parsers: tuple[Callable[[str], float], ...] = (count, size, duration)
    for parse in parsers:
        try:
            number = parse(value)
        except ValueError:
            continue
        assert number > 0
        assert parse is not duration or math.isfinite(number), "a timeout that never ends"


def test_defaults() -> None:
    """An omitted setting has its default."""
    assert parse_config(Settings, "fake", COMPLETE) == Settings("a", "c")


def test_all_problems() -> None:
    """All problems of a config are reported at once."""
    config = {"retrys": "3", "buffer": "big", "verbose": "maybe", "endpoint": "x"}
    with pytest.raises(ValueError, match="fake config") as caught:
        parse_config(Settings, "fake", config)
    message = str(caught.value)
    for part in ("'retrys'", "'retries'", "'endpoint'", "buffer='big'", "verbose='maybe'", "'account'", "'container'"):
        assert part in message
    for known in Settings.__dataclass_fields__:
        assert known in message


@pytest.mark.parametrize(("key", "nearest"), [("acount", "account"), ("Buffer", "buffer"), ("apikey", "api_key")])
def test_nearest_key(key: str, nearest: str) -> None:
    """The error for an unknown key suggests the nearest known key."""
    with pytest.raises(ValueError, match=f"'{key}' .did you mean '{nearest}'"):
        parse_config(Settings, "fake", {**COMPLETE, key: "x"})


@pytest.mark.parametrize(
    ("provider", "given", "meant"),
    [
        ("azure", "bucket_name", "container_name"),
        ("azure", "Bucket", "container_name"),
        ("azure", "bucket_nam", "container_name"),
        ("azure", "access_key", "account_key"),
        ("azure", "account", "account_name"),
        ("azure", "storage_class", "access_tier"),
        ("s3", "container_name", "bucket_name"),
        ("s3", "bucketName", "bucket_name"),
        ("s3", "endpoint", "endpoint_url"),
        ("s3", "access_key", "aws_access_key_id"),
        ("s3", "key", "aws_access_key_id"),
        ("s3", "secret", "aws_secret_access_key"),
        ("s3", "secret_access_key", "aws_secret_access_key"),
        ("s3", "token", "aws_session_token"),
        ("s3", "region", "region_name"),
        ("s3", "profile", "profile_name"),
        ("s3", "anon", "anonymous"),
        ("gcs", "container_name", "bucket_name"),
        ("gcs", "credentials", "token"),
        ("gcs", "kms_key", "kms_key_name"),
        ("file", "bucket_name", "root"),
        ("file", "path", "root"),
        ("memory", "container_name", "bucket_name"),
    ],
)
def test_names_of_other_tools(provider: str, given: str, meant: str) -> None:
    """The names that SDKs, fsspec's filesystems and other providers have for a key lead to it."""
    with pytest.raises(ValueError, match=f"unknown key '{given}' .did you mean '{meant}'"):
        get_storage_client(provider, {given: "x"})


@pytest.mark.parametrize(
    ("provider", "given"), [("gcs", "profile"), ("s3", "connection_string"), ("gcs", "region"), ("azure", "aws_region")]
)
def test_names_without_meaning(provider: str, given: str) -> None:
    """A name whose meaning no key of the provider has is not a misspelling of a key with similar letters."""
    with pytest.raises(ValueError, match=f"unknown key '{given}'") as caught:
        get_storage_client(provider, {given: "x"})
    assert "did you mean" not in str(caught.value)


def test_key_without_suggestion() -> None:
    """A key that resembles no known key gets no suggestion."""
    with pytest.raises(ValueError, match="'xyzzy'") as caught:
        parse_config(Settings, "fake", {**COMPLETE, "xyzzy": "x"})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, b"x", ["x"], 1.5, timedelta(1), Path("x")], ids=repr)
def test_value_not_a_string(value: Any) -> None:
    """A value that is neither a string nor of the natural type is refused, and the error names its key."""
    with pytest.raises(ValueError, match=rf"retries={re.escape(repr(value))} must be a string, not"):
        parse_config(Settings, "fake", {**COMPLETE, "retries": value})


NATURAL: list[tuple[str, Any, str]] = [
    ("max_concurrency", 4, "4"),
    ("max_attempts", np.int64(7), "7"),
    ("part_size", 8 * 2**20, "8388608"),
    ("anonymous", True, "true"),
    ("anonymous", False, "false"),
    ("read_timeout", timedelta(minutes=2), "120s"),
    ("read_timeout", timedelta(milliseconds=1500), "1.5s"),
    ("read_timeout", timedelta(days=1), "86400s"),
    ("connect_timeout", timedelta(microseconds=1), "0.000001s"),
    ("ca_bundle", Path(__file__), __file__),
]


@pytest.mark.parametrize(("key", "value", "written"), NATURAL, ids=repr)
@pytest.mark.parametrize("provider", ["s3", "gcs", "azure"])
def test_natural_type(provider: str, key: str, value: Any, written: str) -> None:
    """A value of the natural type of its key equals its string, in the config, in the client, and in a pickle."""
    base = {"azure": {"container_name": "models", "account_name": "acc1"}}.get(provider, {"bucket_name": "models"})
    natural = get_storage_client(provider, {**base, key: value})
    as_text = get_storage_client(provider, {**base, key: written})

    assert natural.config == as_text.config
    assert natural == as_text
    assert pickle.dumps(natural) == pickle.dumps(as_text)


def test_natural_folder(tmp_path: Path) -> None:
    """The root of a local client may be a path, beside a URL as well."""
    config: Any = {"root": tmp_path}
    client = get_storage_client("file", config)

    assert client == get_storage_client("file", {"root": str(tmp_path)})
    assert client == storage_client_from_url(f"file://{tmp_path}", config)
    assert client.config["root"] == str(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_concurrency", True),
        ("part_size", 1e7),
        ("anonymous", 1),
        ("read_timeout", 30),
        ("read_timeout", timedelta(0)),
        ("read_timeout", timedelta(seconds=-1)),
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("expected_bucket_owner", 123456789012),
        ("region_name", Path("eu-central-1")),
        ("ca_bundle", b"/etc/ssl/ca.pem"),
        ("ca_bundle", Path("/no/such/file")),
    ],
    ids=repr,
)
def test_wrong_natural_type(key: str, value: Any) -> None:
    """A value of another type, or outside the range of its key, is refused by the rule of the key alone."""
    config: Any = {"bucket_name": "models", key: value}
    with pytest.raises(ValueError, match=f"s3 config: {key}=.*(must|is not)") as caught:
        get_storage_client("s3", config)
    assert "Known keys" not in str(caught.value)


@pytest.mark.parametrize("part", ["8MiB", "8388608", 8388608, np.int32(8388608)], ids=repr)
def test_filesystem_options(part: Any) -> None:
    """The filesystems take strings, as fsspec's configuration has them, and natural types."""
    s3 = S3FileSystem(part_size=part, max_concurrency="4", anon="false", key="k", secret="s", skip_instance_cache=True)
    gcs = GCSFileSystem(
        token="anon", part_size=part, max_concurrency="4", read_timeout=timedelta(seconds=2), skip_instance_cache=True
    )
    azure = AzureBlobFileSystem(
        account_name="acc1", part_size=part, max_concurrency="4", read_timeout=timedelta(seconds=2), skip_instance_cache=True
    )

    for each in (s3.connection.settings, gcs.connection.options.transfer, azure.connection.settings):
        assert (each.part_size, each.max_concurrency) == (8388608, 4)
    assert gcs.connection.options.read_timeout == azure.connection.read_timeout == 2.0
    assert not s3.connection.endpoint.anonymous


def test_timeouts_of_botocore() -> None:
    """S3's timeouts in `config_kwargs` may be timedeltas."""
    filesystem = S3FileSystem(anon=True, config_kwargs={"read_timeout": timedelta(seconds=2)}, skip_instance_cache=True)
    assert filesystem.connection.client.meta.config.read_timeout == 2.0  # type: ignore[attr-defined]  # set by botocore


@pytest.mark.parametrize("options", [{"max_concurrency": True}, {"part_size": 8.5e6}, {"anon": "maybe"}], ids=repr)
def test_wrong_option(options: dict[str, Any]) -> None:
    """An option of another type is refused, with its name."""
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* must be"):
        S3FileSystem(**options, skip_instance_cache=True)


@pytest.mark.parametrize("key", [None, 3, ("account",)], ids=repr)
def test_key_not_a_string(key: Any) -> None:
    """A key that is not a string is refused."""
    with pytest.raises(ValueError, match="unknown key"):
        parse_config(Settings, "fake", {**COMPLETE, key: "x"})


@pytest.mark.parametrize("provider", ["s3", "file", "memory", "fsspec"])
@pytest.mark.parametrize("config", [None, 3, "bucket_name=b", ["bucket_name"]], ids=repr)
def test_config_not_a_dict(provider: str, config: Any) -> None:
    """A config that is not a dict raises ValueError."""
    with pytest.raises(ValueError, match=provider):
        get_storage_client(provider, config)


@pytest.mark.parametrize("value", [f"{SECRET}", f" {SECRET}", SECRET.encode(), [SECRET]], ids=repr)
def test_invalid_secret(value: Any) -> None:
    """The error for an invalid secret does not show the secret."""
    with pytest.raises(ValueError, match=r"pin='\*\*\*'") as caught:
        parse_config(Settings, "fake", {**COMPLETE, "pin": value})
    assert SECRET not in str(caught.value)


def test_secret_beside_problems() -> None:
    """The error for other settings does not show a secret."""
    with pytest.raises(ValueError, match="buffer") as caught:
        parse_config(Settings, "fake", {"api_key": SECRET, "buffer": "big"})
    assert SECRET not in str(caught.value)


def test_frozen_settings() -> None:
    """Settings are frozen, and their text does not show secrets."""
    made = parse_config(Settings, "fake", {**COMPLETE, "api_key": SECRET, "retries": "5"})
    assert made.api_key == SECRET
    for shown in (repr(made), str(made), describe(made)):
        assert SECRET not in shown
    assert describe(made) == "account='a', container='c', api_key='***', retries=5"
    with pytest.raises(AttributeError):
        made.account = "b"  # type: ignore[misc]  # frozen: it raises


OF_BUCKETS = [
    ("s3", "https://models.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
    ("s3", "https://other.s3.amazonaws.com", "https://s3.amazonaws.com"),
    ("s3", "https://s3.eu-west-1.amazonaws.com/models", "https://s3.eu-west-1.amazonaws.com"),
    ("s3", "https://minio.example.com:9000/models/", "https://minio.example.com:9000"),
    ("s3", "https://gateway.example.com/s3/models", "https://gateway.example.com/s3"),
    ("s3", "https://models.fra1.digitaloceanspaces.com", "https://fra1.digitaloceanspaces.com"),
    ("s3", "https://models.abc.r2.cloudflarestorage.com", "https://abc.r2.cloudflarestorage.com"),
    ("s3", "https://models.storage.googleapis.com", "https://storage.googleapis.com"),
    ("gcs", "https://models.storage.googleapis.com", "https://storage.googleapis.com"),
    ("gcs", "https://storage.googleapis.com/models", "https://storage.googleapis.com"),
    ("azure", "https://acc1.blob.core.windows.net/models", "https://acc1.blob.core.windows.net"),
    ("azure", "http://127.0.0.1:10000/acc1/models", "http://127.0.0.1:10000/acc1"),
]
BASE: dict[str, dict[str, str]] = {
    "s3": {"bucket_name": "models"},
    "gcs": {"bucket_name": "models"},
    "azure": {"container_name": "models", "account_name": "acc1"},
}


@pytest.mark.parametrize(("provider", "given", "right"), OF_BUCKETS)
def test_endpoint_of_bucket(provider: str, given: str, right: str) -> None:
    """The URL of a bucket as endpoint is refused, and the error names the endpoint of its server, which is accepted."""
    with pytest.raises(ValueError, match="is the URL of the bucket") as caught:
        get_storage_client(provider, {**BASE[provider], "endpoint_url": given})
    assert f"set endpoint_url='{right}'" in str(caught.value)
    get_storage_client(provider, {**BASE[provider], "endpoint_url": right})


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        ("s3", "https://models.example.com"),
        ("s3", "https://models"),
        ("s3", "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com"),
        ("s3", "https://s3.dualstack.eu-west-1.amazonaws.com"),
        ("s3", "https://models.digitaloceanspaces.com"),
        ("s3", "https://gateway.example.com/models/s3"),
        ("azure", "http://127.0.0.1:10000/acc1"),
    ],
)
def test_endpoint_of_server(provider: str, url: str) -> None:
    """An endpoint that only resembles the bucket's is accepted."""
    get_storage_client(provider, {**BASE[provider], "endpoint_url": url})
