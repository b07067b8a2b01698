"""Limits and checks of the answers that boto3 reads: `guard` puts them into a client.

botocore reads an error document of any length into memory, takes the framing of an unknown transfer coding for content, and
lets exceptions of its parsers, such as a `ValueError` for a size of ``5e3``, leave its methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gllm_storage.s3.errors import StrictParser
from gllm_storage.store.answers import guarded_pools, require_known_coding

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def guard(client: S3Client, min_throughput: float, read_timeout: float | None) -> None:
    """Apply the limits and checks to all answers to a client.

    Args:
        client: The client.
        min_throughput: The fewest bytes per second of an answer; 0 for no limit.
        read_timeout: The time over which they are counted, in seconds; None for no limit.

    Raises:
        AttributeError: If botocore has moved the parts that this needs.
    """
    endpoint = client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no other way
    session = endpoint.http_session
    pools = session._pool_classes_by_scheme  # noqa: SLF001 - as above
    pools.update(guarded_pools(min_throughput, read_timeout, pools))
    send = session.send

    def checked_send(request: Any) -> Any:
        answer = send(request)
        require_known_coding(answer.headers)
        return answer

    session.send = checked_send
    endpoint._response_parser_factory = _Parsers(endpoint._response_parser_factory)  # noqa: SLF001 - as above


class _Parsers:
    """botocore's factory of parsers, whose parsers are strict."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def create_parser(self, *args: Any) -> StrictParser:
        return StrictParser(self._factory.create_parser(*args))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)
