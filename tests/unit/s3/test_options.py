"""The options of `S3FileSystem`: those of s3fs are taken, others are refused; and the cache of instances is s3fs's."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import s3fs
from aiobotocore.session import AioSession
from botocore.config import Config

from gllm_storage import get_storage_client
from gllm_storage.errors import StorageUnavailableError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.settings import ENGINES
from gllm_storage.store.retry import no_waits
from tests.unit.s3.http.scripted import ScriptedServer

MIB = 2**20


def made(**options: Any) -> Any:
    return S3FileSystem(**options, skip_instance_cache=True)


@pytest.mark.parametrize("option", ["endpoint", "multipart_treshold", "hf", "region_name"])
def test_an_unknown_option_is_named_when_the_filesystem_is_made(option: str) -> None:
    with pytest.raises(TypeError, match=f"no option {option!r}"):
        made(**{option: "x"})


def test_an_option_that_is_nearly_one_is_told() -> None:
    with pytest.raises(TypeError, match="did you mean 'endpoint_url'"):
        made(endpont_url="http://127.0.0.1")


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"profile": "training"},
        {"session": None},
        {"session_vars": None, "event_hooks": None, "include_builtin_handlers": True},
        {"client_kwargs": {"region_name": "eu-west-1"}, "config_kwargs": {"read_timeout": 5}, "s3_additional_kwargs": {}},
        {"anon": True, "use_ssl": False, "requester_pays": True, "cache_regions": True, "version_aware": True},
        {"default_block_size": MIB, "default_fill_cache": False, "default_cache_type": "none", "fixed_upload_size": True},
        {"username": "u", "password": "p", "token": "t", "local_expiry_check": True, "asynchronous": True, "loop": None},
        {"use_listings_cache": True, "listings_expiry_time": 5, "max_paths": 9, "max_concurrency": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_options_of_s3fs_are_taken(options: dict[str, Any]) -> None:
    filesystem = made(**options)
    assert filesystem.batch_size == options.get("batch_size")
    assert not set(filesystem.kwargs) & {"batch_size", "use_listings_cache"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part_size": MIB}, f"part_size .* not {MIB} bytes"),
        ({"multipart_threshold": 6 * 2**30}, f"multipart_threshold .* not {6 * 2**30} bytes"),
        ({"memory_limit": 6 * MIB}, f"memory_limit .{6 * MIB} bytes. is smaller than a part"),
        ({"max_concurrency": 0}, "max_concurrency must be >= 1"),
        ({"engine": "warp"}, "'warp'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_size_that_cannot_be_is_a_value_error_with_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_the_options_that_a_client_gives_make_our_filesystem_and_s3fs_s() -> None:
    config = {
        "bucket_name": "models",
        "endpoint_url": "http://127.0.0.1:9",
        "storage_class": "STANDARD_IA",
        "region_name": "x-1",
    }
    options = get_storage_client("s3", config).storage_options
    assert made(**options).connection.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert s3fs.S3FileSystem(**options, skip_instance_cache=True).endpoint_url == "http://127.0.0.1:9"


def test_the_cache_of_instances_is_s3fs_s() -> None:
    filesystem = S3FileSystem(endpoint_url="http://127.0.0.1:9")
    assert S3FileSystem(endpoint_url="http://127.0.0.1:9") is filesystem
    assert s3fs.S3FileSystem.current() is filesystem
    assert S3FileSystem.current() is filesystem
    theirs = s3fs.S3FileSystem(endpoint_url="http://127.0.0.1:9")
    assert theirs is not filesystem
    assert s3fs.S3FileSystem.current() is theirs
    s3fs.S3FileSystem.clear_instance_cache()
    assert S3FileSystem(endpoint_url="http://127.0.0.1:9") is not filesystem
    S3FileSystem.clear_instance_cache()


def test_a_subclass_keeps_its_own_instances() -> None:
    class Mine(S3FileSystem):
        pass

    before = s3fs.S3FileSystem.current()
    mine = Mine(endpoint_url="http://127.0.0.1:9")
    assert Mine.current() is mine
    assert s3fs.S3FileSystem.current() is before
    s3fs.S3FileSystem.clear_instance_cache()
    assert Mine(endpoint_url="http://127.0.0.1:9") is mine


def test_the_class_has_the_name_of_s3fs_s() -> None:
    assert S3FileSystem.__name__ == s3fs.S3FileSystem.__name__
    assert issubclass(S3FileSystem, s3fs.S3FileSystem)
    assert S3FileSystem.protocol == ("s3", "s3a")


def test_a_filesystem_is_pickled_with_its_options() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "part_size": 6 * MIB, "batch_size": 7, "max_concurrency": 2}
    loaded = pickle.loads(pickle.dumps(made(**options)))  # noqa: S301 - our own
    assert (loaded.endpoint_url, loaded.connection.settings.part_size, loaded.batch_size) == (
        "http://127.0.0.1:9",
        6 * MIB,
        7,
    )


def test_what_a_session_says_goes_for_boto3_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[profile training]\nregion = eu-west-3\n")
    (tmp_path / "credentials").write_text("[training]\naws_access_key_id = of\naws_secret_access_key = training\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    client = made(session=AioSession(profile="training"), engine="boto3").connection.client
    assert client.meta.region_name == "eu-west-3"
    assert client._request_signer._credentials.access_key == "of"

    session = AioSession()
    session.set_config_variable("region", "ap-south-1")
    session.set_credentials("static", "secret", "token")
    client = made(session=session, engine="boto3").connection.client
    assert client.meta.region_name == "ap-south-1"
    assert client._request_signer._credentials.get_frozen_credentials()[:3] == ("static", "secret", "token")


def test_a_default_of_s3fs_can_be_set_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3FileSystem, "default_block_size", 7 * MIB)
    assert made().default_block_size == 7 * MIB
    assert isinstance(Config(**made(config_kwargs={"read_timeout": 9}).config_kwargs), Config)


def test_the_attempts_and_the_mode_of_retries_are_the_callers() -> None:
    """Botocore's ``retries`` set the attempts of the library's policy, in each of their spellings."""
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 5),
        ({"total_max_attempts": 3}, 3),
        ({"max_attempts": 3}, 4),
        ({"mode": "adaptive", "max_attempts": 0}, 1),
        ({"mode": "legacy", "total_max_attempts": 2}, 2),
    ]
    for retries, attempts in cases:
        filesystem = made(config_kwargs={"retries": retries} if retries else {}, client_kwargs={"region_name": "us-east-1"})
        assert filesystem.connection.settings.max_attempts == attempts
        assert filesystem.connection.client._policy.limit == attempts
        mode = filesystem.connection.client.meta.config.retries["mode"]
        assert mode == retries.get("mode", "legacy" if retries else "standard")


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_is_sent_as_often_as_the_retries_say(mode: str, engine: str) -> None:
    """Botocore's own retries add nothing to the policy's, in any mode."""
    with ScriptedServer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") as server:
        filesystem = made(
            endpoint_url=server.url,
            key="k",
            secret="s",
            engine=engine,
            config_kwargs={"retries": {"mode": mode, "total_max_attempts": 3}},
        )
        with no_waits(), pytest.raises(StorageUnavailableError) as caught:
            filesystem.info("b/a")
        assert len(server.requests) == caught.value.attempts == 3
