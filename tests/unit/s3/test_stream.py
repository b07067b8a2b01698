"""The memory of the parts of a stream, which the next parts use again."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import ErrorDetails
from gllm_storage.s3 import stream
from gllm_storage.s3.settings import S3Settings
from gllm_storage.s3.stream import PartStream

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
LIMIT = 64 * MIB


@pytest.fixture(autouse=True)
def _budget_is_unchanged() -> Iterator[None]:
    before = memory_budget().taken
    yield
    assert memory_budget().taken == before
    assert not stream._spare.get()


def stream_after_part(part_size: int) -> PartStream:
    """A stream of which one part was sent, to nowhere."""
    request = SimpleNamespace(details=ErrorDetails("s3", "s3://b/k", "open"), transfer=SimpleNamespace(stop=Stop()))
    upload: Any = SimpleNamespace(request=request, settings=S3Settings(bucket_name="b", memory_limit=LIMIT))
    multipart: Any = SimpleNamespace(send_part=lambda *_: {})
    made = PartStream(multipart, upload, part_size)
    for _ in range(2):
        made.write(memoryview(bytearray(part_size // 2)))
    made._team.finish()
    return made


@pytest.mark.parametrize(("part_size", "spares"), [(8 * MIB, 1), (16 * MIB, 0)])
def test_spare_parts(part_size: int, spares: int) -> None:
    """The memory of a part waits for the next one, but not that of a large part: it does not count in the budget."""
    made = stream_after_part(part_size)
    assert len(stream._spare.get()) == spares
    made.free()


def test_spares_of_full_budget() -> None:
    """When the budget is full, the memory of sent parts is given up."""
    made = stream_after_part(8 * MIB)
    assert len(stream._spare.get()) == 1
    held = LIMIT - 8 * MIB - memory_budget().taken
    assert memory_budget().try_hold(held, LIMIT, 8 * MIB)
    made.write(memoryview(b"x"))
    assert not stream._spare.get()
    made.free()
    memory_budget().let_go(held)


def test_kept_bytes() -> None:
    """Long immutable bytes are sent as they are; short ones, and those of a buffer that may change, are copied."""
    made = stream_after_part(5 * MIB)
    sent: list[bytes] = []

    def send_part(_: int, body: Any, __: int) -> dict[str, Any]:
        sent.append(body.read())
        return {}

    made._multipart = SimpleNamespace(send_part=send_part)  # type: ignore[assignment]  # sends nothing
    long, buffer = bytes(range(256)) * 4096, bytearray(b"buffer" * 2**17)
    pieces: list[bytes | bytearray] = [long, b"short", b"", long, buffer, b"x", long]
    expected = b"".join(pieces)
    for each in pieces:
        made.write(memoryview(each))
    buffer[:] = bytes(len(buffer))
    assert isinstance(made._filling, stream._Gathered)
    assert made._filling._pieces[0].obj is long  # type: ignore[union-attr]  # the first piece is a view
    made.write(memoryview(bytes(5 * MIB - len(expected))))
    made._team.finish()
    assert b"".join(sent) == expected.ljust(5 * MIB, b"\0")
    made.free()


@pytest.mark.parametrize("where", ["end", "middle"])
def test_large_object_is_freed(where: str) -> None:
    """A part that is being filled keeps no object of the caller that is larger than what it has of it."""
    made = stream_after_part(5 * MIB)
    tracemalloc.start()
    try:
        large = bytes(33 * MIB)
        made.write(memoryview(large) if where == "end" else memoryview(large)[MIB : 2 * MIB])
        made._team.finish()
        del large
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert made._filling is not None
    assert made._filling.size in {MIB, 3 * MIB}
    assert held < 8 * MIB
    made.free()
