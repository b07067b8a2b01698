"""Signatures of versions, against the package `model-signing` and its command."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying
from model_signing._cli import main

from gllm_storage import settings
from gllm_storage.errors import IntegrityError, ObjectNotFoundError, UnsupportedOperationError
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.signing import sign_version, verify_signature
from tests.versions.support import MODEL, new_client, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.testing import Result

    from gllm_storage import MemoryStorageClient

FILES = {
    "config.json": b"{}",
    "weights/1.bin": b"\x01" * 5000,
    "weights.txt": b"between",
    "weights/é.bin": b"\x02" * 5000,
    "empty": b"",
    ".gitattributes": b"*.bin lfs",
}


HASHES: Any = hashing.Config
SIGNER: Any = signing.Config
VERIFIER: Any = verifying.Config
"""The classes of the package, whose constructors have no types."""


class Keys:
    """A key pair in files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        self.private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        self.public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def signer(self) -> Any:
        return SIGNER().use_elliptic_key_signer(private_key=self.private)

    def verifier(self) -> Any:
        return VERIFIER().use_elliptic_key_verifier(public_key=self.public)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "key")


@pytest.fixture
def client(tmp_path: Path) -> MemoryStorageClient:
    client = new_client()
    publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v3")
    return client


def model_signing(*arguments: object) -> Result:
    """Run the command of the package, in this process: its imports take seconds."""
    return CliRunner().invoke(main, [str(each) for each in arguments])


def forbid_reads(client: MemoryStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each request for a file of a version fail."""
    for name in ("fetch", "read", "open_reader"):
        original = getattr(client.store, name)

        def checked(key: str, *args: Any, original: Any = original) -> Any:
            assert "/data/" not in key
            return original(key, *args)

        monkeypatch.setattr(client.store, name, checked)


def test_their_command_verifies(
    client: MemoryStorageClient, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model_signing verify key` accepts our signature for the fetched directory, and not for a changed one."""
    signature, local = tmp_path / "v3.sig", tmp_path / "local"
    with monkeypatch.context() as patch:
        forbid_reads(client, patch)
        assert sign_version(client, MODEL, "v3", signature, keys.signer()).name == "v3"
    fetch(client, MODEL, "v3", local)
    arguments = "verify", "key", "--signature", signature, "--public_key", keys.public, local
    done = model_signing(*arguments)
    assert done.exit_code == 0, done.output
    (local / "weights" / "1.bin").write_bytes(b"changed")
    assert model_signing(*arguments).exit_code != 0


def test_their_command_signs(
    client: MemoryStorageClient, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature of `model_signing sign key` for the published directory is one of the version."""
    signature = tmp_path / "model.sig"
    done = model_signing("sign", "key", "--signature", signature, "--private_key", keys.private, tmp_path / "out")
    assert done.exit_code == 0, done.output
    forbid_reads(client, monkeypatch)
    assert verify_signature(client, MODEL, "v3", signature, keys.verifier()).name == "v3"


@pytest.mark.parametrize("ignore", [None, (), ("weights", "config.json")])
def test_equal_statements(client: MemoryStorageClient, keys: Keys, tmp_path: Path, ignore: Iterable[str] | None) -> None:
    """Our statement has the resources and the digest of theirs, and each side verifies the other's signature."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    config = HASHES()
    if ignore is None:
        sign_version(client, MODEL, "v3", ours, keys.signer())
    else:
        sign_version(client, MODEL, "v3", ours, keys.signer(), ignore=ignore)
        config.set_ignored_paths(paths=ignore, ignore_git_paths=False)
    keys.signer().set_hashing_config(config).sign(tmp_path / "out", theirs)
    found, expected = (statement(each) for each in (ours, theirs))
    for each in found, expected:
        each["predicate"]["serialization"].get("ignore_paths", []).sort()
    assert found["subject"][0]["digest"] == expected["subject"][0]["digest"]
    assert found["predicate"] == expected["predicate"]
    keys.verifier().set_hashing_config(config).verify(tmp_path / "out", ours)
    assert verify_signature(client, MODEL, "v3", theirs, keys.verifier()).name == "v3"
    assert verify_signature(client, MODEL, "v3", ours, keys.verifier()).name == "v3"


@pytest.mark.parametrize("ignore", ["weights", Path("weights"), ("weights/",), "./weights"])
def test_one_ignored(client: MemoryStorageClient, keys: Keys, tmp_path: Path, ignore: Any) -> None:
    """A text or a path alone is one path, and not the paths of its letters."""
    sign_version(client, MODEL, "v3", tmp_path / "sig", keys.signer(), ignore=ignore)
    found = statement(tmp_path / "sig")["predicate"]
    assert found["serialization"]["ignore_paths"] == ["weights"]
    assert [each["name"] for each in found["resources"]] == [".gitattributes", "config.json", "empty", "weights.txt"]


@pytest.mark.parametrize(
    "ignore", [".", "", ["."], ["./"], "..", "a/../..", "/weights", Path(), list(FILES), 5, [5], b"empty"]
)
def test_refused_ignore(client: MemoryStorageClient, keys: Keys, tmp_path: Path, ignore: Any) -> None:
    """A signature that would leave out all files, or nothing that could be in the version, is not written."""
    with pytest.raises(ValueError, match="ignore"):
        sign_version(client, MODEL, "v3", tmp_path / "sig", keys.signer(), ignore=ignore)
    assert not (tmp_path / "sig").exists()


@pytest.mark.parametrize("kind", ["ignored", "unsigned"])
def test_nothing_signed(client: MemoryStorageClient, keys: Keys, tmp_path: Path, kind: str) -> None:
    """A signature of no file, which the package makes and accepts for any directory, is not one of a version."""
    config, out = HASHES().set_ignored_paths(paths=["."]), write_folder(tmp_path / "out", FILES)
    keys.signer().set_hashing_config(config).sign(out, tmp_path / "sig")
    verifier = keys.verifier().set_ignore_unsigned_files(kind == "unsigned")
    with pytest.raises(IntegrityError, match="no file"):
        verify_signature(client, MODEL, "v3", tmp_path / "sig", verifier)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"[]", b'"x"'])
def test_no_bundle(client: MemoryStorageClient, keys: Keys, tmp_path: Path, data: bytes) -> None:
    """A file that is not a signature is refused, however it is built."""
    (tmp_path / "sig").write_bytes(data)
    with pytest.raises(IntegrityError, match="is not a valid signature of"):
        verify_signature(client, MODEL, "v3", tmp_path / "sig", keys.verifier())


def statement(signature: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(signature.read_text())["dsseEnvelope"]["payload"]))
    return found


def test_signature_inside(keys: Keys, tmp_path: Path) -> None:
    """A signature that is published among the files leaves itself out."""
    client, out = new_client(), write_folder(tmp_path / "out", FILES)
    config = HASHES().set_ignored_paths(paths=["model.sig"])
    keys.signer().set_hashing_config(config).sign(out, out / "model.sig")
    publish(client, out, MODEL, version="v1")
    local = fetch(client, MODEL, "v1", tmp_path / "local").path
    assert local is not None
    assert verify_signature(client, MODEL, "v1", tmp_path / "local" / "model.sig", keys.verifier()).name == "v1"


@pytest.mark.parametrize("kind", ["changed", "missing", "added", "renamed", "key", "damaged", "not a signature"])
def test_refused(client: MemoryStorageClient, keys: Keys, tmp_path: Path, kind: str) -> None:
    """A signature of other files, by another key, or damaged, is refused."""
    files = dict(FILES)
    if kind == "changed":
        files["config.json"] = b"[]"
    elif kind == "missing":
        del files["empty"]
    elif kind == "added":
        files["more"] = b""
    elif kind == "renamed":
        files["void"] = files.pop("empty")
    publish(client, write_folder(tmp_path / "other", files), MODEL, version="v4")
    signature = tmp_path / "v4.sig"
    sign_version(client, MODEL, "v4", signature, keys.signer())
    if kind == "damaged":
        bundle = json.loads(signature.read_text())
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement(signature)).encode()).decode()
        signature.write_text(json.dumps(bundle))
    elif kind == "not a signature":
        signature.write_text("{}")
    verifier = Keys(tmp_path, "other").verifier() if kind == "key" else keys.verifier()
    with pytest.raises(IntegrityError, match="is not a valid signature of"):
        verify_signature(client, MODEL, "v3", signature, verifier)


def test_unsigned_files(client: MemoryStorageClient, keys: Keys, tmp_path: Path) -> None:
    """A verifier that ignores unsigned files accepts a version with more files."""
    publish(client, write_folder(tmp_path / "other", {**FILES, "more": b""}), MODEL, version="v4")
    sign_version(client, MODEL, "v3", tmp_path / "sig", keys.signer())
    verifier = keys.verifier().set_ignore_unsigned_files(True)
    assert verify_signature(client, MODEL, "v4", tmp_path / "sig", verifier).name == "v4"
    with pytest.raises(IntegrityError, match="more"):
        verify_signature(client, MODEL, "v4", tmp_path / "sig", keys.verifier())


@pytest.mark.parametrize("kind", ["shards", "blake3"])
def test_other_hashes(client: MemoryStorageClient, keys: Keys, tmp_path: Path, kind: str) -> None:
    """A signature with hashes that a version does not have says so."""
    config = HASHES()
    if kind == "shards":
        config.use_shard_serialization(shard_size=1000)
    else:
        config.use_file_serialization(hashing_algorithm="blake3")
    keys.signer().set_hashing_config(config).sign(tmp_path / "out", tmp_path / "sig")
    with pytest.raises(UnsupportedOperationError, match=f"has the .*{kind}.*; .* has the sha256 of files"):
        verify_signature(client, MODEL, "v3", tmp_path / "sig", keys.verifier())


def test_missing(client: MemoryStorageClient, keys: Keys, tmp_path: Path) -> None:
    """A missing signature and a missing version are named, and nothing is written."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        verify_signature(client, MODEL, "v3", tmp_path / "nowhere", keys.verifier())
    with pytest.raises(ObjectNotFoundError):
        sign_version(client, MODEL, "v9", tmp_path / "v9.sig", keys.signer())
    assert not (tmp_path / "v9.sig").exists()


@pytest.mark.parametrize("signature", ["", ".", "s3://bucket/v3.sig", "~/v3.sig"])
def test_no_file(client: MemoryStorageClient, keys: Keys, signature: str) -> None:
    """A text that names no file of this machine is refused before anything is read or written."""
    with pytest.raises(ValueError, match="signature '"):
        sign_version(client, MODEL, "v3", signature, keys.signer())
    with pytest.raises(ValueError, match="signature '"):
        verify_signature(client, MODEL, "v3", signature, keys.verifier())


def test_callers_config(client: MemoryStorageClient, keys: Keys, tmp_path: Path) -> None:
    """The configuration of the caller signs directories afterwards, as before."""
    signer, verifier = keys.signer(), keys.verifier()
    sign_version(client, MODEL, "v3", tmp_path / "ours", signer)
    verify_signature(client, MODEL, "v3", tmp_path / "ours", verifier)
    signer.sign(write_folder(tmp_path / "other", {"a": b""}), tmp_path / "theirs")
    verifier.verify(tmp_path / "other", tmp_path / "theirs")


def test_missing_extra(client: MemoryStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error gives the command that installs it."""
    monkeypatch.setattr(settings, "find_spec", lambda *_: None)
    with pytest.raises(ImportError, match=r"pip install '\.\[signing\]'"):
        sign_version(client, MODEL, "v3", tmp_path / "sig", None)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ImportError, match=r"pip install '\.\[signing\]'"):
        verify_signature(client, MODEL, "v3", tmp_path / "sig", None)  # type: ignore[arg-type]  # wrong on purpose
