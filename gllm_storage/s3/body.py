"""What a request carries: a section of a local file, and the checksum of it where the endpoint takes one."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.s3.errors import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.local_files import LocalSource
    from gllm_storage.parallel import Stop

_logger = logging.getLogger(__name__)

_CHECKSUM_REFUSALS = {"InvalidArgument", "InvalidRequest", "NotImplemented", "UnsupportedHeader", "XNotImplemented"}


class FileSection(io.RawIOBase):
    """A section of a local file as a request's body, read as it is sent.

    Args:
        source: The file.
        offset: Where the section begins.
        length: Its length in bytes.
        stop: Ends the request when set.
    """

    def __init__(self, source: LocalSource, offset: int, length: int, stop: Stop) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._stop = stop
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: botocore goes back to the start when it tries again."""
        return True

    def tell(self) -> int:
        """Position within the section."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the section."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, min(self._length, start + offset))
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on into a buffer: awscrt, by which botocore signs where it is installed, reads so."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read on.

        Raises:
            StorageError: If the file changed. It is looked at before the last byte leaves, so that the server is left with
                an incomplete request and stores nothing.
        """
        self._stop.check()
        left = self._length - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._source.read_at(self._offset + self._position, wanted)
        self._position += wanted
        if wanted and self._position == self._length:
            self._source.require_unchanged()
        return data


class MemorySection(io.BytesIO):
    """Bytes as a request's body, which stop in their middle.

    In one piece they would all go out, on a slow line long after Ctrl-C, and the request would take effect then.

    Args:
        data: The bytes.
        stop: Ends the request when set.
    """

    def __init__(self, data: bytes, stop: Stop) -> None:
        super().__init__(data)
        self._length = len(data)
        self._stop = stop

    def __len__(self) -> int:
        # Without it, Content-Length would be what is left behind the position.
        return self._length

    def read(self, size: int | None = -1) -> bytes:
        """Read on."""
        self._stop.check()
        return super().read(size)


@dataclass
class ChecksumHeaders:
    """Which operations of an endpoint take ``x-amz-checksum-…``; found out by the first request that carries it."""

    accepted: dict[str, bool] = field(default_factory=dict)

    def call(self, operation: Callable[..., Any], checksum: Mapping[str, str], **parameters: Any) -> Any:
        """Call an operation with checksum parameters, or without them where the endpoint does not know them."""
        name = operation.__name__
        if self.accepted.get(name) is False:
            return operation(**parameters)
        try:
            answer = operation(**parameters, **checksum)
        except ClientError as error:
            # Another part's refusal may have come first, and be remembered already.
            if not checksum or self.accepted.get(name) or code_of(error) not in _CHECKSUM_REFUSALS:
                raise
            body: Any = parameters.get("Body")
            if hasattr(body, "seek"):
                body.seek(0)  # it has been read, and what is left would be stored
            answer = operation(**parameters)
            _logger.warning("the endpoint refuses checksums on %s (%s); going on without", name, code_of(error))
            self.accepted[name] = False
            return answer
        self.accepted[name] = True
        return answer
