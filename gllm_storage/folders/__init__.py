"""Folders: transfers of many files between this machine and stores, decided by size and checksum.

A transfer is a *plan* and its *execution*. The plan compares two listings, which are both in key order, as they arrive; it
is complete, and has passed all checks, before anything moves. The execution moves the files in batches, and deletes last.

| module | content |
|---|---|
| `entries` | the files of a folder, local or in a store |
| `filters` | which files take part |
| `names` | which names are refused |
| `published` | which objects belong to published versions |
| `overlap` | whether a plan would change files that it reads |
| `index` | checksums that are remembered |
| `compare` | whether two files are equal |
| `plan` | the steps of a transfer |
| `execution` | does it |
| `mover` | transfers a batch of files |
| `batches` | the batches that workers of an executor run |
| `distribution` | their way to the workers, and back |
| `transfer` | the calls of the clients |
| `records` | lists that spill to disk |
"""

from gllm_storage.folders.execution import FolderResult, Outcome
from gllm_storage.folders.plan import Plan, Step
from gllm_storage.folders.transfer import ApplyOptions, FolderOptions, RemoteFolder, TransferOptions

__all__ = ["ApplyOptions", "FolderOptions", "FolderResult", "Outcome", "Plan", "RemoteFolder", "Step", "TransferOptions"]
