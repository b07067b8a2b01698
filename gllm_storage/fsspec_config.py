"""What fsspec's own configuration says: ``FSSPEC_S3_ENDPOINT_URL`` and the like, and the files in ``~/.config/fsspec``.

fsspec puts it below the options of every filesystem that is made. Whoever does without the filesystem has to ask for it: see
https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration
"""

from __future__ import annotations

import os
import sys


def fsspec_configures(*protocols: str) -> bool:
    """Whether it has options for any of these protocols; fsspec is imported only if it may have some.

    Args:
        protocols: Those of the filesystem, as fsspec knows them.
    """
    if "fsspec.config" not in sys.modules and not _may_configure(protocols):
        return False
    from fsspec.config import conf  # noqa: PLC0415 - fsspec takes 50 ms to import

    return any(conf.get(each) for each in protocols)


def _may_configure(protocols: tuple[str, ...]) -> bool:
    names = tuple(f"FSSPEC_{each.upper()}" for each in protocols)
    if any(each.upper().startswith(names) for each in os.environ):
        return True
    folder = os.environ.get("FSSPEC_CONFIG_DIR", os.path.join(os.path.expanduser("~"), ".config/fsspec"))
    return os.path.isdir(folder)
