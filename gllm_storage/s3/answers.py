"""Limits and checks of the answers that boto3 reads: `guard` puts them into a client.

botocore reads an error document of any length into memory, takes the framing of an unknown transfer coding for content, and
lets exceptions of its parsers, such as a `ValueError` for a size of ``5e3``, leave its methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.parsers import ResponseParserError

from gllm_storage.s3.errors import UNPARSABLE, UnreadableAnswerError, first_line
from gllm_storage.s3.listing import truth_of
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
    endpoint = client._endpoint  # type: ignore[attr-defined]  # of boto3, which publishes no such name
    session = endpoint.http_session
    pools = session._pool_classes_by_scheme
    pools.update(guarded_pools(min_throughput, read_timeout, pools))
    send = session.send

    def checked_send(request: Any) -> Any:
        answer = send(request)
        require_known_coding(answer.headers)
        return answer

    session.send = checked_send
    endpoint._response_parser_factory = _Parsers(endpoint._response_parser_factory)


class StrictParser:
    """A parser of botocore that raises one class, of ours, for all answers that it cannot parse.

    Args:
        parser: The parser.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        handle_boolean = parser._handle_boolean

        def checked_boolean(shape: Any, found: Any) -> bool:
            return truth_of(found.text) if shape.name == "IsTruncated" else bool(handle_boolean(shape, found))

        parser._handle_boolean = checked_boolean

    def parse(self, *args: Any) -> dict[str, Any]:
        """Parse an answer.

        Raises:
            UnreadableAnswerError: If that is not possible.
        """
        try:
            parsed: dict[str, Any] = self._parser.parse(*args)
        except ResponseParserError as error:
            raise UnreadableAnswerError(str(error)) from error
        except UNPARSABLE as error:
            raise UnreadableAnswerError(
                f"its answer cannot be parsed: {type(error).__name__}: {first_line(error)}"
            ) from error
        return parsed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class _Parsers:
    """botocore's factory of parsers, whose parsers are strict."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def create_parser(self, *args: Any) -> StrictParser:
        return StrictParser(self._factory.create_parser(*args))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)
