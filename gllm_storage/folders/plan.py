"""`Plan`: the steps of a transfer of a folder. It is complete, and has passed all checks, before anything moves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

from gllm_storage.errors import AccessDeniedError, ErrorDetails, FolderError, ObjectNotFoundError, Remedy
from gllm_storage.files.names import FoldedClashes, fold_of_disk
from gllm_storage.folders.compare import Checksums, differences
from gllm_storage.folders.entries import Entry, FileList, LocalFolder, Problem, StoredFolder, UnorderedError, files_of
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.inherited import Inherited
from gllm_storage.folders.links import TargetLinks
from gllm_storage.folders.names import FileFolderClashes, problem_of_key, problem_of_local_name
from gllm_storage.folders.records import Records
from gllm_storage.store.create import exists_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.folders.entries import Chosen, Folder
    from gllm_storage.folders.index import ChecksumIndex

FORMAT = "gllm-storage plan 1"
_BATCH = 1000
"""Pairs of files that are compared together."""
_SHOWN = 20
"""The most refused names that an error lists."""
_COUNTS = ("transfers", "deletions", "skipped", "skipped_bytes")
_PRINTED = 1000
"""The most lines of a printed plan."""

_STEP_TYPES = {"action": str, "reason": str, "path": str, "size": int, "modified_ns": int, "state": str, "version": str}
_HEADER_TYPES = {
    **dict.fromkeys(("source", "target", "source_place", "target_place"), str),
    **dict.fromkeys(_COUNTS, int),
}

T = TypeVar("T")
Two = tuple[Entry | None, Entry | None]
"""The file of the source and the file of the target with one path."""


@dataclass(frozen=True)
class Step:
    """One file of a plan.

    Attributes:
        action: ``"transfer"``, ``"delete"`` or ``"skip"``.
        file: The file: of the source, or for a deletion of the target.
        reason: Why it is transferred: ``"new"``, ``"size"`` or ``"checksum"`` of the target differs, or a checksum is
            ``"unknown"``, or it was ``"asked"`` for without a comparison. Why it is deleted: ``"extra"`` or ``"chosen"``.
            Why it is skipped: ``"equal"``.
    """

    action: str
    file: Entry
    reason: str

    def record(self) -> dict[str, Any]:
        """The step as a record, without the facts that are not known."""
        facts = {name: value for name, value in vars(self.file).items() if value is not None}
        return {"action": self.action, "reason": self.reason, **facts}

    def fields(self) -> tuple[Any, ...]:
        """The step as fields, from which `of_fields` makes it again."""
        file = self.file
        return self.action, self.reason, file.path, file.size, file.modified_ns, file.state, file.version

    @classmethod
    def of_fields(cls, fields: Sequence[Any]) -> Step:
        """The step of its fields."""
        action, reason, *facts = fields
        return cls(action, Entry(*facts), reason)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Step:
        """The step of a record."""
        fields = dict(record)
        return cls(fields.pop("action"), reason=fields.pop("reason"), file=Entry(**fields))

    @classmethod
    def checked(cls, record: object) -> Step:
        """The step of a record that comes from a file.

        Raises:
            ValueError: If a field is missing or unknown, or has another type or value than `save` writes.
        """
        if not isinstance(record, dict):
            raise ValueError(f"{record!r} is not a step")
        for name, value in record.items():
            if name not in _STEP_TYPES or type(value) is not _STEP_TYPES[name]:
                raise ValueError(f"a step has {name}={value!r}")
        if missing := {"action", "reason", "path", "size"} - record.keys():
            raise ValueError(f"a step has no {', '.join(sorted(missing))}")
        if record["action"] not in {"transfer", "delete"} or record["size"] < 0:
            raise ValueError(f"a step has action={record['action']!r}, size={record['size']}")
        return cls.of(record)

    def __str__(self) -> str:
        return f"{self.action} {self.file.path} ({self.file.size} bytes, {self.reason})"


class Plan:
    """The steps of a transfer of a folder: print it, save it, or run it by `apply_plan` of a client.

    Args:
        source: The URL or path of the source; empty for a plan that only deletes.
        target: The URL or path of the target.
        places: The services that hold source and target, as `Folder.place`.

    Attributes:
        source: As above.
        target: As above.
        places: As above.
        transfers: Number of files to transfer.
        transfer_bytes: Their bytes.
        replacements: Number of files to transfer that the target has already.
        deletions: Number of files to delete.
        skipped: Number of files that are equal.
        skipped_bytes: Their bytes.
        problems: Files that cannot take part, such as unreadable ones.

    Examples:
        >>> from gllm_storage import storage_client_from_url
        >>> client = storage_client_from_url("memory://models/of-plan")
        >>> url = client.upload_file("model.safetensors", "v3/model.safetensors")
        >>> plan = client.copy_dir("v3", "v4", dry_run=True).plan
        >>> print(plan)
        memory://models/of-plan/v3/ -> memory://models/of-plan/v4/
          transfer model.safetensors (7 bytes, new)
        1 files to transfer (7 bytes), 0 to delete, 0 equal (0 bytes), 0 problems
        >>> plan
        <Plan of memory://models/of-plan/v3/ -> memory://models/of-plan/v4/: 1 files to transfer (7 bytes), 0 to delete, ...
        >>> plan.save("plan.jsonl")
        >>> client.apply_plan(Plan.load("plan.jsonl")).transferred
        1
    """

    def __init__(self, source: str, target: str, places: tuple[str, str]) -> None:
        self.source = source
        self.target = target
        self.places = places
        self.transfers = self.transfer_bytes = self.replacements = self.deletions = self.skipped = self.skipped_bytes = 0
        self.problems: list[Problem] = []
        self._steps = {action: Records(Step.fields, Step.of_fields) for action in ("transfer", "delete", "skip")}

    def add(self, action: str, file: Entry, reason: str) -> None:
        """Add a step."""
        self._add(Step(action, file, reason))

    def _add(self, step: Step) -> None:
        self._steps[step.action].add(step)
        if step.action == "transfer":
            self.transfers += 1
            self.transfer_bytes += step.file.size
            self.replacements += step.reason != "new"
        elif step.action == "delete":
            self.deletions += 1
        else:
            self.skipped += 1
            self.skipped_bytes += step.file.size

    def steps(self, *actions: str) -> Iterator[Step]:
        """The steps: transfers first, deletions last, each kind in the order of the paths.

        Args:
            *actions: ``"transfer"``, ``"delete"``, ``"skip"``; without any: transfers and deletions.
        """
        for action in actions or ("transfer", "delete"):
            yield from self._steps[action]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to transfer and nothing to delete: the folders are equal."""
        return not (self.transfers or self.deletions or self.problems)

    def __repr__(self) -> str:
        return f"<Plan of {self._direction}: {self.summary}>"

    def __str__(self) -> str:
        lines = [self._direction]
        for number, step in enumerate(self.steps()):
            if number == _PRINTED:
                lines.append(f"... and {self.transfers + self.deletions - _PRINTED} more")
                break
            lines.append(f"  {step}")
        lines += [f"  problem with {each.path!r}: {each.error}" for each in self.problems[:_PRINTED]]
        return "\n".join([*lines, self.summary])

    @property
    def _direction(self) -> str:
        return f"{self.source} -> {self.target}" if self.source else self.target

    @property
    def summary(self) -> str:
        """The last line of the printed plan: the counts."""
        return (
            f"{self.transfers} files to transfer ({self.transfer_bytes} bytes), {self.deletions} to delete, "
            f"{self.skipped} equal ({self.skipped_bytes} bytes), {len(self.problems)} problems"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, as JSON lines: a header, and one line for each step. It contains no secrets.

        Args:
            path: The file; an existing one is replaced.

        Raises:
            ValueError: If the plan has problems: it is not complete.
            OSError: If the file cannot be written.
        """
        if self.problems:
            raise ValueError(f"the plan has {len(self.problems)} problems, such as {self.problems[0].error}")
        try:
            with open(path, "w", encoding="utf-8") as file:
                self._write(file)
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # such as a full disk

    def _write(self, file: IO[str]) -> None:
        places = {"source_place": self.places[0], "target_place": self.places[1]}
        counts = {name: getattr(self, name) for name in _COUNTS}
        header = {"format": FORMAT, "source": self.source, "target": self.target, **places, **counts}
        file.write(f"{json.dumps(header)}\n")
        for action in ("transfer", "delete"):
            for step in self._steps[action]:
                file.write(f"{json.dumps(step.record())}\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` has written.

        Args:
            path: The file.

        Raises:
            ValueError: If the file is not a complete plan of this format.
            OSError: If the file cannot be read.
        """
        with open(path, encoding="utf-8") as file:
            try:
                return cls._read(file)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{os.fspath(path)!r} is not a plan that this version can read: {error}") from error

    @classmethod
    def _read(cls, file: IO[str]) -> Plan:
        header = json.loads(file.readline() or "null")
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"its first line does not say {FORMAT!r}")
        for name, kind in _HEADER_TYPES.items():
            if type(header.get(name)) is not kind:
                raise ValueError(f"its first line has {name}={header.get(name)!r}")
        if min(header[name] for name in _COUNTS) < 0:
            raise ValueError("its first line has a negative count")
        plan = cls(header["source"], header["target"], (header["source_place"], header["target_place"]))
        before = dict[str, str]()
        for line in file:
            step = Step.checked(json.loads(line))
            if step.file.path <= before.get(step.action, ""):
                raise ValueError(f"the step of {step.file.path!r} is not in the order of the paths")
            before[step.action] = step.file.path
            plan._add(step)
        if plan.transfers and not plan.source:
            raise ValueError("it transfers files, and has no source")
        if (plan.transfers, plan.deletions) != (header["transfers"], header["deletions"]):
            raise ValueError("it is cut off")
        plan.skipped, plan.skipped_bytes = header["skipped"], header["skipped_bytes"]
        return plan


@dataclass(frozen=True)
class Wanted:
    """The wishes of the caller.

    Attributes:
        chosen: Which files take part.
        delete: Whether files that only the target has are deleted.
        max_delete: The most deletions; None for any number.
        size_only: Whether files of one size count as equal.
        moves: Whether the plan will be run. If not, names are not checked, and extra files are listed.
        everything: Whether all files are transferred, as by ``cp``: without a look at the target, and without those whose
            names are refused, which are problems of the plan then.
        exclusive: Whether a file that exists in the target will be a failure, and not be replaced.
        removes: Whether the source files will be deleted.
        foresees: Whether a file that exists in the target is a problem of the plan: for a dry run of exclusive creates.
        refuses: Tells why a source file is left out, if `everything` is set: a problem of the plan. None leaves none out.
    """

    chosen: Chosen
    delete: bool = False
    max_delete: int | None = None
    size_only: bool = False
    moves: bool = True
    everything: bool = False
    exclusive: bool = False
    removes: bool = False
    foresees: bool = False
    refuses: Callable[[str], str | None] | None = None


def plan_deletion(target: Folder, chosen: Chosen) -> Plan:
    """A plan that deletes files.

    Args:
        target: The folder.
        chosen: Which files are deleted.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    return in_order(lambda: _planned_deletion(target, chosen))


def _planned_deletion(target: Folder, chosen: Chosen) -> Plan:
    plan = Plan("", target.url, ("", target.place))
    missing = _names_in(chosen)
    for each in target.entries(chosen):
        if isinstance(each, Problem):
            plan.problems.append(each)
        else:
            missing.discard(each.path)
            plan.add("delete", each, "chosen")
    plan.problems += _absent(missing, "the folder")
    return plan


def _names_in(chosen: Chosen) -> set[str]:
    """The files that a list names, each of which must exist."""
    return set(chosen.paths) if isinstance(chosen, FileList) else set()


def _absent(missing: Iterable[str], where: str) -> Iterator[Problem]:
    for path in sorted(missing):
        yield Problem(path, FileNotFoundError(errno.ENOENT, f"{where} has no such file", path))


def plan_transfer(source: Folder, target: Folder, wanted: Wanted, index: ChecksumIndex, stop: Stop) -> Plan:
    """Compare two folders.

    Args:
        source: The source.
        target: The target.
        wanted: The wishes of the caller.
        index: Remembers checksums.
        stop: Cancels the requests.

    Raises:
        FileNotFoundError: If the source does not exist.
        NotADirectoryError: If it is a file, or the target is one that is not in a store.
        FolderError: If a name, or the number of deletions, is refused.
        StorageError: If a folder cannot be listed, or a request fails.
    """
    if isinstance(source, LocalFolder):
        _require_folder(source.path)
    if source.local is not None and os.path.exists(source.local.path) and not os.path.isdir(source.local.path):
        raise NotADirectoryError(errno.ENOTDIR, "The source is a file; a folder is needed", source.local.path)
    require_local_target(target)
    return in_order(lambda: _Planner(source, target, wanted, index, stop).plan())


def in_order(listing: Callable[[], T]) -> T:
    """Call a function that lists folders; again if a store turns out to list in another order than that of the keys."""
    while True:
        try:
            return listing()
        except UnorderedError as error:
            error.folder.sorts = True


def _require_folder(path: str) -> None:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, "No such folder", path) from error
    except OSError:
        return  # the listing says more


def require_local_target(target: Folder) -> None:
    """Check that a target that is not in a store can be a folder.

    Raises:
        NotADirectoryError: If a file has its name, or that of a folder above it.
    """
    if isinstance(target, LocalFolder) and (file := target.file_in_place()) is not None:
        raise NotADirectoryError(errno.ENOTDIR, "The target is a file; a folder is needed", file)


def _require_objects(source: StoredFolder) -> None:
    details = source.store.details(source.prefix, "list")
    if source.local is not None:
        if not os.path.isdir(source.local.path):
            raise ObjectNotFoundError(f"there is no folder {source.url}", details)
    elif not source.prefix:
        with contextlib.suppress(AccessDeniedError):  # a bucket whose objects can be listed exists
            source.store.require_bucket("list")
    elif not source.store.is_prefix(source.prefix):
        raise ObjectNotFoundError(f"there are no objects below {source.url}", details)


class _Planner:
    """Makes one plan."""

    def __init__(self, source: Folder, target: Folder, wanted: Wanted, index: ChecksumIndex, stop: Stop) -> None:
        self._source = source
        self._target = target
        self._wanted = wanted
        self._stop = stop
        self._checksums = Checksums(source, index, stop), Checksums(target, index, stop)
        self._plan = Plan(source.url, target.url, (source.place, target.place))
        self._seen = 0
        self._folds = False
        """Whether names that differ may be one on the disk of the target."""

    def plan(self) -> Plan:
        """As `plan_transfer`."""
        names = _Names(self._source, self._target, moves=self._wanted.removes) if self._wanted.moves else None
        self._folds = names is not None and names.folds
        waiting: list[Two] = []
        try:
            for two in self._merged():
                self._stop.check()
                if names is not None and not self._has_possible_name(names, two):
                    continue
                if two[0] is None and two[1] is not None and self._sees_all and not self._wanted.chosen.takes(two[1].path):
                    continue
                if self._wanted.foresees and (two[0] is None or self._exists(two[0], two[1])):
                    continue
                waiting.append(two)
                if len(waiting) == _BATCH:
                    self._decide(waiting, names)
                    waiting.clear()
            self._decide(waiting, names)
            if not self._seen and isinstance(self._source, StoredFolder):
                _require_objects(self._source)
            if names is not None:
                names.check_sources(self._plan)
                names.require_none()
        finally:
            if names is not None:
                names.close()
        if self._wanted.moves:
            require_deletions(self._plan, self._wanted.max_delete)
        return self._plan

    def _has_possible_name(self, names: _Names, two: Two) -> bool:
        """Check a name, which must be possible unless everything is transferred that can be."""
        if not self._wanted.everything:
            names.check(*two)
            return True
        problem = next(names.problems(*two), None)
        if problem is None and self._wanted.refuses is not None and two[0] is not None:
            problem = self._wanted.refuses(two[0].path)
        if problem is not None:
            self._leave_out(_path_of(*two), problem)
        return problem is None

    def _exists(self, file: Entry, other: Entry | None) -> bool:
        """Whether the target has a file, which is then a problem of the plan."""
        target = self._target
        if target.local is not None:
            path = target.local.local_path(file.path)
            found, details = os.path.lexists(path), ErrorDetails("file", path, "copy")
        else:
            url = f"{target.url.rstrip('/')}/{file.path}"
            found, details = other is not None, ErrorDetails(url=url, operation="copy")
        if found:
            self._plan.problems.append(Problem(file.path, exists_error(details)))
        return found

    def _leave_out(self, path: str, problem: str) -> None:
        where = f"{self._source.url.rstrip('/')}/{path}"
        self._plan.problems.append(Problem(path, ValueError(f"{where!r} was not copied: {problem}")))

    def _merged(self) -> Iterator[Two]:
        missing = _names_in(self._wanted.chosen)
        is_listed = self._target.local is None if self._wanted.foresees else not self._wanted.everything
        target = self._files(self._target, Filter() if self._sees_all else None) if is_listed else ()
        for two in merged(self._files(self._source), target):
            if two[0] is not None:
                self._seen += 1
                missing.discard(two[0].path)
            yield two
        self._plan.problems += _absent(missing, "the source")

    @property
    def _sees_all(self) -> bool:
        """Whether names are compared with all files of the target, also those that the filter leaves out.

        The listing of a store has them anyway. On a disk only one that has the same name in another case can be replaced.
        """
        return self._wanted.moves and (self._target.local is None or self._folds)

    def _files(self, folder: Folder, chosen: Chosen | None = None) -> Iterator[Entry]:
        mine = self._wanted.chosen
        for each in folder.entries(chosen or mine):
            if not isinstance(each, Problem):
                yield each
            elif chosen is None or mine.takes(each.path) or mine.takes_folder(each.path):
                self._plan.problems.append(each)

    def _decide(self, waiting: Sequence[Two], names: _Names | None) -> None:
        pairs = [(one, other) for one, other in waiting if one is not None and other is not None]
        if self._wanted.size_only:
            reasons = [None if one.size == other.size else "size" for one, other in pairs]
        else:
            reasons = differences(*self._checksums, pairs)
        in_order = iter(reasons)
        for one, other in waiting:
            if one is not None and other is not None:
                reason = next(in_order)
                if reason is None:
                    self._plan.add("skip", one, "equal")
                else:
                    self._transfer(one, reason, names)
            elif one is not None:
                self._transfer(one, "asked" if self._wanted.everything else "new", names)
            elif other is not None and (self._wanted.delete or not self._wanted.moves):
                self._plan.add("delete", other, "extra")

    def _transfer(self, file: Entry, reason: str, names: _Names | None) -> None:
        # An exclusive create neither follows a link nor replaces a file.
        problem = None if names is None or self._wanted.exclusive else names.problem_of_target(file)
        if problem is None:
            self._plan.add("transfer", file, reason)
        elif self._wanted.everything:
            self._leave_out(file.path, problem)
        elif names is not None:
            names.note(file.path, problem)


def require_deletions(plan: Plan, most: int | None = None) -> None:
    """Check that a plan does not delete because its source is empty, and not too much.

    Args:
        plan: The plan, which may come from `check_dir`: that reports all differences, also with an empty source.
        most: The most deletions; None for any number.

    Raises:
        FolderError: If it does.
    """
    if not (plan.source and plan.deletions):
        return
    details = ErrorDetails(url=plan.target, operation="sync")
    if not (plan.transfers or plan.skipped):
        raise FolderError(
            f"sync of {plan.source} to {plan.target}: the source has no files, so nothing was deleted",
            details,
            Remedy.DELETE_DIR,
        )
    if most is not None and plan.deletions > most:
        raise FolderError(
            f"sync of {plan.source} to {plan.target}: {plan.deletions} files would be deleted, max_delete is {most}; "
            "nothing was changed",
            details,
        )


def require_names(plan: Plan, source: Folder, target: Folder) -> None:
    """Check the names of a plan that comes from a file, or from `check_dir`, beside those that the target has now.

    Raises:
        FolderError: If a name is refused.
        StorageError: If the target cannot be listed.
    """
    names = _Names(source, target)
    try:
        for one, other in merged((step.file for step in plan.steps("transfer")), files_of(target) if plan.transfers else ()):
            names.check(one, other)
            if one is not None and (problem := names.problem_of_target(one)) is not None:
                names.note(one.path, problem)
        names.check_sources(plan)
        names.require_none()
    finally:
        names.close()


def require_places(plan: Plan, source: Folder | None, target: Folder) -> None:
    """Check that the folders are those of the plan: another endpoint, or other options, may have a folder of the same name.

    Raises:
        FolderError: If they are not.
    """
    found = "" if source is None else source.place, target.place
    for where, planned, place in zip((plan.source, plan.target), plan.places, found, strict=True):
        if planned != place:
            raise FolderError(
                f"the plan was made for {where} of {planned!r}, and this client has that of {place!r}; nothing was changed",
                ErrorDetails(url=where, operation="transfer"),
                Remedy.CHECK_OPTIONS if place.startswith("fsspec ") else Remedy.CHECK_ENDPOINT,
            )


def merged(source: Iterable[Entry], target: Iterable[Entry]) -> Iterator[Two]:
    """The files of two listings in key order, with those of one path together."""
    ones, others = iter(source), iter(target)
    one, other = next(ones, None), next(others, None)
    while one is not None and other is not None:
        if one.path == other.path:
            yield one, other
            one, other = next(ones, None), next(others, None)
        elif one.path < other.path:  # texts have the order of their bytes in UTF-8
            yield one, None
            one = next(ones, None)
        else:
            yield None, other
            other = next(others, None)
    while one is not None:
        yield one, None
        one = next(ones, None)
    while other is not None:
        yield None, other
        other = next(others, None)


def _path_of(one: Entry | None, other: Entry | None) -> str:
    return one.path if one is not None else other.path if other is not None else ""


def _holds_something(folder: str) -> bool:
    """Whether a local folder exists, and is not empty."""
    try:
        with os.scandir(folder) as found:
            return next(found, None) is not None
    except OSError:
        return os.path.isdir(folder)  # one that cannot be read


class _Names:
    """Collects the names that are refused."""

    def __init__(self, source: Folder, target: Folder, *, moves: bool = False) -> None:
        self._source = source
        self._target = target
        self._links = TargetLinks(source, target, moves=moves)
        self._problem = self._problem_of(target)
        self._clashes = FileFolderClashes()
        local = target.local
        self._local = local if local is not None and _holds_something(local.path) else None
        fold = None if local is None else fold_of_disk(local.path)
        self._folded = None if fold is None else FoldedClashes(fold)
        self._obstacles = Inherited[str | None](self._find_obstacle, top=None)
        self._refused: list[str] = []
        self._count = 0

    @property
    def folds(self) -> bool:
        """Whether names that differ may be one on the disk of the target."""
        return self._folded is not None

    @staticmethod
    def _problem_of(target: Folder) -> Callable[[str], str | None]:
        if not isinstance(target, StoredFolder):
            return problem_of_local_name
        key, forbidden = target.key, target.store.forbidden
        return lambda path: problem_of_key(key(path), forbidden) or (problem_of_local_name(path) if target.local else None)

    def check(self, one: Entry | None, other: Entry | None) -> None:
        """Check the next path."""
        for problem in self.problems(one, other):
            self.note(_path_of(one, other), problem)

    def problems(self, one: Entry | None, other: Entry | None) -> Iterator[str]:
        """Why the next path is refused."""
        path, ours, obstacle = _path_of(one, other), one is not None, None
        if one is not None:
            if (problem := self._problem(path)) is not None:
                yield problem
            if other is None and self._local is not None and os.path.isdir(self._local.local_path(path)):
                yield "it is a folder in the target"
            if (obstacle := self._obstacles.of(path.rpartition("/")[0])) is not None:
                yield obstacle
        if (folder := self._clashes.find(path, ours=ours)) is not None and obstacle is None:
            yield f"{folder!r} is a file and would be a folder"
        if self._folded is not None and (twin := self._folded.find(path, ours=ours)) is not None:
            yield f"on the disk of the target it is the same as {twin!r}"

    def _find_obstacle(self, folder: str, above: str | None) -> str | None:
        """Why no file can be written below a folder of the target; None if it can."""
        if above is not None or self._local is None:
            return above
        try:
            mode = os.lstat(self._local.local_path(folder)).st_mode
        except (OSError, ValueError):  # such as a folder that does not exist yet, or an impossible name
            return None
        if stat.S_ISLNK(mode):
            return f"{folder!r} is a symbolic link in the target: another folder would be changed"
        return None if stat.S_ISDIR(mode) else f"{folder!r} is a file and would be a folder"

    def problem_of_target(self, file: Entry) -> str | None:
        """Why a file must not be written to its path in the target; None if it may."""
        return None if self._local is None else self._links.problem(file)

    def check_sources(self, plan: Plan) -> None:
        """Check that no link in the target leads to a file that the plan reads."""
        for path, problem in self._links.links_to_sources(plan).items():
            self.note(path, problem)

    def note(self, path: str, problem: str) -> None:
        """Refuse a path."""
        self._count += 1
        if self._count <= _SHOWN:
            self._refused.append(f"{path!r}: {problem}")

    def require_none(self) -> None:
        """Check that no name was refused.

        Raises:
            FolderError: If names were refused.
        """
        if not self._count:
            return
        more = f"; and {self._count - _SHOWN} more" if self._count > _SHOWN else ""
        raise FolderError(
            f"{self._source.url} cannot be transferred to {self._target.url}, and nothing was changed: "
            f"{'; '.join(self._refused)}{more}",
            ErrorDetails(url=self._target.url, operation="plan"),
            Remedy.EXCLUDE,
        )

    def close(self) -> None:
        """Delete the temporary file."""
        if self._folded is not None:
            self._folded.close()
