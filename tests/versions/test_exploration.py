"""The real code of publishers, collectors and deleters in every order of their requests (`explorer`).

The casts and the broken variants are those of the model of the protocol. In each state no version may be published with data
missing, no "aborted" may hide a manifest, and a publisher that was told that it won must have a manifest.

CI explores for 20 seconds; `make explore` runs 20 times as many random orders, and all orders of the unordered listing, too.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from gllm_storage.errors import (
    ErrorDetails,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.catalog import manifest_of
from gllm_storage.versions.collector import Collector, Garbage
from gllm_storage.versions.copying import _CopiedTree, _Copier
from gllm_storage.versions.deletion import mark_deleted
from gllm_storage.versions.entries import Aborted, Manifest, decode_entry, encode_entry
from gllm_storage.versions.layout import Model, place_of, slot_of
from gllm_storage.versions.local_tree import hashed_tree
from gllm_storage.versions.log import Decision, Log, logged_entries
from gllm_storage.versions.publisher import Marks, Publisher, new_manifest
from gllm_storage.versions.reuse import Earlier
from gllm_storage.versions.stored_file import Content, holds
from gllm_storage.versions.stored_tree import stored_tree
from tests.versions.explorer import Found, Run, SteppedStore, Work, explore, sample, sober_code
from tests.versions.support import digest_of, store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gllm_storage.versions.entries import Entry
    from gllm_storage.versions.local_tree import LocalTree

PREFIX = "m"
DEPTH = int(os.environ.get("EXPLORE", "1"))
"""How much is explored: 1 in CI."""
RUNS = 30 * DEPTH
"""Random orders of each cast."""
FILES = {"x": {"f": b"x"}, "y": {"f": b"y"}, "z": {"f": b"x", "g": b"z"}}
"""The trees. A publisher of z copies its first file from a version with x."""
BY_DIGEST = {digest_of(files): files for files in FILES.values()}
DETAILS = ErrorDetails("stepped", "stepped://m", "test")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalTree]]:
    with ExitStack() as stack:
        folders = {name: write_folder(tmp_path_factory.mktemp(name), files) for name, files in FILES.items()}
        yield {name: stack.enter_context(hashed_tree(str(folder), DETAILS)) for name, folder in folders.items()}


def publisher(tree: LocalTree, version: str, store: SteppedStore) -> Manifest:
    model = Model(store, PREFIX)
    with mock.patch("gllm_storage.versions.entries.now", return_value=""):
        manifest = new_manifest(model, tree, version)
    return Publisher(model, tree, manifest, Progress()).run()


def collector(store: SteppedStore) -> object:
    found = Collector(Model(store, PREFIX))
    return found.collect(found.candidates(dt.timedelta(), dry_run=False))


def copier(source: str, version: str, store: SteppedStore) -> Manifest:
    model = Model(store, PREFIX)
    found = manifest_of(model, source, "copy")
    with stored_tree(model, found, "copy") as files:
        tree = _CopiedTree(model, found, files)
        return _Copier(model, tree, new_manifest(model, tree, version), Progress()).run()


def deleter(version: str, store: SteppedStore) -> object:
    return mark_deleted(Model(store, PREFIX), version)


def put(key: str, data: bytes, store: SteppedStore) -> None:
    store_bytes(store, key, data)


def works(trees: dict[str, LocalTree], cast: str) -> list[Work]:
    """The processes of a cast, such as ``"v1=x gc -v1"``: a publisher of x as v1, a collector, and a deleter of v1.

    ``v2<v0`` copies v0 to v2; ``rot`` damages the first file of x in its first directory.
    """
    found: list[Work] = []
    damaged = f"m/data/{place_of(trees['x'].digest, 0)}/f"
    for word in cast.split():
        version, sign, content = re.split("([=<])", word) if set(word) & set("=<") else (word, "", "")
        if sign == "=":
            found.append(partial(publisher, trees[content], version))
        elif sign == "<":
            found.append(partial(copier, content, version))
        else:
            others: dict[str, Work] = {"gc": collector, "rot": partial(put, damaged, b"?")}
            found.append(others.get(word) or partial(deleter, word.removeprefix("-")))
    return found


def newest(objects: dict[str, bytes]) -> dict[str, dict[int, Entry]]:
    logs: dict[str, dict[int, Entry]] = {}
    for key, data in objects.items():
        if key.startswith(f"{PREFIX}/versions/"):
            _, _, version, name = key.split("/")
            logs.setdefault(version, {})[slot_of(name.removesuffix(".json")) or 0] = decode_entry(data, DETAILS)
    return logs


def what_is_missing(manifest: Manifest, objects: dict[str, bytes], *, is_damaged: bool) -> str | None:
    if f"m/trees/{manifest.place}.jsonl" not in objects:
        return f"the list of {manifest.place} is missing"
    for path, data in BY_DIGEST[manifest.digest].items():
        found = objects.get(f"m/data/{manifest.place}/{path}")
        if found != data and not (is_damaged and manifest.version == "v0" and found == b"?"):
            return f"file {path} of {manifest.place} has {found!r} in place of {data!r}"
    return None


def what_is_wrong(cast: str, objects: dict[str, bytes], results: Sequence[Any]) -> str | None:
    logs = newest(objects)
    for version, log in logs.items():
        if set(log) != set(range(1, len(log) + 1)):
            return f"the log of {version} has a gap"
        entry = log[len(log)]
        if isinstance(entry, Manifest) and (cause := what_is_missing(entry, objects, is_damaged="rot" in cast)):
            return f"{version} is published, and {cause}"
    if hidden := what_is_hidden(logs):
        return hidden
    for word, result in zip(cast.split(), results, strict=True):
        if isinstance(result, Manifest) and result not in logs[re.split("[=<]", word)[0]].values():
            return f"a publisher of {result.version} was told that it won, and no manifest says so"
        expected: tuple[type[Exception], ...] = (ObjectExistsError, StorageUnavailableError) if set(word) & set("=<") else ()
        if "<" in word:  # the source was deleted or damaged
            expected += (ObjectNotFoundError, *([IntegrityError] if "rot" in cast else []))
        if isinstance(result, Exception) and not isinstance(result, expected):
            return f"{word} failed: {result!r}"
    return None


def what_is_hidden(logs: dict[str, dict[int, Entry]]) -> str | None:
    for version, log in logs.items():
        for slot, each in log.items():
            if isinstance(each, Aborted) and isinstance(log.get(slot - 1), Manifest):
                return f"an aborted entry hides the manifest of {version}"
    return None


CASTS = [
    "v1=x gc",
    "v1=x -v1 gc",
    "v1=x gc gc",
    "v1=x v1=y gc",
    "v1=x v2-rc=x gc",
    "v1=x v1=x gc",
    "v1=x v1=x -v1 gc",
]


def left_behind(trees: dict[str, LocalTree]) -> dict[str, bytes]:
    """The file of a publisher of x that was killed: a collector finds it at once."""
    return {f"m/data/{place_of(trees['x'].digest, 0)}/f": b"x"}


def checked(trees: dict[str, LocalTree], cast: str, **options: Any) -> Found:
    return explore(works(trees, cast), partial(what_is_wrong, cast), left_behind(trees), **options)


def published_before(trees: dict[str, LocalTree]) -> dict[str, bytes]:
    """The objects of v0 with x, published before the cast begins."""
    with sober_code():
        run = Run([partial(publisher, trees["x"], "v0")], {})
        while run.choices():
            run.take(("go", 0))
    return run.shelf.objects


class MarksFirst(Collector):
    """Lists the marks before it creates the tombstone."""

    def bury(self, place: str) -> None:
        self.early = super().marks(place)
        super().bury(place)

    def marks(self, place: str) -> list[str]:
        del place
        return self.early


class WithoutAborts(Collector):
    """Leaves the slots of marks alone."""

    def end_publishers(self, place: str, marks: Iterable[str]) -> None:
        """Do nothing."""


class NamedFirst(Collector):
    """Reads the manifests before the marks."""

    def bury(self, place: str) -> None:
        super().bury(place)
        self.early = super().named()

    def named(self) -> set[str]:
        return self.early


class LogsFirst(Collector):
    """Lists the logs before the tombstone."""

    def bury(self, place: str) -> None:
        self.early = list(logged_entries(self.model))
        super().bury(place)

    def named(self) -> set[str]:
        with mock.patch("gllm_storage.versions.collector.logged_entries", return_value=self.early):
            return super().named()


class TombRemover(Collector):
    """Removes the tombstone at the end."""

    def empty(self, place: str, marks: list[str]) -> Garbage:
        garbage = super().empty(place, marks)
        self._delete([self.model.tomb(place)])
        return garbage


class TombFirst(Publisher):
    """Looks for the tombstone before it writes the mark."""

    def _has_tomb(self, place: str) -> bool:
        del place
        return self.early

    def _attempt(self, slot: int) -> Decision:
        write = Marks.write

        def late(marks: Marks) -> None:
            self.early = super(TombFirst, self)._has_tomb(place_of(self._tree.digest, self.number))
            self.number += 1
            write(marks)

        self.number = 0
        with mock.patch.object(Marks, "write", late):
            return super()._attempt(slot)


class HastyLog(Log):
    """Takes a commit without an answer for one that failed."""

    def decide(self, slot: int, entry: Entry) -> Decision:
        try:
            return Decision(self.create(slot, entry) or entry)
        except StorageError as error:
            return Decision(self.read(slot) or Aborted(), error)


class OverwritingLog(Log):
    """Commits without the precondition."""

    def create(self, slot: int, entry: Entry) -> Entry | None:
        store_bytes(self._store, self._key(slot), encode_entry(entry))
        return None


class BlindEarlier(Earlier):
    """Copies a file of an earlier version without a look at it."""

    def copy(self, content: Content, key: str) -> bool:
        store, source = self._model.store, self._keys.get(content.sha256, key)
        if source != key:
            store.copy_version(source, key, store.transfer(source, "copy"))
        return source != key and holds(store, key, content)


class TrustfulEarlier(Earlier):
    """Takes each copy for the right content."""

    def copy(self, content: Content, key: str) -> bool:
        with mock.patch("gllm_storage.versions.reuse.holds", return_value=True):
            store, source = self._model.store, self._keys.get(content.sha256, key)
            if source != key:
                store.copy_version(source, key, store.transfer(source, "copy"))
            return source != key


BROKEN: list[tuple[type, str]] = [
    (MarksFirst, "v1=x gc"),
    (WithoutAborts, "v1=x gc"),
    (NamedFirst, "v1=x gc"),
    (LogsFirst, "v1=x gc"),
    (TombRemover, "v1=x gc gc"),
    (TombFirst, "v1=x gc"),
    (HastyLog, "v1=x gc"),
    (OverwritingLog, "v1=x v1=y"),
    (BlindEarlier, "v1=z rot"),
    (TrustfulEarlier, "v1=z rot"),
]
SHARING = [
    "v1=z",
    "v1=z rot",
    "v1=z -v0 gc",
    "v1=z v1=z gc",
    "v1=z v2=z -v0 gc",
    "v1=z v2=z rot gc",
    "v1=z v1=y -v0 gc",
    "v2<v0 -v0 gc",
    "v2<v0 v1=x -v0 gc",
    "v2<v0 rot gc",
]
"""Casts that begin with v0, which has x."""


@contextmanager
def restarts(count: int) -> Iterator[None]:
    with mock.patch("gllm_storage.versions.publisher._RESTARTS", count):
        yield


@contextmanager
def replaced(broken: type) -> Iterator[None]:
    """Let the processes use a broken class."""
    kind = broken.__mro__[1]
    with ExitStack() as stack:
        if kind is Log:
            for name in {"create", "decide"} & set(vars(broken)):
                stack.enter_context(mock.patch.object(Log, name, vars(broken)[name]))
        elif kind is Earlier:
            stack.enter_context(mock.patch("gllm_storage.versions.reuse.Earlier", broken))
        else:
            stack.enter_context(mock.patch(f"{__name__}.{kind.__name__}", broken))
        yield


@pytest.mark.parametrize(("broken", "cast"), BROKEN)
def test_broken_variant(trees: dict[str, LocalTree], broken: type, cast: str) -> None:
    """A variant with one step wrong breaks a rule: the exploration would see it."""
    before = published_before(trees) if "z" in cast else left_behind(trees)
    with replaced(broken), restarts(1):
        found = sample(works(trees, cast), partial(what_is_wrong, cast), before, seed=1, runs=2000)
    assert found.wrong is not None


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False] if DEPTH > 1 else [True])
def test_all_orders(trees: dict[str, LocalTree], ordered: bool) -> None:
    """No order of the requests of a publisher, which does not begin again, and a collector breaks a rule."""
    with restarts(1):
        found = checked(trees, "v1=x gc", ordered=ordered, most=100_000, seconds=120)
    assert found.wrong is None, found
    assert found.complete


@pytest.mark.parametrize("page", [1000, 1])
@pytest.mark.parametrize("cast", CASTS)
def test_casts(trees: dict[str, LocalTree], cast: str, page: int) -> None:
    """No order of a cast breaks a rule, of as many random ones as the time of CI allows; also with listings in pages."""
    with restarts(2):
        found = sample(works(trees, cast), partial(what_is_wrong, cast), left_behind(trees), seed=14, runs=RUNS, page=page)
    assert found.wrong is None, found


def test_copied_file(trees: dict[str, LocalTree]) -> None:
    """A publisher of these casts copies the shared file, and sends the other one."""
    steps: list[tuple[str, str]] = []
    with sober_code():
        run = Run(works(trees, "v1=z"), published_before(trees))
        while (step := run.processes[0].step) is not None:
            steps.append((step.name, step.key.rpartition("/")[2]))
            run.take(("go", 0))
    assert ("copy", "f") in steps
    assert ("create", "g") in steps
    assert ("create", "f") not in steps


@pytest.mark.parametrize("cast", SHARING)
def test_shared_files(trees: dict[str, LocalTree], cast: str) -> None:
    """Publishers that copy files of an earlier version, which is deleted, collected or damaged meanwhile."""
    with restarts(2):
        found = sample(works(trees, cast), partial(what_is_wrong, cast), published_before(trees), seed=14, runs=RUNS)
    assert found.wrong is None, found


@pytest.mark.parametrize("cast", ["v0=x v0=x gc", "v0=x v0=x -v0 gc", "v0=x -v0 v1=x gc"])
def test_repair(trees: dict[str, LocalTree], cast: str) -> None:
    """A version whose files another tool has deleted is complete when one publisher of equal files has ended."""
    before = {key: data for key, data in published_before(trees).items() if "/data/" not in key and "/trees/" not in key}

    def rule(objects: dict[str, bytes], results: Sequence[Any]) -> str | None:
        if isinstance(results[0], Manifest) or not isinstance(newest(objects)["v0"][max(newest(objects)["v0"])], Manifest):
            return what_is_wrong(cast, objects, results)
        return what_is_hidden(newest(objects))

    with restarts(2):
        found = sample(works(trees, cast), rule, before, seed=14, runs=RUNS)
    assert found.wrong is None, found


@pytest.mark.slow
def test_all_orders_of_a_copy(trees: dict[str, LocalTree]) -> None:
    """No order of a publisher that copies a file and of the damage of that file breaks a rule."""
    with restarts(1):
        found = explore(works(trees, "v1=z rot"), partial(what_is_wrong, "v1=z rot"), published_before(trees), seconds=30)
    assert found.wrong is None, found
    assert found.complete
