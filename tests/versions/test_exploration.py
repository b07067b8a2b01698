"""The real code of publishers, collectors and deleters in every order of their requests (`explorer`).

The casts and the broken variants are those of the model of the protocol. In each state no version may be published with data
missing, no "aborted" may hide a manifest, and a publisher that was told that it won must have a manifest.
"""

from __future__ import annotations

import datetime as dt
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from gllm_storage.errors import ErrorDetails, ObjectExistsError, StorageError, StorageUnavailableError
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.collector import Collector, Garbage
from gllm_storage.versions.deletion import mark_deleted
from gllm_storage.versions.entries import Aborted, Manifest, decode_entry, encode_entry
from gllm_storage.versions.layout import Model, place_of, slot_of
from gllm_storage.versions.local_tree import hashed_tree
from gllm_storage.versions.log import Decision, Log, logged_entries
from gllm_storage.versions.publisher import Marks, Publisher, new_manifest
from tests.versions.explorer import Found, SteppedStore, Work, explore, sample
from tests.versions.support import store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gllm_storage.versions.entries import Entry
    from gllm_storage.versions.local_tree import LocalTree

PREFIX = "m"
DETAILS = ErrorDetails("stepped", "stepped://m", "test")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalTree]]:
    with ExitStack() as stack:
        folders = {name: write_folder(tmp_path_factory.mktemp(name), {"f": name.encode()}) for name in ("x", "y")}
        yield {name: stack.enter_context(hashed_tree(str(folder), DETAILS)) for name, folder in folders.items()}


def publisher(tree: LocalTree, version: str, store: SteppedStore) -> Manifest:
    model = Model(store, PREFIX)
    with mock.patch("gllm_storage.versions.entries.now", return_value=""):
        manifest = new_manifest(model, tree, version)
    return Publisher(model, tree, manifest, Progress()).run()


def collector(store: SteppedStore) -> object:
    found = Collector(Model(store, PREFIX))
    return found.collect(found.candidates(dt.timedelta(), dry_run=False))


def deleter(version: str, store: SteppedStore) -> object:
    return mark_deleted(Model(store, PREFIX), version)


def works(trees: dict[str, LocalTree], cast: str) -> list[Work]:
    """The processes of a cast, such as ``"v1=x gc -v1"``: a publisher of x as v1, a collector, and a deleter of v1."""
    found: list[Work] = []
    for word in cast.split():
        version, _, content = word.partition("=")
        if content:
            found.append(partial(publisher, trees[content], version))
        else:
            found.append(collector if word == "gc" else partial(deleter, word.removeprefix("-")))
    return found


def newest(objects: dict[str, bytes]) -> dict[str, dict[int, Entry]]:
    logs: dict[str, dict[int, Entry]] = {}
    for key, data in objects.items():
        if key.startswith(f"{PREFIX}/versions/"):
            _, _, version, name = key.split("/")
            logs.setdefault(version, {})[slot_of(name.removesuffix(".json")) or 0] = decode_entry(data, DETAILS)
    return logs


def what_is_wrong(cast: str, objects: dict[str, bytes], results: Sequence[Any]) -> str | None:
    logs = newest(objects)
    for version, log in logs.items():
        if set(log) != set(range(1, len(log) + 1)):
            return f"the log of {version} has a gap"
        entry = log[len(log)]
        if isinstance(entry, Manifest) and not {f"m/data/{entry.place}/f", f"m/trees/{entry.place}.jsonl"} <= set(objects):
            return f"{version} is published, and files of {entry.place} are missing"
        for slot, each in log.items():
            if isinstance(each, Aborted) and isinstance(log.get(slot - 1), Manifest):
                return f"an aborted entry hides the manifest of {version}"
    for word, result in zip(cast.split(), results, strict=True):
        if isinstance(result, Manifest) and result not in logs[word.partition("=")[0]].values():
            return f"a publisher of {result.version} was told that it won, and no manifest says so"
        if isinstance(result, Exception) and not (
            "=" in word and isinstance(result, (ObjectExistsError, StorageUnavailableError))
        ):
            return f"{word} failed: {result!r}"
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


def sampled(trees: dict[str, LocalTree], cast: str, **options: Any) -> Found:
    return sample(works(trees, cast), partial(what_is_wrong, cast), left_behind(trees), **options)


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


BROKEN: list[tuple[type, str]] = [
    (MarksFirst, "v1=x gc"),
    (WithoutAborts, "v1=x gc"),
    (NamedFirst, "v1=x gc"),
    (LogsFirst, "v1=x gc"),
    (TombRemover, "v1=x gc gc"),
    (TombFirst, "v1=x gc"),
    (HastyLog, "v1=x gc"),
    (OverwritingLog, "v1=x v1=y"),
]


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
        else:
            stack.enter_context(mock.patch(f"{__name__}.{kind.__name__}", broken))
        yield


@pytest.mark.parametrize(("broken", "cast"), BROKEN)
def test_broken_variant(trees: dict[str, LocalTree], broken: type, cast: str) -> None:
    """A variant with one step wrong breaks a rule: the exploration would see it."""
    with replaced(broken), restarts(1):
        found = sampled(trees, cast, seed=1, runs=2000)
    assert found.wrong is not None


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
def test_all_orders(trees: dict[str, LocalTree], ordered: bool) -> None:
    """No order of the requests of a publisher, which does not begin again, and a collector breaks a rule."""
    with restarts(1):
        found = checked(trees, "v1=x gc", ordered=ordered, most=100_000, seconds=60)
    assert found.wrong is None, found
    assert found.complete


@pytest.mark.parametrize("cast", CASTS)
def test_casts(trees: dict[str, LocalTree], cast: str) -> None:
    """No order of a cast breaks a rule, of as many random ones as the time of CI allows."""
    with restarts(2):
        found = sampled(trees, cast, seed=14, runs=400)
    assert found.wrong is None, found
