"""The pytest plugin of the run: it replaces s3fs's class with this library's. `outcomes` records the outcomes.

Pytest must load it before any test module: the modules import the class by ``from s3fs.core import S3FileSystem``.
"""

from __future__ import annotations

import logging
import sys

import botocore.loaders
import botocore.session
import fsspec
import s3fs
import s3fs.core
import s3fs.mapping

from gllm_storage.s3.filesystem import S3FileSystem

# botocore reads its models for each session, which takes 0.15 s; the run reads them once.
_LOADER = botocore.loaders.create_loader()
botocore.session.create_loader = lambda *_: _LOADER
s3fs.S3FileSystem = s3fs.core.S3FileSystem = s3fs.mapping.S3FileSystem = S3FileSystem
for _protocol in ("s3", "s3a"):
    fsspec.register_implementation(_protocol, S3FileSystem, clobber=True)

import upstream_tests  # type: ignore[import-not-found]  # noqa: E402 - the copy in the folder of the run; see above

sys.modules["s3fs.tests"] = upstream_tests  # the tests import each other by this name

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # logging each request to moto takes 10 % of the time
