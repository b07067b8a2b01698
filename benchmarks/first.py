"""The first verb of a process: programs as users write them, and nothing else in the process."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks.peers import BEFORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.layout import Endpoint

_PROGRAMS = {
    "gllm-storage": """
from gllm_storage import get_storage_client
config = {{"bucket_name": {bucket!r}, "endpoint_url": {url!r}, "region_name": {region!r}, {ca_bundle} {gllm_keys}}}
assert get_storage_client("s3", config).file_exists({key!r})
""",
    "boto3": """
import boto3
client = boto3.client("s3", endpoint_url={url!r}, region_name={region!r}, verify={ca!r}, {boto3_keys})
client.head_object(Bucket={bucket!r}, Key={key!r})
""",
    "s3fs": """
import s3fs
fs = s3fs.S3FileSystem(endpoint_url={url!r}, client_kwargs={{"region_name": {region!r}, "verify": {ca!r}}}, {s3fs_keys})
assert fs.exists({bucket!r} + "/" + {key!r})
""",
    "obstore": """
import obstore
from obstore.store import S3Store
options = {{"allow_http": True}}
if {ca!r}:
    options["root_certificate"] = open({ca!r}).read()
store = S3Store({bucket!r}, endpoint={url!r}, region={region!r}, client_options=options, {obstore_keys})
obstore.head(store, {key!r})
""",
}


def command(peer: str, python: str, endpoint: Endpoint, key: str, *, chain: bool) -> list[str]:
    """The command of a process that finds out whether an object exists.

    Args:
        peer: Name of the peer.
        python: The Python in which it is installed.
        endpoint: The endpoint.
        key: The key of an existing object.
        chain: Whether the credentials come from the files in the home folder. Otherwise they are given: to the programs as
            arguments, to the command line in the environment.
    """
    if peer == "gllm-storage, command":
        options = ["--endpoint-url", endpoint.url, "--region", endpoint.region]
        options += ["--ca-bundle", endpoint.ca] if endpoint.ca else []
        program = os.path.join(os.path.dirname(python), "gllm-storage")
        return [program, "exists", *options, f"s3://{endpoint.bucket}/{key}"]
    given = {name: "" if chain else make(endpoint) for name, make in _KEYS.items()}
    given["ca_bundle"] = f'"ca_bundle": {endpoint.ca!r},' if endpoint.ca else ""
    program = _PROGRAMS[peer.removesuffix(BEFORE)].format(**asdict(endpoint), key=key, **given)
    return [python, "-c", program]


def _keys(form: str) -> Callable[[Endpoint], str]:
    return lambda endpoint: form.format(endpoint.access_key, endpoint.secret_key)


_KEYS = {
    "gllm_keys": _keys('"aws_access_key_id": {!r}, "aws_secret_access_key": {!r}'),
    "boto3_keys": _keys("aws_access_key_id={!r}, aws_secret_access_key={!r}"),
    "s3fs_keys": _keys("key={!r}, secret={!r}"),
    "obstore_keys": _keys("access_key_id={!r}, secret_access_key={!r}"),
}
