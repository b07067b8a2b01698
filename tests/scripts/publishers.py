"""Publishers of one version, each in a process of its own. The processes do not import pytest."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client, versions
from gllm_storage.azure.upload import AzureWrite
from gllm_storage.errors import ObjectExistsError
from gllm_storage.s3 import multipart
from gllm_storage.versions.local_tree import LocalFile
from tests.scripts.racers import wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.versions.local_tree import HashedSource


@dataclass(frozen=True)
class Outcome:
    """The result of one publisher.

    Attributes:
        digest: The digest of the published version; None if the version exists with other files.
        opened: The sizes of the files that were opened to send them.
    """

    digest: str | None
    opened: list[int]


def publish_large(provider: str, config: Mapping[str, str], folder: str, log: str, *, killed_after: int = 0) -> None:
    """Publish a folder as v1, and write the size of each part that was sent to a file.

    Args:
        provider: The provider of the client.
        config: The config of the client.
        folder: The folder.
        log: The file.
        killed_after: The process kills itself after so many parts; 0 for never.
    """
    client: Any = get_storage_client(provider, dict(config))
    lock, sent = threading.Lock(), 0

    def sending(original: Callable[..., Any]) -> Callable[..., Any]:
        def send(self: Any, number: Any, body: Any, *rest: Any) -> Any:
            nonlocal sent
            found = original(self, number, body, *rest)
            with lock:
                with open(log, "a", encoding="ascii") as file:
                    file.write(f"{len(body)}\n")
                sent += 1
                if sent == killed_after:
                    os.kill(os.getpid(), signal.SIGKILL)
            return found

        return send

    # This process publishes once.
    multipart.MultipartUpload.send_part = sending(multipart.MultipartUpload.send_part)  # type: ignore[method-assign]  # replaced for the test
    AzureWrite._stage = sending(AzureWrite._stage)  # type: ignore[method-assign]  # replaced for the test
    versions.publish(client, folder, "models/llama-ft", version="v1")


def publish(provider: str, config: Mapping[str, str], folder: str, model: str) -> Outcome:
    """Publish a folder as v1, at the same moment as the other processes."""
    client: Any = get_storage_client(provider, dict(config))
    opened: list[int] = []
    original = LocalFile.opened

    @contextlib.contextmanager
    def counted(self: LocalFile, details: ErrorDetails) -> Iterator[HashedSource]:
        opened.append(self.entry.size)
        with original(self, details) as source:
            yield source

    LocalFile.opened = counted  # type: ignore[method-assign]  # this process publishes once
    wait()
    try:
        return Outcome(versions.publish(client, folder, model, version="v1").digest, opened)
    except ObjectExistsError:
        return Outcome(None, opened)
