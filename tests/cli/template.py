"""A process that has imported the command line and every SDK, and forks for each command of a test.

A command that starts anew imports for 0.5 to 2 seconds; a fork of this process starts within 20 ms. The fork is a process of
its own all the same: it has its own arguments, environment, folder, descriptors, modules and exit code.

Usage: ``python template.py DESCRIPTOR``, the number of a socket for packets. A request is JSON, and the descriptors of
standard input, output and error with it. The answers are the process id, and the wait status when the command has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from typing import Any

import boto3
import botocore.loaders
import botocore.session

MODULES = (
    "adlfs",
    "azure.storage.blob.aio",
    "gcsfs",
    "gllm_storage.azure",
    "gllm_storage.cli.app",
    "gllm_storage.cli.commands.cat",
    "gllm_storage.cli.commands.check",
    "gllm_storage.cli.commands.completion",
    "gllm_storage.cli.commands.cp",
    "gllm_storage.cli.commands.exists",
    "gllm_storage.cli.commands.ls",
    "gllm_storage.cli.commands.providers",
    "gllm_storage.cli.commands.rm",
    "gllm_storage.cli.commands.stat",
    "gllm_storage.cli.transfers",
    "gllm_storage.filesystem.foreign",
    "gllm_storage.gcs",
    "gllm_storage.local.client",
    "gllm_storage.memory.client",
    "gllm_storage.s3",
    "rich.console",
    "rich.table",
    "s3fs",
)
LARGEST_REQUEST = 2**17


def warm_up() -> None:
    """Import all modules, and read botocore's models, which every client of every session then shares."""
    for name in MODULES:
        importlib.import_module(name)
    for client in ("S3StorageClient", "GCSStorageClient", "AzureStorageClient", "register_filesystems"):
        getattr(importlib.import_module("gllm_storage"), client)
    loader = botocore.loaders.create_loader()
    botocore.session.create_loader = lambda *_: loader
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    gc.freeze()  # a collection in a fork would copy every page
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, "a fork would lose the other threads, and the locks that they hold"


def serve(connection: socket.socket) -> None:
    """Fork for each request, until the test process closes its end; the forks return, too."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
        if not message:
            return
        child = os.fork()
        if not child:
            connection.close()
            become(json.loads(message), descriptors)
            return
        for each in descriptors:
            os.close(each)
        connection.send(str(child).encode())
        connection.send(str(os.waitpid(child, 0)[1]).encode())


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Run the command of a request in this process."""
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
        os.close(each)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None  # TMPDIR may be another
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [sys.argv[0], *request["arguments"]]
    exec(request["code"], {"__name__": "__main__"})  # noqa: S102 - the test's own code


if __name__ == "__main__":
    warm_up()
    serve(socket.socket(fileno=int(sys.argv[1])))
