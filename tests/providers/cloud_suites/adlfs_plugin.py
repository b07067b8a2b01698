"""The pytest plugin of a run of adlfs's suite: it replaces adlfs's class with this library's, before any test is imported.

`adlfs.spec` keeps its class: its methods name it in calls of ``super()``.
"""

import adlfs
import fsspec

from gllm_storage.azure.filesystem import AzureBlobFileSystem

adlfs.AzureBlobFileSystem = AzureBlobFileSystem
for _protocol in ("abfs", "az", "abfss"):
    fsspec.register_implementation(_protocol, AzureBlobFileSystem, clobber=True)
