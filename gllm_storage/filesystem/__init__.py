"""The fsspec face of an object store."""

from gllm_storage.concurrency.exiting import import_executors

import_executors()  # before the SDKs
