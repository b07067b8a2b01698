"""`ExclusiveCopy`: a copy on the server that never replaces an object.

It sends https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite with the precondition that no target exists. A
plain rewrite copies the metadata by itself. Here they are sent, because they get a write-id: the request is repeated if its
answer is lost, and only the write-id shows then that the target is the caller's own (`gllm_storage.store.create`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.workers import run_all
from gllm_storage.gcs.errors import SDK_ERRORS, RefusedError, UnreadableAnswerError, is_transient
from gllm_storage.gcs.requests import info_of
from gllm_storage.info import Stored
from gllm_storage.store.checksums import WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer

if TYPE_CHECKING:
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.gcs.store import GCSStore
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.transfer import Transfer

_KEPT = ("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "customTime")
_CONFLICT = 409
_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500


@dataclass(frozen=True)
class ExclusiveCopy:
    """One copy, as a `Write` for `store.create.write_object`.

    Attributes:
        store: The store.
        key: The key of the source object.
        target_key: The key of the copy.
        parameters: Further query parameters.
        generation: The version of the source object to copy; the current one if None.
        transfer: The operation, the settings, and the stop.
    """

    store: GCSStore
    key: str
    target_key: str
    parameters: dict[str, str]
    generation: str | None
    transfer: Transfer

    conditional = True

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""
        return self.store.details(self.target_key, self.transfer.details.operation)

    def head(self) -> ObjectInfo | None:
        """Objects: get, of the target."""
        return self.store.existing(self.target_key, self.details)

    def write(self, write_id: str) -> Stored:
        """Copy one version of the source object.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If no answer arrives.
            StorageError: If the source object cannot be read.
        """
        source = self.store.resource(self.key, self.transfer.details)
        metadata = {**(source.get("metadata") or {}), WRITE_ID_UNDERSCORED: write_id}
        resource = {**{name: source[name] for name in _KEPT if name in source}, "metadata": metadata}
        generation = self.generation or source["generation"]
        parameters = {**self.parameters, "sourceGeneration": generation, "ifGenerationMatch": "0"}
        copy = partial(self._copy, parameters, resource)
        (answer,) = run_all([copy], 1, self.transfer.attempt().stop)
        return Stored.of(info_of(answer["resource"], self.store.url(self.target_key)))

    def _copy(self, parameters: dict[str, str], resource: dict[str, Any]) -> dict[str, Any]:
        token: dict[str, str] = {}
        while True:
            answer = self.store.rewrite(
                self.key, self.store, self.target_key, {**parameters, **token}, self.transfer, resource=resource
            )
            if answer["done"]:
                return answer
            token = {"rewriteToken": answer["rewriteToken"]}

    def judge(self, error: Exception) -> Answer:
        """The meaning of Google's answer, or of a missing one."""
        if not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        status = error.status if isinstance(error, RefusedError) else 0
        if status in {_PRECONDITION_FAILED, _CONFLICT}:
            return Answer.EXISTS if status == _PRECONDITION_FAILED else Answer.CONCURRENT
        is_open = isinstance(error, UnreadableAnswerError) or is_transient(error) or status >= _SERVER_ERROR
        return Answer.UNKNOWN if is_open else Answer.FAILED

    def discard(self) -> None:
        """Do nothing: an incomplete rewrite leaves nothing."""
