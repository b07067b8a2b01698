"""Settings of the provider ``gcs``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from gllm_storage.paths import clean_prefix
from gllm_storage.settings import (
    ConfigError,
    TransferSettings,
    count,
    customer_key,
    disk_options_of,
    duration,
    endpoint,
    existing_file,
    flag,
    limit_options_of,
    require_one_trust,
    require_server,
    setting,
    size,
    size_or_zero,
    text,
)

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._\-]{1,220}[a-z0-9]")
_KIB = 2**10
_MIB = 2**20
_QUANTUM = 256 * _KIB
"""Chunks of a resumable upload are multiples of it: https://cloud.google.com/storage/docs/performing-resumable-uploads"""
_METHODS = ("anon", "cloud", "google_default")


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value):
        raise ValueError("is not a bucket name: 3 to 222 lower-case letters, digits, '.', '-' and '_'")
    return value


def _token(value: str) -> str:
    # Any other text would be taken for an access token, and sent to Google with the question when it expires.
    if value not in _METHODS and not os.path.isfile(text(value)):
        raise ValueError(f"is neither the path of a key file nor one of {', '.join(map(repr, _METHODS))}")
    return value


def _part_size(value: str) -> int:
    if not _QUANTUM <= size(value) <= 512 * _MIB or size(value) % _QUANTUM:
        raise ValueError("must be a multiple of 256KiB, between 256KiB and 512MiB")
    return size(value)


def _threshold(value: str) -> int:
    if size(value) > 256 * _MIB:
        raise ValueError("must be at most 256MiB: the content of one request is held in memory")
    return size(value)


@dataclass(frozen=True)
class GCSSettings:
    """Settings of a GCS bucket. `GCSStorageClient` describes the keys."""

    bucket_name: str = setting(_bucket)
    prefix: str = setting(clean_prefix, default="")
    project: str | None = setting(text, default=None)
    token: str | None = setting(_token, natural=os.PathLike, default=None, secret=True)
    anonymous: bool = setting(flag, default=False)
    endpoint_url: str | None = setting(endpoint, default=None)
    ca_bundle: str | None = setting(existing_file, default=None)
    verify_tls: bool = setting(flag, default=True)
    requester_pays: bool = setting(flag, default=False)
    storage_class: str | None = setting(text, default=None)
    kms_key_name: str | None = setting(text, default=None)
    sse_customer_key: str | None = setting(customer_key, default=None, secret=True)
    multipart_threshold: int = setting(_threshold, natural=int, default=16 * _MIB)
    part_size: int = setting(_part_size, natural=int, default=16 * _MIB)
    max_concurrency: int = setting(count, default=16)
    connect_timeout: float = setting(duration, default=10.0)
    read_timeout: float = setting(duration, default=60.0)
    max_attempts: int = setting(count, default=5)
    publish_on_error: bool = setting(flag, default=False)
    fsync: bool = setting(flag, default=True)
    sync_source: bool = setting(flag, default=False)
    min_throughput: int = setting(size_or_zero, default=TransferSettings.min_throughput)
    total_timeout: float | None = setting(duration, default=None)

    def __post_init__(self) -> None:
        """Check the keys against each other.

        Raises:
            ValueError: If keys contradict each other, or one needs another.
        """
        require_server("gcs", self.endpoint_url, self.bucket_name, ("storage.googleapis.com",))
        if self.anonymous and self.token not in {None, "anon"}:
            raise ConfigError("gcs config: anonymous='true' contradicts token; leave one out", ("anonymous", "token"))
        if self.requester_pays and not self.project:
            raise ConfigError("gcs config: requester_pays='true' needs project, which pays", ("requester_pays", "project"))
        if self.sse_customer_key and self.kms_key_name:
            raise ConfigError(
                "gcs config: sse_customer_key contradicts kms_key_name; leave one out", ("sse_customer_key", "kms_key_name")
            )
        require_one_trust("gcs", self.ca_bundle, verify_tls=self.verify_tls)

    def storage_options(self) -> dict[str, Any]:
        """The settings as options of gcsfs, which our own filesystem takes as well."""
        options = {
            "project": self.project,
            "token": "anon" if self.anonymous else self.token,
            "endpoint_url": self.endpoint_url.rstrip("/") if self.endpoint_url else None,
            "requester_pays": self.project if self.requester_pays else None,
            "use_listings_cache": False,
        }
        return {name: value for name, value in options.items() if value is not None}

    def filesystem_options(self) -> dict[str, Any]:
        """The settings as options of our own filesystem, and of `connection_of`."""
        options = {
            **self.storage_options(),
            "ca_bundle": self.ca_bundle,
            "storage_class": self.storage_class,
            "kms_key_name": self.kms_key_name,
            "sse_customer_key": self.sse_customer_key,
            "verify_tls": None if self.verify_tls else False,
            "multipart_threshold": self.multipart_threshold,
            "part_size": self.part_size,
            "max_concurrency": self.max_concurrency,
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "max_attempts": self.max_attempts,
            "publish_on_error": self.publish_on_error or None,
            **disk_options_of(self),
            **limit_options_of(self),
        }
        return {name: value for name, value in options.items() if value is not None}
