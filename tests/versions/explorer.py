"""Runs the real code of several processes on one store in memory, one request at a time, in every order.

Each process is a greenlet on a store of its own (`SteppedStore`), which hands over to the explorer before each request. All
stores share one `Shelf`. A process that never runs again is an order like any other: so a kill at any request is covered by
the rules, which hold in every state. A commit may stay unanswered: the request then lands at any later time,
or never.

A state is the content of the shelf, the requests that are under way, and the answers that each process has had. States that
were seen are not continued. Code cannot be copied in the middle of a call, so the explorer runs it again from the start to
get back to a state; the random parts of keys are numbers of the process, so that a second run is equal to the first.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import greenlet

from gllm_storage.errors import OURS, ObjectNotFoundError, StorageUnavailableError
from gllm_storage.info import ObjectInfo, Stored
from gllm_storage.settings import TransferSettings
from gllm_storage.store.checksums import crc64nvme, encode
from gllm_storage.store.create import exists_error
from gllm_storage.store.port import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.files.target import LocalTarget
    from gllm_storage.store.port import ReadItem, UploadItem, UploadRequest
    from gllm_storage.store.reader import ObjectReader
    from gllm_storage.store.transfer import Transfer

UNANSWERED = "unanswered"
_AT = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
"""The time of all objects: the exploration has no clock."""


@dataclass(frozen=True)
class Step:
    """A request that waits for its turn."""

    name: str
    key: str
    act: Callable[[], Any]
    data: bytes = b""
    """The content of a commit, which may land late."""


@dataclass
class Shelf:
    """The objects, and the exclusive creates that are under way."""

    objects: dict[str, bytes] = field(default_factory=dict)
    under_way: list[tuple[str, bytes]] = field(default_factory=list)

    def land(self, number: int) -> None:
        key, data = self.under_way.pop(number)
        self.objects.setdefault(key, data)


class SteppedStore(ObjectStore):
    """The store of one process. Each request is one step; those of many objects are one step for each."""

    provider: ClassVar[str] = "stepped"
    creates_exclusively: ClassVar[bool] = True

    def __init__(self, shelf: Shelf, ordered: bool = True, page: int = 1000) -> None:
        self.shelf = shelf
        self._ordered = ordered
        self._page = page

    @property
    def settings(self) -> TransferSettings:
        return TransferSettings(max_concurrency=1)

    @property
    def finds_first(self) -> bool:
        return self._ordered

    def url(self, key: str) -> str:
        return f"stepped://{key}"

    def upload(self, request: UploadRequest) -> Stored:
        data = request.source.read_at(0, request.source.size)

        def act() -> bool:
            if not request.exclusive:
                self.shelf.objects[request.key] = data
                return True
            return self.shelf.objects.setdefault(request.key, data) is data

        commit = data if request.exclusive and b'"kind":"manifest"' in data else b""
        if not step("create" if request.exclusive else "put", request.key, act, commit):
            raise exists_error(request.details)
        return Stored(self.url(request.key), len(data))

    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        raise NotImplementedError

    def read(self, key: str, transfer: Transfer) -> bytes:
        data: bytes | None = step("get", key, lambda: self.shelf.objects.get(key))
        if data is None:
            raise ObjectNotFoundError(key, transfer.details)
        return data

    def fetch(self, key: str, target: LocalTarget, transfer: Transfer) -> None:
        data = self.read(key, transfer)
        target.allocate(len(data))
        target.write_at(0, data)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        data: bytes | None = step("head", key, lambda: self.shelf.objects.get(key))
        if data is None:
            raise ObjectNotFoundError(key, self.details(key, operation))
        size, checksum = len(data), f"crc64nvme:{encode(crc64nvme(data))}"
        return ObjectInfo(self.url(key), size, checksum=checksum)

    def delete(self, key: str) -> None:
        if not step("delete", key, lambda: self.shelf.objects.pop(key, None) is not None):
            raise ObjectNotFoundError(key, self.details(key, "delete"))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Each page is a request of its own, and shows the objects of that moment."""
        last = ""
        while True:
            page: Sequence[tuple[str, int]] = step("list", prefix, partial(self._page_after, prefix, last))
            yield from (ObjectInfo(self.url(key), size, last_modified=_AT) for key, size in page)
            if len(page) < self._page:
                return
            last = page[-1][0]

    def first(self, prefix: str = "") -> ObjectInfo | None:
        found: Sequence[tuple[str, int]] = step("first", prefix, lambda: self._below(prefix)[:1])
        return next((ObjectInfo(self.url(key), size) for key, size in found), None)

    def upload_many(
        self, items: Sequence[UploadItem], stop: Stop, workers: int = 0, *, on_error: str = "raise"
    ) -> Sequence[Any]:
        del workers
        return [self._upload_item(each, stop, on_error) for each in items]

    def delete_many(self, keys: Sequence[str], transfer: Transfer) -> None:
        del transfer
        for key in keys:
            step("delete", key, partial(self._discard, key))

    def read_many(
        self, items: Sequence[ReadItem], stop: Stop, *, on_error: str = "raise", workers: int = 0
    ) -> Sequence[bytes | Exception | None]:
        assert (on_error, workers) == ("raise", 0)
        return [self.read(each.key, self.transfer(each.key, "read", None, stop)) for each in items]

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy on the server: one request, which may have the version that a HEAD request saw as a precondition."""
        assert not exclusive

        def act() -> bool:
            data = self.shelf.objects.get(key)
            if data is None or (version and version.checksum != f"crc64nvme:{encode(crc64nvme(data))}"):
                return False
            self.shelf.objects[target_key] = data
            return True

        if not step("copy", target_key, act):
            raise ObjectNotFoundError(key, transfer.details)

    def _page_after(self, prefix: str, last: str) -> tuple[tuple[str, int], ...]:
        return tuple(each for each in self._below(prefix) if each[0] > last)[: self._page]

    def _discard(self, key: str) -> None:
        self.shelf.objects.pop(key, None)

    def _below(self, prefix: str) -> tuple[tuple[str, int], ...]:
        objects = self.shelf.objects
        return tuple((key, len(objects[key])) for key in sorted(objects) if key.startswith(prefix))


def step(name: str, key: str, act: Callable[[], Any], commit: bytes = b"") -> Any:
    """Hand a request to the explorer, and wait for the answer."""
    explorer = greenlet.getcurrent().parent
    assert explorer is not None
    answer = explorer.switch(Step(name, key, act, commit))
    if answer == UNANSWERED:
        raise StorageUnavailableError("no answer")
    return answer


class Process:
    """One process: its next step, the answers so far, and its result at the end."""

    current: ClassVar[Process]

    def __init__(self, number: int, work: Callable[[], Any]) -> None:
        self._number = number
        self._history = hashlib.sha256()
        self._tokens = 0
        self._greenlet = greenlet.greenlet(work)
        self.result: Any = None
        self.step: Step | None = None
        self._advance()

    def token(self) -> str:
        """The random part of a key: another one for each use and process, and the same in each run."""
        self._tokens += 1
        return f"{self._number}x{self._tokens}"

    def go(self, answer: Any) -> None:
        """Take the next step."""
        assert self.step is not None
        self._history.update(repr((self.step.name, self.step.key, answer)).encode())
        self._advance(answer)

    def kill(self) -> None:
        """End the process; its requests do not reach the shelf any more. Closes its files."""
        if not self._greenlet.dead:
            self._greenlet.throw()

    def position(self) -> str:
        """The same for two runs in which the process had the same answers."""
        return self._history.hexdigest()

    def _advance(self, *answer: Any) -> None:
        Process.current = self
        self.step, self.result = None, None
        try:
            found = self._greenlet.switch(*answer)
        except OURS as error:
            found = error
        if isinstance(found, Step):
            self.step = found
        else:
            self.result = found


Work = Callable[[SteppedStore], Any]
Rule = Callable[[dict[str, bytes], "Sequence[Any]"], "str | None"]
Choice = tuple[str, int]


class Run:
    """One run of the processes of a cast, from the start."""

    def __init__(self, cast: Sequence[Work], objects: dict[str, bytes], *, ordered: bool = True, page: int = 1000) -> None:
        self.shelf = Shelf(dict(objects))
        stores = [SteppedStore(self.shelf, ordered, page) for _ in cast]
        self.processes = [
            Process(number, partial(work, store)) for number, (work, store) in enumerate(zip(cast, stores, strict=True))
        ]

    def choices(self) -> list[Choice]:
        """Everything that can happen next."""
        found: list[Choice] = []
        for number, process in enumerate(self.processes):
            if process.step is not None:
                found.append(("go", number))
                found += [("late", number)] if process.step.data else []
        return found + [("land", number) for number in range(len(self.shelf.under_way))]

    def take(self, choice: Choice) -> None:
        """Let one thing happen.

        Args:
            choice: ``go``: a process takes its next step. ``late``: its request is not answered, and may land later.
                ``deaf``: it takes effect, and is not answered. ``lost``: it never takes effect. ``land``: an unanswered
                request lands.
        """
        kind, number = choice
        if kind == "land":
            self.shelf.land(number)
            return
        process = self.processes[number]
        assert process.step is not None
        if kind == "go":
            process.go(process.step.act())
            return
        if kind == "late":
            self.shelf.under_way.append((process.step.key, process.step.data))
        elif kind == "deaf":
            process.step.act()
        process.go(UNANSWERED)

    def state(self) -> bytes:
        """The same for two runs that can only go on in the same ways."""
        text = repr(
            (sorted(self.shelf.objects.items()), sorted(self.shelf.under_way), [p.position() for p in self.processes])
        )
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def close(self) -> None:
        """Kill the processes that have not ended."""
        for each in self.processes:
            each.kill()

    def results(self) -> list[Any]:
        """The results of the processes; None for those that have not ended."""
        return [each.result for each in self.processes]


@dataclass
class Found:
    """The result of an exploration."""

    states: int = 0
    runs: int = 0
    complete: bool = True
    wrong: str | None = None
    path: list[Choice] = field(default_factory=list)


def explore(
    cast: Sequence[Work],
    rule: Rule,
    objects: dict[str, bytes] | None = None,
    *,
    most: int = 10_000,
    seconds: float = 60,
    ordered: bool = True,
) -> Found:
    """Explore all orders, depth first, up to a number of states; the last choices are varied first.

    Args:
        cast: The processes.
        rule: Tells what is wrong in a state: of the objects, and the results of the processes.
        objects: The content of the shelf at the beginning.
        most: The most states.
        seconds: The most time of the processor.
        ordered: Whether the store finds the first key of a prefix.
    """
    found, seen = Found(), set[bytes]()
    todo: list[list[Choice]] = [[]]
    until = time.process_time() + seconds
    with sober_code():
        while todo and found.wrong is None:
            path = todo.pop()
            run = Run(cast, objects or {}, ordered=ordered)
            found.runs += 1
            for choice in path:
                run.take(choice)
            while (state := run.state()) not in seen:
                seen.add(state)
                found.wrong, found.path = rule(run.shelf.objects, run.results()), path
                if found.wrong is not None or not (choices := run.choices()):
                    break
                if len(seen) >= most or time.process_time() > until:
                    found.complete = False
                    todo.clear()
                    break
                todo += [[*path, each] for each in choices[1:]]
                path = [*path, choices[0]]
                run.take(choices[0])
            run.close()
    found.states = len(seen)
    return found


def sample(
    cast: Sequence[Work],
    rule: Rule,
    objects: dict[str, bytes] | None = None,
    *,
    seed: int,
    runs: int,
    page: int = 1000,
) -> Found:
    """Run some random orders to their ends. In half of them the processes take turns rarely, as real ones do."""
    found, seen = Found(complete=False), set[bytes]()
    with sober_code():
        for number in range(runs):
            chooser = random.Random(f"{seed}-{number}")
            run, path = Run(cast, objects or {}, page=page), list[Choice]()
            found.runs += 1
            while choices := run.choices():
                again = [each for each in choices if path and each == path[-1]]
                choice = again[0] if again and number % 2 and chooser.random() < 0.8 else chooser.choice(choices)
                path.append(choice)
                run.take(choice)
                seen.add(run.state())
                wrong = rule(run.shelf.objects, run.results())
                if wrong is not None:
                    run.close()
                    return Found(len(seen), found.runs, complete=False, wrong=wrong, path=path)
    found.states = len(seen)
    return found


@contextlib.contextmanager
def sober_code() -> Iterator[None]:
    """Let the code run without threads, clocks and chance, so that a second run is equal to the first."""
    changes: list[contextlib.AbstractContextManager[object]] = [
        mock.patch("gllm_storage.versions.publisher.run_all", run_here),
        mock.patch("gllm_storage.versions.publisher._LONGEST_PATIENCE", 0),
        mock.patch("gllm_storage.versions.reuse.SMALLEST", 1),
        mock.patch("secrets.token_hex", _token),
        mock.patch("gllm_storage.versions.entries.now", return_value="2026-11-28T00:00:00+00:00"),
    ]
    with contextlib.ExitStack() as stack:
        for each in changes:
            stack.enter_context(each)
        yield


def _token(size: int) -> str:
    del size
    return Process.current.token()


def run_here(tasks: Sequence[Callable[[], Any]], *_: Any) -> list[Any]:
    """As `run_all`, in this thread."""
    return [each() for each in tasks]
