"""`BlobCopy`: a copy of a blob on the server: https://learn.microsoft.com/rest/api/storageservices/copy-blob."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions

from gllm_storage.azure.errors import SDK_ERRORS, UnreadableAnswerError, code_of, is_transient, status_of
from gllm_storage.azure.requests import lowered, url_of
from gllm_storage.azure.upload import EXISTS_CODES, tier_to_copy
from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.errors import Remedy, StorageError
from gllm_storage.info import Stored
from gllm_storage.store.checksums import WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer
from gllm_storage.store.retry import POLL

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.transfer import Transfer

_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500
_SOURCE_CODES = frozenset({"SourceConditionNotMet", "CannotVerifyCopySource"})


@dataclass
class BlobCopy:
    """One copy, as a `Write` for `store.create.write_object`.

    Azure copies metadata and content settings, and neither the tags nor the access tier: they are sent along. The metadata
    of an exclusive copy are sent as well, because they get a write-id.

    Attributes:
        source: Requests to the container of the source blob.
        key: The name of the source blob.
        properties: Its properties: of the version that is copied.
        tags: Its tags.
        target: Requests to the container of the copy.
        target_key: The name of the copy.
        transfer: The operation, the settings, and the stop.
        conditional: Whether the copy is exclusive.
    """

    source: AzureRequests
    key: str
    properties: BlobProperties
    tags: dict[str, str]
    target: AzureRequests
    target_key: str
    transfer: Transfer
    conditional: bool
    _copy_id: str | None = field(default=None, init=False)

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors; a conflict is about the target."""
        details = self.transfer.details
        return dataclasses.replace(details, url=url_of(self.target.name, self.target_key)) if self.conditional else details

    def head(self) -> ObjectInfo | None:
        """Get Blob Properties of the target; a folder of a hierarchical namespace counts as an existing blob."""
        return self.target.existing(self.target_key, self.details)

    def write(self, write_id: str) -> Stored:
        """Copy the blob; the copy is complete on return.

        Raises:
            azure.core.exceptions.AzureError: If the store refuses, or does not answer.
            StorageError: If the copy fails on the server.
        """
        self._copy_id = None
        client = self.target.blob(self.target_key)
        options: dict[str, Any] = {
            "source_etag": self.properties.etag,
            "source_match_condition": MatchConditions.IfNotModified,
        }
        if self.conditional:
            options["match_condition"] = MatchConditions.IfMissing
            options["metadata"] = {**lowered(self.properties.metadata), WRITE_ID_UNDERSCORED: write_id}
        if self.tags:
            options["tags"] = self.tags
        tier = tier_to_copy(self.properties).get("tier")
        if tier:
            from azure.storage.blob import StandardBlobTier  # takes 0.2 s to import

            options["standard_blob_tier"] = StandardBlobTier(tier.capitalize())
        start = partial(client.start_copy_from_url, self.source.blob(self.key).url, **options)
        copying = self.target.send(start, self.details)
        self._copy_id = str(copying["copy_id"])
        state = self._end_of_copy(client, str(copying["copy_status"]))
        self._copy_id = None
        url = url_of(self.target.name, self.target_key)
        if state != "success":
            raise StorageError(
                f"{self.details.operation} of {self.details.url} to {url} ended with the state {state!r}",
                self.details,
                Remedy.REPEAT_NOW,
            )
        return Stored(url, int(self.properties.size))

    def judge(self, error: Exception) -> Answer:
        """The meaning of an error of `write`."""
        if not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        status, code = status_of(error), code_of(error)
        if code in _SOURCE_CODES:
            return Answer.FAILED
        if self.conditional and (code in EXISTS_CODES or status == _PRECONDITION_FAILED):
            return Answer.EXISTS
        is_open = isinstance(error, UnreadableAnswerError) or is_transient(error) or status >= _SERVER_ERROR
        return Answer.UNKNOWN if is_open else Answer.FAILED

    def discard(self) -> None:
        """Abort the copy, if it is in progress."""
        copy_id, self._copy_id = self._copy_id, None
        if copy_id is not None:
            with contextlib.suppress(*SDK_ERRORS), stopped_by(None):  # fails if the copy has ended, or without a network
                self.target.blob(self.target_key).abort_copy(copy_id)

    def _end_of_copy(self, client: Any, state: str) -> str:
        for attempt in itertools.count(1):
            if state != "pending":
                break
            POLL.pause(attempt, self.transfer.stop)
            state = str(self.target.send(client.get_blob_properties, self.details).copy.status)
        return state
