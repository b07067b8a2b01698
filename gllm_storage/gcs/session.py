"""`ResumableUpload`: one upload session, chunk after chunk: https://cloud.google.com/storage/docs/resumable-uploads."""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.gcs.errors import LOST_SESSION, SDK_ERRORS, RefusedError, UnreadableAnswerError, is_transient, lost_session
from gllm_storage.gcs.requests import require_resource
from gllm_storage.store.create import backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from gllm_storage.files.source import Source
    from gllm_storage.gcs.connection import GCSConnections
    from gllm_storage.store.transfer import Transfer

_CANCELS = 3
"""How often a session is told to end. One that was not told ends by itself after a week, and shows nothing."""
_INCOMPLETE = 308
_INCOMPLETE_ONLY = frozenset({_INCOMPLETE})
_RANGE = re.compile(r"bytes=0-([0-9]+)")


class ResumableUpload:
    """One session. Nobody sees the object before its last chunk was accepted.

    Args:
        connections: Sends the requests.
        path: Path of the bucket's uploads in the API.
        query: Query parameters of the request that begins it.
        resource: The object resource to send.
        source: The file.
        transfer: What it is about, who watches, and what stops it.
    """

    def __init__(
        self,
        *,
        connections: GCSConnections,
        path: str,
        query: Mapping[str, str],
        resource: Mapping[str, Any],
        source: Source,
        transfer: Transfer,
    ) -> None:
        self._connections = connections
        self._path = path
        self._query = query
        self._resource = resource
        self._source = source
        self._transfer = transfer
        self._url: str | None = None
        self._sent = 0
        self._told = 0
        self._given_up = False
        self.committing = False
        """Whether the request that makes the object visible may have been sent."""
        self.doubtful = False
        """Whether that request was sent, and its own answer did not come."""

    def send(self) -> None:
        """Send the whole file.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If there is no answer.
            StorageError: If the file changed.
        """
        # In a thread: Ctrl-C, which comes to this one, must not lose the answer that says what there is to cancel, nor
        # leave a last chunk on its way.
        run_all([self._start], 1, self._transfer.stop)
        run_all([self._send_chunks], 1, self._transfer.stop)

    def discard(self) -> None:
        """Cancel the session."""
        self._given_up = True
        if self._url is not None:
            self._cancel()

    def _start(self) -> None:
        headers = {"X-Upload-Content-Length": str(self._source.size)}
        answer: requests.Response = self._connections.retry(
            lambda: self._connections.send(
                "POST", self._path, params=dict(self._query), headers=headers, json=self._resource
            ),
            self._transfer.details,
        )
        location = answer.headers.get("Location")
        if not location:
            raise UnreadableAnswerError("its answer names no upload session")
        self._url = location
        if self._given_up:
            self._cancel()  # the answer came when nobody waited for it any more

    def _send_chunks(self) -> None:
        offset: int | None = 0
        failures = 0
        while offset is not None:
            self._transfer.stop.check()
            try:
                offset = self._send_chunk(offset)
                failures = 0
            except Exception as error:
                failures += 1
                self.doubtful = self.doubtful or self.committing
                if not is_transient(error) or failures >= self._connections.connection.max_attempts:
                    raise
                backoff(failures - 1)
                # It may have kept all of the chunk, some of it, or nothing.
                offset = self._connections.retry(
                    lambda: self._put(b"", f"bytes */{self._source.size}"), self._transfer.details
                )

    def _send_chunk(self, offset: int) -> int | None:
        length = min(self._transfer.settings.part_size, self._source.size - offset)
        data = self._source.read_at(offset, length)
        last = offset + length == self._source.size
        if last:
            self._source.require_unchanged()
            self.committing = True
        self._sent = max(self._sent, offset + length)
        return self._put(data, f"bytes {offset}-{offset + length - 1}/{self._source.size}")

    def _put(self, data: bytes, content_range: str) -> int | None:
        """Send bytes, or ask how far the upload is.

        Returns:
            How many bytes Google has kept, or None if the object is complete.
        """
        headers = {"Content-Range": content_range}
        try:
            answer = self._connections.send("PUT", str(self._url), data=data, headers=headers, accepted=_INCOMPLETE_ONLY)
        except RefusedError as error:
            if error.status in LOST_SESSION:
                raise lost_session(error, error.request_id) from error
            raise
        if answer.status_code != _INCOMPLETE:
            _require_object(answer)
            self._tell(self._source.size)
            return None
        match = _RANGE.fullmatch(answer.headers.get("Range", ""))
        kept = int(match[1]) + 1 if match else 0
        if kept > self._sent or kept == self._source.size:
            raise lost_session(f"it says that it has kept {kept} bytes of {self._sent} that were sent")
        self._tell(kept)
        return kept

    def _tell(self, kept: int) -> None:
        if kept > self._told:
            self._transfer.progress(kept - self._told)
            self._told = kept

    def _cancel(self) -> None:
        # Completed or cancelled already, or unreachable: there is nothing better to do.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            cancel = partial(self._connections.send, "DELETE", str(self._url), headers={"Content-Length": "0"})
            self._connections.retry(cancel, self._transfer.details, _CANCELS)


def _require_object(answer: requests.Response) -> None:
    try:
        found = answer.json()
    except ValueError as error:
        raise UnreadableAnswerError("its answer to the last chunk is no JSON") from error
    require_resource(found if isinstance(found, dict) else {})
