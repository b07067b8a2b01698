"""`ResumableUpload`: one upload session, chunk after chunk: https://cloud.google.com/storage/docs/resumable-uploads."""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import note_attempts
from gllm_storage.gcs.errors import LOST_SESSION, SDK_ERRORS, RefusedError, UnreadableAnswerError, is_transient, lost_session
from gllm_storage.gcs.requests import json_of, require_resource
from gllm_storage.store.http import SameContent, body_in_flight
from gllm_storage.store.retry import RetryPolicy, rescued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.files.source import Source
    from gllm_storage.gcs.requests import GCSRequests
    from gllm_storage.store.http import SourceBody
    from gllm_storage.store.transfer import Transfer

_CANCEL = RetryPolicy(limit=3)
"""How often the cancellation of a session is sent. A session that is left ends after a week, and is not visible."""
_INCOMPLETE = 308
_INCOMPLETE_ONLY = frozenset({_INCOMPLETE})
_RANGE = re.compile(r"bytes=0-([0-9]+)")


class ResumableUpload:
    """One session. The object is not visible before the store has accepted its last chunk.

    Args:
        requests: Sends the requests.
        path: Path of the bucket's uploads in the API.
        query: Query parameters of the request that begins the session.
        resource: The object resource to send.
        source: The content.
        crc: Its CRC32C.
        transfer: The operation, the settings, the progress, and the stop.
        headers: The headers of every request of the session that sends content.
    """

    def __init__(
        self,
        *,
        requests: GCSRequests,
        path: str,
        query: Mapping[str, str],
        resource: Mapping[str, Any],
        source: Source,
        crc: int,
        transfer: Transfer,
        headers: Mapping[str, str],
    ) -> None:
        self._requests = requests
        self._headers = headers
        self._path = path
        self._query = query
        self._resource = resource
        self._source = source
        self._transfer = transfer
        self._url: str | None = None
        self._sent = 0
        self._check = SameContent(source, (0, source.size), crc, "crc32c")
        self._counted = 0
        self._discarded = False
        self.committing = False
        """Whether the request that makes the object visible may have been sent."""
        self.doubtful = False
        """Whether that request was sent, and its own answer did not come."""
        self._failures = 0
        self._lost: Exception | None = None

    def send(self) -> dict[str, Any]:
        """Send the complete content.

        Returns:
            The object resource that the store answers.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If no answer arrives.
            StorageError: If the source changed.
        """
        # In a thread: Ctrl-C, which interrupts the main thread, must neither lose the answer that names the session to
        # cancel, nor leave a last chunk in progress.
        run_all([self._start], 1, self._transfer.stop)
        (resource,) = run_all([self._send_chunks], 1, self._transfer.stop)
        return resource

    def report_rescue(self) -> None:
        """Report that the object is complete although the answer to the last chunk was lost.

        Reports nothing if the last chunk was sent again and answered: that is a repetition, which was reported.
        """
        if self._lost is not None:
            rescued(self._transfer.details, self._failures, self._requests.policy.limit, self._lost)

    def discard(self) -> None:
        """Cancel the session."""
        self._discarded = True
        if self._url is not None:
            self._cancel()

    def _start(self) -> None:
        headers = {"X-Upload-Content-Length": str(self._source.size), **self._headers}
        start = partial(
            self._requests.send, "POST", self._path, params=dict(self._query), headers=headers, json=self._resource
        )
        answer = self._requests.policy.call(start, is_transient, self._transfer.details)
        location = answer.headers.get("location")
        if not location:
            raise UnreadableAnswerError("its answer does not name an upload session")
        self._url = location
        if self._discarded:
            self._cancel()  # the answer came after the end of the transfer

    def _send_chunks(self) -> dict[str, Any]:
        policy, details, stop = self._requests.policy, self._transfer.details, self._transfer.stop
        progress: int | dict[str, Any] = 0
        while isinstance(progress, int):
            stop.check()
            try:
                progress = self._send_chunk(progress)
                self._failures = 0
            except Exception as error:  # `is_transient` decides; other exceptions are raised again
                self._failures += 1
                note_attempts(error, self._failures)
                if not is_transient(error) or self._failures >= policy.limit:
                    raise
                self.doubtful = self.doubtful or self.committing
                policy.again(details, self._failures, error, stop=stop)
                # The store may have kept all of the chunk, some of it, or nothing.
                progress = policy.call(partial(self._put, b"", f"bytes */{self._source.size}"), is_transient, details)
                if not isinstance(progress, int):
                    self._lost = error
        return progress

    def _send_chunk(self, offset: int) -> int | dict[str, Any]:
        length = min(self._transfer.settings.part_size, self._source.size - offset)
        if offset + length == self._source.size:
            self._source.require_unchanged()
            self.committing = True
        self._sent = max(self._sent, offset + length)
        with body_in_flight(self._source, (offset, length), self._transfer, self._check) as body:
            return self._put(body, f"bytes {offset}-{offset + length - 1}/{self._source.size}")

    def _put(self, data: SourceBody | bytes, content_range: str) -> int | dict[str, Any]:
        """Send bytes, or ask how far the upload is.

        Returns:
            The number of bytes that the store has kept; the object resource if the object is complete.
        """
        headers = {"Content-Range": content_range, **self._headers}
        try:
            answer = self._requests.send("PUT", str(self._url), data=data, headers=headers, accepted=_INCOMPLETE_ONLY)
        except RefusedError as error:
            if error.status in LOST_SESSION:
                raise lost_session(error, error.request_id) from error
            raise
        if answer.status_code != _INCOMPLETE:
            resource = require_resource(json_of(answer))
            self._count(self._source.size)
            return resource
        match = _RANGE.fullmatch(answer.headers.get("range", ""))
        kept = int(match[1]) + 1 if match else 0
        if kept > self._sent or kept == self._source.size:
            raise lost_session(f"it says that it has kept {kept} bytes of {self._sent} that were sent")
        self._count(kept)
        return kept

    def _count(self, kept: int) -> None:
        """Report progress: no byte twice, although chunks may be sent again."""
        if kept > self._counted:
            self._transfer.progress(kept - self._counted)
            self._counted = kept

    def _cancel(self) -> None:
        # A failure is ignored: the session is complete or cancelled already, or the store cannot be reached.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            cancel = partial(self._requests.send, "DELETE", str(self._url))
            _CANCEL.call(cancel, is_transient, self._transfer.details)
