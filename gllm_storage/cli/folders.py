"""The transfer of folders by the commands: their ends, their options, and their output."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.claims import Claims
from gllm_storage.cli.options import add_options
from gllm_storage.cli.output import complain
from gllm_storage.cli.places import LocalPath, Stored, Stream, require_utf8
from gllm_storage.errors import FolderError
from gllm_storage.paths import possible_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gllm_storage.cli.failures import Failures
    from gllm_storage.cli.outcomes import Outcomes
    from gllm_storage.cli.places import Folder
    from gllm_storage.cli.plan import Place, Tree
    from gllm_storage.cli.progress import Bars
    from gllm_storage.folders import FolderResult, Plan
    from gllm_storage.folders.entries import Entry
    from gllm_storage.folders.entries import Folder as End
    from gllm_storage.fsspec_client import FsspecStorageClient

_COMMENTS = ("#", ";")
"""The beginnings of lines that rclone takes for comments in files of patterns."""


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose files; the command gets them as the argument `chosen`, by names of `FolderOptions`."""

    @functools.wraps(command)
    def with_filters(**given: Any) -> Any:
        lists = {name: given.pop(name) for name in ("include", "exclude", "rules")}
        files = {name: given.pop(f"{name}_from") for name in ("include", "exclude", "rules", "files")}
        chosen: dict[str, Any] = {name: list(values) for name, values in lists.items() if values}
        for name, path in files.items():
            if path is not None:
                chosen[name] = [*chosen.get(name, []), *_lines_of(path, names=name == "files")]
        return command(**given, chosen=chosen)

    return add_options(
        with_filters,
        [
            click.option("--include", multiple=True, metavar="PATTERN", help="Only files that match, as rclone's."),
            click.option("--exclude", multiple=True, metavar="PATTERN", help="No files that match, as rclone's."),
            click.option(
                "--filter",
                "rules",
                multiple=True,
                metavar="RULE",
                help='As rclone\'s: "- PATTERN" or "+ PATTERN"; the first wins.',
            ),
            *(
                click.option(f"--{option}-from", f"{name}_from", metavar="FILE", help=text)
                for option, name, text in (
                    ("include", "include", "A file with patterns, one in a line."),
                    ("exclude", "exclude", "A file with patterns, one in a line."),
                    ("filter", "rules", "A file with rules, one in a line."),
                    (
                        "files",
                        "files",
                        "A file with the paths to take, one in a line; '-' is standard input.",
                    ),
                )
            ),
        ],
    )


def _lines_of(path: str, *, names: bool) -> Iterator[str]:
    """The lines of a file that are not empty; of patterns, without comments and spaces around them, as rclone reads them."""
    with click.open_file(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            text = line.rstrip("\r\n")
            if not names:
                text = text.strip()
            if text and not (text.startswith(_COMMENTS) and not names):
                yield text


preserve_option = click.option(
    "-p",
    "--preserve",
    is_flag=True,
    callback=lambda _, __, value: ("mtime", "mode") if value else (),
    help="Files of folders keep their times and modes, in metadata as rclone's.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; print what would be done.")


def end_of(place: LocalPath | Folder, *, stored: bool = False, links: str = "follow") -> End:
    """One end of a transfer.

    Args:
        place: The folder.
        stored: Whether a local folder counts as one of the provider ``file``, because the other end is local, too.
        links: How links of a local folder are treated.
    """
    from gllm_storage.folders.entries import LocalFolder, StoredFolder

    if not isinstance(place, LocalPath):
        return StoredFolder(place.client.store, place.prefix, links)
    if not stored:
        return LocalFolder(place.path, links)
    client, path = _local_client(), os.path.abspath(place.path)
    require_utf8(path)
    return StoredFolder(client.store, f"{path.strip('/')}/" if path.strip("/") else "", links)


def require_unpublished(place: Place) -> None:
    """Check that a file that a command deletes or replaces is not an object of a published version, if it exists.

    Raises:
        FolderError: If it is.
        StorageError: If a request fails. There is none for most names.
    """
    if isinstance(place, Stream):
        return
    key = place.key if isinstance(place, Stored) else os.path.abspath(place.path).strip("/")
    if any(True for _ in possible_models(key)):
        from gllm_storage.folders.published import require_unpublished_object

        client = place.client if isinstance(place, Stored) else _local_client()
        require_unpublished_object(client.store, key)


@functools.cache
def _local_client() -> FsspecStorageClient:
    from gllm_storage.registry import storage_client_from_url

    client: FsspecStorageClient = storage_client_from_url("file:///")  # type: ignore[assignment]  # of a known provider
    return client


@dataclass
class Reporter:
    """Prints the outcomes of the transfer of one folder.

    Args:
        failures: The failures of the command.
        outcomes: The JSON document of the command.
        shown: The progress bars.
        target: The text for a file of the target.
        source: The path of a local source; None for one in a store.
        verbose: Whether transfers and deletions are printed.
        tolerates_loops: Whether a link to a parent folder is a warning only.
        deleted: The text before a deleted file.
        claims: The files that the command has written.
    """

    failures: Failures
    outcomes: Outcomes
    shown: Bars
    target: Callable[[str], str]
    source: str | None = None
    verbose: bool = False
    tolerates_loops: bool = False
    deleted: str = ""
    claims: Claims = field(default_factory=lambda: Claims(1))
    _bar: Any = field(default=None, init=False)

    @classmethod
    def of_tree(
        cls, tree: Tree, failures: Failures, outcomes: Outcomes, shown: Bars, claims: Claims, *, verbose: bool
    ) -> Reporter:
        """The reporter of ``cp`` and ``mv``."""
        source = tree.source.path if isinstance(tree.source, LocalPath) else None
        target = text_of(tree.target)
        return cls(failures, outcomes, shown, target, source, verbose, tolerates_loops=True, claims=claims)

    def hooks(self) -> dict[str, Any]:
        """The options by which this sees the outcomes: see `gllm_storage.folders.transfer.Options`."""
        self._bar = self.shown.counting()
        refuses = {"refuses": lambda path: self.claims.problem(self.target(path))}
        return {"began": self.began, "report": self.report, "callback": self._bar, **refuses}

    def began(self, plan: Plan) -> None:
        """Show the total, and warn of links that lead in a circle."""
        if self._bar is not None:
            self._bar.expect(plan.transfers, plan.transfer_bytes)
        self._warn(plan)

    def _warn(self, plan: Plan) -> None:
        """Take links that lead in a circle out of a plan, with a warning, if they are tolerated."""
        for each in plan.problems if self.tolerates_loops else ():
            if each.is_loop:
                complain(f"warning: {each.path} was skipped: it is a link to one of its parent folders")
        plan.problems = [each for each in plan.problems if not (each.is_loop and self.tolerates_loops)]

    def report(self, action: str, file: Entry, error: Exception | None) -> None:
        """Print one outcome."""
        if error is not None:
            self.failures.add(self._in_words(file.path, error), self.target(file.path))
            return
        if action == "transferred":
            self.claims.add(self.target(file.path))
        if self.outcomes.as_json:
            self.outcomes.add(action, self.target(file.path), file.size)
        elif self.verbose:
            self.shown.say(f"{self.deleted if action == 'deleted' else ''}{self.target(file.path)}")

    def _in_words(self, path: str, error: Exception) -> Exception:
        """A failure, in the words of other commands."""
        try:
            require_utf8(path if self.source is None else os.path.join(self.source, path))
        except ValueError as reason:
            return reason
        cause = error.__cause__
        return cause if self.source is not None and isinstance(cause, OSError) and cause.filename else error

    def reported(self, action: Callable[[], FolderResult], *, dry_run: bool) -> FolderResult | None:
        """Run an action whose failures of single files are reported.

        Args:
            action: Transfers or deletes files.
            dry_run: Whether it only plans. Then the files of the plan are printed.

        Returns:
            The result; None if files failed.

        Raises:
            SeveralErrors: If the other files of the command would fail, too.
            Exception: The exception of the action, but for failures of single files.
        """
        try:
            result = action()
        except FolderError as error:
            if error.result is not None:
                self.outcomes.add_counts(error.result)
            if error.result is None or not error.result.failed:
                raise
            if self.failures.ends_all:
                self.failures.finish()
            return None
        self.outcomes.add_counts(result)
        if dry_run:
            self._show(result.plan)
        return result

    def _show(self, plan: Plan) -> None:
        self._warn(plan)
        for each in plan.problems:
            self.failures.add(self._in_words(each.path, each.error), self.target(each.path))
        for step in plan.steps():
            target, deletes = self.target(step.file.path), step.action == "delete"
            self.claims.add(target)
            if self.outcomes.as_json:
                self.outcomes.add("deleted" if deletes else "transferred", target, step.file.size)
            else:
                self.shown.say(f"{self.deleted if deletes else ''}{target}")


def takes(chosen: Mapping[str, Any], name: str) -> bool:
    """Whether filters take a single file.

    Args:
        chosen: The argument of `filter_options`.
        name: The name of the file.

    Raises:
        ValueError: If a pattern is malformed.
    """
    if not chosen:
        return True
    from gllm_storage.folders.transfer import Options

    return Options(**chosen).chosen().takes(name)


def require_recursive(chosen: Mapping[str, Any], *, recursive: bool, preserve: Sequence[str] = ()) -> None:
    """Check that filters and ``--preserve`` are given for folders only.

    Raises:
        click.UsageError: If they are given without ``--recursive``.
    """
    if chosen and not recursive:
        raise click.UsageError("filters choose among the files of folders; give --recursive")
    if preserve and not recursive:
        raise click.UsageError("--preserve is for folders; give --recursive")


def text_of(place: LocalPath | Folder) -> Callable[[str], str]:
    """The names of the files of a folder in output: the path of a local file, the URL of an object."""
    if isinstance(place, LocalPath):
        return partial(os.path.join, place.path)
    store, prefix = place.client.store, place.prefix
    return lambda path: store.url(f"{prefix}{path}")


def run_tree(tree: Tree, reporter: Reporter, options: Mapping[str, Any], *, removes: bool = False) -> None:
    """Copy or move all files of a folder, and report those that fail.

    Args:
        tree: The folder, and its target.
        reporter: Prints the outcomes.
        options: Further options of `gllm_storage.folders.transfer.Options`.
        removes: Whether the sources are deleted.

    Raises:
        Exception: As `sync_dir`, but for failures of single files.
    """
    are_local = isinstance(tree.source, LocalPath) and isinstance(tree.target, LocalPath)
    # A file behind a link to a folder belongs to another folder, and would be listed twice if that is moved, too.
    source = end_of(tree.source, stored=are_local and removes, links="files" if removes else "follow")
    target = end_of(tree.target, stored=are_local)
    plain = {"everything": True, "learns": False, "on_error": "collect"}
    run(source, target, reporter, {**plain, "removes": removes, **options})


def run(source: End, target: End, reporter: Reporter, options: Mapping[str, Any], **deletions: Any) -> None:
    """Transfer a folder, and report the files that fail.

    Args:
        source: The source.
        target: The target.
        reporter: Prints the outcomes.
        options: The options of `gllm_storage.folders.transfer.Options`.
        **deletions: As in `gllm_storage.folders.transfer.transfer`.

    Raises:
        Exception: As `sync_dir`, but for failures of single files.
    """
    from gllm_storage.folders.transfer import Options, transfer

    given = Options(**{**reporter.hooks(), **options})
    reporter.reported(partial(transfer, source, target, given, **deletions), dry_run=given.dry_run)
