"""Address, credentials and certificates that are found without boto3's client equal boto3's."""

from __future__ import annotations

import dataclasses
import os
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore
import pytest
from botocore.exceptions import BotoCoreError

from gllm_storage.s3.access import Keys, PlainAccess, default_bundle, plain_access, tls_context
from gllm_storage.s3.connection import Endpoint, endpoint_url_of, is_amazon
from gllm_storage.s3.http.client import refusal_of, tls_context_of
from gllm_storage.s3.http.template import NotDirectError, template_of
from tests.unit.s3.http.scripted import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without configuration."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in PROXIES or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def endpoint_of(url: str | None = None, region: str | None = None, style: str | None = None, **options: Any) -> Endpoint:
    """An endpoint with keys."""
    given = {"endpoint_url": url, "region_name": region, **KEYS, **options}
    config = {"s3": {"addressing_style": style}} if style else {}
    return Endpoint({name: value for name, value in given.items() if value is not None}, config)


def boto_client(endpoint: Endpoint) -> Any:
    """The boto3 client of an endpoint."""
    return dataclasses.replace(endpoint, engine="boto3").make_client()


URLS = (
    None,
    "http://127.0.0.1:9000",
    "http://localhost",
    "http://localhost:80",
    "http://[::1]:9000",
    "https://[::1]",
    "https://store.example",
    "https://store.example/",
    "https://store.example:443",
    "https://store.example:8443",
    "https://store.example/base",
    "https://Store.Example",
    "https://user@store.example",
    "https://store.example?x=1",
    "https://s3.eu-central-1.amazonaws.com",
    "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
    "https://s3.example.r2.cloudflarestorage.com",
)
REGIONS = (
    None,
    "us-east-1",
    "eu-central-1",
    "ap-southeast-7",
    "us-gov-west-1",
    "cn-north-1",
    "eusc-de-east-1",
    "us-iso-east-1",
    "aws-global",
    "s3-external-1",
    "fips-us-gov-west-1",
    "us-west-2-fips",
    "garage",
    "auto",
    "default",
    "ZG01",
    "a.b",
)
BUCKETS = (
    "b1x",
    "bucket-with-dashes",
    "b.x.y",
    "Upper",
    "under_score",
    "a..b",
    "192.168.1.1",
    "xn--bucket",
    "b1x--use1-az4--x-s3",
    "point-abc123-s3alias",
    "a" * 63,
    "a" * 64,
    "-b1x",
    "ab",
)


PLACES = {*product(URLS[:2], REGIONS), *product(URLS, REGIONS[1:3])}
"""Making a boto3 client takes 0.1 s, so not all regions are combined with all endpoints."""


@pytest.mark.parametrize("style", [None, "auto", "path", "virtual"])
def test_address(style: str | None) -> None:
    """A plain endpoint has the URL, and each bucket the host, path and scope, that boto3 computes."""
    compared = 0
    for url, region in PLACES:
        endpoint = endpoint_of(url, region, style)
        access = plain_access(endpoint)
        if access is None:
            continue
        client = boto_client(endpoint)
        assert access.endpoint_url == endpoint_url_of(client)
        assert access.is_amazon == is_amazon(client)
        assert refusal_of(client) is None
        compared += sum(same_template(access, client, bucket) for bucket in BUCKETS)
    assert compared > (10 if style == "virtual" else 100)


def same_template(access: PlainAccess, client: Any, bucket: str) -> bool:
    """Compare the templates of a bucket; False if that of the plain access is left to boto3."""
    template = access.template(bucket)
    if template is None:
        return False
    theirs = template_of(client, bucket)
    assert dataclasses.replace(template, user_agent="") == dataclasses.replace(theirs, user_agent=""), (access, bucket)
    return True


@pytest.mark.parametrize(
    ("url", "region", "bucket"),
    [
        (None, None, "b1x"),
        (None, "eu-central-1", "b1x"),
        ("http://127.0.0.1:9000", None, "b1x"),
        ("http://127.0.0.1:9000", "garage", "b.x.y"),
        ("https://store.example", "auto", "Upper"),
    ],
)
def test_plain_address(url: str | None, region: str | None, bucket: str) -> None:
    """The usual endpoints are plain."""
    access = plain_access(endpoint_of(url, region))
    assert access is not None
    assert access.template(bucket) is not None


OPTIONS: dict[str, dict[str, Any]] = {
    "no tls": {"use_ssl": False},
    "api": {"api_version": "2006-03-01"},
    "half a pair": {"aws_secret_access_key": None},
    "empty keys": {"aws_access_key_id": "", "aws_secret_access_key": ""},
    "empty region": {"region_name": ""},
    "empty region of a server": {"region_name": "", "endpoint_url": "http://127.0.0.1:9000"},
    "odd key": {"aws_access_key_id": "AKID\n"},
    "odd token": {"aws_session_token": "tök"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "signature": {"signature_version": "s3"},
    "proxies": {"proxies": {"https": "http://127.0.0.1:1"}},
    "certificate": {"client_cert": "client.pem"},
    "agent": {"user_agent_extra": "x"},
    "dual stack": {"use_dualstack_endpoint": True},
    "dual stack of s3": {"s3": {"use_dualstack_endpoint": True}},
    "fips": {"use_fips_endpoint": True},
    "accelerate": {"s3": {"use_accelerate_endpoint": True}},
    "payload": {"s3": {"payload_signing_enabled": True}},
    "style": {"s3": {"addressing_style": "odd"}},
    "checksums": {"request_checksum_calculation": "when_supported"},
    "retries": {"retries": {"mode": "adaptive"}},
    "attempts": {"retries": {"total_max_attempts": "x"}},
    "timeout": {"read_timeout": None},
}


@pytest.mark.parametrize("name", [*OPTIONS, *CONFIGS])
def test_unusual_option(name: str) -> None:
    """An option that is not known leaves the endpoint to boto3."""
    endpoint = endpoint_of(**OPTIONS.get(name, {}))
    assert plain_access(dataclasses.replace(endpoint, config_options=CONFIGS.get(name, {}))) is None


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
        "AWS_DATA_PATH",
        "AWS_DEFAULTS_MODE",
        "AWS_NEW_IN_2030",
    ],
)
def test_unusual_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not known leaves the endpoint to boto3, and so does an empty one."""
    assert plain_access(endpoint_of()) is not None
    monkeypatch.setenv(variable, "true")
    assert plain_access(endpoint_of()) is None
    monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "")
    assert plain_access(endpoint_of()) is None


def test_models_folder(home: Path) -> None:
    """A folder of models leaves the endpoint to boto3: they may change its address."""
    (home / ".aws" / "models").mkdir(parents=True)
    assert plain_access(endpoint_of()) is None


CONFIG = """
[default]
region = eu-west-3
output = json
[profile full]
region = eu-north-1
aws_access_key_id = FULL
aws_secret_access_key = full-secret
[profile mixed]
region = ap-south-1
ca_bundle = {bundle}
[profile bare]
aws_access_key_id = HALF
[profile endpoint]
endpoint_url = http://127.0.0.1:9
[profile of s3]
s3 =
    addressing_style = path
[profile process]
credential_process = echo '{{"Version": 1, "AccessKeyId": "PROC", "SecretAccessKey": "secret", "SessionToken": "t"}}'
region = sa-east-1
[profile services]
services = mine
[services mine]
s3 =
    endpoint_url = http://127.0.0.1:9
"""
CREDENTIALS = """
[default]
aws_access_key_id = DEFAULT
aws_secret_access_key = default-secret
[mixed]
aws_access_key_id = MIXED
aws_secret_access_key = mixed-secret
aws_session_token = mixed-token
[full]
aws_access_key_id = OTHER
aws_secret_access_key = other-secret
"""
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "none": {},
    "keys": {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env-secret"},
    "token": {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_SESSION_TOKEN": "env-token"},
    "tokens": {
        "AWS_ACCESS_KEY_ID": "ENV",
        "AWS_SECRET_ACCESS_KEY": "env-secret",
        "AWS_SESSION_TOKEN": "new",
        "AWS_SECURITY_TOKEN": "old",
    },
    "half": {"AWS_ACCESS_KEY_ID": "ENV"},
    "secret alone": {"AWS_SECRET_ACCESS_KEY": "env-secret"},
    "region": {"AWS_DEFAULT_REGION": "eu-south-1", "AWS_REGION": "us-west-1"},
    "profile": {"AWS_PROFILE": "mixed"},
    "profiles": {"AWS_PROFILE": "mixed", "AWS_DEFAULT_PROFILE": "full"},
    "missing profile": {"AWS_PROFILE": "missing"},
    "keys and profile": {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_PROFILE": "full"},
    "endpoint": {"AWS_PROFILE": "endpoint"},
    "services": {"AWS_PROFILE": "services"},
    "s3": {"AWS_PROFILE": "of s3"},
    "process": {"AWS_PROFILE": "process"},
    "half a profile": {"AWS_PROFILE": "bare"},
    "bundle": {"AWS_CA_BUNDLE": "{bundle}"},
    "bundle of requests": {"REQUESTS_CA_BUNDLE": "{bundle}"},
}
NOT_PLAIN = {"half", "missing profile", "endpoint", "services", "s3", "half a profile"}


def write_files(home: Path) -> str:
    """Write the configuration files; the path of a bundle of certificates."""
    bundle = home / "bundle.pem"
    bundle.write_bytes(Path(default_bundle()).read_bytes())
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(CONFIG.format(bundle=bundle))
    (home / ".aws" / "credentials").write_text(CREDENTIALS)
    return str(bundle)


@pytest.mark.parametrize("files", [True, False], ids=["files", "no files"])
@pytest.mark.parametrize(
    ("name", "profile"),
    [
        *[(name, None) for name in ENVIRONMENTS],
        *product(["none", "keys", "region"], ["full", "mixed", "process", "bare", "missing"]),
    ],
)
def test_chain(name: str, profile: str | None, files: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, region and certificates are those that boto3 finds; or the endpoint is left to boto3."""
    bundle = write_files(home) if files else default_bundle()
    for variable, value in ENVIRONMENTS[name].items():
        monkeypatch.setenv(variable, value.format(bundle=bundle))
    endpoint = Endpoint({}, {}, profile_name=profile)
    access = plain_access(endpoint)
    if access is None:
        profile_is_bad = profile in {"bare", "missing"} or (profile is not None and not files)
        assert profile_is_bad or name in NOT_PLAIN or not files
        return
    client = boto_client(endpoint)
    theirs = client._request_signer._credentials.get_frozen_credentials()
    assert tuple(access.credentials.get_frozen_credentials()[:3]) == (theirs.access_key, theirs.secret_key, theirs.token)
    assert access.region == client.meta.region_name
    assert access.verify == client._endpoint.http_session._verify
    assert is_same(access, client)


def is_same(access: PlainAccess, client: Any) -> bool:
    """Whether both give the same template to a bucket."""
    return same_template(access, client, "b1x")


def test_plain_chain(home: Path) -> None:
    """Keys in the files are found without botocore's session; those of a process with it."""
    write_files(home)
    of_file, of_process = (plain_access(Endpoint({}, {}, profile_name=name)) for name in (None, "process"))
    assert of_file is not None
    assert of_process is not None
    assert of_file.credentials == Keys("DEFAULT", "default-secret")
    assert of_file.session is None
    assert of_process.session.get_credentials() is of_process.credentials


def test_broken_files(home: Path) -> None:
    """A broken file is left to boto3, which reports it."""
    write_files(home)
    (home / ".aws" / "config").write_text("[default\nregion")
    assert plain_access(Endpoint({}, {})) is None
    with pytest.raises(BotoCoreError):
        Endpoint({}, {}).make_client()


def test_pinned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boto3 client that is made later has the keys and the region of the first request."""
    write_files(home)
    monkeypatch.setenv("AWS_PROFILE", "full")
    client: Any = Endpoint({}, {}).make_client()
    assert client.head_object
    monkeypatch.setenv("AWS_PROFILE", "mixed")
    assert client.meta.region_name == "eu-north-1"
    assert client.boto._request_signer._credentials.access_key == "OTHER"


@pytest.mark.parametrize(
    ("url", "region"), [(None, None), (None, "eu-central-1"), ("http://127.0.0.1:9000", None), ("https://[::1]", "garage")]
)
def test_pinned_place(url: str | None, region: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boto3 client that is made later sends requests to the same place, and trusts the same certificates."""
    endpoint = endpoint_of(url, region)
    access = plain_access(endpoint)
    assert access is not None
    early, late = boto_client(endpoint), Endpoint.make_client(endpoint)
    later = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_CA_BUNDLE": "/no/such/file",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
    }
    for name, value in later.items():
        monkeypatch.setenv(name, value)
    made: Any = late
    assert made.boto.meta.endpoint_url == early.meta.endpoint_url
    assert made.boto.meta.region_name == early.meta.region_name
    assert made.boto._endpoint.http_session._verify is True
    assert same_template(access, made.boto, "b1x")


@pytest.mark.parametrize("text", ["", " "], ids=["empty", "blank"])
@pytest.mark.parametrize("where", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile", "option"])
def test_empty_bundle(where: str, text: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty name of a file of certificates is left to boto3, which refuses it; it does not mean any certificate."""
    if where == "profile":
        (home / ".aws").mkdir()
        (home / ".aws" / "config").write_text(f"[default]\nca_bundle ={text}\n")
    elif where != "option":
        monkeypatch.setenv(where, text)
    endpoint = endpoint_of("https://store.example", **({"verify": text} if where == "option" else {}))
    assert plain_access(endpoint) is None
    with pytest.raises(BotoCoreError, match="Invalid CA bundle"):
        endpoint.make_client()
    with pytest.raises(OSError, match="No such file"):
        tls_context(text)


def test_no_certifi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without certifi, no file of the working directory is trusted."""
    for name in ("certifi", "wrapt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("gllm_storage.s3.access.find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    Path("cacert.pem").write_text("")
    assert Path(default_bundle()).is_absolute()


@pytest.mark.parametrize(
    "url",
    [
        "http://minio..example.com:9000",
        f"http://{'a' * 64}.example.com",
        f"http://store.{'a' * 64}",
        "http://-store.example.com",
        "http://store-.example.com",
        "http://store.example.com.",
        "http://localhost:99999",
        "http://localhost:65536/",
        "http://localhost:0",
        "http://[:::::]:9000",
    ],
)
def test_odd_host(url: str) -> None:
    """A host name or a port that cannot be is left to boto3."""
    assert plain_access(endpoint_of(url)) is None


def test_long_host() -> None:
    """The longest label of a host name, and the greatest port, are plain."""
    assert plain_access(endpoint_of(f"http://{'a' * 63}.{'b' * 63}.example:65535")) is not None


def test_initializer() -> None:
    """A function that changes each session of botocore leaves the endpoint to boto3."""

    def initialize(session: Any) -> None:
        """Change nothing."""

    botocore.register_initializer(initialize)
    try:
        assert plain_access(endpoint_of()) is None
    finally:
        botocore.unregister_initializer(initialize)
    assert plain_access(endpoint_of()) is not None


def test_anonymous(home: Path) -> None:
    """Anonymous requests need no credentials, and have no scope."""
    write_files(home)
    endpoint = Endpoint({}, {}, anonymous=True)
    access = plain_access(endpoint)
    assert access is not None
    assert access.credentials is None
    assert is_same(access, boto_client(endpoint))


@pytest.mark.parametrize(
    ("variables", "plain"),
    [
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, False),
        ({"http_proxy": "http://127.0.0.1:1", "NO_PROXY": "other.example"}, False),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, True),
        ({"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "store.example"}, True),
        ({"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ".example"}, True),
        ({"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}, True),
    ],
)
def test_proxy(variables: dict[str, str], plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint behind a proxy is left to boto3, as long as boto3 uses the proxy."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    endpoint = endpoint_of("http://store.example")
    assert (plain_access(endpoint) is not None) == plain
    assert (refusal_of(boto_client(endpoint)) is None) == plain


@pytest.mark.parametrize("verify", [None, False, "bundle"])
def test_tls_settings(verify: str | bool | None, home: Path) -> None:
    """The TLS settings are those of boto3."""
    bundle = write_files(home)
    endpoint = endpoint_of(verify=bundle if verify == "bundle" else verify)
    access = plain_access(endpoint)
    assert access is not None
    mine, theirs = access.tls_context(), tls_context_of(boto_client(endpoint))
    names = ("verify_mode", "check_hostname", "minimum_version", "maximum_version", "options", "post_handshake_auth")
    assert tls_facts(mine, names) == tls_facts(theirs, names)


def tls_facts(context: Any, names: Iterable[str]) -> dict[str, Any]:
    """Settings of a TLS context, and the number of its certificates."""
    return {**{name: getattr(context, name) for name in names}, "certificates": context.cert_store_stats()}


def test_missing_bundle() -> None:
    """A missing file of certificates is left to boto3."""
    access = plain_access(endpoint_of(verify="/no/such/file"))
    assert access is not None
    with pytest.raises(NotDirectError):
        access.tls_context()
    with pytest.raises(OSError, match="No such file"):
        tls_context("/no/such/file")
