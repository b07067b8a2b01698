"""``sync``: make a folder equal to another one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.completion import complete_url
from gllm_storage.cli.failures import Failures
from gllm_storage.cli.folders import Reporter, dry_run_option, end_of, filter_options, preserve_option, text_of
from gllm_storage.cli.options import bwlimit_option, clients, json_option, property_options, side_options, store_options
from gllm_storage.cli.outcomes import Outcomes
from gllm_storage.cli.places import Folder, LocalPath, Stream, parse_source, parse_target
from gllm_storage.cli.plan import stores_of
from gllm_storage.cli.settings import SOURCE, TARGET, Store
from gllm_storage.cli.signals import announce
from gllm_storage.paths import hides_user, without_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.cli.places import Argument
    from gllm_storage.folders import FolderResult, Plan
    from gllm_storage.folders.entries import Folder as End
    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.info import ObjectProperties

_LINKS = click.Choice(["follow", "files", "skip", "refuse"])
_ON_ERROR = click.Choice(["stop", "collect"])
_DECIDED = "--apply runs a plan that names SOURCE, TARGET and the files; leave them out"


@click.command(short_help="Transfer the files of a folder that differ.")
@click.argument("paths", metavar="SOURCE TARGET", nargs=-1, shell_complete=complete_url)
@click.option("--delete", is_flag=True, help="Delete the files that only TARGET has, at the end, and never after a failure.")
@click.option("--max-delete", type=click.IntRange(min=0), metavar="N", help="Change nothing if more would be deleted.")
@click.option("--size-only/--checksum", default=False, help="Compare sizes only, or (the default) checksums, too.")
@click.option("--links", type=_LINKS, default="follow", show_default=True, help="Symbolic links of a local SOURCE.")
@click.option(
    "--on-error", type=click.Choice(["stop", "collect"]), default="stop", show_default=True, help="After a failure."
)
@click.option("-f", "--force", is_flag=True, help="Change also published versions; also beside an object of TARGET's name.")
@click.option("--plan", "plan_to", metavar="FILE", help="Change nothing; write the plan to FILE, for --apply.")
@click.option(
    "--apply", "plan_from", metavar="FILE", help="Run the plan of FILE; name SOURCE and TARGET only if it hides a user."
)
@click.option("-v", "--verbose", is_flag=True, help="Print the URL or path of each file that is transferred or deleted.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar on a terminal.")
@bwlimit_option
@preserve_option
@dry_run_option
@filter_options
@property_options
@json_option
@side_options
@store_options
def sync(
    paths: Sequence[str],
    *,
    plan_to: str | None,
    plan_from: str | None,
    verbose: bool,
    quiet: bool,
    preserve: Sequence[str],
    dry_run: bool,
    properties: ObjectProperties,
    as_json: bool,
    **given: Any,
) -> None:
    """Transfer the files of SOURCE that differ from those of TARGET, by size and checksum.

    Both are folders, with or without "/" at their ends. Nothing is deleted without --delete. Names that TARGET cannot have
    are refused before anything is changed; --exclude leaves them out.
    """
    from gllm_storage.cli.progress import bars

    plan = None if plan_from is None else _loaded(plan_from, given, plan_to)
    ends = _Ends.of(paths) if plan is None else _Ends.of_plan(plan, paths)
    if properties.given() and isinstance(ends.target, LocalPath):
        raise click.UsageError(f"TARGET is not in a store, and cannot keep {', '.join(properties.given())}")
    announce("each file is complete or unchanged")
    failures, plans = Failures(), dry_run or plan_to is not None
    with Outcomes(failures, as_json=as_json, dry_run=plans) as outcomes:
        with bars(quiet=quiet) as shown, failures.tolerated():
            target = text_of(ends.target)
            reporter = Reporter(failures, outcomes, shown, target, ends.local_source, verbose, deleted="delete ")
            options = {"dry_run": plans, "properties": properties, "preserve": preserve}
            work = partial(_synced, ends, given) if plan is None else partial(_applied, plan, ends, given)
            lists = dry_run or (plans and as_json)
            result = reporter.reported(partial(work, {**reporter.hooks(), **options}), dry_run=lists)
            if result is not None and plan_to is not None:
                result.plan.save(plan_to)
                if not as_json:
                    shown.say(result.plan.summary)
        failures.finish()


def _synced(ends: _Ends, given: Mapping[str, Any], options: Mapping[str, Any]) -> FolderResult:
    from gllm_storage.folders.transfer import Options, transfer

    wishes = {name: given[name] for name in ("size_only", "links", "on_error", "force")}
    source, target = ends.made(given["links"])
    if source is None:
        raise click.UsageError("Missing arguments 'SOURCE' and 'TARGET'")
    wanted = Options(**{**given["chosen"], **wishes, **options})
    return transfer(source, target, wanted, delete=given["delete"], max_delete=given["max_delete"])


def _applied(plan: Plan, ends: _Ends, given: Mapping[str, Any], options: Mapping[str, Any]) -> FolderResult:
    from gllm_storage.folders.transfer import Options, apply

    wanted = Options(**{"on_error": given["on_error"], "force": given["force"], **options})
    return apply(plan, *ends.made(), wanted)


def _loaded(path: str, given: Mapping[str, Any], plan_to: str | None) -> Plan:
    """The plan of a file.

    Raises:
        click.UsageError: If options are given that the plan has decided.
    """
    from gllm_storage.folders import Plan

    decided = given["delete"] or given["max_delete"] is not None or given["size_only"] or given["chosen"]
    decided = decided or given["links"] != "follow"
    if decided or plan_to is not None:
        raise click.UsageError(_DECIDED)
    return Plan.load(path)


@dataclass(frozen=True)
class _Ends:
    """The two folders.

    Attributes:
        source: The source; None for a plan that only deletes.
        target: The target.
        stored: Whether a local source, and a local target, count as folders of the provider ``file``.
    """

    source: LocalPath | Folder | None
    target: LocalPath | Folder
    stored: tuple[bool, bool]

    @classmethod
    def of(cls, paths: Sequence[str]) -> _Ends:
        """The folders of the arguments.

        Raises:
            click.UsageError: If there are not two.
            ValueError: If one is a stream, or not valid.
        """
        if len(paths) != len(("SOURCE", "TARGET")):
            raise click.UsageError("Missing arguments 'SOURCE' and 'TARGET'" if len(paths) < 2 else "sync takes two folders")  # noqa: PLR2004 - source and target
        source, target = parse_source(paths[0]), parse_target(paths[1])
        both = isinstance(source, LocalPath) and isinstance(target, LocalPath)
        return cls(*_places(source, target), (False, both))

    @classmethod
    def of_plan(cls, plan: Plan, paths: Sequence[str]) -> _Ends:
        """The folders of a plan, which has local ones by their paths, or by URLs if they are of the provider ``file``.

        Args:
            plan: The plan.
            paths: The arguments, for a plan that hides the user of a URL.

        Raises:
            click.UsageError: If arguments are given for another plan, or name other folders than the plan.
            ValueError: If the plan hides the user of a URL, and no arguments are given.
        """
        planned = [each for each in (plan.source, plan.target) if each]
        named = _with_users(planned, paths)
        target = parse_target(named[-1])
        source, place = _places(parse_source(named[0]), target)
        return cls(source if plan.source else None, place, ("://" in plan.source, "://" in plan.target))

    @property
    def local_source(self) -> str | None:
        """The path of a local source."""
        return self.source.path if isinstance(self.source, LocalPath) else None

    def made(self, links: str = "follow") -> tuple[End | None, End]:
        """Both ends of the transfer."""
        source = None if self.source is None else end_of(self.source, stored=self.stored[0], links=links)
        return source, end_of(self.target, stored=self.stored[1])


def _with_users(planned: Sequence[str], paths: Sequence[str]) -> Sequence[str]:
    """The folders of a plan; those whose user it hides as the arguments name them.

    Raises:
        click.UsageError: If the plan hides none, and there are arguments, or if they name other folders.
        ValueError: If it hides one, and there are no arguments.
    """
    hidden = next((each for each in planned if hides_user(each)), None)
    if hidden is None:
        if paths:
            raise click.UsageError(_DECIDED)
        return planned
    names = "TARGET" if len(planned) == 1 else "SOURCE TARGET"
    if not paths:
        raise ValueError(
            f"the plan hides the user of the URL {hidden}; name the folders of the plan again: sync --apply FILE {names}"
        )
    if len(paths) != len(planned) or any(map(_differ, planned, paths)):
        raise click.UsageError(f"the plan is for {' and '.join(planned)}; give {names} of the same folders")
    return [path if hides_user(each) else each for each, path in zip(planned, paths, strict=True)]


def _differ(planned: str, path: str) -> bool:
    return _shown(planned) != _shown(path)


def _shown(path: str) -> str:
    """A folder as plans show it: without a user and a slash at its end."""
    parsed = parse_source(path)
    if isinstance(parsed, LocalPath):
        return os.path.abspath(parsed.path)
    return "-" if isinstance(parsed, Stream) else without_user(parsed.url).rstrip("/")


def _places(source: Argument, target: Argument) -> tuple[LocalPath | Folder, LocalPath | Folder]:
    made = clients(stores_of([source], target))
    return _place(source, SOURCE, made), _place(target, TARGET, made)


def _place(argument: Argument, side: str, made: Mapping[Store, FsspecStorageClient]) -> LocalPath | Folder:
    if isinstance(argument, Stream):
        raise ValueError("sync compares folders, not standard input or output; use cp")
    if isinstance(argument, LocalPath):
        return argument
    key = argument.key
    return Folder(made[Store(argument.root, side)], f"{key}/" if key and not key.endswith("/") else key)
