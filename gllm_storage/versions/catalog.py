"""The versions of a model: `list_versions`, and `resolve`, which finds the one of a name, an alias or a digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import ObjectNotFoundError, Remedy
from gllm_storage.versions.entries import Aborted, AliasEntry, Deleted, Manifest
from gllm_storage.versions.layout import hex_of, is_digest, is_name, model_of, require_name
from gllm_storage.versions.log import alias_log, logged_entries, newest_in, read_entries, require_own, version_log
from gllm_storage.versions.register import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.log import Log


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
        name: The name of the version, such as ``"v3"``.
        digest: The digest of all its files and their paths, ``"sha256:…"``.
        url: The URL of the complete directory, for tools that read by prefix; it ends with ``/``.
        files: Number of files.
        size: Size of all files in bytes.
        time: When it was published, by the clock of the publisher, in ISO 8601.
        metadata: The metadata that was published with it.
        path: The local directory that `fetch` made or found; None otherwise. It does not count in comparisons.
    """

    name: str
    digest: str
    url: str
    files: int
    size: int
    time: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    path: str | None = field(default=None, compare=False)


def resolve(client: CloudStorageClient, model: str, name: str) -> Version:
    """Find the version that a name, an alias or a digest stands for.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest ``"sha256:…"``.

    Returns:
        The version. Its `url` is the complete directory, which other tools can read by its prefix.

    Raises:
        ValueError: If the path or the name is not valid.
        FileNotFoundError: If the version does not exist, or was deleted; or if the version of the alias was deleted, or
            has other files than when the alias was moved (`ObjectNotFoundError`).
        RuntimeError: If an entry is damaged (`IntegrityError`) or of a later format (`UnsupportedOperationError`), or a
            request fails (`StorageError`).

    Examples:
        >>> resolve(client, "models/llama-ft", "v3").url
        'memory://.../models/llama-ft/data/...-0/'
    """
    place = model_of(client, model)
    return version_of(place, resolved(place, name, "resolve"))


def list_versions(client: CloudStorageClient, model: str) -> Iterator[Version]:
    """The published versions of a model, in the order of their names. Deleted versions are left out.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.

    Raises:
        ValueError: If the path is not valid.
        RuntimeError: If an entry is damaged (`IntegrityError`) or of a later format (`UnsupportedOperationError`), or a
            request fails (`StorageError`).

    Examples:
        >>> [version.name for version in list_versions(client, "models/llama-ft")]
        ['v3']
    """
    place = model_of(client, model)
    return (version_of(place, each) for each in manifests(place))


def version_of(model: Model, manifest: Manifest) -> Version:
    """The version that a manifest publishes."""
    return Version(
        manifest.version,
        manifest.digest,
        model.store.url(model.data(manifest.place)),
        manifest.files,
        manifest.size,
        manifest.time,
        manifest.metadata,
    )


def alias_names(model: Model) -> list[str]:
    """The names of all aliases that have a log.

    Raises:
        StorageError: If a request fails.
    """
    prefix = f"{model.key('aliases')}/"
    start = model.store.url(prefix)
    folders = (each for each in model.store.list_folder(prefix) if isinstance(each, str))
    return [name for each in folders if is_name(name := each.removeprefix(start).removesuffix("/"))]


def manifests(model: Model) -> Iterator[Manifest]:
    """The manifests that are the newest entries of their logs, in the order of their names: one listing, and one read each.

    Raises:
        StorageError: If a request fails, or an entry is damaged.
    """
    for _, entry in read_entries(model, newest_in(logged_entries(model))):
        if isinstance(entry, Manifest):
            yield entry


def resolved(model: Model, name: str, operation: str) -> Manifest:
    """The manifest that a name, an alias or a digest stands for; raises as `resolve`."""
    if is_digest(name):
        found = next((each for each in manifests(model) if each.digest == name), None)
        if found is None:
            raise _missing(model, name, operation, f"has no version with digest {name}")
        return found
    if isinstance(name, str) and name.lower().startswith("sha256:"):
        hex_of(name)  # refuses it: a digest is not abbreviated
    kind = find(model, require_name(name))
    if kind is None or kind[0] != name:
        hint = f"; there is {kind[0]!r}, which differs in case" if kind else ""
        if is_digest(f"sha256:{name}"):
            hint += "; a digest begins with 'sha256:'"
        raise _missing(model, name, operation, f"has no version or alias {name!r}{hint}")
    return manifest_of(model, name, operation) if kind[1] == "version" else _manifest_of_alias(model, name, operation)


def manifest_of(model: Model, version: str, operation: str) -> Manifest:
    """The manifest of a version, not of an alias; raises as `resolve`."""
    _, entry = version_log(model, version, operation).newest()
    require_own(entry, version, model.store.details(model.key("versions", version), operation))
    if isinstance(entry, Manifest):
        return entry
    if isinstance(entry, Deleted):
        raise _missing(model, version, operation, f"has a version {version!r} that was deleted")
    if find(model, version) == (version, "alias"):
        raise _missing(model, version, operation, f"has no version {version!r}: that is an alias; name a version")
    raise _missing(model, version, operation, f"has no version {version!r}")


def require_same(model: Model, manifest: Manifest, operation: str) -> None:
    """Check that a version is still in its directory, after something was missing or wrong there.

    Raises:
        ObjectNotFoundError: If it was deleted meanwhile, also if it was published again.
        StorageError: If a request fails, or the entry is damaged.
    """
    if manifest_of(model, manifest.version, operation).place != manifest.place:
        raise _missing(model, manifest.version, operation, f"has a version {manifest.version!r} that was replaced meanwhile")


def _manifest_of_alias(model: Model, alias: str, operation: str) -> Manifest:
    _, entry = newest_move(alias_log(model, alias, operation))
    if entry is None:
        raise _missing(model, alias, operation, f"has an alias {alias!r} that points to nothing")
    return pointed_to(model, alias, entry, operation)


def newest_move(log: Log) -> tuple[int, AliasEntry | None]:
    """The newest slot of the log of an alias, and its newest move.

    Aborted moves may follow the newest move, and do not count: their movers were told that they had failed.

    Raises:
        StorageError: If a request fails, or an entry is damaged.
    """
    slot, entry = log.newest()
    below = slot
    while isinstance(entry, Aborted) and below > 1:
        below -= 1
        entry = log.entry(below)
    return slot, entry if isinstance(entry, AliasEntry) else None


def pointed_to(model: Model, alias: str, entry: AliasEntry, operation: str) -> Manifest:
    """The manifest that an entry of an alias points to; raises as `resolve`."""
    try:
        found = manifest_of(model, entry.version, operation)
    except ObjectNotFoundError as error:
        cause = f"has an alias {alias!r} to version {entry.version!r}, which does not exist any more"
        raise _missing(model, alias, operation, cause, Remedy.MOVE_ALIAS) from error
    if found.digest != entry.digest:
        cause = (
            f"has an alias {alias!r} to version {entry.version!r} with {entry.digest}, which was replaced by {found.digest}"
        )
        raise _missing(model, alias, operation, cause, Remedy.MOVE_ALIAS)
    return found


def _missing(model: Model, name: str, operation: str, cause: str, remedy: Remedy | None = None) -> ObjectNotFoundError:
    details = model.store.details(model.key("versions", name), operation)
    return ObjectNotFoundError(f"{model.store.url(model.prefix)} {cause}", details, remedy)
