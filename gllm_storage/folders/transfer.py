"""The calls that the clients make: plan a transfer of a folder, and run it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from gllm_storage.concurrency.bandwidth import Bandwidth
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.errors import AccessDeniedError, ErrorDetails, FolderError, Remedy, timed
from gllm_storage.files.names import local_directory
from gllm_storage.folders.attributes import checked
from gllm_storage.folders.entries import FileList, LocalFolder, StoredFolder
from gllm_storage.folders.execution import Execution, FolderResult
from gllm_storage.folders.filters import Filter, texts
from gllm_storage.folders.index import ChecksumIndex, index_file
from gllm_storage.folders.mover import Manner
from gllm_storage.folders.overlap import require_apart, require_kept_sources
from gllm_storage.folders.plan import (
    Wanted,
    in_order,
    plan_deletion,
    plan_transfer,
    require_deletions,
    require_local_target,
    require_names,
    require_places,
)
from gllm_storage.folders.published import require_unpublished
from gllm_storage.info import NO_PROPERTIES, ObjectProperties

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.folders.entries import Chosen, Entry, Folder
    from gllm_storage.folders.plan import Plan

_PAUSE_SECONDS = 1.0
"""Between two writes to the index: two for each batch would take a tenth of the time of an upload of small files."""


class FolderOptions(TypedDict, total=False):
    """The options that all methods for folders have in common.

    Attributes:
        include: Patterns in the language of rclone's filters: only files that match one take part; none, if the list is
            empty. Without this option all files do.
        exclude: Patterns: files that match one do not take part.
        rules: Rules such as ``"- *.tmp"`` and ``"+ *.bin"``, of which the first that matches decides.
        files: Paths below the folder: only these files take part. Each must exist.
        force: Whether objects of published versions (`gllm_storage.versions`) may be deleted and replaced, and the target
            folder may have the name of an object. Without it both are refused before anything moves. Default False.
        dry_run: Whether to plan only. The result's `plan` says what would be done. Default False.
        callback: An fsspec callback, which receives the number of files, then 1 for each complete file, and has a child for
            the bytes of each file; or a function, which is called with each number of bytes.
        on_error: ``"stop"``, the default: no file begins after the first failure. ``"collect"``: all others are transferred.
            Both end with one `FolderError` that lists the failures.
        executor: A `concurrent.futures.Executor` whose workers transfer the files, in batches of up to 200 files and 64 MiB:
            threads, processes, Dask, Ray (`gllm_storage.executors`). Comparisons and deletions are done by this process.
            If it accepts no work, or its workers cannot import this library: `StorageError`, before anything moves.
            With ``on_error="stop"``, batches that other processes have begun are completed after a failure. None, the
            default: threads of this process.
    """

    include: Iterable[str] | None
    exclude: Iterable[str] | None
    rules: Iterable[str] | None
    files: Iterable[str] | None
    force: bool
    dry_run: bool
    callback: Any
    on_error: str
    executor: Executor | None


class PropertyOptions(TypedDict, total=False):
    """The properties of uploaded objects, each by its name, as in `ObjectProperties`."""

    content_type: str | None
    content_encoding: str | None
    content_disposition: str | None
    content_language: str | None
    cache_control: str | None
    metadata: Mapping[str, str] | None
    tags: Mapping[str, str] | None
    storage_class: str | None
    acl: str | None
    encryption: str | None
    kms_key: str | None


class ApplyOptions(PropertyOptions, total=False):
    """The options of `apply_plan`: which files take part is in the plan.

    Attributes:
        force: As in `FolderOptions`.
        dry_run: Whether to check only that the plan can be run. Default False.
        callback: As in `FolderOptions`.
        on_error: As in `FolderOptions`.
        executor: As in `FolderOptions`.
        properties: As in `TransferOptions`.
        preserve: As in `TransferOptions`.
        bandwidth: As in `TransferOptions`.
    """

    force: bool
    dry_run: bool
    callback: Any
    on_error: str
    executor: Executor | None
    properties: ObjectProperties
    preserve: Iterable[str]
    bandwidth: float | None


class TransferOptions(FolderOptions, PropertyOptions, total=False):
    """The options of methods that compare and transfer files.

    Attributes:
        links: How symbolic links of a local source are treated: ``"follow"``, the default, takes the file or folder behind
            them; ``"files"`` takes files, and leaves links to folders out; ``"skip"`` leaves all links out; with
            ``"refuse"`` each is a failure.
        size_only: Whether files of one size count as equal, without a look at their checksums. Default False.
        properties: The properties of uploaded objects.
        preserve: Facts about files that their copies get: ``"mtime"`` and ``"mode"``. An object keeps them in its metadata,
            in the form of rclone. Default: none. Files that are equal are not transferred, and keep the facts they have.
        bandwidth: The most bytes per second of the call, averaged over all of its connections and both directions, as an int
            or a float. Copies that the store makes on its servers are not limited. With an `executor` of other processes:
            `ValueError`. None, the default, for no limit.
    """

    links: str
    size_only: bool
    properties: ObjectProperties
    preserve: Iterable[str]
    bandwidth: float | None


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of another client, as source or target of `sync_dir` and `check_dir`.

    Attributes:
        client: The client.
        path: A remote path of that client.

    Examples:
        >>> from gllm_storage import storage_client_from_url
        >>> client = storage_client_from_url("memory://models/of-remote-folder")
        >>> other = storage_client_from_url("memory://backup")
        >>> url = client.upload_file("model.safetensors", "v3/model.safetensors")
        >>> client.sync_dir(RemoteFolder(client, "v3"), RemoteFolder(other, "v3")).transferred
        1
    """

    client: CloudStorageClient
    path: str


@dataclass(frozen=True)
class Options:
    """The values of `TransferOptions`; unknown names are a `TypeError`."""

    include: Iterable[str] | None = None
    exclude: Iterable[str] | None = None
    rules: Iterable[str] | None = None
    files: Iterable[str] | None = None
    force: bool = False
    dry_run: bool = False
    callback: Any = None
    on_error: str = "stop"
    executor: Executor | None = None
    links: str = "follow"
    size_only: bool = False
    properties: ObjectProperties = NO_PROPERTIES
    preserve: Iterable[str] = ()
    bandwidth: float | None = None
    everything: bool = False
    """As in `Wanted`; like the next ones, for the command line."""
    exclusive: bool = False
    learns: bool = True
    removes: bool = False
    lists_again: bool = True
    keeps_folders: bool = False
    refuses: Callable[[str], str | None] | None = None
    began: Callable[[Plan], object] | None = None
    report: Callable[[str, Entry, Exception | None], object] | None = None

    def __post_init__(self) -> None:
        """Check the types of the options that no other check sees.

        Raises:
            TypeError: If one has a wrong type.
        """
        for name in ("force", "dry_run", "size_only"):
            require_flag(name, getattr(self, name))
        if not isinstance(self.properties, ObjectProperties):
            raise TypeError(f"properties is an ObjectProperties, not {type(self.properties).__name__}")

    @classmethod
    def of(cls, given: Mapping[str, Any], known: type[Any] = TransferOptions) -> Options:
        """Check the options of a call.

        Args:
            given: The options by name; names of `ObjectProperties` are properties.
            known: The options that count for the call, as a `TypedDict`.

        Raises:
            TypeError: If a name is unknown, or a value has a wrong type.
            ValueError: If a value is not valid.
        """
        properties: frozenset[str] = PropertyOptions.__optional_keys__
        counted: frozenset[str] = known.__optional_keys__
        if other := sorted(given.keys() - counted):
            raise TypeError(
                f"unknown options: {', '.join(other)}; the options are {', '.join(sorted(counted - properties))}"
            )
        named = properties & given.keys()
        options = cls(**{name: value for name, value in given.items() if name not in named})
        if named:
            options = replace(options, properties=replace(options.properties, **{name: given[name] for name in named}))
        return options

    def chosen(self) -> Chosen:
        """Which files take part.

        Raises:
            ValueError: If a pattern is malformed, or `files` is given together with patterns.
        """
        if self.files is None:
            return Filter.of(self.include, self.exclude, self.rules)
        files = texts("files", self.files, "paths")
        if any(each is not None for each in (self.include, self.exclude, self.rules)):
            raise ValueError("files is a complete list; leave out include, exclude and rules")
        return FileList(files)

    def stop(self) -> Stop:
        """The stop of the call, with the limit on its bandwidth.

        Raises:
            ValueError: If `bandwidth` is not a positive number, or `executor` may have workers in other processes.
        """
        if self.bandwidth is None:
            return Stop(running_stop())
        if self.executor is not None and not isinstance(self.executor, ThreadPoolExecutor):
            raise ValueError(
                f"bandwidth and executor={self.executor!r} are both given, and workers in other processes cannot share a "
                "limit; leave out one, or use a ThreadPoolExecutor"
            )
        return Stop(running_stop(), Bandwidth(self.bandwidth))

    def manner(self) -> Manner:
        """How the plan is run.

        Raises:
            ValueError: If `on_error`, or a name of `preserve`, is unknown.
            TypeError: If `executor` is not an executor.
        """
        named = {**{each.name: getattr(self, each.name) for each in fields(Manner)}, "preserve": checked(self.preserve)}
        hooks = {"began", "report"}
        return Manner(**{name: value for name, value in named.items() if name not in hooks or value is not None})


def transfer(
    source: Folder, target: Folder, options: Options, *, delete: bool = False, max_delete: int | None = None
) -> FolderResult:
    """Transfer the files of a folder that differ.

    Args:
        source: The source.
        target: The target.
        options: The options.
        delete: Whether files that only the target has are deleted.
        max_delete: The most deletions; None for any number.

    Raises:
        ValueError: If an option is not valid, or one folder lies in the other.
        FileNotFoundError: If the source does not exist.
        FolderError: If files failed, or something is refused.
        StorageError: If a folder cannot be listed.
    """
    chosen, manner, stop = options.chosen(), options.manner(), options.stop()
    require_flag("delete", delete)
    if delete and options.files is not None:
        raise ValueError(
            "files and delete are both given, and files that the list does not name would be kept; leave out one"
        )
    if max_delete is not None and (isinstance(max_delete, bool) or not isinstance(max_delete, int)):
        raise TypeError(f"max_delete={max_delete!r}: it is a number of files, or None for any number")
    if max_delete is not None and max_delete < 0:
        raise ValueError(f"max_delete={max_delete}: it must not be negative")
    if not options.everything:
        require_apart(source, target)
    target = target.as_target()
    kind = {name: getattr(options, name) for name in ("everything", "exclusive", "removes")}
    foresees = options.dry_run and options.exclusive
    wanted = Wanted(chosen, delete, max_delete, options.size_only, foresees=foresees, refuses=options.refuses, **kind)
    with timed(), _index() as index:
        plan = plan_transfer(source, target, wanted, index, stop)
        require_kept_sources(plan, source, target, removes=options.removes)
        if not options.force:
            require_unpublished(plan, target, replaces=not options.exclusive)
            if options.removes:
                require_unpublished(plan, source, removes=True)
            _require_no_object(plan, target)
        _require_no_file(plan, target)
        if options.dry_run:
            return FolderResult(plan)
        return Execution(plan, source, target, manner, index=index, stop=stop).run()


def check(source: Folder, target: Folder, options: Options) -> Plan:
    """Compare two folders; as `transfer`, but nothing moves."""
    chosen, stop = options.chosen(), options.stop()
    wanted = Wanted(chosen, size_only=options.size_only, moves=False)
    with timed(), _index() as index:
        return plan_transfer(source, target, wanted, index, stop)


def delete(target: Folder, options: Options, chosen: Chosen | None = None) -> FolderResult:
    """Delete the files of a folder.

    Args:
        target: The folder.
        options: The options.
        chosen: Which files are deleted, in place of the filters of the options.

    Raises:
        ValueError: If an option is not valid.
        FolderError: If files could not be deleted, or belong to a published version.
        StorageError: If the folder cannot be listed.
    """
    chosen, manner, stop = chosen or options.chosen(), options.manner(), options.stop()
    target = target.as_target()
    with timed():
        plan = plan_deletion(target, chosen)
        if not options.force:
            require_unpublished(plan, target)
        takes_all = all(each is None for each in (options.include, options.exclude, options.rules, options.files))
        return FolderResult(plan) if options.dry_run else _run(plan, None, target, manner, stop, takes_all=takes_all)


def apply(plan: Plan, source: Folder | None, target: Folder, options: Options) -> FolderResult:
    """Run a plan that was made before.

    Raises:
        FolderError: If files failed or changed since, or something is refused: a name, also that of the target folder,
            deletions because of a source without files, objects of published versions, or a folder at another endpoint than
            that of the plan.
        StorageError: If the target cannot be listed.
    """
    manner, stop = options.manner(), options.stop()
    if source is not None:
        require_apart(source, target)
    target = target.as_target()
    require_local_target(target)
    with timed():
        require_places(plan, source, target)
        require_deletions(plan)
        if source is not None:
            in_order(lambda: require_names(plan, source, target))
            require_kept_sources(plan, source, target)
        if not options.force:
            require_unpublished(plan, target, is_old=True)
            _require_no_object(plan, target)
        _require_no_file(plan, target)
        return FolderResult(plan) if options.dry_run else _run(plan, source, target, manner, stop)


def require_flag(name: str, value: object) -> None:
    """Check an option that is True or False: as a text, ``"false"`` would be true, and files would be deleted.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: it is True or False")


def _run(
    plan: Plan, source: Folder | None, target: Folder, manner: Manner, stop: Stop, *, takes_all: bool = False
) -> FolderResult:
    with _index() as index:
        return Execution(plan, source, target, manner, index=index, stop=stop, takes_all=takes_all).run()


def _index() -> contextlib.closing[ChecksumIndex]:
    return contextlib.closing(ChecksumIndex(index_file(), _PAUSE_SECONDS))


def _require_no_object(plan: Plan, target: Folder) -> None:
    """Check that no object has the name of the target folder: no local folder could have both.

    Unreadable objects do not count. A plan without transfers adds nothing to the folder.

    Raises:
        FolderError: If there is one.
        StorageError: If the request fails.
    """
    if not plan.transfers or not isinstance(target, StoredFolder) or target.local is not None or not target.prefix:
        return
    with contextlib.suppress(AccessDeniedError):
        if target.store.exists(target.prefix.removesuffix("/")):
            raise FolderError(
                f"{target.url.rstrip('/')} is an object; nothing was changed: a folder of that name could not be downloaded "
                "beside it",
                ErrorDetails(url=target.url, operation="plan"),
                Remedy.FOLDER_BESIDE_OBJECT,
            )


def _require_no_file(plan: Plan, target: Folder) -> None:
    """Check that no file of a store on this machine has the name of the target folder, or of one above it.

    Unlike an object of other stores, it cannot stay beside the folder. A plan without transfers makes no folder.

    Raises:
        FolderError: If there is one.
    """
    if not plan.transfers or not isinstance(target, StoredFolder) or target.local is None:
        return
    if (file := target.local.file_in_place()) is not None:
        raise FolderError(
            f"{file} is a file; nothing was changed: a folder cannot have its name",
            ErrorDetails(url=target.url, operation="plan"),
            Remedy.OTHER_NAME,
        )


def local_folder(path: str | os.PathLike[str], links: str = "follow") -> LocalFolder:
    """A folder of this machine.

    Args:
        path: Its path.
        links: As in `TransferOptions`.

    Raises:
        TypeError: If the path is not a text or a path object.
        ValueError: If `links` is unknown, or the path is a URL or empty.
    """
    return LocalFolder(local_directory("a local folder", path), links)


def is_remote(folder: Folder) -> bool:
    """Whether a folder is in a store, which may be one of this machine."""
    return isinstance(folder, StoredFolder)
