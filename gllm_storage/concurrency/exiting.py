"""Work while the interpreter ends: in `atexit` functions, and in threads that outlive the main thread.

CPython ends `concurrent.futures` before it calls `atexit` functions and before it waits for other threads. From then on

- a `ThreadPoolExecutor` refuses work, and so does an event loop that resolves a host name or opens a file by one;
- ``concurrent.futures.thread`` cannot be imported any more if it was not before, and so boto3, fsspec and aiohttp cannot
  either: "can't register atexit after shutdown";
- since CPython 3.12, no thread can be started.

A checkpoint that is saved at that time must not be lost. So `import_executors` imports them in any case, and
`concurrency.loops` has a pool and an event loop that work in the caller's thread where no thread can be started.

The packages that import boto3, fsspec or another SDK call `import_executors` first.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any


def import_executors() -> None:
    """Import ``concurrent.futures.thread``; during the shutdown as a module that is shut down already."""
    try:
        importlib.import_module("concurrent.futures.thread")
    except RuntimeError:
        threads: Any = threading
        register = threads._register_atexit
        threads._register_atexit = lambda *_, **__: None
        try:
            module: Any = importlib.import_module("concurrent.futures.thread")
        finally:
            threads._register_atexit = register
        # CPython would have called this. Otherwise the threads of new pools would never end, and nor would the process.
        module._python_exit()


def is_exiting() -> bool:
    """Whether the interpreter ends: the main thread has ended, and `atexit` functions or other threads still run."""
    return not threading.main_thread().is_alive()


def is_green() -> bool:
    """Whether gevent or eventlet has replaced threads by greenlets, which share one thread, and sockets by their own."""
    # A module that another thread imports at the moment lacks its functions, and has replaced nothing.
    of_gevent = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", None)
    if of_gevent is not None and any(map(of_gevent, ("socket", "threading"))):
        return True
    of_eventlet = getattr(sys.modules.get("eventlet.patcher"), "is_monkey_patched", None)
    return of_eventlet is not None and any(map(of_eventlet, ("socket", "thread")))
