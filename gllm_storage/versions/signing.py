"""OpenSSF model signing: signatures of versions that the `model-signing` package verifies, and the other way round.

A model signature is a signed in-toto statement with the SHA-256 of each file. The list of a version's files has them, so a
version is signed and compared without reading its files again. The signers and verifiers are those of the package: keys,
certificates, PKCS #11 and Sigstore.

It needs the extra: ``pip install '.[signing]'``.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import IntegrityError, UnsupportedOperationError
from gllm_storage.paths import require_local
from gllm_storage.settings import require_extra
from gllm_storage.versions.catalog import Version, resolved, version_of
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.stored_tree import stored_tree

if TYPE_CHECKING:
    import model_signing.manifest
    import model_signing.signing
    import model_signing.verifying

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.tree import TreeFile

GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""The paths that model signing leaves out by default."""


def sign_version(
    client: CloudStorageClient,
    model: str,
    name: str,
    signature: str | os.PathLike[str],
    signer: model_signing.signing.Config,
    *,
    ignore: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = GIT_PATHS,
) -> Version:
    """Sign a version, by the list of its files: no file is read.

    ``model_signing verify`` accepts the signature for a fetched directory.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        signature: The local file to write, a Sigstore bundle.
        signer: A configuration of the package with a signer, such as one of ``use_elliptic_key_signer``. Its configuration
            of hashes is not used.
        ignore: Files and folders that the signature leaves out, as relative paths. The default is that of ``model_signing``,
            which needs the option ``--no-ignore-git-paths`` to verify a signature that includes them.

    Returns:
        The version.

    Raises:
        ImportError: If the extra is not installed.
        ValueError: If the path, the name, `signature` or a path of `ignore` is not valid, or the signature would leave out
            all files.
        FileNotFoundError: If the version does not exist (`ObjectNotFoundError`).
        RuntimeError: If the list of the files is damaged (`IntegrityError`), or a request fails (`StorageError`).
        Exception: An exception of the package, as for a key that it cannot use.

    Examples:
        >>> from model_signing import signing
        >>> signer = signing.Config().use_elliptic_key_signer(private_key="key.pem")
        >>> sign_version(client, "models/llama-ft", "v3", "v3.sig", signer).name
        'v3'
    """
    require_extra("signing", "model_signing")
    ignored, path = _relative_paths(ignore), _path_of(signature)
    place = model_of(client, model)
    manifest = resolved(place, name, "sign")
    with stored_tree(place, manifest, "sign") as tree:
        # A copy: the configuration of the caller stays as it is.
        configured = copy.copy(signer).set_hashing_config(_hashes(tree, manifest.model, ignored))
        configured.sign(Path(place.prefix), path)
    return version_of(place, manifest)


def verify_signature(
    client: CloudStorageClient,
    model: str,
    name: str,
    signature: str | os.PathLike[str],
    verifier: model_signing.verifying.Config,
) -> Version:
    """Check that a signature is one of exactly the files of a version, by their list: no file is read.

    The signature may be one of ``model_signing sign`` for the directory that was published. Files that it says it leaves out
    are not compared; one of no file is refused. `verify` compares the files themselves with the list.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        signature: The local file with the signature.
        verifier: A configuration of the package with a verifier, such as one of ``use_elliptic_key_verifier``. Its
            configuration of hashes is not used.

    Returns:
        The version.

    Raises:
        ImportError: If the extra is not installed.
        ValueError: If the path, the name or `signature` is not valid.
        FileNotFoundError: If the version does not exist (`ObjectNotFoundError`), or the file of the signature does not.
        RuntimeError: If the signature is not valid, or one of other files or of no file, or the list of the files is damaged
            (`IntegrityError`); if the signature has other hashes than the SHA-256 of complete files
            (`UnsupportedOperationError`); or if a request fails (`StorageError`).

    Examples:
        >>> from model_signing import verifying
        >>> verifier = verifying.Config().use_elliptic_key_verifier(public_key="key.pub")
        >>> verify_signature(client, "models/llama-ft", "v3", "v3.sig", verifier).name
        'v3'
    """
    require_extra("signing", "model_signing")
    path = _path_of(signature)
    place = model_of(client, model)
    manifest = resolved(place, name, "verify")
    details = place.store.details(place.data(manifest.place), "verify")
    method = _method_of(Path(path))
    if method not in {None, "sha256 of files"}:
        raise UnsupportedOperationError(
            f"the signature {path!r} has the {method}; {details.url} has the sha256 of files", details
        )
    with stored_tree(place, manifest, "verify") as tree:
        configured = copy.copy(verifier).set_hashing_config(_hashes(tree, manifest.model, ()))
        try:
            configured.verify(Path(place.prefix), path)
        except OSError:
            raise
        except Exception as error:  # the package lets those of several other packages through
            raise IntegrityError(
                f"{path!r} is not a valid signature of {details.url}: {error or type(error).__name__}",
                details,
            ) from error
    return version_of(place, manifest)


def _path_of(signature: str | os.PathLike[str]) -> str:
    """The path of the file of a signature.

    Raises:
        TypeError: If it is not a text or a path object.
        ValueError: If it is empty, a directory or a URL, or begins with ``~/``.
    """
    if not isinstance(signature, (str, os.PathLike)):
        raise TypeError(f"signature is a str or a path object, not {type(signature).__name__}")
    path = require_local("signature", os.fsdecode(os.fspath(signature)))
    if not path or os.path.isdir(path):
        raise ValueError(f"signature {path!r} {'is a directory' if path else 'is empty'}; name a file, such as './v3.sig'")
    return path


def _relative_paths(ignore: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The paths that a signature leaves out. A text or a path alone is one of them.

    Raises:
        ValueError: If one is not a path below a directory.
    """
    if isinstance(ignore, (bytes, bytearray)) or not isinstance(ignore, (str, os.PathLike, Iterable)):
        raise ValueError(f"ignore={ignore!r}: give a path, or a list of paths")
    return [_relative_path(each) for each in ([ignore] if isinstance(ignore, (str, os.PathLike)) else ignore)]


def _relative_path(given: str | os.PathLike[str]) -> str:
    path = PurePosixPath(given) if isinstance(given, (str, os.PathLike)) else None
    if path is None or path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(f"ignore has {given!r}: name files and folders by their paths in the directory of the version")
    return str(path)


def _hashes(files: Iterable[TreeFile], model: str, ignored: Iterable[str]) -> Any:
    """An object that the package takes for its `model_signing.hashing.Config`: its hashes are those of the list."""
    return _Hashes(files, PurePosixPath(model).name, list(ignored))


class _Hashes:
    """The part of `model_signing.hashing.Config` that the package calls."""

    def __init__(self, files: Iterable[TreeFile], name: str, ignored: list[str]) -> None:
        self._files = files
        self._name = name
        self._ignored = ignored

    def add_ignored_paths(self, *, model_path: object, paths: Iterable[str | os.PathLike[str]]) -> None:  # noqa: ARG002 - called by name
        """Leave out the paths that the signature leaves out."""
        self._ignored += [os.fspath(each) for each in paths]

    def hash(self, model_path: object, *, files_to_hash: Iterable[Path] | None = None) -> model_signing.manifest.Manifest:
        """The paths and the SHA-256 of all files; of those in `files_to_hash`, if the verifier ignores others.

        Raises:
            ValueError: If no file is left: a statement about no file would be one of every version.
        """
        from model_signing._hashing.hashing import Digest  # an extra; it has no public name
        from model_signing.manifest import Manifest, SerializationType

        arguments = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        kind = SerializationType.from_args({**arguments, "ignore_paths": self._ignored} if self._ignored else arguments)
        wanted = None if files_to_hash is None else {os.path.relpath(each, str(model_path)) for each in files_to_hash}
        items = [
            kind.new_item(each.path, Digest("sha256", bytes.fromhex(each.sha256)))
            for each in self._files
            if not self._is_ignored(each.path) and (wanted is None or each.path in wanted)
        ]
        if not items:
            raise ValueError(f"the signature names no file of the version; it ignores {self._ignored}")
        return Manifest(self._name, items, kind)

    def _is_ignored(self, path: str) -> bool:
        return any(PurePosixPath(path).is_relative_to(each) for each in self._ignored)


def _method_of(signature: Path) -> str | None:
    """The hashes that a signature has, such as ``"sha256 of files"``; None if that cannot be read from it.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    try:
        payload = json.loads(base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))
        found = payload["predicate"]["serialization"]
        return f"{found['hash_type']} of {found['method']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
