"""The pytest plugin of a run of gcsfs's suite: it replaces gcsfs's class, before any test is imported."""

import fsspec
import gcsfs
import gcsfs.core

from gllm_storage.gcs.filesystem import GCSFileSystem

gcsfs.GCSFileSystem = gcsfs.core.GCSFileSystem = GCSFileSystem
for _protocol in ("gs", "gcs"):
    fsspec.register_implementation(_protocol, GCSFileSystem, clobber=True)
