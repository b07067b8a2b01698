"""A process that has imported the command line and all SDKs, and forks for each command of a test.

A new process imports for 0.5 to 2 seconds, a fork of this process starts within 20 ms. Like a new process, the fork has its
own arguments, environment, current folder, descriptors, module state and exit code.

Usage: ``python -m tests.cli.template DESCRIPTOR``, the number of a socket for packets. A request is JSON, sent with the
descriptors for standard input, output and error, and of a pipe that gets the process id, and the wait status after the end.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import termios
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
    """Import all modules, and read botocore's models into a loader that all sessions share."""
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
    """Fork for each request until the test process closes its end. Returns also in each command's process, after its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the reporting processes
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 4)
        if not message:
            return
        if not os.fork():
            connection.close()
            start(json.loads(message), descriptors)
            return
        for each in descriptors:
            os.close(each)


def start(request: dict[str, Any], descriptors: list[int]) -> None:
    """Fork again: the child becomes the command, and this process reports the child's id and its wait status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, report = descriptors
    child = os.fork()
    if not child:
        os.close(report)
        become(request, streams)
        return
    for each in streams:
        os.close(each)
    os.write(report, f"{child}\n".encode())
    os.write(report, f"{os.waitpid(child, 0)[1]}\n".encode())
    os._exit(0)


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Turn this process into the command of a request."""
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
    for number, each in enumerate(streams):
        os.dup2(each, number)
    for each in streams:
        os.close(each)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open until the process ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - open until the process ends; line-buffered on a terminal
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115 - open until the process ends
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None  # TMPDIR may have changed
    sys.argv = [sys.argv[0], *request["arguments"]]
    exec(request["code"], {"__name__": "__main__"})  # noqa: S102 - the test's own code


if __name__ == "__main__":
    warm_up()
    serve(socket.socket(fileno=int(sys.argv[1])))
