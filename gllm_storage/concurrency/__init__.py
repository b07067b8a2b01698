"""How work runs and ends: threads, cancellation, memory, forks."""

from gllm_storage.concurrency import exiting as _exiting  # noqa: F401 - before the SDKs: it lets them be imported at the exit
