"""The files and objects that the jobs need.

``python -m benchmarks.objects fill|clean`` stores the objects, or deletes the uploads of a run, in a process of its
own, because boto3 in the command would need more memory than some of the measured peers.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.layout import KIB, MIB, TRIAL, Endpoint, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.jobs import Job

_BLOCK = 4 * MIB
_THREADS = 8


def names_of(job: Job) -> Iterator[tuple[int, int | None]]:
    """Size and index of the files or objects of a job."""
    if job.many:
        yield from ((job.size, index) for index in range(job.count))
        return
    if job.verb != "write":
        yield job.size, None
    if job.verb == "serial":
        yield KIB, None  # to upload
        yield job.size, 0  # for the floor
    if job.warm and job.size > TRIAL:
        yield TRIAL, None


def make_files(layout: Layout, jobs: Iterable[Job]) -> None:
    """Make the local files that the jobs upload, or compare with downloads."""
    for job in jobs:
        for size, index in names_of(job):
            path = layout.file(size, index)
            # Jobs of one size share a file, which the first job makes. Sparse jobs are the last in the list.
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _make_file(path, size, sparse=job.sparse)


def _make_file(path: str, size: int, *, sparse: bool) -> None:
    with open(path, "wb") as file:
        if sparse:
            file.truncate(size)
            return
        # One random block is repeated, because no peer compresses, and 4 GiB of random bytes take a minute.
        block = os.urandom(min(_BLOCK, size))
        file.writelines(block[: size - start] for start in range(0, size, _BLOCK))


def link_objects(layout: Layout, jobs: Iterable[Job], folder: str) -> None:
    """Make the files objects of a server that serves a folder, by hard links."""
    for job in jobs:
        for size, index in names_of(job):
            target = os.path.join(folder, layout.key(size, index))
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.link(layout.file(size, index), target)


def make_download_folders(layout: Layout, jobs: Iterable[Job]) -> None:
    """Make the folders into which jobs download."""
    for job in jobs:
        os.makedirs(os.path.dirname(layout.downloaded(job.size, 0 if job.makes_many else None)), exist_ok=True)


def _client(endpoint: Endpoint) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        verify=endpoint.ca,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def fill(endpoint: Endpoint, uploads: list[tuple[str, str]]) -> None:
    """Store files as objects."""
    client = _client(endpoint)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda each: client.upload_file(each[0], endpoint.bucket, each[1]), uploads))


def clean(endpoint: Endpoint, prefix: str) -> dict[str, int]:
    """Delete all objects under a prefix.

    Returns:
        The number of ``objects``, and of their ``bytes``.
    """
    client = _client(endpoint)
    found = {"objects": 0, "bytes": 0}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=endpoint.bucket, Prefix=prefix):
        entries = page.get("Contents", [])
        found["objects"] += len(entries)
        found["bytes"] += sum(each["Size"] for each in entries)
        for each in entries:  # not DeleteObjects, which needs an MD5 on older servers
            client.delete_object(Bucket=endpoint.bucket, Key=each["Key"])
    return found


def main() -> None:
    """Run the command of the command line with the arguments on standard input."""
    given = json.load(sys.stdin)
    endpoint = Endpoint(**given["endpoint"])
    if sys.argv[1] == "fill":
        fill(endpoint, given["uploads"])
        print("{}")
    else:
        print(json.dumps(clean(endpoint, given["prefix"])))


if __name__ == "__main__":
    main()
