"""Each source of the server and the credentials applies to the verbs and the filesystem, as in gcsfs."""

from __future__ import annotations

import json
import pickle
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcsfs.credentials import GoogleCredentials
from google.oauth2.credentials import Credentials

from gllm_storage import AccessDeniedError, GCSStorageClient
from gllm_storage.gcs import GCSFileSystem
from gllm_storage.gcs.connection import connection_of
from gllm_storage.gcs.errors import CredentialsError
from tests.rig import BUCKET, GoogleClient, gcs_config, new_prefix
from tests.servers import GCSServer
from tests.unit.gcs.recorder import Recorder, recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

GOOGLE = "http://storage.googleapis.com"
USER = {"type": "authorized_user", "client_id": "id", "client_secret": "s", "refresh_token": "r"}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the credentials and the proxy of this machine."""
    # google-auth reads NO_GCE_CHECK when it is imported, and waits for a metadata server otherwise.
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "GCSFS_DEFAULT_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A server that records the requests."""
    with recording() as made:
        yield made


@pytest.fixture(scope="module")
def private_key() -> str:
    """A private key in the format of key files."""
    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


@pytest.fixture
def key_file(private_key: str, recorder: Recorder, tmp_path: Path) -> str:
    """A key file of a service account. Its token server is the recorder."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key_of(private_key, recorder.url)))
    return str(path)


def key_of(private_key: str, url: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": "p1",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "robot@example.com",
        "token_uri": f"{url}/token",
    }


def credentials(token: str) -> Any:
    make: Any = Credentials
    return make(token)


VERBS: dict[str, Callable[[GCSStorageClient], object]] = {
    "verbs": lambda client: client.file_exists("a"),
    "filesystem": lambda client: client.filesystem.info(f"{BUCKET}/a"),
    "upstream": lambda client: client.filesystem.ls(BUCKET),  # requests of gcsfs
}


@pytest.fixture(params=VERBS)
def use(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Use a client of a config, by the verbs or by the filesystem."""

    def run(**config: str) -> None:
        VERBS[request.param](GCSStorageClient({"bucket_name": BUCKET, **config}))

    return run


# ---------------------------------------------------------------------- the server


def test_endpoint_of_config(recorder: Recorder, use: Callable[..., None]) -> None:
    """`endpoint_url` of the config takes precedence over the environment; without credentials, requests are anonymous."""
    use(endpoint_url=f"{recorder.url}/")
    assert recorder.authorizations() == {None}


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_emulator(recorder: Recorder, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """``STORAGE_EMULATOR_HOST`` names the server, with or without a scheme."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", scheme + recorder.url.removeprefix("http://"))
    use()
    assert recorder.authorizations() == {None}


def test_default_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, the server is Google's, in the universe that the environment names."""
    assert connection_of({}).endpoint_url == GCSFileSystem(skip_instance_cache=True)._location
    assert connection_of({}).endpoint_url == "https://storage.googleapis.com"
    monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "example.com")
    assert connection_of({}).endpoint_url == GCSFileSystem(skip_instance_cache=True)._location
    assert not connection_of({"endpoint_url": "https://storage.googleapis.com"}).is_google


def test_payer(recorder: Recorder, use: Callable[..., None]) -> None:
    """Every request names the billed project."""
    use(endpoint_url=recorder.url, requester_pays="true", project="payer")
    assert {each.query.get("userProject") for each in recorder.requests} == {"payer"}


def test_payer_of_default_project(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """``requester_pays=True`` bills the project of the options, the environment, or the default credentials."""
    monkeypatch.setenv("GCSFS_DEFAULT_PROJECT", "p0")
    for given, payer in ({"project": "p2"}, "p2"), ({"requester_pays": "p3"}, "p3"), ({}, "p0"):
        connection = connection_of({"endpoint_url": recorder.url, "token": "anon", "requester_pays": True, **given})
        assert connection.parameters == {"userProject": payer}


@pytest.fixture
def certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """Configure google-auth for a client certificate; returns the issuer of the certificate."""
    issuer = trustme.CA()
    issued = issuer.issue_cert("client@example.com")
    (tmp_path / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(tmp_path / "private.pem"))
    paths = {"cert_path": str(tmp_path / "cert.pem"), "key_path": str(tmp_path / "private.pem")}
    (tmp_path / "certificates.json").write_text(json.dumps({"version": 1, "cert_configs": {"workload": paths}}))
    monkeypatch.setenv("GOOGLE_API_CERTIFICATE_CONFIG", str(tmp_path / "certificates.json"))
    monkeypatch.setenv("GOOGLE_API_USE_CLIENT_CERTIFICATE", "true")
    return issuer


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_endpoint_for_certificates(certificate: trustme.CA, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With a client certificate, the server is Google's mTLS endpoint, unless the environment forbids it."""
    assert certificate
    monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", mode)
    expected = "https://storage.googleapis.com" if mode == "never" else "https://storage.mtls.googleapis.com"
    assert connection_of({}).endpoint_url == GCSFileSystem(skip_instance_cache=True)._location == expected
    assert connection_of({}).is_google


def test_certificate(certificate: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server receives the client certificate, and `ca_bundle` takes precedence over `REQUESTS_CA_BUNDLE`."""
    certificate.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate.configure_trust(context)
    with recording(context) as recorder:
        config = {"bucket_name": BUCKET, "endpoint_url": recorder.url, "anonymous": "true"}
        assert GCSStorageClient({**config, "ca_bundle": str(tmp_path / "ca.pem")}).file_exists("a")
        assert len(recorder.requests) == 1


# ---------------------------------------------------------------------- fsspec's configuration

SCRIPT = """
import json, sys
from gllm_storage import GCSStorageClient
client = GCSStorageClient(json.loads(sys.argv[1]))
client.file_exists("a")
print(sorted({"gcsfs", "aiohttp"} & sys.modules.keys()))
client.filesystem.info("models/a")
"""


def in_process(config: dict[str, str], script: str = SCRIPT) -> str:
    """Run a client in a process of its own: fsspec reads its configuration when it is imported."""
    child = subprocess.run(
        [sys.executable, "-c", script, json.dumps({"bucket_name": BUCKET, **config})],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return child.stdout.strip()


@pytest.mark.parametrize("protocol", ["GCS", "GS"])
def test_fsspec_environment(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """``FSSPEC_GCS_…`` and ``FSSPEC_GS_…`` apply to verbs and filesystem; the config takes precedence."""
    monkeypatch.setenv("FETCH_RAW_TOKEN_EXPIRY", "false")
    monkeypatch.setenv(f"FSSPEC_{protocol}", json.dumps({"endpoint_url": "http://127.0.0.1:1", "requester_pays": "p9"}))
    monkeypatch.setenv(f"FSSPEC_{protocol}_TOKEN", "ya29.raw")
    assert in_process({"endpoint_url": recorder.url}) == "[]"
    assert recorder.authorizations() == {"Bearer ya29.raw"}
    assert {each.query.get("userProject") for each in recorder.requests} == {"p9"}
    assert len(recorder.requests) == 2


def test_fsspec_file(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_file: str) -> None:
    """The configuration files of fsspec apply, and ``gcs`` takes precedence over ``gs``, as in fsspec."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.json").write_text(json.dumps({"gs": {"endpoint_url": "http://127.0.0.1:1", "token": key_file}}))
    (tmp_path / "conf" / "b.ini").write_text(f"[gcs]\nendpoint_url = {recorder.url}\n")
    monkeypatch.setenv("FSSPEC_CONFIG_DIR", str(tmp_path / "conf"))
    assert in_process({}) == "[]"
    assert recorder.authorizations() == {"Bearer of-key-file"}
    assert len(recorder.requests) == 2


# ---------------------------------------------------------------------- the credentials


def test_anonymous(recorder: Recorder, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, key_file: str) -> None:
    """Anonymous requests are anonymous, also if the environment has credentials."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    use(endpoint_url=recorder.url, anonymous="true")
    use(endpoint_url=recorder.url, token="anon")
    assert recorder.authorizations() == {None}


def test_key_file(recorder: Recorder, use: Callable[..., None], key_file: str) -> None:
    """The token for a key file of a service account comes from the server that the file names."""
    use(endpoint_url=recorder.url, token=key_file)
    assert recorder.authorizations() == {"Bearer of-key-file"}


@pytest.mark.parametrize("config", [{}, {"token": "google_default"}, {"project": "p1"}], ids=str)
def test_application_default(
    recorder: Recorder,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    key_file: str,
    config: dict[str, str],
) -> None:
    """Google's default credentials are the first source."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    use(endpoint_url=recorder.url, **config)
    assert recorder.authorizations() == {"Bearer of-key-file"}


def test_other_project(recorder: Recorder, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, key_file: str) -> None:
    """Default credentials of another project are ignored; `token="google_default"` refuses them."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    use(endpoint_url=recorder.url, project="other")
    assert recorder.authorizations() == {None}
    with pytest.raises(AccessDeniedError):
        use(endpoint_url=recorder.url, project="other", token="google_default")


def test_saved_tokens(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Saved tokens of gcsfs are the second source; without a token for the project, requests are anonymous."""
    saved = {("", "full_control"): credentials("saved"), ("p2", "read_only"): credentials("of-p2")}
    (tmp_path / "home" / ".gcs_tokens").write_bytes(pickle.dumps(saved))
    monkeypatch.setattr(GoogleCredentials, "tokens", saved)
    of_p2 = {"project": "p2", "access": "read_only"}
    for options, token in ({}, "saved"), ({"token": "cache"}, "saved"), (of_p2, "of-p2"), ({"project": "p3"}, None):
        found: Any = connection_of({"endpoint_url": recorder.url, **options}).account.credentials
        upstream = GoogleCredentials(options.get("project", ""), options.get("access", "full_control"), options.get("token"))
        assert (found and found.token) == (upstream.credentials and upstream.credentials.token) == token


def test_no_saved_tokens() -> None:
    """Without saved tokens, `token="cache"` is refused."""
    with pytest.raises(CredentialsError):
        _ = connection_of({"token": "cache"}).account


@pytest.mark.parametrize("source", ["key file", "machine"])
def test_netrc(source: str, google: Recorder, key_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for a token does not carry a password of ~/.netrc."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    token = key_file if source == "key file" else "cloud"
    GCSStorageClient({"bucket_name": BUCKET, "endpoint_url": GOOGLE, "token": token}).file_exists("a")
    assert {each.authorization for each in google.logins} == {None}
    assert google.authorizations() == {"Bearer of-key-file" if source == "key file" else "Bearer of-machine"}


@pytest.fixture
def google(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The recorder as Google's server, and as the metadata server of Google Cloud."""
    monkeypatch.setenv("http_proxy", recorder.url)
    monkeypatch.setenv("GCE_METADATA_HOST", recorder.url.removeprefix("http://"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return recorder


@pytest.mark.parametrize("verb", ["verbs", "filesystem"])
def test_machine(google: Recorder, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of the machine applies by name, or as the third source unless ``NO_GCE_CHECK`` is true."""
    run = VERBS[verb]
    run(GCSStorageClient({"bucket_name": BUCKET, "endpoint_url": GOOGLE, "token": "cloud"}))
    assert google.authorizations() == {"Bearer of-machine"}
    google.requests.clear()
    google.logins.clear()
    run(GCSStorageClient({"bucket_name": BUCKET, "endpoint_url": GOOGLE}))
    assert google.authorizations() == {None}
    assert google.logins == []
    monkeypatch.setenv("NO_GCE_CHECK", "false")
    google.requests.clear()
    run(GCSStorageClient({"bucket_name": BUCKET, "endpoint_url": GOOGLE}))
    assert google.authorizations() == {"Bearer of-machine"}


def test_machine_elsewhere(google: Recorder) -> None:
    """The credentials of the machine are sent only to Google's servers."""
    with pytest.raises(CredentialsError):
        _ = connection_of({"token": "cloud", "endpoint_url": google.url}).account
    assert google.logins == []


def test_token_of_user(recorder: Recorder, tmp_path: Path, private_key: str) -> None:
    """A dict, a file of gcloud, an access token and a google-auth object give the same credentials as in gcsfs."""
    path = tmp_path / "user.json"
    path.write_text(json.dumps(USER))
    service = key_of(private_key, recorder.url)
    own = credentials("own")
    facts = (
        "token",
        "refresh_token",
        "client_id",
        "client_secret",
        "token_uri",
        "scopes",
        "expiry",
        "service_account_email",
    )
    for token in (USER, service, str(path), own):
        ours = connection_of({"token": token, "access": "read_only"}).account.credentials
        theirs = GoogleCredentials("", "read_only", token).credentials
        assert type(ours) is type(theirs)
        assert [getattr(ours, each, None) for each in facts] == [getattr(theirs, each, None) for each in facts]


def test_access_token(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An access token is sent unchanged; the filesystem accepts a token and a google-auth object."""
    monkeypatch.setenv("FETCH_RAW_TOKEN_EXPIRY", "false")
    for token in ("ya29.raw", credentials("ya29.raw")):
        filesystem = GCSFileSystem(token=token, endpoint_url=recorder.url, skip_instance_cache=True)
        filesystem.info(f"{BUCKET}/a")
        filesystem.ls(BUCKET)
    assert recorder.authorizations() == {"Bearer ya29.raw"}


@pytest.mark.parametrize(("status", "lives"), [(200, 4000), (200, 100), (400, 0), (500, 0)])
def test_expiry(monkeypatch: pytest.MonkeyPatch, status: int, lives: int) -> None:
    """The expiry of an access token comes from Google. An invalid or soon expiring token is refused, as by gcsfs."""
    answer = requests.Response()
    answer.status_code = status
    answer._content = json.dumps({"exp": str(time.time() + lives)}).encode()
    monkeypatch.setattr(requests, "get", lambda *_, **__: answer)
    if lives > 300:
        found: Any = connection_of({"token": "ya29.x"}).account.credentials
        assert found.valid
        assert found.expiry is not None
        return
    with pytest.raises(CredentialsError) as caught:
        _ = connection_of({"token": "ya29.x"}).account
    assert "ya29" not in str(caught.value)
    with pytest.raises(ValueError if status != 500 else requests.HTTPError):
        GoogleCredentials("", "full_control", "ya29.x")


def test_browser() -> None:
    """A login in a browser is refused, with the command that replaces it."""
    with pytest.raises(CredentialsError, match="gcloud auth"):
        _ = connection_of({"token": "browser"}).account


# ---------------------------------------------------------------------- one connection


def test_one_connection(recorder: Recorder, key_file: str) -> None:
    """Verbs and filesystem share the connection: one login, one session, one store of a bucket."""
    client = GCSStorageClient({"bucket_name": BUCKET, "endpoint_url": recorder.url, "token": key_file})
    client.file_exists("a")
    client.filesystem.info(f"{BUCKET}/a")
    client.filesystem.ls(BUCKET)
    assert client.filesystem.bucket_store(BUCKET) is client.store
    assert len(recorder.logins) == 1


def test_pickled_filesystem(recorder: Recorder) -> None:
    """An unpickled filesystem makes its own connection from the same options."""
    payer = {"requester_pays": "true", "project": "p"}
    config = {"bucket_name": BUCKET, "endpoint_url": recorder.url, "anonymous": "true", **payer}
    filesystem = GCSStorageClient(config).filesystem
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.storage_options == filesystem.storage_options
    assert again.connection is not filesystem.connection
    again.info(f"{BUCKET}/a")
    assert [each.query for each in recorder.requests] == [{"userProject": "p"}]


MODULES = """
import json, sys
from gllm_storage import GCSStorageClient
job = json.loads(sys.argv[1])
path = job.pop("path")
client = GCSStorageClient(job)
with open(path, "wb") as file:
    file.write(bytes(3 * 2**20))
for name, config in ("small", {}), ("large", {"part_size": "1MiB", "multipart_threshold": "1MiB"}):
    client = GCSStorageClient({**job, **config})
    client.upload_file(path, name, check_conflict=True)
    client.download_file(name, path)
    assert client.file_exists(name)
    assert client.info(name).size == 3 * 2**20
print([each.url for each in client.list_files()], [str(each) for each in client.list_folder()] != [])
client.delete_file("small")
print(sorted(each for each in sys.modules if each in {"gcsfs", "aiohttp", "fsspec"}))
"""


def test_modules_of_verbs(servers: Servers, tmp_path: Path) -> None:
    """The verbs import neither gcsfs nor aiohttp."""
    server = servers.get("gcs-fake")
    assert isinstance(server, GCSServer)
    prefix = new_prefix()
    lines = in_process({**gcs_config(server), "prefix": prefix, "path": str(tmp_path / "a")}, MODULES).splitlines()
    assert lines == [f"['gs://models/{prefix}/large', 'gs://models/{prefix}/small'] True", "[]"]
    assert f"{prefix}/large" in GoogleClient(server).all_keys()


MISSING = """
import importlib.util, json, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "gcsfs" else found(name, *rest)
sys.modules["gcsfs"] = None
from gllm_storage import GCSStorageClient
client = GCSStorageClient(json.loads(sys.argv[1]))
client.file_exists("a")
try:
    client.filesystem
except ImportError as error:
    print(error)
"""


def test_missing_gcsfs(recorder: Recorder) -> None:
    """Without gcsfs, the verbs work, and the error of the filesystem has the install command."""
    told = in_process({"endpoint_url": recorder.url, "anonymous": "true"}, MISSING)
    assert "pip install '.[gcs]'" in told
