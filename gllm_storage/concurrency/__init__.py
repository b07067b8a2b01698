"""How work runs and ends: threads, cancellation, memory, forks."""

from gllm_storage.concurrency.exiting import import_executors

import_executors()
