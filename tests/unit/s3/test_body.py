"""Checksum headers: a refused request is sent again without them, with an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from gllm_storage.errors import ErrorDetails
from gllm_storage.s3.body import ChecksumHeaders

if TYPE_CHECKING:
    from gllm_storage.store.retry import RetryEvent

DETAILS = ErrorDetails("s3", "s3://bucket/a", "upload")
CHECKSUM = {"ChecksumCRC64NVME": "c"}
LIMIT = 4


def refusal(code: str, retries: int = 0) -> ClientError:
    metadata: Any = {"HTTPStatusCode": 400, "RetryAttempts": retries}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "PutObject")


class Store:
    """A store that refuses checksum headers."""

    def __init__(self, refuses_with: ClientError) -> None:
        self.sent: list[dict[str, Any]] = []
        self._refusal = refuses_with

    def put_object(self, **parameters: Any) -> str:
        """Boto3's method."""
        self.sent.append(parameters)
        if "ChecksumCRC64NVME" in parameters:
            raise self._refusal
        return "stored"


def test_refused_checksum(events: list[RetryEvent]) -> None:
    """The request without the refused headers is a repetition; later requests are not."""
    store, headers = Store(refusal("InvalidRequest", retries=1)), ChecksumHeaders(LIMIT)
    for _ in range(2):
        assert headers.call(store.put_object, CHECKSUM, DETAILS, Key="a") == "stored"
    assert store.sent == [{"Key": "a", **CHECKSUM}, {"Key": "a"}, {"Key": "a"}]
    (event,) = events
    assert (event.kind, event.operation, event.url) == ("retry", "upload", "s3://bucket/a")
    assert (event.attempt, event.limit, event.wait) == (2, LIMIT, 0.0)
    assert "InvalidRequest" in event.cause


def test_other_refusal(events: list[RetryEvent]) -> None:
    """A request that is refused for another reason is not sent again, and has no event."""
    store, headers = Store(refusal("AccessDenied")), ChecksumHeaders(LIMIT)
    with pytest.raises(ClientError):
        headers.call(store.put_object, CHECKSUM, DETAILS, Key="a")
    assert (len(store.sent), events) == (1, [])
