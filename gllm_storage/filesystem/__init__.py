"""The fsspec face of an object store."""

import gllm_storage.concurrency as _concurrency  # noqa: F401 - before the SDKs; see `concurrency.exiting`
