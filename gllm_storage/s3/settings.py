"""Settings of the provider ``s3``: the config of the client, and the part of it that transfers need."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gllm_storage.paths import clean_prefix, is_access_point
from gllm_storage.settings import (
    DEFAULT_MEMORY_LIMIT,
    MIB,
    ConfigError,
    TransferSettings,
    choice,
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

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES = ("auto", "boto3")
_KEY_PAIR = ("aws_access_key_id", "aws_secret_access_key")
BODY_SIGNING = ("auto", "always", "never")
MAX_PUT = 5 * 2**30
"""The largest PutObject and the largest part, in bytes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
MIN_PART = 5 * MIB
EXCLUSIVE_PUT_LIMIT = MAX_PUT - 5 * MIB
"""The default of `exclusive_put_limit`: Cloudflare R2 accepts a PutObject of at most 5 GiB minus 5 MiB,
https://developers.cloudflare.com/r2/platform/limits/."""


@dataclass(frozen=True)
class S3TransferSettings(TransferSettings):
    """Part sizes, concurrency and preconditions of transfers to and from S3.

    Attributes:
        conditional_writes: ``"auto"`` probes the endpoint; ``"enforced"`` trusts it to enforce preconditions, without a
            probe; ``"best-effort"`` accepts a check that can race if the endpoint enforces nothing.
        exclusive_put_limit: The largest exclusive create, in bytes, that goes in one PutObject on an endpoint that is not
            Amazon's; see `plan_create`.
    """

    conditional_writes: str = "auto"
    exclusive_put_limit: int = EXCLUSIVE_PUT_LIMIT


_SERVICES = (
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".digitaloceanspaces.com",
    ".backblazeb2.com",
    ".wasabisys.com",
    ".r2.cloudflarestorage.com",
    ".linodeobjects.com",
    ".scw.cloud",
    ".storage.googleapis.com",
    "storage.googleapis.com",
)
"""The ends of host names of servers; a bucket's own host has one more label."""
# Any bucket's host at Amazon. The host of a VPC endpoint begins with "bucket.vpce-" in Amazon's own examples.
_AMAZON_BUCKET = re.compile(r"((?!.*vpce)[^:]+)\.s3[.\-][a-z0-9.\-]*amazonaws\.com(?:\.cn)?(?::\d+)?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,254}")


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value) and not is_access_point(value):
        raise ValueError("is not a bucket name: 2 to 255 letters, digits, '.', '-', '_', or the ARN of an access point")
    return value


def _part_size(value: str) -> int:
    if not 5 * 2**20 <= size(value) <= 5 * 2**30:
        raise ValueError("must be between 5MiB and 5GiB, S3's limits for a part")
    return size(value)


def _threshold(value: str) -> int:
    if size(value) > 5 * 2**30:
        raise ValueError("must be at most 5GiB, S3's limit for a single PutObject")
    return size(value)


@dataclass(frozen=True)
class S3Settings:
    """The config of an S3 client, parsed. `S3StorageClient` documents each key.

    Raises:
        ValueError: If half of a key pair is missing, or keys contradict each other.
    """

    bucket_name: str = setting(_bucket)
    prefix: str = setting(clean_prefix, default="")
    endpoint_url: str | None = setting(endpoint, default=None)
    region_name: str | None = setting(text, default=None)
    profile_name: str | None = setting(text, default=None)
    aws_access_key_id: str | None = setting(text, default=None, secret=True)
    aws_secret_access_key: str | None = setting(text, default=None, secret=True)
    aws_session_token: str | None = setting(text, default=None, secret=True)
    anonymous: bool = setting(flag, default=False)
    addressing_style: str | None = setting(choice("auto", "path", "virtual"), default=None)
    ca_bundle: str | None = setting(existing_file, default=None)
    verify_tls: bool = setting(flag, default=True)
    server_side_encryption: str | None = setting(text, default=None)
    sse_kms_key_id: str | None = setting(text, default=None)
    sse_customer_key: str | None = setting(customer_key, default=None, secret=True)
    storage_class: str | None = setting(text, default=None)
    requester_pays: bool = setting(flag, default=False)
    expected_bucket_owner: str | None = setting(text, default=None)
    multipart_threshold: int = setting(_threshold, natural=int, default=16 * 2**20)
    part_size: int = setting(_part_size, natural=int, default=8 * 2**20)
    max_concurrency: int = setting(count, default=16)
    connect_timeout: float = setting(duration, default=10.0)
    read_timeout: float = setting(duration, default=60.0)
    max_attempts: int = setting(count, default=5)
    fsync: bool = setting(flag, default=True)
    sync_source: bool = setting(flag, default=False)
    memory_limit: int = setting(size, default=DEFAULT_MEMORY_LIMIT)
    min_throughput: int = setting(size_or_zero, default=TransferSettings.min_throughput)
    total_timeout: float | None = setting(duration, default=None)
    conditional_writes: str = setting(choice("auto", "enforced", "best-effort"), default="auto")
    exclusive_put_limit: int = setting(_threshold, natural=int, default=EXCLUSIVE_PUT_LIMIT)
    engine: str = setting(choice(*ENGINES), default="auto")
    sign_bodies: str = setting(choice(*BODY_SIGNING), default="auto")
    publish_on_error: bool = setting(flag, default=False)

    def __post_init__(self) -> None:
        """Check the keys that depend on each other.

        Raises:
            ValueError: If half of a key pair is missing, or keys contradict each other.
        """
        of_bucket = _AMAZON_BUCKET.fullmatch(urlsplit(self.endpoint_url or "").netloc)
        require_server("s3", self.endpoint_url, of_bucket[1] if of_bucket else self.bucket_name, _SERVICES)
        pair = (self.aws_access_key_id, self.aws_secret_access_key)
        if any(pair) != all(pair):
            raise ConfigError(
                "s3 config: aws_access_key_id and aws_secret_access_key go together; one is missing", _KEY_PAIR
            )
        if self.aws_session_token and not all(pair):
            raise ConfigError(
                "s3 config: aws_session_token needs aws_access_key_id and aws_secret_access_key",
                ("aws_session_token", *_KEY_PAIR),
            )
        if self.memory_limit < self.part_size:
            raise ConfigError(
                f"s3 config: memory_limit ({self.memory_limit} bytes) is smaller than a part ({self.part_size} bytes)",
                ("memory_limit", "part_size"),
            )
        if self.anonymous and (any(pair) or self.profile_name):
            raise ConfigError(
                "s3 config: anonymous='true' contradicts the credentials or the profile; leave one out",
                ("anonymous", "profile_name", *_KEY_PAIR),
            )
        if self.sse_customer_key and (self.server_side_encryption or self.sse_kms_key_id):
            raise ConfigError(
                "s3 config: sse_customer_key contradicts server_side_encryption and sse_kms_key_id; leave one out",
                ("sse_customer_key", "server_side_encryption", "sse_kms_key_id"),
            )
        require_one_trust("s3", self.ca_bundle, verify_tls=self.verify_tls)

    def storage_options(self) -> dict[str, Any]:
        """The same settings as options of `s3fs.S3FileSystem`, which our filesystem accepts as well."""
        options: dict[str, Any] = {
            "anon": self.anonymous or None,
            "key": self.aws_access_key_id,
            "secret": self.aws_secret_access_key,
            "token": self.aws_session_token,
            "profile": self.profile_name,
            "endpoint_url": self.endpoint_url,
            "requester_pays": self.requester_pays or None,
            "client_kwargs": self._client_options() or None,
            "s3_additional_kwargs": self._additional() or None,
            "config_kwargs": self._config_options(),
            "max_concurrency": self.max_concurrency,
            "use_listings_cache": False,
        }
        return _given(options)

    def filesystem_options(self) -> dict[str, Any]:
        """All settings as options of our `S3FileSystem`."""
        return {
            **self.storage_options(),
            "multipart_threshold": self.multipart_threshold,
            "part_size": self.part_size,
            "memory_limit": self.memory_limit,
            **disk_options_of(self),
            **limit_options_of(self),
            "conditional_writes": self.conditional_writes,
            "engine": self.engine,
            "sign_bodies": self.sign_bodies,
            **self._newer_options(),
        }

    def _newer_options(self) -> dict[str, Any]:
        """Options that version 0.1.0 did not have, if they differ from their defaults: its pickles hold the others."""
        limit = {} if self.exclusive_put_limit == EXCLUSIVE_PUT_LIMIT else {"exclusive_put_limit": self.exclusive_put_limit}
        return {**limit, **({"publish_on_error": True} if self.publish_on_error else {})}

    def _client_options(self) -> dict[str, Any]:
        return _given({"region_name": self.region_name, "verify": self.ca_bundle if self.verify_tls else False})

    def _config_options(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "retries": {"mode": "standard", "total_max_attempts": self.max_attempts},
            # Older servers refuse trailing checksums, botocore's default over https, or store them as data.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return {**config, "s3": {"addressing_style": self.addressing_style}} if self.addressing_style else config

    def _additional(self) -> dict[str, Any]:
        return _given(
            {
                "ServerSideEncryption": self.server_side_encryption,
                "SSEKMSKeyId": self.sse_kms_key_id,
                "StorageClass": self.storage_class,
                "ExpectedBucketOwner": self.expected_bucket_owner,
                **_of_customer_key(self.sse_customer_key),
            }
        )


def _of_customer_key(key: str | None) -> dict[str, str]:
    """The parameters of requests about objects that a customer key encrypts, as their source in copies as well.

    With the digest, boto3 sends the key as it is, and the direct client can send it.
    """
    if key is None:
        return {}
    digest = hashlib.md5(base64.b64decode(key), usedforsecurity=False).digest()
    of_key = {"Algorithm": "AES256", "Key": key, "KeyMD5": base64.b64encode(digest).decode()}
    return {f"{start}SSECustomer{name}": each for start in ("", "CopySource") for name, each in of_key.items()}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def check_transfer_settings(settings: S3TransferSettings) -> S3TransferSettings:
    """Check sizes against S3's limits.

    Returns:
        The settings, unchanged.

    Raises:
        ValueError: If a size is impossible.
    """
    if not MIN_PART <= settings.part_size <= MAX_PUT:
        raise ValueError(f"part_size must be between 5 MiB and 5 GiB, not {settings.part_size} bytes")
    if settings.memory_limit < settings.part_size:
        raise ValueError(
            f"memory_limit ({settings.memory_limit} bytes) is smaller than a part (part_size={settings.part_size} bytes)"
        )
    if settings.multipart_threshold > MAX_PUT:
        raise ValueError(f"multipart_threshold must be at most 5 GiB, not {settings.multipart_threshold} bytes")
    if settings.exclusive_put_limit > MAX_PUT:
        raise ValueError(f"exclusive_put_limit must be at most 5 GiB, not {settings.exclusive_put_limit} bytes")
    return settings


def settings_of_call(settings: S3TransferSettings, options: Mapping[str, Any], least: int = MIN_PART) -> S3TransferSettings:
    """The settings of one call, with s3fs's arguments for part size and concurrency.

    Args:
        settings: The settings of the filesystem.
        options: The arguments of the call. ``chunksize`` is the bytes in a part, and the multipart threshold as well;
            ``max_concurrency`` is the most parts at a time. Others are ignored.
        least: The smallest allowed ``chunksize`` in bytes. Default 5 MiB.

    Returns:
        The settings, unchanged if the call has neither argument.

    Raises:
        ValueError: If ``chunksize`` is not an integer from `least` to 5 GiB, or ``max_concurrency`` not one from 1.
    """
    changes: dict[str, Any] = {}
    part_size, workers = options.get("chunksize"), options.get("max_concurrency")
    if part_size is not None:
        size = _integer(part_size)
        if size is None or not least <= size <= MAX_PUT:
            raise ValueError(f"chunksize must be a number of bytes between {least} and {MAX_PUT}, not {part_size!r}")
        changes = {"part_size": size, "multipart_threshold": size}
    if workers is not None:
        number = _integer(workers)
        if number is None or number < 1:
            raise ValueError(f"max_concurrency must be a number, at least 1, not {workers!r}")
        changes["max_concurrency"] = number
    return dataclasses.replace(settings, **changes) if changes else settings


def _integer(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None
