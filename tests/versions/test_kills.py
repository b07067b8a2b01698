"""A kill at each request of publish, alias, delete and garbage collection, and a lost answer of each request.

The code runs on a store in memory, request by request (`explorer`). A killed process sends nothing more.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import ErrorDetails, ObjectNotFoundError, StorageUnavailableError
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.aliases import move
from gllm_storage.versions.catalog import manifest_of, resolved
from gllm_storage.versions.collector import Collector
from gllm_storage.versions.deletion import mark_deleted
from gllm_storage.versions.layout import Model
from gllm_storage.versions.local_tree import hashed_tree
from gllm_storage.versions.publisher import Publisher, new_manifest
from gllm_storage.versions.register import enter
from tests.versions.explorer import Choice, Run, sober_code
from tests.versions.support import digest_of, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.versions.local_tree import LocalTree
    from tests.versions.explorer import SteppedStore, Work

DETAILS = ErrorDetails("stepped", "stepped://m", "test")
FILES = {f"{number}.bin": b"%d" % number for number in range(4)}
OTHER_FILES = {**FILES, "0.bin": b"new"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTree]:
    with hashed_tree(str(write_folder(tmp_path_factory.mktemp("out"), FILES)), DETAILS) as tree:
        yield tree


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTree]:
    with hashed_tree(str(write_folder(tmp_path_factory.mktemp("other"), OTHER_FILES)), DETAILS) as tree:
        yield tree


def publish(tree: LocalTree, version: str, store: SteppedStore) -> Any:
    model = Model(store, "m")
    enter(model, version, "version", "publish")
    return Publisher(model, tree, new_manifest(model, tree, version), Progress()).run()


def point(version: str, store: SteppedStore) -> Any:
    model = Model(store, "m")
    return move(model, "latest", manifest_of(model, version, "alias"), None)


def delete(version: str, store: SteppedStore) -> Any:
    return mark_deleted(Model(store, "m"), version) or "none"


def collect(store: SteppedStore) -> Any:
    collector = Collector(Model(store, "m"))
    return collector.collect(collector.candidates(dt.timedelta(), dry_run=False))


def read(name: str, store: SteppedStore) -> str:
    """The version that a reader sees, with a check that all its files are there."""
    try:
        manifest = resolved(Model(store, "m"), name, "resolve")
    except ObjectNotFoundError:
        return "none"
    data = {key.removeprefix(f"m/data/{manifest.place}/"): value for key, value in store.shelf.objects.items()}
    assert manifest.digest in {digest_of(FILES), digest_of(OTHER_FILES)}
    assert (FILES if manifest.digest == digest_of(FILES) else OTHER_FILES).items() <= data.items()
    assert f"m/trees/{manifest.place}.jsonl" in store.shelf.objects
    return manifest.version


def finished(work: Work, objects: dict[str, bytes]) -> tuple[Any, dict[str, bytes], list[str]]:
    """The result of one process without a disturbance, the objects afterwards, and the keys that it stored again."""
    run, again = Run([work], objects, ordered=True), list[str]()
    while (step := run.processes[0].step) is not None:
        if step.name in {"put", "create", "copy"} and step.key in run.shelf.objects and "/data/" in step.key:
            again.append(step.key)
        run.take(("go", 0))
    return run.processes[0].result, run.shelf.objects, again


def disturbed(work: Work, objects: dict[str, bytes], number: int, kind: str) -> Run | None:
    """A run that is killed before a request, or does not get its answer; None if it has not so many requests."""
    run = Run([work], objects, ordered=True)
    for _ in range(number):
        if run.processes[0].step is not None:
            run.take(("go", 0))
    if run.processes[0].step is None:
        return None
    if kind != "kill":
        choice: Choice = (kind, 0)
        run.take(choice)
        while run.processes[0].step is not None:
            run.take(("go", 0))
    return run


OPERATIONS = ["publish", "share", "point", "delete", "collect"]


@pytest.mark.parametrize("kind", ["kill", "deaf", "lost"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_disturbed(tree: LocalTree, other: LocalTree, operation: str, kind: str) -> None:
    """Readers see the version before or after, never between; the same call again completes, and sends no file again."""
    with sober_code():
        _, objects, _ = finished(partial(publish, tree, "v1"), {})
        work: Work
        if operation == "publish":
            work, reader = partial(publish, tree, "v2"), ("v2", "none", "v2")
            objects = {}
        elif operation == "share":  # three of four files are copied from v1
            work, reader = partial(publish, other, "v2"), ("v2", "none", "v2")
        elif operation == "point":
            work, reader = partial(point, "v1"), ("latest", "none", "v1")
        elif operation == "delete":
            work, reader = partial(delete, "v1"), ("v1", "v1", "none")
        else:
            _, objects, _ = finished(partial(delete, "v1"), objects)
            work, reader = collect, ("v1", "none", "none")
        name, before, after = reader
        count = 0
        while (run := disturbed(work, objects, count, kind)) is not None:
            count += 1
            left = dict(run.shelf.objects)
            run.close()
            seen, _, _ = finished(partial(read, name), left)
            result = run.processes[0].result
            assert seen in {before, after}
            if kind != "kill":
                assert isinstance(result, StorageUnavailableError) or seen == after
            result, end, again = finished(work, left)
            assert not isinstance(result, Exception)
            assert again == []
            assert finished(partial(read, name), end)[0] == after
            if operation == "collect":
                assert not [key for key in end if "/data/" in key or "/trees/" in key]
        assert count >= {"publish": 12, "share": 25, "point": 6, "delete": 3, "collect": 15}[operation]
